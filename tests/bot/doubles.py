"""A model and pictures for tests of the bot alone: small, recording their calls, and controlled by the test."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import sqlalchemy as sa
from PIL import Image as PilImage

from adapters.base import Answer as AnswerProtocol
from adapters.base import (
    AnswerEvent,
    AnswerText,
    Attachment,
    AttachmentError,
    Author,
    ChatHandler,
    Ended,
    IncomingMessage,
    Notice,
    ThreadKey,
)
from bot.schema import Row
from bot.store import Store
from model_server.errors import ImageError, ModelServerError, QueueFull, ShuttingDown
from model_server.images import read_image
from model_server.types import (
    ChatRequest,
    Delta,
    Finished,
    FinishReason,
    Image,
    Message,
    ModelCapabilities,
    Queued,
    Role,
    StreamEvent,
    Usage,
)

IMAGE_TOKENS = 10


class ScriptedStream:
    """Yields the words of an answer one by one; with a `gate`, only the first `num_free` before the gate opens."""

    def __init__(
        self,
        text: str,
        gate: asyncio.Event | None,
        num_free: int,
        failure: ModelServerError | None,
        reason: FinishReason,
        queued: Sequence[Queued],
        tell: Callable[[str], None],
    ) -> None:
        self._pieces = [word if index == 0 else " " + word for index, word in enumerate(text.split(" "))]
        self._gate, self._num_free, self._failure, self._reason = gate, num_free, failure, reason
        self._queued, self._tell = queued, tell
        self._cancelled = asyncio.Event()
        self.is_cancelled = False
        self.has_finished = False

    def cancel(self) -> None:
        self.is_cancelled = self.is_cancelled or not self.has_finished
        self._cancelled.set()

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        self._tell("begin")
        for event in self._queued:
            yield event
        written: list[str] = []
        for index, piece in enumerate(self._pieces):
            if self._gate is not None and index >= self._num_free:
                waits = [asyncio.ensure_future(self._gate.wait()), asyncio.ensure_future(self._cancelled.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
            if self._failure is not None and index >= self._num_free:
                raise self._failure
            if self._cancelled.is_set():
                break
            written.append(piece)
            yield Delta(piece, (index + 1,))
        self.has_finished = True
        self._tell("end")
        reason = FinishReason.CANCELLED if self._cancelled.is_set() else self._reason
        token_ids = tuple(range(1, len(written) + 1))
        yield Finished(reason, "".join(written), token_ids, Usage(1, 0, len(written)))


class ScriptedModel:
    """Answers every question with `answer`, or with "Answer to: " and the question; counts words as tokens."""

    def __init__(self, context_length: int = 1_000, max_images_per_chat: int = 1) -> None:
        self.capabilities = ModelCapabilities("scripted", context_length, IMAGE_TOKENS, max_images_per_chat)
        self.requests: list[ChatRequest] = []
        self.streams: list[ScriptedStream] = []
        self.steps: list[tuple[str, str]] = []  # "begin" or "end" of writing, and the question
        self.answer: str | None = None
        self.gate: asyncio.Event | None = None
        self.num_free = 1
        self.refusal: ModelServerError | None = None
        self.failure: ModelServerError | None = None
        self.reason = FinishReason.STOP
        self.queued = [Queued(1, None)]
        self.broken: asyncio.Future[None] | None = None
        self.is_closed = False

    def submit(self, request: ChatRequest) -> ScriptedStream:
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        question = request.messages[-1].text

        def tell(step: str) -> None:
            self.steps.append((step, question))

        text = self.answer or f"Answer to: {question}"
        stream = ScriptedStream(text, self.gate, self.num_free, self.failure, self.reason, self.queued, tell)
        self.streams.append(stream)
        return self.streams[-1]

    async def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        num_images = sum(len(message.images) for message in messages)
        return sum(len(text.split()) for text in (system or "", *(m.text for m in messages))) + IMAGE_TOKENS * num_images

    async def wait_failed(self) -> None:
        self.broken = asyncio.get_running_loop().create_future()
        await self.broken

    async def close(self) -> None:
        self.is_closed = True


QUEUE_FULL = QueueFull("The queue is full: please ask again in a minute.")
SHUT = ShuttingDown("shutting down")


def png(colour: str = "red", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    PilImage.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def image(colour: str = "red") -> Image:
    return read_image(png(colour), f"{colour}.png")


def attachment(data: bytes | str, name: str = "picture.png", size: int | None = None) -> Attachment:
    """A file. With a text instead of bytes, its download fails with that reason."""

    async def fetch(max_bytes: int) -> bytes:
        if isinstance(data, str):
            raise AttachmentError(data)
        if len(data) > max_bytes:
            raise AttachmentError("it is too large")
        return data

    return Attachment(name, fetch, size)


def thread(name: str = "one") -> ThreadKey:
    return ThreadKey("test", "workspace", "channel", name)


_numbers = iter(range(10**9))


def message(text: str, *attachments: Attachment, key: ThreadKey | None = None, message_id: str | None = None) -> IncomingMessage:
    return IncomingMessage(key or thread(), message_id or f"m{next(_numbers)}", Author("1", "Ada"), text, attachments)


async def collect(answer: AnswerProtocol) -> list[AnswerEvent]:
    async with asyncio.timeout(20):
        return [event async for event in answer.events()]


def questions(request: ChatRequest) -> list[str]:
    return [message.text for message in request.messages if message.role is Role.USER]


RED, BLUE = png("red"), png("blue")


class Links:
    """A fake web: the bytes behind each link."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        self.asked.append(url)
        if url not in self.contents:
            raise ImageError(url.split("//")[1], "the server answered with status 404.")
        return self.contents[url]


def text_of(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, AnswerText))


def notices_of(events: list[AnswerEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def end_of(events: list[AnswerEvent]) -> Ended:
    assert isinstance(events[-1], Ended)
    return events[-1]


async def ask(chats: ChatHandler, text: str, *attachments: Any, **options: Any) -> list[AnswerEvent]:
    return await collect(await chats.handle(message(text, *attachments, **options)))


async def num_rows(store: Store, table: str) -> int:
    async with store.reading() as session:
        return int(await session.scalar(sa.select(sa.func.count()).select_from(Row.metadata.tables[table])) or 0)


async def begun(answer: AnswerProtocol) -> None:
    """Wait for the first word."""
    async with asyncio.timeout(20):
        async for event in answer.events():
            if isinstance(event, AnswerText):
                return


async def asked(chats: ChatHandler, text: str, *files: Attachment, **options: Any) -> int:
    """Ask, and wait for the answer. Returns the turn's id."""
    answer = await chats.handle(message(text, *files, **options))
    await collect(answer)
    assert answer.turn_id is not None
    return answer.turn_id
