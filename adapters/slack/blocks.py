"""An answer's message in Slack's Block Kit (https://docs.slack.dev/reference/block-kit).

Only the answer itself is Markdown, made harmless; our own sentences, which may quote a file's name, are plain text without markup.
"""

from __future__ import annotations

from typing import Any

from adapters.commands import CONFIRMED, Command
from adapters.slack.markup import harmless
from adapters.surface import Control, Page

RATE_ACTION = "threadsight_rate"
STOP_ACTION = "threadsight_stop"
REGENERATE_ACTION = "threadsight_regenerate"
CONFIRM_ACTIONS = {f"threadsight_{command.name}": command.name for command in CONFIRMED}
_MAX_CONTEXT_CHARS = 2_000

Block = dict[str, Any]


def page_blocks(page: Page) -> list[Block]:
    """The whole message: text, sentences, buttons."""
    blocks: list[Block] = [{"type": "markdown", "text": harmless(page.text)}] if page.text.strip() else []
    return blocks + foot_blocks(page)


def foot_blocks(page: Page) -> list[Block]:
    """The blocks under the text: sentences and buttons."""
    sentences = [sentence for sentence in (page.status, *page.notices) if sentence]
    blocks: list[Block] = [{"type": "context", "elements": [plain(sentence)]} for sentence in sentences]
    if page.turn_id is None:
        return blocks
    if Control.HELPFUL in page.controls and Control.NOT_HELPFUL in page.controls:
        blocks.append({"type": "context_actions", "elements": [_feedback(page.turn_id)]})
    buttons = [_button(control, page.turn_id) for control in page.controls if control in _BUTTONS]
    if buttons:
        blocks.append({"type": "actions", "elements": buttons})
    return blocks


def confirmation_blocks(command: Command) -> list[Block] | None:
    """The question that confirms a command, with a button that has only an id. None if the command needs no confirmation."""
    if command.confirmation is None:
        return None
    action_id = next(action_id for action_id, name in CONFIRM_ACTIONS.items() if name is command.name)
    button = {"type": "button", "action_id": action_id, "style": "danger", "text": plain(command.confirmation.button)}
    return [{"type": "section", "text": plain(command.confirmation.question)}, {"type": "actions", "elements": [button]}]


def plain(text: str) -> Block:
    text = text if len(text) <= _MAX_CONTEXT_CHARS else text[: _MAX_CONTEXT_CHARS - 1] + "…"
    return {"type": "plain_text", "text": harmless(text), "emoji": False}


def value_of(control: Control, turn_id: int) -> str:
    return f"{control}:{turn_id}"


def read_value(value: str) -> tuple[Control, int] | None:
    """The meaning of a button's value; None if it is not ours."""
    word, _, number = value.partition(":")
    if word not in set(Control) or not number.isdecimal() or len(number) > 18:
        return None
    return Control(word), int(number)


_BUTTONS = {Control.STOP: (STOP_ACTION, "Stop"), Control.REGENERATE: (REGENERATE_ACTION, "Regenerate")}


def _button(control: Control, turn_id: int) -> Block:
    action_id, label = _BUTTONS[control]
    return {"type": "button", "action_id": action_id, "text": plain(label), "value": value_of(control, turn_id)}


def _feedback(turn_id: int) -> Block:
    return {
        "type": "feedback_buttons",
        "action_id": RATE_ACTION,
        "positive_button": {"text": plain("Helpful"), "value": value_of(Control.HELPFUL, turn_id)},
        "negative_button": {"text": plain("Not helpful"), "value": value_of(Control.NOT_HELPFUL, turn_id)},
    }
