"""Splits an answer into messages (pages) while it is being written.

Rules: nothing is lost or doubled, except blank lines at a cut and the closing line of a code block that ends there. A code block
that is cut is closed on its page and opened again on the next; a table that is cut begins with its header again. A cut depends only
on the text of its page, so a full page never changes, however the text continues. On every page each fence has a line of its own,
and where a platform shows no tables they are aligned in code blocks. What has been shown stays as it is while more is written,
but for such tables. Line ends are normalized first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from adapters.text.fences import MAX_MARKER, Fence, begins_with_marker, is_closed_by, num_closing_chars, opened_by, pieces, settled
from adapters.text.tables import AlignedTable, Table, table_begun_by

MIN_PAGE_CHARS = 64
_RESERVE = MAX_MARKER + 2  # for closing a code block
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"')\]]*\s+")
_GAP = re.compile(r"\s+")
_LEADING_LINE = re.compile(
    r"[ \t]*(?:#{1,6}(?:[ \t].*)?|(?:[-*+]|\d{1,9}[.)])[ \t]*)\n"
)  # a heading, or a list item without its text
_MARKER = re.compile(r"\A[ \t]*(?:(?:#{1,6}|[-*+]|\d{1,9}[.)])(?:[ \t]+|$))?")
# Code, bold, spoilers, struck-out words and links, also such as do not end within the text.
_SPAN = re.compile(
    r"(?P<mark>`+|\*\*|__|\|\||~~)(?=\S).*?(?:(?P=mark)|\Z)|\[[^\[\]\n]*(?:\](?:\([^()\s]*(?:\)|\Z))?|\Z)", re.DOTALL
)

_MARKUP = re.compile(r"`|\*|__|~~|\|\||<(?=\S)|\\(?=[^\w\s])")  # a single _ is common in names, and nothing within a word

State = Fence | Table | None
"""What is open at a place in the text."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A complete line, by its indices in the text, and what is open before and behind it."""

    start: int
    end: int
    before: State
    after: State


def split_pages(text: str, max_chars: int, *, has_tables: bool = True, is_whole: bool = False) -> list[str]:
    """Split a text into pages, none of them blank, each of at most `max_chars` characters (at least `MIN_PAGE_CHARS`).

    `has_tables`: Markdown's tables can stay as they are. `is_whole`: nothing follows, so that the last line is complete. A code
    block that is open at the end of the text stays open on the last page, which has room for its closing line (`heal`).
    """
    if max_chars < MIN_PAGE_CHARS:
        raise ValueError(f"pages of {max_chars} characters are too short")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    pages: list[str] = []
    start, state = 0, None
    while True:
        start, state = _begun(text, start, state)
        if start >= len(text):
            break
        is_within_line = start > 0 and text[start - 1] != "\n"
        make_page = partial(_Page, state, max_chars, has_tables=has_tables, is_within_line=is_within_line)
        page = make_page()
        begun = page.state
        lines, overflow = _filled(text, start, page, is_whole=is_whole)
        if overflow is None:
            pages.append(_shown(text, start, len(text), make_page(), is_whole=is_whole))
            break
        if overflow == start:  # a row that no page has room for
            state = None
            continue
        cut, state_there = _cut(text[:overflow], start, lines, state)
        pages.append(_shown(text, start, cut, make_page(), is_closed=True))
        start, state = cut, state if state_there is begun else state_there  # `state` knows how far the block is indented
    return [page for page in pages if page.strip()]


def tables_in_code(text: str) -> str:
    """The whole text, with fences on lines of their own and tables aligned in code blocks."""
    return _shown(text, 0, len(text), _Page(None, max(MIN_PAGE_CHARS, len(text)), has_tables=False), is_whole=True)


def literal(sentence: str) -> str:
    """Our own sentence in one line of Markdown. It may quote a file's name, which must not become markup, a link or a mention."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(sentence.split())).replace("](", "] (")


def heal(page: str) -> str:
    """Close the page's open code block, if any, so that it is rendered correctly while the text is incomplete."""
    fence = None
    for _, _, after in code_in(page):
        fence = after
    return page if fence is None else _closed(page, fence)


def code_in(page: str) -> Iterator[tuple[str, Fence | None, Fence | None]]:
    """Yields each line of a page, and the code block that is open before and behind it."""
    fence: Fence | None = None
    for line in re.findall(r"[^\n]*\n|[^\n]+", page):
        before = fence
        if line.endswith("\n"):
            _, fence = pieces(line, fence)
        elif fence is None:
            fence = opened_by(line)
        elif is_closed_by(fence, line):
            fence = None
        yield line, before, fence


class _Page:
    """What a page shows, while it is filled line by line.

    `state`: what was open at the end of the page before. `is_within_line`: that page ends in the middle of a line.
    """

    def __init__(self, state: State, max_chars: int, *, has_tables: bool, is_within_line: bool = False) -> None:
        self.max_chars = max_chars
        self.state = state.again() if isinstance(state, Fence) else state
        self._has_tables = has_tables
        self._continued = state if isinstance(state, Fence) else None
        self._lines: list[str] = []
        self._num_chars = 0
        self._aligned = AlignedTable(state) if isinstance(state, Table) and not has_tables else None
        self._last = ""  # the line before, if a table may begin with it
        self._lead = state.prefix if is_within_line and isinstance(state, Fence) and state.is_quoted else ""  # for the next line
        if isinstance(state, Fence):
            self._append(state.opening(max_chars))
        elif isinstance(state, Table) and has_tables and len(state.first_lines) <= max_chars // 4:
            self._append(state.first_lines)

    def begin(self, line: str) -> None:
        """A line begins, which may be incomplete. It can end a quote, and with it a code block."""
        if isinstance(self.state, Fence) and self.state.is_ended_by(self._lead + line):
            self._append(f"{self.state.closing}\n")
            self.state = self._continued = None

    def add(self, line: str) -> None:
        """Add a complete line, with its line end."""
        if isinstance(self.state, Table) and self.state.is_row(line):
            self.state = replace(self.state, has_rows=True)
            self._append_row(line)
            return
        last, self._last = self._last, ""
        fence = self.state if isinstance(self.state, Fence) else None
        self._end_table()
        table = table_begun_by(last, line) if last and fence is None else None
        if table is not None:
            self.state = table
            if self._has_tables:
                self._append(line)
            else:
                self._num_chars -= len(self._lines.pop())
                self._aligned = AlignedTable(table)
            return
        if self._continued is not None:
            line, self._lead = self._continued.dedented(self._lead + line), ""
        written, self.state = pieces(line, fence)
        self._append(*written)
        if self.state is not fence:
            self._continued = None
        if self.state is None and written == [line] and fence is None:
            self._last = line

    def is_row(self, line: str) -> bool:
        return isinstance(self.state, Table) and self.state.is_row(line)

    def may_end_with(self, line: str) -> bool:
        """Whether the line is complete if it is the text's last one: a fence behind other words opens nothing any more."""
        return self.state is not None or not isinstance(pieces(line + "\n", None)[1], Fence) or bool(begins_with_marker(line))

    def text(self, beginning: str = "", *, is_open: bool = False) -> str:
        """The page as it is now, with the beginning of one more line. `is_open`: the line goes on, so that of the beginning only
        what is settled is shown."""
        if self._continued is not None:
            beginning = self._continued.dedented(self._lead + beginning)
        if is_open and not isinstance(self.state, Table):
            beginning = settled(beginning, self.state)
        return "".join(self._lines) + (self._table(beginning) or beginning)

    def size(self, beginning: str = "") -> int:
        """The characters of `text(beginning)`, and room for what has to close it."""
        closing = 1 + len(self.state.closing) if isinstance(self.state, Fence) else 0
        if self.state is None and (marker := begins_with_marker(beginning)):
            closing = 1 + len(marker)
        num_chars = len(self._lead) + len(beginning)
        if self._has_aligned(beginning):
            assert self._aligned is not None
            is_row = self.is_row(beginning)
            num_chars = self._aligned.size(beginning if is_row else "") + (0 if is_row else len(beginning))
        return self._num_chars + num_chars + max(_RESERVE, closing)

    def _table(self, beginning: str) -> str:
        """The table at the end of the page in a code block; empty if there is none, or if tables stay as they are."""
        if not self._has_aligned(beginning):
            return ""
        assert self._aligned is not None
        return self._aligned.text(beginning) if self.is_row(beginning) else self._aligned.text() + beginning

    def _has_aligned(self, beginning: str = "") -> bool:
        """Whether a table is at the end of the page. One that goes on from the page before is there from its first row on."""
        if self._aligned is None or not isinstance(self.state, Table):
            return False
        return self._aligned.has_rows or not self.state.has_rows or self.is_row(beginning)

    def _end_table(self) -> None:
        if self._has_aligned() and self._aligned is not None:
            self._append(self._aligned.text())
        self._aligned = None

    def _append_row(self, line: str) -> None:
        if self._aligned is None:
            self._append(line)
        else:
            self._aligned.add(line)

    def _append(self, *lines: str) -> None:
        self._lines += lines
        self._num_chars += sum(map(len, lines))


def _begun(text: str, start: int, state: State) -> tuple[int, State]:
    """Where the next page begins, and what it goes on with: nothing that would end at once, and no blank lines."""
    line = text[start : text.find("\n", start) + 1 or len(text)]
    if isinstance(state, Fence) and (num_chars := num_closing_chars(state, line)):
        start, state = start + num_chars, None
    elif isinstance(state, Table) and line and not state.is_row(line):
        state = None
    if state is None and (blank := _BLANK_LINES.match(text, start)):
        start = blank.end()
    return start, state


def _filled(text: str, start: int, page: _Page, *, is_whole: bool) -> tuple[list[_Line], int | None]:
    """Fill the page. Returns its complete lines, and the first index at which the text no longer fits; None if all of it does.

    For any beginning of the text that reaches this index, the result is the same.
    """
    lines: list[_Line] = []
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        line = text[start:end]
        words = line.removesuffix("\n")
        page.begin(line)
        if page.is_row(line):
            if len(line) > page.max_chars or page.size(words) > page.max_chars:
                return lines, start
        elif lines and page.state is None and begins_with_marker(line) and page.size(words) > page.max_chars:
            return lines, start
        elif (room := page.max_chars - page.size()) < len(line):
            return lines, start + max(1, room)
        if not (line.endswith("\n") or (is_whole and page.may_end_with(line))):
            break
        before = page.state
        is_row = page.is_row(line)
        page.add(words + "\n")
        if page.size() > page.max_chars:
            return lines, start if is_row else max(start + 1, end - 1)
        lines.append(_Line(start, end, before, page.state))
        start = end
    return lines, None


def _shown(text: str, start: int, end: int, page: _Page, *, is_whole: bool = False, is_closed: bool = False) -> str:
    """The page with this piece of the text."""
    piece = text[start:end]
    *lines, last = piece.split("\n")
    for line in lines:
        page.begin(line + "\n")
        page.add(line + "\n")
    page.begin(last)
    is_added = is_whole and bool(last) and page.may_end_with(last)
    if is_added:
        page.add(last + "\n")
        last = ""
    shown = page.text(last, is_open=not (is_whole or is_closed))
    if is_closed:
        return heal(shown)
    return shown.removesuffix("\n") if is_added else shown


def _closed(page: str, fence: Fence) -> str:
    return f"{page}{'' if page.endswith(chr(10)) else chr(10)}{fence.closing}"


def _cut(text: str, first: int, lines: list[_Line], state: State) -> tuple[int, State]:
    """Where the page that begins at `first` ends, and what is open there. `text` ends where the page is full."""
    enough = first + (len(text) - first) // 2
    paragraph: tuple[int, State] | None = None
    line, block_line, leading = paragraph, paragraph, paragraph
    before, start, is_leading, was_leading = state, first, False, False
    for number, each in enumerate(lines):
        if each.end > len(text):
            break
        end, after = each.end, each.after
        if after is None:
            is_blank = not text[start:end].strip()
            was_leading = is_leading
            if not is_blank:
                is_leading = before is None and (bool(_LEADING_LINE.fullmatch(text, start, end)) or "|" in text[start:end])
            if end >= enough and is_leading:
                leading = end, after  # it should be on the same page as what follows
            elif end >= enough:
                line = end, after
                if is_blank:
                    paragraph = end, after
        elif isinstance(after, Fence):
            if before is not None and end >= enough:
                block_line = end, after  # but not right after the opening line
            if before is None and start >= enough and not is_leading:
                line = start, before  # move a block that would be cut to the next page as a whole, if this page is full enough
        elif after.has_rows:
            if end >= enough:
                block_line = end, after
        else:
            leading = None
            head = lines[number - 1].start
            if head >= enough and not was_leading:
                line = head, None
        before, start = after, end
    chosen = paragraph or line or block_line
    if chosen is not None:
        return chosen
    # One long line from `start` on, perhaps after a short beginning.
    tail = text[start:]
    if isinstance(before, Fence) and before.is_ended_by(tail):
        before = None
    if before is None and start > first and begins_with_marker(tail):
        return leading or (start, None)  # never within a block's opening line
    after_marker = len(tail) - len(_MARKER.sub("", tail, count=1)) + 1
    least = first + (enough - first) // 2
    sentences = [match.end() for match in _SENTENCE_END.finditer(tail) if match.end() >= max(enough - start, after_marker)]
    gaps = [match.end() for match in _GAP.finditer(tail) if match.end() >= max(least - start, after_marker)]
    if before is None and gaps:
        spans = [(match.start(), match.end()) for match in _SPAN.finditer(tail)]
        for cuts in (sentences, gaps):
            if whole := [cut for cut in cuts if not any(begin < cut < end for begin, end in spans)]:
                return start + whole[-1], None
        return start + (sentences or gaps)[-1], None
    if leading is not None:
        return leading
    return first + _between_characters(text[first:]), before


def _between_characters(window: str) -> int:
    """The last index that is not inside a user-perceived character (grapheme cluster); the end if there is none nearby."""
    for cut in range(len(window) - 1, max(0, len(window) - 24), -1):
        joins = (
            window[cut] in "\u200d\ufe0f\ufe0e" or unicodedata.combining(window[cut]) or "\U0001f3fb" <= window[cut] <= "\U0001f3ff"
        )
        if not joins and window[cut - 1] != "\u200d":
            return cut
    return len(window)
