"""The words between the shared way of showing an answer (`reply.py`) and a platform's own way of writing messages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Control(StrEnum):
    """A button under an answer. It carries the turn's id, so that it works after a restart."""

    STOP = "stop"
    REGENERATE = "regenerate"
    HELPFUL = "helpful"
    NOT_HELPFUL = "not_helpful"


@dataclass(frozen=True, slots=True)
class Page:
    """One message of an answer, as it should look now.

    `text` is Markdown as the model wrote it; a code block that goes on from the page before is opened again at its beginning. It
    only grows while the answer is written, until the page is full. `is_open`: more is to come, and a code block may be unfinished.
    `status` (where it waits) and `notices` (beside the answer) are ours. Only the last page has `controls`, of `turn_id`.
    """

    text: str
    status: str | None = None
    notices: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    turn_id: int | None = None
    is_open: bool = False


class DestinationGone(Exception):
    """The message, the thread or the right to write there is gone, for good: the answer ends quietly."""


class TryLater(Exception):
    """The platform could not take it now. `retry_after_seconds` is what it asked for, if it did."""

    def __init__(self, retry_after_seconds: float | None = None) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class Surface(Protocol):
    """The place of one answer. Every method may raise `DestinationGone` or `TryLater`, and nothing else.

    `channel` names what the platform counts its limits by. `max_page_chars` is the room for the text, its status and notices.
    """

    channel: str
    max_page_chars: int

    async def show_typing(self) -> None:
        """Say that something is being written; called again every few seconds until there is text."""

    async def post(self, page: Page) -> str:
        """A new message; returns its id.

        After `TryLater` it is unknown whether it stands, and it is posted again: where the platform can tell the two attempts apart
        (by a nonce, a key, or a look at what stands there), they make one message.
        """

    async def edit(self, reply_id: str, page: Page) -> str | None:
        """Returns a new id when the page had to move: from now on that one shows it, and the old id means nothing."""

    async def delete(self, reply_id: str) -> None:
        """Does nothing when it is gone already."""
