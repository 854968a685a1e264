"""The words between a platform and the bot.

An adapter turns what its platform delivers into an `IncomingMessage`, hands it to the `ChatHandler`, and shows the `AnswerEvent`s
of the `Answer` that it gets back. The bot implements `ChatHandler`; adapters know nothing of models, prompts or the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ThreadKey:
    """A place on a platform where one chat goes on. All parts are the platform's own ids."""

    platform: str
    workspace: str
    channel: str
    thread: str


@dataclass(frozen=True, slots=True)
class Author:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that came with a message and has not been downloaded yet.

    `fetch(max_bytes)` downloads it; it raises `AttachmentError` when the file is larger, gone or unreachable. `size` is what the
    platform announced, in bytes, and is not to be trusted.
    """

    name: str
    fetch: Callable[[int], Awaitable[bytes]] = field(repr=False)
    size: int | None = None


class AttachmentError(Exception):
    """Why an attachment could not be fetched, as the rest of a sentence for the user: "the download broke off"."""


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """What a platform delivered. `message_id` is unique within the platform and workspace: the same id is answered once."""

    key: ThreadKey
    message_id: str
    author: Author
    text: str
    attachments: tuple[Attachment, ...] = ()


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
        """Start or continue the chat of `message.key`. Never raises for bad input: that is told in the answer's events."""

    async def regenerate(self, key: ThreadKey) -> Answer | None:
        """Answer the thread's last question again; None when there is none."""

    def running_answer(self, key: ThreadKey) -> Answer | None:
        """The answer that is being written in this thread, for a listener that came late."""

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        """Newest first, without their turns."""

    async def read_chat(self, key: ThreadKey) -> ChatView | None: ...

    async def delete_chat(self, key: ThreadKey) -> bool:
        """Stop what runs there and delete everything that is stored about it; False when there was nothing."""

    async def read_image(self, key: ThreadKey, sha256: str) -> tuple[bytes, str] | None:
        """The bytes and media type of a picture in that chat."""


class Adapter(Protocol):
    """A platform's connection. `run` returns when it was cancelled, and raises when it cannot go on."""

    name: str

    async def run(self, handler: ChatHandler) -> None: ...
