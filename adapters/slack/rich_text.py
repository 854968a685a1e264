"""What a person wrote on Slack, as Markdown.

Slack's editor makes rich text of it (https://docs.slack.dev/reference/block-kit/blocks/rich-text-block), and `text` of that, where
the lines of a code block begin right behind its marks. So the rich text is read if there is one, and `text` if not. Both are
untrusted: where it does not have the form that is known here, `text` is read, which has all of it in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.slack.markup import labels_in, to_plain
from adapters.text.mentions import OUR_MENTION, without_our_mention

_BACKTICKS = re.compile(r"`+")

Element = Mapping[str, Any]


def text_of(message: Mapping[str, Any], bot_user_id: str) -> str:
    """The message's text: code in fenced blocks with its white space, names for mentions, and without the mention of us."""
    text, blocks = str(message.get("text") or ""), message.get("blocks")
    if isinstance(blocks, list) and blocks and all(isinstance(each, dict) and each.get("type") == "rich_text" for each in blocks):
        reader = _Reader(bot_user_id, labels_in(text))
        written = without_our_mention("\n".join(part for block in blocks for part in reader.parts(block)))
        if reader.is_complete and (written or OUR_MENTION in reader.seen):
            return written
    return to_plain(text, bot_user_id)


class _Reader:
    """Reads rich text. `labels` has the names behind ids, which only `text` tells."""

    def __init__(self, bot_user_id: str, labels: Mapping[str, str]) -> None:
        self._bot_user_id = bot_user_id
        self._labels = labels
        self.seen: set[str] = set()
        self.is_complete = True  # nothing was of a kind that is not known here

    def parts(self, block: Element) -> Iterator[str]:
        """Each section, list, quote and code block as lines without a line end behind the last."""
        for element in _elements(block):
            inner = "" if element.get("type") == "rich_text_list" else self._inline(element)
            match element.get("type"):
                case "rich_text_preformatted":
                    fence = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(inner)), default=0))
                    language = element.get("language")
                    yield f"{fence}{language if isinstance(language, str) else ''}\n{inner.removesuffix(chr(10))}\n{fence}"
                case "rich_text_quote":
                    yield "\n".join(f"> {line}" for line in inner.split("\n"))
                case "rich_text_list":
                    yield from self._items(element)
                case kind:
                    self.is_complete &= kind == "rich_text_section"
                    yield inner.removesuffix("\n")

    def _items(self, element: Element) -> Iterator[str]:
        indent, offset = ("    " * _number(element.get("indent"))), _number(element.get("offset"))
        for index, item in enumerate(_elements(element), 1 + offset):
            marker = f"{index}." if element.get("style") == "ordered" else "-"
            yield f"{indent}{marker} {self._inline(item)}"

    def _inline(self, element: Element) -> str:
        return "".join(self._word(each) for each in _elements(element))

    def _word(self, element: Element) -> str:
        match element:
            case {"type": "text", "text": str(text)}:
                return _styled(text, element)
            case {"type": "link", "url": str(url)}:
                label = element.get("text")
                return url if not isinstance(label, str) or not label or url.endswith(label) else f"{label} ({url})"
            case {"type": "user", "user_id": str(id_)}:
                if id_ == self._bot_user_id:
                    self.seen.add(OUR_MENTION)
                    return OUR_MENTION
                return "@" + self._labels.get(id_, id_).lstrip("@")
            case {"type": "usergroup", "usergroup_id": str(id_)}:
                return "@" + self._labels.get(id_, id_).lstrip("@")
            case {"type": "channel", "channel_id": str(id_)}:
                return "#" + self._labels.get(id_, id_)
            case {"type": "broadcast", "range": str(who)}:
                return f"@{who}"
            case {"type": "emoji", "name": str(name)}:
                return _emoji(element.get("unicode")) or f":{name}:"
            case {"type": "date", "fallback": str(text)} | {"type": "color", "value": str(text)}:
                return text
        self.is_complete = False
        return ""


def _elements(element: Element) -> list[Element]:
    found = element.get("elements")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= 1_000_000 else 0


def _styled(text: str, element: Element) -> str:
    """The words with the marks that `text` has for their style. Only what is in code can depend on its white space."""
    style = element.get("style")
    if not isinstance(style, dict) or not text.strip():
        return text
    words = text.strip()
    before, after = text[: text.index(words)], text[text.index(words) + len(words) :]
    for name, mark in (("code", ""), ("strike", "~"), ("italic", "_"), ("bold", "*")):
        if style.get(name) and name == "code":
            before, words, after = "", _code(text), ""
        elif style.get(name):
            words = f"{mark}{words}{mark}"
    return f"{before}{words}{after}"


def _code(text: str) -> str:
    """Code in a line, between one more backtick than it has in a row (CommonMark 0.31, section 6.1)."""
    marks = "`" * (1 + max(map(len, _BACKTICKS.findall(text)), default=0))
    gap = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{marks}{gap}{text}{gap}{marks}"


def _emoji(code_points: object) -> str:
    try:
        return "".join(chr(int(point, 16)) for point in str(code_points or "").split("-") if point)
    except (ValueError, OverflowError):
        return ""
