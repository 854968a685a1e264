"""An answer's message in Slack's Block Kit (https://docs.slack.dev/reference/block-kit).

Only the answer itself is Markdown, made harmless; our own sentences, which may quote a file's name, are plain text without markup.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, assert_never

from adapters.commands import CONFIRMED, Command
from adapters.slack.markup import harmless
from adapters.slack.mrkdwn import MAX_SECTION_CHARS, plain_sections_of, sections_of
from adapters.surface import Control, Page

RATE_ACTION = "threadsight_rate"
STOP_ACTION = "threadsight_stop"
REGENERATE_ACTION = "threadsight_regenerate"
CONFIRM_ACTIONS = {f"threadsight_{command.name}": command.name for command in CONFIRMED}
_MAX_CONTEXT_CHARS = 2_000

Block = dict[str, Any]


class Layout(IntEnum):
    """The layouts of a message, from the nicest to the plainest. Slack may refuse any but the last."""

    MARKDOWN = 0  # Slack's own rendering, which makes up to 50 blocks of it
    SECTIONS = 1  # Slack's older markup, and ordinary buttons
    PLAIN = 2  # without markup


def page_blocks(page: Page, layout: Layout = Layout.MARKDOWN) -> list[Block]:
    """The whole message: text, sentences, buttons."""
    return _text_blocks(page.text, layout) + foot_blocks(page, layout)


def foot_blocks(page: Page, layout: Layout = Layout.MARKDOWN) -> list[Block]:
    """The blocks under the text: sentences and buttons."""
    sentences = [sentence for sentence in (page.status, *page.notices) if sentence]
    blocks: list[Block] = [{"type": "context", "elements": [plain(sentence)]} for sentence in sentences]
    if page.turn_id is None:
        return blocks
    ratings = [control for control in page.controls if control in _RATINGS]
    if layout is Layout.MARKDOWN and len(ratings) == len(_RATINGS):
        blocks.append({"type": "context_actions", "elements": [_feedback(page.turn_id)]})
        ratings = []
    buttons = [_button(control, page.turn_id) for control in page.controls if control in _BUTTONS or control in ratings]
    if buttons:
        blocks.append({"type": "actions", "elements": buttons})
    return blocks


def _text_blocks(text: str, layout: Layout) -> list[Block]:
    if not text.strip():
        return []
    match layout:
        case Layout.MARKDOWN:
            return [{"type": "markdown", "text": harmless(text)}]
        case Layout.SECTIONS:
            # Verbatim: otherwise Slack makes mentions of words such as @here and #general, and the model mentions nobody.
            texts = [{"type": "mrkdwn", "verbatim": True, "text": piece} for piece in sections_of(text)]
            return [{"type": "section", "expand": True, "text": each} for each in texts]
        case Layout.PLAIN:
            return [
                {"type": "section", "expand": True, "text": plain(piece, MAX_SECTION_CHARS)} for piece in plain_sections_of(text)
            ]
        case _ as never:
            assert_never(never)


def confirmation_blocks(command: Command) -> list[Block] | None:
    """The question that confirms a command, with a button that has only an id. None if the command needs no confirmation."""
    if command.confirmation is None:
        return None
    action_id = next(action_id for action_id, name in CONFIRM_ACTIONS.items() if name is command.name)
    button = {"type": "button", "action_id": action_id, "style": "danger", "text": plain(command.confirmation.button)}
    return [{"type": "section", "text": plain(command.confirmation.question)}, {"type": "actions", "elements": [button]}]


def plain(text: str, max_chars: int = _MAX_CONTEXT_CHARS) -> Block:
    """Text without markup, cut to `max_chars` characters."""
    text = harmless(text)
    return {"type": "plain_text", "text": text if len(text) <= max_chars else text[: max_chars - 1] + "…", "emoji": False}


def value_of(control: Control, turn_id: int) -> str:
    """The value of a button, which survives a restart (`read_value`)."""
    return f"{control}:{turn_id}"


def read_value(value: str) -> tuple[Control, int] | None:
    """The meaning of a button's value; None if it is not ours."""
    word, _, number = value.partition(":")
    if word not in set(Control) or not number.isdecimal() or len(number) > 18:
        return None
    return Control(word), int(number)


_BUTTONS = {Control.STOP: (STOP_ACTION, "Stop"), Control.REGENERATE: (REGENERATE_ACTION, "Regenerate")}
_RATINGS = {
    Control.HELPFUL: (f"{RATE_ACTION}_{Control.HELPFUL}", "Helpful"),
    Control.NOT_HELPFUL: (f"{RATE_ACTION}_{Control.NOT_HELPFUL}", "Not helpful"),
}


def _button(control: Control, turn_id: int) -> Block:
    action_id, label = (_BUTTONS | _RATINGS)[control]
    return {"type": "button", "action_id": action_id, "text": plain(label), "value": value_of(control, turn_id)}


def _feedback(turn_id: int) -> Block:
    return {
        "type": "feedback_buttons",
        "action_id": RATE_ACTION,
        "positive_button": {"text": plain("Helpful"), "value": value_of(Control.HELPFUL, turn_id)},
        "negative_button": {"text": plain("Not helpful"), "value": value_of(Control.NOT_HELPFUL, turn_id)},
    }
