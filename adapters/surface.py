"""The types between showing answers (`reply.py`, shared) and writing messages (each platform's own)."""

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

    `text` is Markdown as the model wrote it, with each fence on a line of its own; a code block that continues from the page before
    is opened again at the beginning. It only grows while the answer is written, until the page is full; where tables are aligned in
    code blocks, these change with every row. `is_open`: more text follows, and a code block may be unfinished. `status` (the queue
    position) and `notices` are our own sentences. Only the last page has `controls`, for `turn_id`.
    """

    text: str
    status: str | None = None
    notices: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    turn_id: int | None = None
    is_open: bool = False


class DestinationGone(Exception):
    """The message, the thread or the permission to write there is gone for good: showing the answer ends without an error."""


class TryLater(Exception):
    """The platform could not do it now. `retry_after_seconds` is what it asked for; None if it did not say."""

    def __init__(self, retry_after_seconds: float | None = None) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class TooLong(TryLater):
    """The platform took the page in no layout. `max_page_chars` is smaller now, so that the answer is cut into more pages."""


class Surface(Protocol):
    """Writes one answer at its destination. Every method may raise `DestinationGone` or `TryLater`, and nothing else.

    `channel` is the unit of the platform's rate limits. `max_page_chars` is the room for text, status and notices, in characters.
    `has_tables`: the platform shows Markdown's tables; where not, pages have them aligned in code blocks.
    """

    channel: str
    max_page_chars: int
    has_tables: bool

    async def show_typing(self) -> None:
        """Show that we are typing. Called again every few seconds until there is text."""

    async def post(self, page: Page) -> str:
        """Write a new message. Returns its id.

        After `TryLater` it is unknown whether the message exists, and it is posted again. If the platform can recognize the second
        attempt (by a nonce, a key, or by reading its messages), there must be only one message.
        """

    async def edit(self, reply_id: str, page: Page) -> str | None:
        """Change a message. Returns a new id if the page had to move to another message, which replaces the old id; otherwise
        None."""

    async def delete(self, reply_id: str) -> None:
        """Delete a message. Does nothing if it no longer exists."""
