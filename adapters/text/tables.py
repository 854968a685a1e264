"""Tables as GitHub's Markdown has them (https://github.github.com/gfm/#tables-extension-), aligned for a code block.

A table that is too wide for that becomes one record for each row, with the header's names before the values. Widths are those of a
terminal (wcwidth): Chinese characters and emoji are two columns wide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from wcwidth import wcwidth

MAX_WIDTH = 60  # columns of a code block that most screens show without wrapping
_QUOTES = re.compile(r"(?:[ \t]*>)*[ \t]*")
_DELIMITER = re.compile(r"[ \t]*+\|?(?:[ \t]*+:?-++:?[ \t]*+\|)*+(?:[ \t]*+:?-++:?[ \t]*+)?")
_PIPE = re.compile(r"(?<!\\)\|")
# Backticks that nothing closes are passed over all at once; reading on from each of them would take too long.
_CODE_OR_PIPE = re.compile(r"(?P<ticks>`++)(?:.+?(?<!`)(?P=ticks)(?!`))?|(?<!\\)(?P<pipe>\|)")
_MARKS = re.compile(r"(?P<mark>\*\*|__|~~|(?<!`)`++)(?=\S)(?P<words>.{1,500}?)(?<=\S)(?P=mark)")
_BACKTICKS = re.compile(r"`+")
_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_JOINER, _AS_EMOJI = "\u200d", "\ufe0f"
_MAX_HEAD_CHARS = 2_000
_FIRST_PIPE_WITHIN = 40  # characters, for rows without a pipe at their beginning


@dataclass(frozen=True, slots=True)
class Table:
    """A table's head. `aligns` has "<", ">" or "^" for each column; `first_lines` is the head as Markdown, with its line ends."""

    prefix: str
    header: tuple[str, ...]
    aligns: tuple[str, ...]
    first_lines: str
    has_leading_pipes: bool
    has_rows: bool = False

    def is_row(self, line: str) -> bool:
        """Whether the line, which may be incomplete, goes on with the table."""
        quotes = _QUOTES.match(line)
        words = line[quotes.end() :] if quotes is not None else line
        if (">" in self.prefix) != (">" in line[: len(line) - len(words)]) or not words.strip():
            return False
        return words.startswith("|") if self.has_leading_pipes else "|" in words[:_FIRST_PIPE_WITHIN]

    def cells(self, row: str, *, is_complete: bool = True) -> tuple[str, ...]:
        """The row's cells, one for each column. Of a row that is still being written they only grow."""
        if not is_complete:
            return _fitted(_PIPE.split(_inner(row)), len(self.header))
        inner = _inner(row)
        found = _PIPE.split(inner)
        if len(found) > len(self.header):  # perhaps a pipe in code, which GitHub would take for the end of a cell
            ends = [match.start() for match in _CODE_OR_PIPE.finditer(inner) if match["pipe"]]
            found = [inner[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(inner)], strict=True)]
        return tuple(_plain(cell) for cell in _fitted(found, len(self.header)))


class AlignedTable:
    """A table in a code block, to which rows are added. `beginning`: one more row at its end, which is still being written."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._quote = table.prefix if ">" in table.prefix else ""
        self._rows: list[tuple[str, ...]] = []
        self._grid = _GridSize([0] * len(table.header)).with_row(table.header)
        self._num_record_chars = 0

    @property
    def has_rows(self) -> bool:
        """Whether a complete row was added."""
        return bool(self._rows)

    def add(self, row: str) -> None:
        """Add a complete row."""
        cells = self._table.cells(row)
        self._num_record_chars += self._record_size(cells, is_first=not self._rows)
        self._rows.append(cells)
        self._grid = self._grid.with_row(cells)

    def size(self, beginning: str = "") -> int:
        """At least the number of characters of `text(beginning)`. It only grows with a row that is being written."""
        grid, num_record_chars = self._grid, self._num_record_chars
        if beginning:
            cells = self._table.cells(beginning, is_complete=False)
            grid, num_record_chars = grid.with_row(cells), num_record_chars + self._record_size(cells, is_first=not self._rows)
        fences = 2 * (len(self._quote) + max(3, grid.longest_run + 1) + 1)
        if self._is_grid:
            return fences + grid.num_chars + (grid.num_rows + 1) * (len(self._quote) + 1)
        return fences + (num_record_chars or len(self._quote) + len(" | ".join(self._table.header)) + 1)

    def text(self, beginning: str = "") -> str:
        """The code block, with its fences and a line end behind each line."""
        rows = [*self._rows, *([self._table.cells(beginning, is_complete=False)] if beginning else [])]
        lines = self._grid_lines([self._table.header, *rows]) if self._is_grid else self._record_lines(rows)
        longest = max((len(run) for line in lines for run in _BACKTICKS.findall(line)), default=0)
        fence = "`" * max(3, longest + 1)
        return "".join(f"{self._quote}{line}\n" for line in (fence, *lines, fence))

    @property
    def _is_grid(self) -> bool:
        return self._grid.width <= MAX_WIDTH

    def _grid_lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        aligns = self._table.aligns
        lines = [
            " | ".join(_padded(cell, width, align) for cell, width, align in zip(row, widths, aligns, strict=True)).rstrip()
            for row in rows
        ]
        return [lines[0], "-+-".join("-" * width for width in widths), *lines[1:]]

    def _record_lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        lines: list[str] = []
        for row in rows:
            lines += [*([""] if lines else []), *self._record(row)]
        return lines or [" | ".join(self._table.header)]

    def _record(self, row: Sequence[str]) -> list[str]:
        named = zip(self._table.header, row, strict=True)
        return [f"{name}: {cell}" if name else cell for name, cell in named if cell]

    def _record_size(self, row: Sequence[str], *, is_first: bool) -> int:
        lines = [*([] if is_first else [""]), *self._record(row)]
        return sum(len(self._quote) + len(line) + 1 for line in lines)


@dataclass(frozen=True, slots=True)
class _GridSize:
    """The size of a table's grid. `num_extra`: at least the characters that its cells have more than columns."""

    widths: list[int]
    num_rows: int = 0
    num_extra: int = 0
    longest_run: int = 0

    def with_row(self, cells: Sequence[str]) -> _GridSize:
        widths = [max(width, _width(cell)) for width, cell in zip(self.widths, cells, strict=True)]
        num_extra = self.num_extra + sum(map(_num_extra, cells))
        runs = [len(run) for cell in cells for run in _BACKTICKS.findall(cell)]
        return _GridSize(widths, self.num_rows + 1, num_extra, max([self.longest_run, *runs]))

    @property
    def width(self) -> int:
        return sum(self.widths) + 3 * (len(self.widths) - 1)

    @property
    def num_chars(self) -> int:
        """With the rule under the header, without line ends."""
        return (self.num_rows + 1) * self.width + self.num_extra


def table_begun_by(header: str, delimiter: str) -> Table | None:
    """The table that begins with these two complete lines; None if they are something else."""
    quotes = _QUOTES.match(header)
    prefix = header[: quotes.end()] if quotes is not None else ""
    quotes = _QUOTES.match(delimiter)
    marks = delimiter[quotes.end() if quotes is not None else 0 :].strip()
    names = header[len(prefix) :].strip()
    if max(len(names), len(marks)) > _MAX_HEAD_CHARS:
        return None
    if "|" not in names or "-" not in marks or "|" not in marks or not _DELIMITER.fullmatch(marks):
        return None
    columns = [mark.strip() for mark in _inner(marks).split("|")]
    cells = [_plain(cell) for cell in _PIPE.split(_inner(names))]
    if len(columns) != len(cells) or not all(columns):
        return None
    aligns = tuple("^" if mark[0] == mark[-1] == ":" and len(mark) > 1 else ">" if mark[-1] == ":" else "<" for mark in columns)
    first_lines = f"{prefix}{names}\n{prefix}|{'|'.join(columns)}|\n"
    return Table(prefix, tuple(cells), aligns, first_lines, names.startswith("|"))


def _inner(row: str) -> str:
    """A row without quotes before it and the pipes around it."""
    quotes = _QUOTES.match(row)
    words = row[quotes.end() if quotes is not None else 0 :].strip()
    words = words.removeprefix("|")
    return words[:-1] if words.endswith("|") and not words.endswith("\\|") else words


def _fitted(cells: Sequence[str], num_columns: int) -> tuple[str, ...]:
    """As many cells as there are columns: missing ones are empty, and what is too much stays in the last one."""
    words = [cell.strip().replace("\t", " ") for cell in cells]
    found = [*words[: num_columns - 1], " | ".join(words[num_columns - 1 :])]
    return tuple(cell for cell, _ in zip_longest(found[:num_columns], range(num_columns), fillvalue=""))


def _plain(cell: str) -> str:
    """A cell without marks that a code block would show as they are."""
    words = _BREAK.sub(" / ", cell.strip())
    return _MARKS.sub(lambda match: match["words"], words).replace("\\|", "|")


@lru_cache(maxsize=4_096)
def _char_widths(text: str) -> tuple[int, ...]:
    """How many columns each character takes. What joins an emoji before it takes none (wcswidth, but never fewer for more text)."""
    widths: list[int] = []
    for index, character in enumerate(text):
        before = text[index - 1] if index else ""
        if before == _JOINER or "\U0001f3fb" <= character <= "\U0001f3ff":
            widths.append(0)
        elif character == _AS_EMOJI:
            widths.append(1 if before and not before.isascii() and widths[-1] == 1 else 0)
        else:
            widths.append(max(0, wcwidth(character)))
    return tuple(widths)


def _width(text: str) -> int:
    return len(text) if text.isascii() else sum(_char_widths(text))


def _num_extra(text: str) -> int:
    """At least the characters that the text has more than columns; never fewer for more text."""
    return 0 if text.isascii() else sum(1 for width in _char_widths(text) if width == 0)


def _padded(cell: str, width: int, align: str) -> str:
    missing = width - _width(cell)
    before = {"<": 0, ">": missing, "^": missing // 2}[align]
    return " " * before + cell + " " * (missing - before)
