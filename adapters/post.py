"""The words between the dispatcher, which decides, and a platform's adapter, which translates."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from adapters.base import Attachment, Author, LookBack, ThreadKey
from adapters.surface import Surface


@dataclass(frozen=True, slots=True)
class Post:
    """A message as its adapter read it, before anybody decided whether it is for us.

    `channel` is where it stands, or the parent of the `thread` in which it stands (None: in none). `message_id` is unique within
    the workspace. `text` is without the mention of us. `reply_to` is the id of the message that it replies to. `is_automatic`:
    written by a bot, a webhook or the platform. `is_own_room`: one conversation goes on there (a direct message, a thread), so that
    a mention without a picture goes on with it.
    """

    workspace: str
    channel: str
    thread: str | None
    message_id: str
    author: Author
    text: str
    sent_at: datetime
    is_mention: bool = False
    is_direct: bool = False
    is_automatic: bool = False
    is_own_room: bool = False
    reply_to: str | None = None
    attachments: tuple[Attachment, ...] = ()
    look_back: LookBack | None = field(default=None, repr=False)
    container_ids: frozenset[str] = frozenset()  # what else contains it, such as a category, for allow and deny lists

    @property
    def room(self) -> str:
        return self.thread or self.channel


class Platform(Protocol):
    """What the dispatcher needs of an adapter."""

    name: str

    async def start(self, post: Post) -> tuple[ThreadKey, str]:
        """Where a chat that begins with this message goes on, and its reply place; opens a thread where that can be done.

        Raises DestinationGone.
        """

    def destination(self, post: Post) -> str:
        """Where the answer to a message in a chat goes."""

    def surface(self, destination: str) -> Surface:
        """Raises DestinationGone when it names no place (any more)."""
