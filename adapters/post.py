"""The types between the dispatcher, which decides, and a platform's adapter, which translates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from adapters.base import Attachment, Author, LookBack, ThreadKey
from adapters.surface import Surface

_T = TypeVar("_T")


def asked_once(ask: Callable[[], Awaitable[_T]]) -> Callable[[], Awaitable[_T]]:
    """Calls `ask` on first use and keeps the result. For sequential callers."""
    kept: list[_T] = []

    async def answer() -> _T:
        if not kept:
            kept.append(await ask())
        return kept[0]

    return answer


async def no_attachments() -> Sequence[Attachment]:
    """The `attachments` of a message that has none."""
    return ()


@dataclass(frozen=True, slots=True)
class Post:
    """A message as its adapter read it, without any request to the platform, before it is known whether it is for us.

    `conversation` is the id, within the workspace, of its thread or direct message, or else of the message itself; messages with
    the same one are handled in order of arrival. `channel` is where the message is, or the parent of the `thread` that it is in
    (None: in none). `message_id` is unique within the workspace. `text` is without the mention of us. `reply_to` is the id of the
    message that it replies to. `is_automatic`: written by a bot, a webhook or the platform. `is_own_room`: it is in a direct
    message or thread, which is one conversation, so that a mention without a picture continues it. `is_command`: its text is one of
    our command words, which the adapter carries out.

    `attachments` are looked up when they are needed, which may take a while. `complete` is for what routing needs and the event
    left out (which thread it is, another event about the same message): it asks the platform, and returns the complete post.
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
    container_ids: frozenset[str] = frozenset()  # other ids that contain it, such as a category's, for allow and deny lists
    complete: Callable[[], Awaitable[Post]] | None = field(default=None, repr=False)

    @property
    def room(self) -> str:
        """The id of the thread that it is in, or else of the channel."""
        return self.thread or self.channel

    @property
    def has_before(self) -> bool:
        """Whether something may have been said before it in its conversation."""
        return self.is_direct or self.thread is not None or self.reply_to is not None


class Platform(Protocol):
    """What the dispatcher needs from an adapter."""

    name: str

    async def start(self, post: Post) -> tuple[ThreadKey, str]:
        """Begin a chat with this message, in a new thread if possible. Returns the chat's key and the answer's destination.

        It is called again after it, or what follows, failed: a thread that exists already is to be used. Raises DestinationGone,
        and TryLater if it is unknown whether there is a thread now.
        """

    def destination(self, post: Post) -> str:
        """Where the answer to a message in an existing chat goes."""

    def surface(self, destination: str) -> Surface:
        """A surface that writes to the destination. Raises DestinationGone if the destination is invalid or no longer exists."""

    async def run_command(self, post: Post) -> None:
        """Carry out a message that `is_command`."""

    def read_on(self, post: Post, until: datetime) -> AsyncGenerator[Post, None]:
        """Yields the messages of the thread, or else the channel, that the post is in: those sent from its time on until the other,
        oldest first, however many there are; more than that does no harm. They are read a page at a time.

        They are the same posts that the events would have made. The post itself may not exist any more. Raises TryLater, and
        DestinationGone if the place is gone.
        """
