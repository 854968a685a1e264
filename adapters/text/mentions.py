"""Takes the mention of us out of what a person wrote, and nothing else: white space is part of code."""

from __future__ import annotations

import re

OUR_MENTION = "\0"  # where it was; no platform delivers this character
_WITH_SPACES = re.compile(rf"(?<![ \t])[ \t]*+(?:{OUR_MENTION}[ \t]*)+")
_BLANK_LINES_BEFORE = re.compile(r"\A(?:[ \t]*\n)+")


def without_our_mention(text: str) -> str:
    """The text without `OUR_MENTION` and the spaces that parted it from other words, and without blank lines around it all.

    Every other space, indentation and line end stays as it was written.
    """

    def gap(match: re.Match[str]) -> str:
        is_inside = match.start() > 0 and text[match.start() - 1] != "\n" and match.end() < len(text) and text[match.end()] != "\n"
        return " " if is_inside else ""

    return _BLANK_LINES_BEFORE.sub("", _WITH_SPACES.sub(gap, text)).rstrip()
