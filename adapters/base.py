"""The types between a platform and the bot.

An adapter turns what its platform delivers into an `IncomingMessage`, hands it to the `ChatHandler`, and shows the `AnswerEvent`s
of the `Answer` that it gets back. The bot implements `ChatHandler`; adapters know nothing of models, prompts or the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class ThreadKey:
    """Identifies the thread on a platform in which one chat takes place. All parts are the platform's own ids."""

    platform: str
    workspace: str
    channel: str
    thread: str


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote a message. `role_ids` are the person's roles or groups on the platform, for limits."""

    id: str
    name: str
    role_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that came with a message and has not been downloaded yet.

    `fetch(max_bytes)` downloads it; it raises `AttachmentError` when the file is larger, deleted or unreachable. `size` is what the
    platform announced, in bytes, and is not to be trusted. `link` is its URL in the message's text, if it came as a link.
    """

    name: str
    fetch: Callable[[int], Awaitable[bytes]] = field(repr=False)
    size: int | None = None
    link: str | None = None


class AttachmentError(Exception):
    """Why an attachment could not be fetched, as the rest of a sentence for the user: "the download broke off"."""


LookBack = Callable[[], Awaitable[Sequence[Attachment]]]


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message that a platform delivered. `message_id` is unique within the platform and workspace: the same id is answered once.

    `look_back` finds pictures in earlier messages, such as the thread's first; it is called only when neither the message nor the
    chat has a picture, and raises nothing. `destination` says in the adapter's own format where the answer goes; it is stored with
    the turn.
    """

    key: ThreadKey
    message_id: str
    author: Author
    text: str
    attachments: tuple[Attachment, ...] = ()
    look_back: LookBack | None = field(default=None, repr=False)
    destination: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The question is in the queue at `position` (1 is next). `is_loading`: the model was unloaded and has to be loaded first."""

    position: int
    estimated_wait_seconds: float | None
    is_loading: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the user in addition to the answer: a picture that could not be used, older turns that were left out, a new
    chat."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer; all pieces joined are the answer."""

    text: str


class AnswerStatus(StrEnum):
    """How far an answer is, as it is stored."""

    PENDING = "pending"  # accepted and stored, not answered yet
    COMPLETE = "complete"
    STOPPED = "stopped"  # by the user; the text so far is kept
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event. `error` is a sentence for the user when the status is FAILED."""

    status: AnswerStatus
    error: str | None = None


AnswerEvent = Waiting | Notice | AnswerText | Ended


class Answer(Protocol):
    """An answer that is being written. It continues whether or not anybody listens."""

    @property
    def key(self) -> ThreadKey: ...

    @property
    def turn_id(self) -> int | None:
        """The stored turn's id; None if nothing was stored (for example, because the queue was full)."""

    def events(self) -> AsyncIterator[AnswerEvent]:
        """Yields all events from the beginning (the text so far in one piece), then live ones, up to `Ended`. For any number of
        listeners."""

    def stop(self) -> None:
        """Stop the answer; the model is freed within a step. Does nothing after the answer has ended."""


@dataclass(frozen=True, slots=True)
class TurnView:
    """A stored turn as a page shows it. `image_ids` are SHA-256 hex digests, for `ChatHandler.read_image`."""

    turn_id: int
    question: str
    answer: str
    status: AnswerStatus
    notices: tuple[str, ...]
    error: str | None
    image_ids: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ChatView:
    """A stored chat. `title` is its first question, shortened."""

    key: ThreadKey
    title: str
    updated_at: datetime
    turns: tuple[TurnView, ...] = ()


class ChatHandler(Protocol):
    """What the bot offers to every adapter. Methods may be called concurrently from many tasks; calls for one thread are served in
    order."""

    async def handle(self, message: IncomingMessage) -> Answer:
        """Start or continue the chat of `message.key`. Never raises for bad input: the answer's events say what is wrong.

        Cancelling the caller does not cancel the question. A message that is refused because the queue is full is not stored, and
        may be handed in again.
        """

    async def regenerate(self, key: ThreadKey) -> Answer | None:
        """Answer the thread's last question again. None if there is none. If it is being answered already, returns that answer.

        The earlier answer is kept until the new one is complete, and also if that fails. A refused question is refused again.
        """

    def running_answer(self, key: ThreadKey) -> Answer | None:
        """The answer that is being written in this thread (the first if others wait), for a late listener. None if there is
        none."""

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        """The chats of a workspace, newest first, without their turns."""

    async def read_chat(self, key: ThreadKey) -> ChatView | None: ...

    async def delete_chat(self, key: ThreadKey) -> bool:
        """Stop the chat's answers and delete everything that is stored about it. Returns False if there was nothing."""

    async def read_image(self, key: ThreadKey, sha256: str) -> tuple[bytes, str] | None:
        """The bytes and media type of a picture in a turn of this chat; None if no turn has it."""


@dataclass(frozen=True, slots=True)
class PlatformTurn:
    """A stored turn's messages on its platform: its question, and the messages (in order) that show its answer so far."""

    turn_id: int
    key: ThreadKey
    message_id: str
    author_id: str
    destination: str
    reply_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quota:
    """How many questions a person has asked within 24 hours. `limit` None: no limit. `next_at`: when the next one is allowed, if
    none is now."""

    num_used: int
    limit: int | None = None
    next_at: datetime | None = None


class ThreadHandler(ChatHandler, Protocol):
    """What the bot offers to adapters of platforms that keep the messages themselves.

    There a message may be delivered twice, edited and deleted, buttons still work after a restart, and an answer must reach its
    destination even if the program was down meanwhile.
    """

    async def ask_again(self, message: IncomingMessage) -> Answer | None:
        """The question `message.message_id` was edited: stop its answer, and answer it again.

        None if it is unknown or unchanged. A picture that can no longer be downloaded is no change.
        """

    async def retract(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        """The question was deleted: stop its answer and forget the turn, also while it is being accepted.

        Returns its messages; None if it is unknown.
        """

    async def regenerate_turn(self, turn_id: int) -> Answer | None:
        """Answer this turn's question again, as `regenerate` does. None if the turn was deleted."""

    def running_turn(self, turn_id: int) -> Answer | None:
        """The turn's answer while it waits or is being written; otherwise None."""

    async def find_turn(self, turn_id: int) -> PlatformTurn | None: ...

    async def find_message(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        """The turn whose question this message is, or else the newest whose answer it shows. None if there is none."""

    async def has_chat(self, key: ThreadKey) -> bool: ...

    async def latest_chat(self, platform: str, workspace: str, channel: str) -> ThreadKey | None:
        """The chat in this channel that changed last, by a question, an edit, or the end of an answer. None if there is none."""

    async def reset_chat(self, key: ThreadKey) -> bool:
        """Stop the chat's answers and delete all its turns, but keep the thread as ours. Returns False if there was no chat."""

    async def delete_room(self, platform: str, workspace: str, room: str) -> int:
        """A thread or channel was deleted: delete its chats (whose `thread` or `channel` is `room`). Returns how many."""

    async def set_reply(self, turn_id: int, reply_ids: Sequence[str], *, is_delivered: bool) -> None:
        """Store which messages show the answer. `is_delivered`: all of it is shown. Does nothing if the turn was deleted.

        While the answer is being written again it counts as undelivered, even if the earlier one was reported as delivered; a
        stopped answer does not.
        """

    async def undelivered(self, platform: str) -> Sequence[tuple[PlatformTurn, Answer]]:
        """Answers of the last days, running or ended, that are not known to be shown in full; oldest question first."""

    async def rate(self, turn_id: int, author_id: str, *, is_helpful: bool) -> bool:
        """Store a person's rating of an answer; it replaces an earlier one. Returns False if the turn was deleted."""

    async def forget_author(self, platform: str, author_id: str) -> int:
        """Delete everything that is stored about this person, in all workspaces. Returns how many turns were deleted."""

    async def quota(self, platform: str, workspace: str, author: Author) -> Quota: ...

    async def read_note(self, platform: str, name: str) -> str | None:
        """Read a note that the adapter stored for itself, also before a restart. None if there is none."""

    async def write_note(self, platform: str, name: str, text: str) -> None: ...


class Adapter(Protocol):
    """A platform's connection. `run` serves until it is cancelled, and raises when it cannot continue."""

    name: str

    async def run(self, handler: ThreadHandler) -> None: ...


@runtime_checkable
class AnnouncedAdapter(Adapter, Protocol):
    """Sets `started` when people can use it. `where` then says where, and `remarks` what does not fully work, and why."""

    started: asyncio.Event
    where: str
    remarks: tuple[str, ...]


class AdapterError(Exception):
    """Why a platform cannot be served, as a sentence for the operator: a wrong token, a missing permission."""


class TokenError(AdapterError):
    """The platform rejects a token."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check of what a start needs. If it is bad, the sentence says what the operator can do."""

    what: str
    is_good: bool
    sentence: str
