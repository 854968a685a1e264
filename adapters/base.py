"""The words between a platform and the bot.

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
    """A place on a platform where one chat goes on. All parts are the platform's own ids."""

    platform: str
    workspace: str
    channel: str
    thread: str


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote a message. `role_ids` are the platform's roles or groups of that person, for limits."""

    id: str
    name: str
    role_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that came with a message and has not been downloaded yet.

    `fetch(max_bytes)` downloads it; it raises `AttachmentError` when the file is larger, gone or unreachable. `size` is what the
    platform announced, in bytes, and is not to be trusted. `link` is where it stands in the message's text, when it came as one.
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
    """What a platform delivered. `message_id` is unique within the platform and workspace: the same id is answered once.

    `look_back` finds pictures near by (the thread's first message, an earlier one); it is called only when neither the message
    nor the chat has one, and raises nothing. `destination` says in the adapter's own words where the answer goes; it is kept with
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
    """The question is in the queue at `position` (1 is next). `is_loading`: the model was away and has to be loaded first."""

    position: int
    estimated_wait_seconds: float | None
    is_loading: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the user beside the answer: a picture that could not be used, older turns that were left out, a new chat."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer; all pieces joined are the answer."""

    text: str


class AnswerStatus(StrEnum):
    PENDING = "pending"  # accepted and stored, not answered yet
    COMPLETE = "complete"
    STOPPED = "stopped"  # by the user; what had been written is kept
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event. `error` is a sentence for the user when the status is FAILED."""

    status: AnswerStatus
    error: str | None = None


AnswerEvent = Waiting | Notice | AnswerText | Ended


class Answer(Protocol):
    """An answer on its way. It goes on whether or not anybody listens."""

    @property
    def key(self) -> ThreadKey: ...

    @property
    def turn_id(self) -> int | None:
        """None when nothing was stored (for example, the queue was full)."""

    def events(self) -> AsyncIterator[AnswerEvent]:
        """All events from the beginning (text so far comes joined), then live ones, up to `Ended`; any number of listeners."""

    def stop(self) -> None:
        """Stop writing; the model is freed within a step. Does nothing once the answer has ended."""


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
    """What the bot offers to every adapter. Methods may be called at once from many tasks; one thread is served in order."""

    async def handle(self, message: IncomingMessage) -> Answer:
        """Start or continue the chat of `message.key`. Never raises for bad input: that is told in the answer's events.

        A caller that is cancelled takes nothing back. A message that is not taken (the queue is full) leaves nothing behind, and
        may be handed in again.
        """

    async def regenerate(self, key: ThreadKey) -> Answer | None:
        """Answer the thread's last question again; None when there is none. While it is being written, that answer.

        The earlier answer is kept until the new one has come, and when it fails. What was refused is refused again.
        """

    def running_answer(self, key: ThreadKey) -> Answer | None:
        """The answer that is being written in this thread (the first, when more wait), for a listener that came late."""

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        """Newest first, without their turns."""

    async def read_chat(self, key: ThreadKey) -> ChatView | None: ...

    async def delete_chat(self, key: ThreadKey) -> bool:
        """Stop what runs there and delete everything that is stored about it; False when there was nothing."""

    async def read_image(self, key: ThreadKey, sha256: str) -> tuple[bytes, str] | None:
        """The bytes and media type of a picture that a turn of this chat shows."""


@dataclass(frozen=True, slots=True)
class PlatformTurn:
    """Where a stored turn stands on its platform: its question, and the messages (in order) that show its answer so far."""

    turn_id: int
    key: ThreadKey
    message_id: str
    author_id: str
    destination: str
    reply_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quota:
    """What somebody has asked within 24 hours. `limit` None: no limit. `next_at`: when one more is free, if none is now."""

    num_used: int
    limit: int | None = None
    next_at: datetime | None = None


class ThreadHandler(ChatHandler, Protocol):
    """What the bot offers to adapters of platforms that keep the messages themselves.

    There a message may be delivered twice, edited and deleted, buttons outlive the program, and an answer has to get to its place
    even when the program was away in between.
    """

    async def ask_again(self, message: IncomingMessage) -> Answer | None:
        """The question `message.message_id` says something else now: stop its answer, and answer it anew.

        None when it is unknown or says the same; that a picture cannot be fetched any more is no change.
        """

    async def retract(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        """The question was deleted: stop its answer and forget the turn, also while it is being accepted.

        Where it stood; None when it is unknown.
        """

    async def regenerate_turn(self, turn_id: int) -> Answer | None:
        """Answer this turn's question again, as `regenerate` does; None when the turn is gone."""

    def running_turn(self, turn_id: int) -> Answer | None:
        """The turn's answer, while it waits or is being written."""

    async def find_turn(self, turn_id: int) -> PlatformTurn | None: ...

    async def find_message(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        """The turn of which this message is the question, or else the newest whose answer it shows."""

    async def has_chat(self, key: ThreadKey) -> bool: ...

    async def latest_chat(self, platform: str, workspace: str, channel: str) -> ThreadKey | None:
        """The chat in this channel that was touched last: by a question, an edit, or the end of an answer."""

    async def reset_chat(self, key: ThreadKey) -> bool:
        """Stop what runs there and forget all turns, but stay in the thread; False when there was no chat."""

    async def delete_room(self, platform: str, workspace: str, room: str) -> int:
        """A thread or channel is gone: delete its chats (whose `thread` or `channel` is `room`); returns how many."""

    async def set_reply(self, turn_id: int, reply_ids: Sequence[str], *, is_delivered: bool) -> None:
        """Which messages show the answer; `is_delivered`: all of it is shown. Does nothing when the turn is gone.

        While the answer is being written anew it counts as undelivered, whatever is said of the earlier one; one that was stopped
        does not.
        """

    async def undelivered(self, platform: str) -> Sequence[tuple[PlatformTurn, Answer]]:
        """Answers of the last days that are not known to be shown in full, oldest question first: running ones, and ended ones."""

    async def rate(self, turn_id: int, author_id: str, *, is_helpful: bool) -> bool:
        """Keep what somebody thinks of an answer (the last word counts); False when the turn is gone."""

    async def forget_author(self, platform: str, author_id: str) -> int:
        """Delete everything that is stored about this person, on all workspaces; returns how many turns that was."""

    async def quota(self, platform: str, workspace: str, author: Author) -> Quota: ...

    async def read_note(self, platform: str, name: str) -> str | None:
        """What the adapter wrote down for itself, also before a restart."""

    async def write_note(self, platform: str, name: str, text: str) -> None: ...


class Adapter(Protocol):
    """A platform's connection. `run` returns when it was cancelled, and raises when it cannot go on."""

    name: str

    async def run(self, handler: ThreadHandler) -> None: ...


@runtime_checkable
class AnnouncedAdapter(Adapter, Protocol):
    """Sets `started` when people can use it; `where` then says where, and `remarks` what does not work fully, and why."""

    started: asyncio.Event
    where: str
    remarks: tuple[str, ...]


class AdapterError(Exception):
    """Why a platform cannot be served, as a sentence for the person who runs the program: a wrong token, a missing permission."""


class TokenError(AdapterError):
    """The platform does not take a token."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one thing that a start needs has shown. A bad one's sentence says what the person who runs it can do."""

    what: str
    is_good: bool
    sentence: str
