"""The machinery of `make mutants`, and that its lists speak of code that is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.mutants.faults import ROOT, equal_faults, function_at, own_tests, sample, shares
from tests.mutants.trial import FaultyFinder

TEXT = """\
class Box:
    def open(self):
        def turn():
            return 1

        return turn


def close(): return 2
"""


@pytest.mark.parametrize(("line", "function"), [(1, "Box"), (2, "Box.open"), (4, "Box.open.turn"), (6, "Box.open"), (9, "close")])
def test_a_fault_is_known_by_its_function(line: int, function: str) -> None:
    assert function_at(TEXT, line) == function


def test_every_module_has_its_share() -> None:
    assert shares({"long": 900, "short": 90, "tiny": 3}, 100) == {"long": 84, "short": 13, "tiny": 3}


def test_the_same_seed_takes_the_same_faults_and_another_one_others() -> None:
    paths = ["bot/history.py", "adapters/conversations/pace.py"]
    faults = sample(paths, 10, 1)
    assert {fault.path for fault in faults} == set(paths)
    assert len({fault.text for fault in faults}) == len(faults)
    assert all(fault.text != (ROOT / fault.path).read_text("utf-8") for fault in faults)
    assert sample(paths, 10, 1) == faults
    assert sample(paths, 10, 2) != faults


def test_a_module_is_loaded_with_its_fault_and_from_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "right.py"
    path.write_text("NUMBER = 1\n")
    finder = FaultyFinder("right", str(path), "NUMBER = 2\n")
    spec = finder.find_spec("right", None)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.NUMBER, module.__file__) == (2, str(path))
    assert finder.find_spec("other", None) is None
    assert path.read_text() == "NUMBER = 1\n"


@pytest.mark.parametrize("path", own_tests())
def test_modules_and_their_tests_exist(path: str) -> None:
    assert (ROOT / path).is_file()
    assert own_tests()[path]
    assert [name for name in own_tests()[path] if not (ROOT / name).is_file()] == []


def test_what_is_called_equal_is_still_there() -> None:
    gone = []
    for (path, function, before, _), why in equal_faults().items():
        assert why.strip(), (path, function, before)
        text = (ROOT / path).read_text("utf-8")
        lines = [line.strip() for line in text.splitlines()]
        places = [number for number, line in enumerate(lines, 1) if line == before.splitlines()[0]]
        if function not in {function_at(text, number) for number in places}:
            gone.append((path, function, before))
    assert gone == []
