"""An answer in Slack's own markup, for messages whose Markdown Slack refuses.

https://docs.slack.dev/messaging/formatting-message-text. It knows headings, bullets, bold, italic, struck-out words, links, code
and tables in code; everything else stays as it is. All of the model's text is escaped, so that it mentions nobody.
"""

from __future__ import annotations

import html
import re

from adapters.text.fences import Fence
from adapters.text.markdown import code_in, heal, split_pages

MAX_SECTION_CHARS = 3_000
_PIECE_CHARS, _LEAST_PIECE_CHARS = 2_500, 300
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+(?P<words>.*)$")
_CLOSING_HASHES = re.compile(r"(?:^|(?<=[ \t]))#+$")
_BULLET = re.compile(r"^(?P<indent>[ \t]*)[-*+][ \t]+")
_INLINE = re.compile(
    r"(?P<code>(?P<ticks>`++)(?:.+?(?<!`)(?P=ticks)(?!`))?)"  # all at once if nothing closes it
    r"|!?\[(?P<label>[^\[\]\n]+)\]\((?P<url>https?://[^\s()<>|]+)\)"
    r"|(?P<strong>\*\*|__)(?=\S)(?P<bold>.{1,500}?)(?<=\S)(?P=strong)"
    r"|~~(?=\S)(?P<struck>.{1,500}?)(?<=\S)~~"
    r"|(?<![\w*])\*(?=[^\s*])(?P<italic>[^*\n]{1,500}?)(?<=[^\s*])\*(?![\w*])"
)


def sections_of(text: str) -> list[str]:
    """The text as pieces of markup for section blocks, each of at most 3,000 characters, none blank."""
    return _pieces(text, is_marked_up=True)


def plain_sections_of(text: str) -> list[str]:
    """The text as pieces without any markup, for sections of plain text."""
    return _pieces(text, is_marked_up=False)


def _pieces(text: str, *, is_marked_up: bool) -> list[str]:
    num_chars = _PIECE_CHARS
    while True:
        pages = [heal(page) for page in split_pages(text, num_chars, has_tables=False, is_whole=True)]
        found = [_marked_up(page) if is_marked_up else page.rstrip() for page in pages]
        if num_chars <= _LEAST_PIECE_CHARS or all(len(piece) <= MAX_SECTION_CHARS for piece in found):
            return [piece[:MAX_SECTION_CHARS] for piece in found]
        num_chars //= 2  # escapes made it too long


def _marked_up(page: str) -> str:
    lines = []
    for line, before, after in code_in(page):
        words = line.removesuffix("\n")
        if isinstance(before, Fence) or isinstance(after, Fence):
            is_fence = before is None or after is None
            lines.append("```" if is_fence else _escaped(words).replace("```", "`\u200b``"))
        elif heading := _HEADING.match(words):
            title = _CLOSING_HASHES.sub("", heading["words"].rstrip()).rstrip().replace("*", "")
            lines.append(f"*{_inline(title)}*" if title else "")
        else:
            lines.append(_inline(_BULLET.sub(lambda bullet: f"{bullet['indent']}• ", words)))
    return "\n".join(lines).rstrip()


def _inline(words: str) -> str:
    written, start = [], 0
    for match in _INLINE.finditer(words):
        written.append(_escaped(words[start : match.start()]))
        start = match.end()
        if match["code"]:
            written.append(_escaped(match["code"]))
        elif match["url"]:
            written.append(f"<{_escaped(match['url'])}|{_escaped(match['label']).replace('|', '¦')}>")
        elif match["bold"]:
            written.append(f"*{_escaped(match['bold'])}*")
        elif match["struck"]:
            written.append(f"~{_escaped(match['struck'])}~")
        else:
            written.append(f"_{_escaped(match['italic'])}_")
    return "".join(written) + _escaped(words[start:])


def _escaped(words: str) -> str:
    return html.escape(words, quote=False)
