"""Block Kit's limits (https://docs.slack.dev/reference/block-kit/blocks), as far as bots' messages and views can reach them.

Slack refuses blocks beyond them with `invalid_blocks`, and says where in response_metadata.messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.loopbacks.slack.state import Json, SlackError

MAX_MARKDOWN_CHARS = 12_000  # of all markdown blocks of a message together
MAX_BLOCKS = 50  # of a message, with those that Slack makes of its Markdown
_BLOCK_TYPES = frozenset(
    ("actions", "context", "context_actions", "divider", "file", "header", "image", "input", "markdown", "rich_text", "section")
)
_ACTION_TYPES = frozenset({"button", "overflow", "static_select", "users_select", "datepicker", "checkboxes", "radio_buttons"})


def num_blocks_of(markdown: str) -> int:
    """How many blocks Slack makes of Markdown: one for each heading, rule, code block, table and stretch of text between them.

    Slack does not document it; that a message is refused when they are too many has been reported (archestra issue 4724).
    """
    num_blocks, last, is_code = 0, "", False
    for line in markdown.split("\n"):
        if line.lstrip().startswith("```"):
            is_code = not is_code
            num_blocks, last = num_blocks + is_code, "code"
            continue
        words = line.strip()
        kind = (
            "heading" if words.startswith("#") else "rule" if words in ("---", "***") else "table" if words[:1] == "|" else "text"
        )
        if not is_code and words and (kind in ("heading", "rule") or kind != last):
            num_blocks, last = num_blocks + 1, kind
    return num_blocks


def check_markdown(markdown: str) -> None:
    """Raises SlackError for the text of markdown_text, or of a stream as it is with what is appended."""
    if num_blocks_of(markdown) > MAX_BLOCKS:
        raise SlackError("invalid_blocks", response_metadata={"messages": [f"[ERROR] no more than {MAX_BLOCKS} items allowed"]})


def check_blocks(blocks: object, *, max_blocks: int = MAX_BLOCKS) -> None:
    """Raises SlackError invalid_blocks, or msg_blocks_too_long when there is too much Markdown."""
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise SlackError("invalid_blocks_format")
    wrong = list(_wrong(blocks, max_blocks))
    if wrong:
        raise SlackError("invalid_blocks", response_metadata={"messages": [f"[ERROR] {sentence}" for sentence in wrong]})
    if sum(len(block["text"]) for block in blocks if block["type"] == "markdown") > MAX_MARKDOWN_CHARS:
        raise SlackError("msg_blocks_too_long")


def check_view(view: object) -> None:
    """Raises SlackError invalid_arguments for a wrong view."""
    if not isinstance(view, dict) or view.get("type") not in ("modal", "home"):
        raise SlackError("invalid_arguments", response_metadata={"messages": ["[ERROR] must provide a view"]})
    blocks = view.get("blocks")
    wrong = list(_wrong(blocks, 100)) if isinstance(blocks, list) else ["blocks are missing"]
    if view["type"] == "modal":
        for name in ("title", "submit", "close"):
            if name in view or name == "title":
                wrong += _wrong_plain(view.get(name), 24, f"/view/{name}")
        if any(block.get("type") == "input" for block in blocks or []) and "submit" not in view:
            wrong.append("`submit` is required when an input block exists [json-pointer:/view]")
    if len(view.get("private_metadata", "")) > 3_000:
        wrong.append("must be less than 3001 characters [json-pointer:/view/private_metadata]")
    if len(view.get("callback_id", "")) > 255:
        wrong.append("must be less than 256 characters [json-pointer:/view/callback_id]")
    if wrong:
        raise SlackError("invalid_arguments", response_metadata={"messages": [f"[ERROR] {sentence}" for sentence in wrong]})


def _wrong(blocks: list[Json], max_blocks: int) -> Iterator[str]:
    if sum(num_blocks_of(block["text"]) if block.get("type") == "markdown" else 1 for block in blocks) > max_blocks:
        yield f"no more than {max_blocks} items allowed [json-pointer:/blocks]"
    for index, block in enumerate(blocks):
        yield from _wrong_block(block, f"/blocks/{index}")


def _wrong_block(block: Json, at: str) -> Iterator[str]:
    kind = block.get("type")
    if kind not in _BLOCK_TYPES:
        yield f"unsupported type: {kind} [json-pointer:{at}/type]"
        return
    if len(str(block.get("block_id", ""))) > 255:
        yield f"must be less than 256 characters [json-pointer:{at}/block_id]"
    elements = block.get("elements")
    match kind:
        case "markdown":
            if not isinstance(block.get("text"), str) or not block["text"]:
                yield f"missing required field: text [json-pointer:{at}]"
        case "header":
            yield from _wrong_plain(block.get("text"), 150, f"{at}/text")
        case "section":
            if "text" not in block and "fields" not in block:
                yield f"must define either `text` or `fields` [json-pointer:{at}]"
            for text, limit in [(block[name], 3_000) for name in ("text",) if name in block] + [
                (field, 2_000) for field in block.get("fields") or ()
            ]:
                yield from _wrong_text(text, limit, f"{at}/text")
            if "accessory" in block:
                yield from _wrong_action(block["accessory"], f"{at}/accessory")
        case "context" | "actions" | "context_actions":
            limit = {"context": 10, "actions": 25, "context_actions": 5}[kind]
            if not isinstance(elements, list) or not 1 <= len(elements) <= limit:
                yield f"1 to {limit} items are allowed [json-pointer:{at}/elements]"
                return
            for number, element in enumerate(elements):
                where = f"{at}/elements/{number}"
                if kind == "actions":
                    yield from _wrong_action(element, where)
                elif kind == "context_actions":
                    yield from _wrong_context_action(element, where)
                elif element.get("type") != "image":
                    yield from _wrong_text(element, 2_000, where)
            ids = [element.get("action_id") for element in elements if "action_id" in element]
            if len(ids) != len(set(ids)):
                yield f"`action_id` must be unique within a block [json-pointer:{at}]"
        case "input":
            yield from _wrong_plain(block.get("label"), 2_000, f"{at}/label")
            if not isinstance(block.get("element"), dict):
                yield f"missing required field: element [json-pointer:{at}]"


def _wrong_action(element: Json, at: str) -> Iterator[str]:
    if element.get("type") == "button":
        yield from _wrong_plain(element.get("text"), 75, f"{at}/text")
        yield from _wrong_value(element, at)
    elif element.get("type") not in _ACTION_TYPES:
        yield f"unsupported type: {element.get('type')} [json-pointer:{at}/type]"
    yield from _wrong_action_id(element, at)


def _wrong_context_action(element: Json, at: str) -> Iterator[str]:
    match element.get("type"):
        case "feedback_buttons":
            for name in ("positive_button", "negative_button"):
                button = element.get(name)
                if not isinstance(button, dict):
                    yield f"missing required field: {name} [json-pointer:{at}]"
                    continue
                yield from _wrong_plain(button.get("text"), 75, f"{at}/{name}/text")
                yield from _wrong_value(button, f"{at}/{name}", is_needed=True)
        case "icon_button":
            yield from _wrong_plain(element.get("text"), 75, f"{at}/text")
            yield from _wrong_value(element, at)
        case other:
            yield f"unsupported type: {other} [json-pointer:{at}/type]"
    yield from _wrong_action_id(element, at)


def _wrong_action_id(element: Json, at: str) -> Iterator[str]:
    if not 1 <= len(str(element.get("action_id", "?"))) <= 255:
        yield f"must be 1 to 255 characters [json-pointer:{at}/action_id]"


def _wrong_value(element: Json, at: str, *, is_needed: bool = False) -> Iterator[str]:
    if (is_needed and "value" not in element) or len(str(element.get("value", ""))) > 2_000:
        yield f"must be less than 2001 characters [json-pointer:{at}/value]"


def _wrong_text(text: object, limit: int, at: str) -> Iterator[str]:
    if not isinstance(text, dict) or text.get("type") not in ("mrkdwn", "plain_text") or not isinstance(text.get("text"), str):
        yield f"a text object is needed [json-pointer:{at}]"
    elif not 1 <= len(text["text"]) <= limit:
        yield f"must be 1 to {limit} characters [json-pointer:{at}/text]"


def _wrong_plain(text: object, limit: int, at: str) -> Iterator[str]:
    if isinstance(text, dict) and text.get("type") != "plain_text":
        yield f"must be plain_text [json-pointer:{at}/type]"
    else:
        yield from _wrong_text(text, limit, at)
