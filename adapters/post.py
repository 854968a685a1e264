"""The words between the dispatcher, which decides, and a platform's adapter, which translates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from adapters.base import Attachment, Author, LookBack, ThreadKey
from adapters.surface import Surface

_T = TypeVar("_T")


def asked_once(ask: Callable[[], Awaitable[_T]]) -> Callable[[], Awaitable[_T]]:
    """Asks when the answer is first wanted, and keeps it. For callers that come one after the other."""
    kept: list[_T] = []

    async def answer() -> _T:
        if not kept:
            kept.append(await ask())
        return kept[0]

    return answer


async def no_attachments() -> Sequence[Attachment]:
    return ()


@dataclass(frozen=True, slots=True)
class Post:
    """A message as its adapter read it without asking anybody, before it is known whether it is for us.

    `conversation` names where it goes on within the workspace: a thread, a direct message, else the message itself; messages with
    the same one are taken in the order of their arrival. `channel` is where the message is, or the parent of the `thread` in which
    it is (None: in none). `message_id` is unique within the workspace. `text` is without the mention of us. `reply_to` is the id of
    the message that it replies to. `is_automatic`: written by a bot, a webhook or the platform. `is_own_room`: one conversation
    goes on there (a direct message, a thread), so that a mention without a picture goes on with it. `is_command`: its text is one
    of our words, which the adapter carries out.

    `attachments` are looked up when they are wanted, which may take a while. `complete` is for what the event left open and routing
    needs (which thread it is, another event about the same message): it asks, and returns the whole post.
    """

    workspace: str
    conversation: str
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
    is_command: bool = False
    reply_to: str | None = None
    attachments: Callable[[], Awaitable[Sequence[Attachment]]] = field(default=no_attachments, repr=False)
    look_back: LookBack | None = field(default=None, repr=False)
    container_ids: frozenset[str] = frozenset()  # what else contains it, such as a category, for allow and deny lists
    complete: Callable[[], Awaitable[Post]] | None = field(default=None, repr=False)

    @property
    def room(self) -> str:
        return self.thread or self.channel


class Platform(Protocol):
    """What the dispatcher needs of an adapter."""

    name: str

    async def start(self, post: Post) -> tuple[ThreadKey, str]:
        """Where a chat that begins with this message goes on, and its destination; opens a thread where that can be done.

        Raises DestinationGone.
        """

    def destination(self, post: Post) -> str:
        """Where the answer to a message in a chat goes."""

    def surface(self, destination: str) -> Surface:
        """Raises DestinationGone when it leads nowhere (any more)."""

    async def run_command(self, post: Post) -> None:
        """Carry out a message that `is_command`."""
