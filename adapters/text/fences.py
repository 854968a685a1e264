"""Finds the fenced code blocks of a text, line by line.

A fence is recognized wherever models write one and Discord takes one: at any indentation, in lists and quotes, and in the middle of
a line. CommonMark 0.31 (section 4.5) has it at the beginning of a line, so `Lines` gives a fence a line of its own. Markers have at
most 12 characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_MARKER = 12
_FENCE = re.compile(
    r"(?P<prefix>(?:[ \t]*(?:>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t])))*[ \t]*)"
    r"(?P<marker>`{3,12}(?!`)|~{3,12}(?!~))(?P<info>[^\n]*)\n?"
)
_MAX_OPENING = 24  # a marker with what is before it
_LIST_MARKER = re.compile(r"[^>\s]")
_QUOTE = re.compile(r"(?:[ \t]*>)+[ \t]?")
_BACKTICKS = re.compile(r"`+")
_LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]*")


@dataclass(frozen=True, slots=True)
class Fence:
    """An open code block. `prefix` is what its lines begin with: indentation and the marks of quotes.

    `is_inline`: it was opened in the middle of a line, and so may be closed there.
    """

    marker: str
    info: str
    prefix: str = ""
    is_inline: bool = False

    @property
    def is_quoted(self) -> bool:
        """Whether the block is in a quote, whose mark all its lines begin with."""
        return ">" in self.prefix

    def is_ended_by(self, line: str) -> bool:
        """Whether the block ends before the line, which may be incomplete, because the quote does that it is in."""
        return self.is_quoted and bool(line.strip(" \t")) and _QUOTE.match(line) is None

    def opening(self, max_chars: int) -> str:
        """The line that opens it again on a new page, without indentation (`dedented`)."""
        prefix = self.prefix if self.is_quoted else ""
        line = f"{prefix}{self.marker}{self.info}\n"
        return line if len(line) <= max_chars // 4 else f"{prefix}{self.marker}\n"

    @property
    def closing(self) -> str:
        """The line that closes it, without its line end."""
        return f"{self.prefix}{self.marker}"

    def again(self) -> Fence:
        """The block as it is on a new page."""
        return self if self.is_quoted else Fence(self.marker, self.info, "", self.is_inline)

    def dedented(self, line: str) -> str:
        """A line of the block on a new page, where the block is not indented."""
        num_spaces = 0 if self.is_quoted else len(self.prefix)
        return line[min(num_spaces, len(line) - len(line.lstrip(" \t"))) :]


def opened_by(line: str) -> Fence | None:
    """The code block that a line opens at its beginning."""
    match = _FENCE.match(line)
    if match is None or len(match["prefix"] + match["marker"]) > _MAX_OPENING:
        return None
    if match["marker"].startswith("`") and "`" in match["info"]:
        return None
    return Fence(match["marker"], match["info"].strip(), _LIST_MARKER.sub(" ", match["prefix"]))


def begins_with_marker(line: str) -> str:
    """The marker with what is before it, if the line, which may be incomplete, begins like a fence; else empty."""
    match = _FENCE.match(line)
    return match["prefix"] + match["marker"] if match is not None and len(match["prefix"] + match["marker"]) <= _MAX_OPENING else ""


def is_closed_by(fence: Fence, line: str) -> bool:
    """Whether the line is nothing but the fence's closing marker."""
    match = _FENCE.match(line)
    if match is None or match["info"].strip() or _LIST_MARKER.search(match["prefix"]) or (">" in match["prefix"]) > fence.is_quoted:
        return False
    return match["marker"][0] == fence.marker[0] and len(match["marker"]) >= len(fence.marker)


def num_closing_chars(fence: Fence, line: str) -> int:
    """How many characters at the line's beginning do nothing but close the fence."""
    if is_closed_by(fence, line):
        return len(line)
    match = _FENCE.match(line) if fence.is_inline else None
    if match is None or match["marker"][0] != fence.marker[0] or len(match["marker"]) < len(fence.marker):
        return 0
    return match.start("info")


def pieces(line: str, fence: Fence | None) -> tuple[list[str], Fence | None]:
    """A complete line, cut so that each fence in it has a line of its own, and the code block that is open behind it.

    `fence`: the one that is open before it. All pieces end with a line end.
    """
    if fence is not None and fence.is_ended_by(line):
        rest, then = pieces(line, None)
        return [f"{fence.closing}\n", *rest], then
    if fence is None:
        opened = opened_by(line)
        return ([line], opened) if opened is not None else _opened_within(line)
    if is_closed_by(fence, line):
        return [line], None
    words = line.rstrip()
    if fence.is_inline:
        for run in _BACKTICKS.finditer(line):
            if fence.marker[0] == "`" and len(run[0]) >= len(fence.marker):
                before, after = line[: run.start()], line[run.end() :]
                rest, then = pieces(fence.prefix + after.lstrip(" "), None) if after.strip() else ([], None)
                is_blank = not before.removeprefix(fence.prefix).strip()
                return [*([] if is_blank else [before + "\n"]), f"{fence.closing}\n", *rest], then
    elif words.endswith(fence.marker) and not words.removesuffix(fence.marker).endswith(fence.marker[0]):
        before = words.removesuffix(fence.marker)
        if before.strip() and fence.marker[0] == "`":
            return [before + "\n", fence.closing + "\n"], None
    return [line], fence


def settled(line: str, fence: Fence | None) -> str:
    """The beginning of an incomplete line that stays as it is, however the line goes on, cut where `pieces` cuts it.

    What may become a fence, or go on as one, is left out until that is known. `fence`: the one that is open before the line.
    """
    words = line.rstrip("`")
    if fence is None:
        run = _opening_run(words)
        shown = words[: run.start()] if run else words
        return shown if shown.strip() else ""
    if fence.is_quoted and not line.strip():
        return ""  # the quote may end here
    if fence.marker[0] != "`":
        return line
    if not fence.is_inline:
        code = line.rstrip().rstrip("`")
        return code if line.rstrip() != code and code.strip() and not is_closed_by(fence, line) else line
    for run in _BACKTICKS.finditer(words):
        if len(run[0]) >= len(fence.marker):
            before, after = words[: run.start()], line[run.end() :].lstrip(" ")
            lead = before + "\n" if before.removeprefix(fence.prefix).strip() else ""
            rest = "\n" + settled(fence.prefix + after, None) if after else ""
            return f"{lead}{fence.closing}{rest}"
    return "" if fence.prefix.startswith(words) or not words.removeprefix(fence.prefix).strip() else words


def _opening_run(line: str) -> re.Match[str] | None:
    """The backticks behind other words that open a block: those that nothing in the line closes."""
    runs = list(_BACKTICKS.finditer(line))
    index = 0
    while index < len(runs):
        run = runs[index]
        closing = next((later for later in range(index + 1, len(runs)) if len(runs[later][0]) == len(run[0])), None)
        if closing is None and 3 <= len(run[0]) <= MAX_MARKER:
            return run
        index = index + 1 if closing is None else closing + 1  # code within the line
    return None


def _opened_within(line: str) -> tuple[list[str], Fence | None]:
    """A line outside of code blocks, in which one may be opened behind other words."""
    run = _opening_run(line)
    if run is None:
        return [line], None
    before, rest = line[: run.start()], line[run.end() :].strip()
    quote = _QUOTE.match(line)
    fence = Fence(run[0], rest if _LANGUAGE.fullmatch(rest) else "", quote[0] if quote else "", is_inline=True)
    code = [] if rest == fence.info else [f"{fence.prefix}{rest}\n"]
    is_blank = not before.removeprefix(fence.prefix).strip()
    return [*([] if is_blank else [before + "\n"]), f"{fence.closing}{fence.info}\n", *code], fence
