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

from wcwidth import wcswidth

MAX_WIDTH = 60  # columns of a code block that most screens show without wrapping
_QUOTES = re.compile(r"(?:[ \t]*>)*[ \t]*")
_DELIMITER = re.compile(r"[ \t]*\|?(?:[ \t]*:?-+:?[ \t]*\|)*(?:[ \t]*:?-+:?[ \t]*)?")
_PIPE = re.compile(r"(?<!\\)\|")
_CODE_OR_PIPE = re.compile(r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)|(?<!\\)(?P<pipe>\|)")
_MARKS = re.compile(r"(?P<mark>\*\*|__|~~|`+)(?=\S)(?P<words>.+?)(?<=\S)(?P=mark)")
_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
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

    def as_code(self, rows: Sequence[str], partial: str = "") -> str:
        """The table in a code block. `rows`: the lines of its complete rows; `partial`: the beginning of one more.

        The longer a partial row, the longer the result.
        """
        cells = [self._cells(row) for row in rows]
        grid = [self.header, *cells]
        is_grid = sum(_widths(grid)) + 3 * (len(self.header) - 1) <= MAX_WIDTH
        if partial:
            grid.append(_fitted(_PIPE.split(_inner(partial)), len(self.header)))
        lines = self._grid(grid) if is_grid else self._records(grid[1:])
        longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
        fence = "`" * max(3, longest + 1)
        quote = self.prefix if ">" in self.prefix else ""
        return "".join(f"{quote}{line}\n" for line in (fence, *lines, fence))

    def _cells(self, row: str) -> tuple[str, ...]:
        inner = _inner(row)
        found = _PIPE.split(inner)
        if len(found) > len(self.header):  # perhaps a pipe in code, which GitHub would take for the end of a cell
            ends = [match.start() for match in _CODE_OR_PIPE.finditer(inner) if match["pipe"]]
            found = [inner[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(inner)], strict=True)]
        return tuple(_plain(cell) for cell in _fitted(found, len(self.header)))

    def _grid(self, rows: Sequence[Sequence[str]]) -> list[str]:
        widths = _widths(rows)
        lines = [
            " | ".join(_padded(cell, width, align) for cell, width, align in zip(row, widths, self.aligns, strict=True)).rstrip()
            for row in rows
        ]
        return [lines[0], "-+-".join("-" * width for width in widths), *lines[1:]]

    def _records(self, rows: Sequence[Sequence[str]]) -> list[str]:
        lines: list[str] = []
        for row in rows:
            named = zip(self.header, row, strict=True)
            lines += [*([""] if lines else []), *(f"{name}: {cell}" if name else cell for name, cell in named if cell)]
        return lines or [" | ".join(self.header)]


def table_begun_by(header: str, delimiter: str) -> Table | None:
    """The table that begins with these two complete lines; None if they are something else."""
    quotes = _QUOTES.match(header)
    prefix = header[: quotes.end()] if quotes is not None else ""
    quotes = _QUOTES.match(delimiter)
    marks = delimiter[quotes.end() if quotes is not None else 0 :].strip()
    names = header[len(prefix) :].strip()
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
def _width(text: str) -> int:
    width = wcswidth(text)
    return width if width >= 0 else len(text)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_width, column)) for column in zip(*rows, strict=True)]


def _padded(cell: str, width: int, align: str) -> str:
    missing = width - _width(cell)
    before = {"<": 0, ">": missing, "^": missing // 2}[align]
    return " " * before + cell + " " * (missing - before)
