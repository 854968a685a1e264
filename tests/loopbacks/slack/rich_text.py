"""The rich text that Slack's editor makes of what a person typed (https://docs.slack.dev/reference/block-kit/blocks/rich-text-block).

It is made here from `text`, as Slack stores it: mentions, links, code, quotes and bullets; no other styles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.loopbacks.slack.state import Json

_PARTS = re.compile(
    r"```(?P<code>.+?)```\n?|(?P<quote>(?:^&gt; ?[^\n]*(?:\n|$))+)|(?P<list>(?:^ *• [^\n]*(?:\n|$))+)", re.DOTALL | re.MULTILINE
)
_INLINE = re.compile(r"<(?P<mark>[^<>]*)>|`(?P<code>[^`\n]+)`")


def rich_text(text: str) -> list[Json]:
    """One rich_text block with the sections, code blocks, quotes and lists of the text."""
    return [{"type": "rich_text", "block_id": "b1", "elements": list(_elements(text))}]


def _elements(text: str) -> Iterator[Json]:
    start = 0
    for match in _PARTS.finditer(text):
        if start < match.start():
            yield {"type": "rich_text_section", "elements": list(_inline(text[start : match.start()]))}
        start = match.end()
        if match["code"]:
            yield {"type": "rich_text_preformatted", "border": 0, "elements": list(_inline(match["code"], is_code=True))}
        elif match["quote"]:
            lines = [line.removeprefix("&gt;").removeprefix(" ") for line in match["quote"].removesuffix("\n").split("\n")]
            yield {"type": "rich_text_quote", "elements": list(_inline("\n".join(lines)))}
        else:
            for line in match["list"].removesuffix("\n").split("\n"):
                indent, _, item = line.partition("• ")
                items = [{"type": "rich_text_section", "elements": list(_inline(item))}]
                yield {"type": "rich_text_list", "style": "bullet", "indent": len(indent) // 4, "border": 0, "elements": items}
    if start < len(text):
        yield {"type": "rich_text_section", "elements": list(_inline(text[start:]))}


def _inline(text: str, *, is_code: bool = False) -> Iterator[Json]:
    start = 0
    for match in _INLINE.finditer(text):
        if is_code and match["code"]:
            continue
        if start < match.start():
            yield _words(text[start : match.start()])
        start = match.end()
        yield _marked(match["mark"]) if match["mark"] is not None else {**_words(match["code"]), "style": {"code": True}}
    if start < len(text):
        yield _words(text[start:])


def _words(text: str) -> Json:
    return {"type": "text", "text": text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")}


def _marked(mark: str) -> Json:
    target, _, label = mark.partition("|")
    if target.startswith("@"):
        return {"type": "user", "user_id": target[1:]}
    if target.startswith("#"):
        return {"type": "channel", "channel_id": target[1:]}
    if target.startswith("!subteam^"):
        return {"type": "usergroup", "usergroup_id": target.removeprefix("!subteam^")}
    if target.startswith("!"):
        return {"type": "broadcast", "range": target[1:]}
    url = target.replace("&amp;", "&")
    return {"type": "link", "url": url} | ({"text": _words(label)["text"]} if label else {})
