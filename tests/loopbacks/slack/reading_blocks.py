"""Reads texts and blocks: what people see, what they can click, and whom it notifies.

https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_BROADCAST = re.compile(r"<!(?:channel|here|everyone|subteam\^\w+)(?:\|[^>]*)?>")
_MENTION = re.compile(r"<@([UW]\w+)(?:\|[^>]*)?>")


def alerts(text: str) -> list[str]:
    """Markup in the text that notifies people when the bot writes it."""
    return [match.group() for pattern in (_BROADCAST, _MENTION) for match in pattern.finditer(text)]


def mentioned(text: str) -> list[str]:
    """Ids of the users whom the text mentions."""
    return _MENTION.findall(text)


def block_texts(blocks: object, *, with_plain: bool = True) -> Iterator[str]:
    """Texts in the blocks, without labels of buttons; `with_plain`: also plain text, in which Slack reads no markup."""
    for block in blocks if isinstance(blocks, list) else []:
        match block:
            case {"type": "markdown" | "mrkdwn", "text": str(text)}:
                yield text
            case {"type": "plain_text", "text": str(text)}:
                if with_plain:
                    yield text
            case {"type": "actions" | "context_actions"}:
                pass
            case dict():
                parts = [block.get("text"), *(block.get("fields") or ()), *(block.get("elements") or ())]
                yield from block_texts([part for part in parts if isinstance(part, dict)], with_plain=with_plain)


def clickables(blocks: object) -> Iterator[tuple[Json, str]]:
    """Everything in the blocks that has an action: (its part of the action's payload, its label)."""
    for block in blocks if isinstance(blocks, list) else []:
        for element in [*(block.get("elements") or ()), *([block["accessory"]] if "accessory" in block else [])]:
            about = {"block_id": block.get("block_id", ""), "action_id": element.get("action_id"), "type": element.get("type")}
            if element.get("type") == "feedback_buttons":
                for choice in (element["positive_button"], element["negative_button"]):
                    yield about | {"value": choice["value"], "text": choice["text"]}, choice["text"]["text"]
            elif "action_id" in element:
                label = element.get("text") or {"type": "plain_text", "text": element.get("alt_text", "")}
                more = {"value": element["value"]} if "value" in element else {}
                yield about | {"text": label} | more, label["text"]
