"""Splits an answer into messages (pages) while it is being written.

Rules: nothing is lost or doubled, except blank lines at a cut and the closing line of a code block that ends there. A code block
that is cut is closed on its page and opened again on the next. A cut depends only on the text of its page, so a full page never
changes, however the text continues. Code blocks are those of CommonMark 0.31 (section 4.5) that are not inside lists or quotes,
with markers of at most 12 characters. Line ends are normalized first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

MIN_PAGE_CHARS = 64
_MAX_MARKER = 12
_RESERVE = _MAX_MARKER + 2  # for closing a code block
_FENCE = re.compile(r" {0,3}(?P<marker>`{3,12}(?!`)|~{3,12}(?!~))(?P<info>[^\n]*)\n?")
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"')\]]*\s+")
_GAP = re.compile(r"\s+")
_LEADING_LINE = re.compile(
    r"[ \t]*(?:#{1,6}(?:[ \t].*)?|(?:[-*+]|\d{1,9}[.)])[ \t]*)\n"
)  # a heading, or a list item without its text
_MARKER = re.compile(r"\A[ \t]*(?:(?:#{1,6}|[-*+]|\d{1,9}[.)])(?:[ \t]+|$))?")


@dataclass(frozen=True, slots=True)
class _Fence:
    marker: str
    info: str

    def opening(self, max_chars: int) -> str:
        line = f"{self.marker}{self.info}\n"
        return line if len(line) <= max_chars // 4 else f"{self.marker}\n"


def split_pages(text: str, max_chars: int) -> list[str]:
    """Split a text into pages, none of them blank, each of at most `max_chars` characters (at least `MIN_PAGE_CHARS`).

    A code block that is open at the end of the text stays open on the last page, which has room for its closing line (`heal`).
    """
    if max_chars < MIN_PAGE_CHARS:
        raise ValueError(f"pages of {max_chars} characters are too short")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    pages: list[str] = []
    start, fence = 0, None
    while True:
        if fence is not None and (closing := _FENCE.match(text, start)) and _closes(closing, fence) and _is_whole(closing, text):
            start, fence = closing.end(), None
        if fence is None and (blank := _BLANK_LINES.match(text, start)):
            start = blank.end()
        opening = "" if fence is None else fence.opening(max_chars)
        room = max_chars - _RESERVE - len(opening)
        if len(text) - start <= room:
            break
        cut, fence_there = _cut(text[start : start + room], fence)
        page = opening + text[start : start + cut]
        pages.append(page if fence_there is None else _closed(page, fence_there))
        start, fence = start + cut, fence_there
    if start < len(text):
        pages.append(opening + text[start:])
    return [page for page in pages if page.strip()]


def heal(page: str) -> str:
    """Close the page's open code block, if any, so that it is rendered correctly while the text is incomplete."""
    fence = None
    for _, after in _lines(page, None):
        fence = after
    return page if fence is None else _closed(page, fence)


def _closed(page: str, fence: _Fence) -> str:
    return f"{page}{'' if page.endswith(chr(10)) else chr(10)}{fence.marker}"


def _lines(text: str, fence: _Fence | None) -> Iterator[tuple[int, _Fence | None]]:
    """Yields for each line the index of its end, and the code block that is open there."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        if match := _FENCE.match(text, start):
            if fence is not None:
                fence = None if _closes(match, fence) else fence
            elif not (match["marker"].startswith("`") and "`" in match["info"]):
                fence = _Fence(match["marker"], match["info"].strip())
        yield end, fence
        start = end


def _closes(match: re.Match[str], fence: _Fence) -> bool:
    marker = match["marker"]
    return marker[0] == fence.marker[0] and len(marker) >= len(fence.marker) and not match["info"].strip(" \t")


def _is_whole(match: re.Match[str], text: str) -> bool:
    """Whether the line is complete, so that nothing can be added to it."""
    return match.group().endswith("\n") or match.end() == len(text)


def _cut(window: str, fence: _Fence | None) -> tuple[int, _Fence | None]:
    """Where in `window` the page ends, and the code block that is open there."""
    enough = len(window) // 2
    paragraph = line = code_line = leading = None
    before, start, is_leading = fence, 0, False
    for end, after in _lines(window, fence):
        if window[end - 1] != "\n":
            break  # the last line is incomplete
        if after is None:
            is_blank = not window[start:end].strip()
            is_leading = is_leading if is_blank else before is None and bool(_LEADING_LINE.fullmatch(window, start, end))
            if end >= enough and is_leading:
                leading = end, after  # it should be on the same page as what follows
            elif end >= enough:
                line = end, after
                if is_blank:
                    paragraph = end, after
        elif before is not None and end >= enough:
            code_line = end, after  # but not right after the opening line
        if before is None and after is not None and start >= enough and not is_leading:
            line = start, before  # move a block that would be cut to the next page as a whole, if this page is full enough
        before, start = after, end
    chosen = paragraph or line or code_line
    if chosen is not None:
        return chosen
    # One long line from `start` on, perhaps after a short beginning.
    tail = window[start:]
    after_marker = len(tail) - len(_MARKER.sub("", tail, count=1)) + 1
    within = [match.end() for match in _SENTENCE_END.finditer(tail) if match.end() >= max(enough - start, after_marker)]
    within = within or [match.end() for match in _GAP.finditer(tail) if match.end() >= max(enough // 2 - start, after_marker)]
    if before is None and within:
        return start + within[-1], None
    if leading is not None:
        return leading
    cut = _between_characters(window)
    if before is None and cut > start and _FENCE.match(window, start):
        cut = start or cut  # never within a block's opening line
    return cut, before


def _between_characters(window: str) -> int:
    """The last index that is not inside a user-perceived character (grapheme cluster); the end if there is none nearby."""
    for cut in range(len(window) - 1, max(0, len(window) - 24), -1):
        joins = (
            window[cut] in "\u200d\ufe0f\ufe0e" or unicodedata.combining(window[cut]) or "\U0001f3fb" <= window[cut] <= "\U0001f3ff"
        )
        if not joins and window[cut - 1] != "\u200d":
            return cut
    return len(window)
