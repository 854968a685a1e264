"""Finds the http and https links in what people write.

Nobody puts a space after a link in Chinese, Japanese or Thai, and in no language before a full stop. So a link ends

* before a space, a quotation mark, `<`, `>`, `|`, a control character, and any punctuation or symbol beyond ASCII;
* before a letter of a script that is written without spaces, if a Latin letter or a digit is before it, also with a comma or a
  bracket between them: "a.png这是什么". After a slash it is a part of the link: ".../wiki/熊猫.png";
* before a closing bracket that was not opened in it, and before another link after a comma;
* before the full stop, comma or Markdown marks at its end.

What is between `<` and `>` is a link as it is, as in Markdown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import urlsplit

MAX_LINK_CHARS = 2000
_START = re.compile(r"https?://", re.IGNORECASE)
_NEXT_LINK = re.compile(r"[,;]https?://", re.IGNORECASE)
_TO_ANGLE = re.compile(rf"[^\s<>|]{{1,{MAX_LINK_CHARS}}}(?=>)")
_ENDS = frozenset("<>\"'`|\\^")
_OPENING = {")": "(", "]": "[", "}": "{"}
_OF_THE_SENTENCE = ",;!?*([{"
_AT_THE_END = ".,;:!?*_~([{"
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff10-\uffdc"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)  # Thai, Lao, Tibetan, Burmese, Khmer, Hangul (its particles follow a word at once), kana, Han, and their wide letters and digits


def find_links(text: str) -> list[str]:
    """The links in a text, in their order, each as often as it is there and of at most about 2,000 characters."""
    return [text[start:end] for start, end in _spans(text)]


def has_link(text: str) -> bool:
    """Whether there is a link in a text."""
    return next(_spans(text), None) is not None


def drop_links(text: str) -> str:
    """The text with a space in place of each link, and of the angle brackets around it."""
    pieces, at = [], 0
    for start, end in _spans(text):
        is_in_angles = text[start - 1 : start] == "<" and text[end : end + 1] == ">"
        pieces.append(text[at : start - is_in_angles])
        at = end + is_in_angles
    return " ".join([*pieces, text[at:]])


def _spans(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    while start := _START.search(text, at):
        to_angle = _TO_ANGLE.match(text, start.end()) if text[start.start() - 1 : start.start()] == "<" else None
        at = to_angle.end() if to_angle else _end(text, start.end())
        if _has_host(text[start.start() : at]):
            yield start.start(), at


def _end(text: str, start: int) -> int:
    """Where the link ends whose host begins at `start`."""
    opened = before = ""  # the brackets that are open, and the last character that is none of the sentence's
    end = start
    while end < min(len(text), start + MAX_LINK_CHARS):
        character = text[end]
        if character in _ENDS or _is_beyond(character, before) or _NEXT_LINK.match(text, end):
            break
        if character in _OPENING.values():
            opened += character
        elif character in _OPENING:
            if not opened.endswith(_OPENING[character]):
                break
            opened = opened[:-1]
        if character not in _OF_THE_SENTENCE:
            before = character
        end += 1
    return start + len(text[start:end].rstrip(_AT_THE_END))


def _is_beyond(character: str, before: str) -> bool:
    """Whether a character ends a link because of its script or kind, after the character `before`."""
    if character.isascii():
        return character.isspace() or not character.isprintable()
    if unicodedata.category(character)[0] not in "LMN":
        return True
    return before.isascii() and before.isalnum() and bool(_WITHOUT_SPACES.match(character))


def _has_host(link: str) -> bool:
    try:
        return bool(urlsplit(link).hostname)
    except ValueError:
        return False
