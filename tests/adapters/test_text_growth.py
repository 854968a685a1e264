"""What reads untrusted text takes time in proportion to its length: every regular expression of the adapters, and what uses them.

A text of 2,000 characters is read in some ten microseconds, or in ten milliseconds if the work grows with the square. Only what
takes so long is looked at: it must not take nine times as long for four times the text, in processor time of this thread.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from functools import cache

import pytest

import adapters
from adapters.discord.surface import cut_at_sentence
from adapters.slack.markup import fallback, harmless, to_plain
from adapters.text.links import drop_links, find_links
from adapters.text.markdown import heal, split_pages
from adapters.web.origin import origin_of, origin_of_host
from adapters.web.uploads import clean_file_name

NUM_CHARS = 2_000
FACTOR = 4
MAX_GROWTH = 9.0
SUSPICIOUS_SECONDS = 0.004
PIECES = [
    " ",
    "\t",
    "\n",
    "a",
    "1",
    "<",
    ">",
    "(",
    ")",
    "[",
    "*",
    "`",
    "#",
    "~",
    "|",
    "_",
    "/",
    ":",
    ".",
    "@",
    "-",
    '"',
    "'",
    "!",
    "é",
    "这",
]
WORDS = [
    "# ",
    "- ",
    "1. ",
    "<@",
    "<@1",
    "<:a",
    "<a:",
    "**a",
    "**a ",
    "__a ",
    "[a](http://a",
    "`a",
    "http://",
    "<http://",
    "https://a.slack",
    "wss://",
    "//",
    "```\n",
    "a.",
    "a, ",
]
ENDS = ["", "\n", " x", ">"]
BEGINNINGS = ["", "# x", "<", "http://", "```", "/webhooks/"]


@cache
def texts(num_chars: int) -> list[str]:
    """Long repeats of what patterns begin with, after some beginnings and before some ends."""
    return list(_texts(num_chars))


def _texts(num_chars: int) -> Iterator[str]:
    for piece in [*PIECES, *WORDS]:
        for beginning, end in itertools.product(BEGINNINGS, ENDS):
            yield beginning + piece * (num_chars // len(piece)) + end


def readers() -> dict[str, Callable[[str], object]]:
    """What the adapters do with their patterns: each pattern for text that a module has, with each method that is called there."""
    found: dict[str, Callable[[str], object]] = {}
    for module in pkgutil.walk_packages(adapters.__path__, "adapters."):
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
                for method in sorted(set(re.findall(rf"\b{name}\.(\w+)\(", inspect.getsource(loaded)))):
                    found[f"{module.name}.{name}.{method}"] = _reader(value, method)
    return found


def _reader(pattern: re.Pattern[str], method: str) -> Callable[[str], object]:
    match method:
        case "finditer":
            return lambda text: sum(1 for _ in pattern.finditer(text))
        case "sub":
            return lambda text: pattern.sub("", text)
        case _:
            return lambda text: getattr(pattern, method)(text)


def seconds(read: Callable[[str], object], text: str) -> float:
    began = time.thread_time()
    read(text)
    return time.thread_time() - began


def slow_for(read: Callable[[str], object]) -> list[str]:
    """The texts (their beginnings) for which the work grows too fast."""
    slow = []
    for number, text in enumerate(texts(NUM_CHARS)):
        if seconds(read, text) < SUSPICIOUS_SECONDS or min(seconds(read, text) for _ in range(3)) < SUSPICIOUS_SECONDS:
            continue
        longer = texts(FACTOR * NUM_CHARS)[number]
        if min(seconds(read, longer) for _ in range(2)) > MAX_GROWTH * min(seconds(read, text) for _ in range(3)):
            slow.append(f"{text[:20]!r}…{text[-3:]!r}")
            break  # one is enough
    return slow


READERS = readers()


@pytest.mark.parametrize("name", READERS)
def test_a_pattern_reads_each_text_in_proportion_to_its_length(name: str) -> None:
    assert slow_for(READERS[name]) == []


def test_the_patterns_are_found() -> None:
    some = {
        "adapters.text.fences._FENCE.match",
        "adapters.slack.markup._MARK.sub",
        "adapters.discord.translate._CODE_OR_MENTION.sub",
    }
    assert some <= set(READERS)


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "split_pages": lambda text: split_pages(text, 2000),
    "heal": heal,
    "find_links": find_links,
    "drop_links": drop_links,
    "to_plain": lambda text: to_plain(text, "U1"),
    "harmless": harmless,
    "fallback": fallback,
    "clean_file_name": clean_file_name,
    "cut_at_sentence": lambda text: cut_at_sentence(text, 2000),
    "origin_of": origin_of,
    "origin_of_host": lambda text: origin_of_host(text, "http"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_reads_peoples_and_the_models_text_does_so_too(name: str) -> None:
    assert slow_for(FUNCTIONS[name]) == []


@pytest.mark.parametrize("pattern", [r"\s+$", r"(a+)b\1", r"^#{1,6}\s+(.*?)\s*#*$", r"(`+)([^`]+?)\1"])
def test_patterns_that_do_not_are_found(pattern: str) -> None:
    assert slow_for(re.compile(pattern).search)
