"""The faults: a seeded sample of mutmut's mutations of our modules.

A module is changed as mutmut would change it, one mutation at a time, inside functions and classes. Log lines (excluded in
pyproject.toml) and the words of sentences, which may change at any time, are left out.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutmut.mutation.file_mutation import Mutation, create_mutations

ROOT = Path(__file__).resolve().parent.parent.parent
_LEAST_PER_MODULE = 5
_CONTEXT = 2  # lines of a diff before and after what it changes

Key = tuple[str, str, str, str]  # module, function, the removed lines, the added lines


@dataclass(frozen=True, slots=True)
class Fault:
    """One mutant: a module's path from the root, its complete text with the fault, and where the fault is."""

    path: str
    text: str
    function: str
    line: int
    diff: str
    key: Key


def own_tests() -> dict[str, list[str]]:
    """For each module the tests that should notice its faults, all as paths from the root."""
    table = tomllib.loads((ROOT / "tests/mutants/modules.toml").read_text("utf-8"))
    return {path: list(entry["tests"]) for path, entry in table.items()}


def equal_faults() -> dict[Key, str]:
    """The mutants that behave like the program, with the reason for each."""
    entries = tomllib.loads((ROOT / "tests/mutants/equal.toml").read_text("utf-8")).get("equal", [])
    return {
        (entry["module"], entry["function"], _bare(entry["before"].splitlines()), _bare(entry["after"].splitlines())): entry["why"]
        for entry in entries
    }


def sample(paths: Sequence[str], num: int, seed: int) -> list[Fault]:
    """About `num` faults from these modules: some of each, more of longer ones; the same for the same seed and text."""
    found = {path: _Mutations(path) for path in paths}
    faults: list[Fault] = []
    for path, share in shares({path: len(one.mutations) for path, one in found.items()}, num).items():
        random.Random(f"{seed} {path}").shuffle(found[path].mutations)
        faults += itertools.islice(found[path].faults(), share)
    return faults


def shares(sizes: Mapping[str, int], num: int) -> dict[str, int]:
    """How many of `num` each module gets: at least a few, the rest in proportion to its size."""
    least = {path: min(size, _LEAST_PER_MODULE) for path, size in sizes.items()}
    rest = max(0, num - sum(least.values()))
    remaining = {path: sizes[path] - least[path] for path in sizes}
    all_remaining = max(1, sum(remaining.values()))
    return {path: least[path] + min(remaining[path], round(rest * remaining[path] / all_remaining)) for path in sizes}


class _Mutations:
    """What mutmut would change in one module."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._text = (ROOT / path).read_text("utf-8")
        self._module, mutations, _, _ = create_mutations(path, self._text)
        self.mutations = [one for one in mutations if one.contained_by_top_level_function is not None and not _is_wording(one)]

    def faults(self) -> Iterator[Fault]:
        """One fault for each mutation, except those that only change the spelling."""
        tree = ast.dump(ast.parse(self._text))
        for mutation in self.mutations:
            changed = self._module.deep_replace(mutation.original_node, mutation.mutated_node)
            assert isinstance(changed, type(self._module))
            if ast.dump(ast.parse(changed.code)) != tree:
                yield _fault(self._path, self._text, changed.code)


def _is_wording(mutation: Mutation) -> bool:
    words = getattr(mutation.original_node, "raw_value", None)
    return isinstance(words, str) and " " in words.strip()


def _fault(path: str, before: str, after: str) -> Fault:
    old, new = before.splitlines(), after.splitlines()
    changes = [code for code in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if code[0] != "equal"]
    first, last = changes[0], changes[-1]
    gone, come = old[first[1] : last[2]], new[first[3] : last[4]]
    line = first[1] + 1
    function = function_at(before, line)
    diff = "\n".join(difflib.unified_diff(old, new, f"{path} {function}", "the mutant", lineterm="", n=_CONTEXT))
    return Fault(path, after, function, line, diff, (path, function, _bare(gone), _bare(come)))


def _bare(lines: Sequence[str]) -> str:
    return "\n".join(line.strip() for line in lines if line.strip())


def function_at(text: str, line: int) -> str:
    """The name of the function around a line, behind those of the classes and functions around it."""
    around = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return ".".join(node.name for node in sorted(around, key=lambda node: node.lineno))
