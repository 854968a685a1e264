"""Lets a test control any `ThreadHandler`: write an answer word by word, or refuse a question.

For the bot's own handler the words come through a model whose streams the test writes; for the one in memory, directly from the
test.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

import sqlalchemy as sa

from adapters.base import (
    Answer,
    AnswerEvent,
    AnswerStatus,
    AnswerText,
    Attachment,
    Author,
    IncomingMessage,
    ThreadHandler,
    ThreadKey,
)
from bot.images import ImageReader
from bot.schema import Row
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.writer import AnswerWriter
from model_server.errors import EngineFailed, QueueFull
from model_server.types import ChatRequest, Delta, Finished, FinishReason, Message, ModelCapabilities, StreamEvent, Usage
from tests.bot.doubles import RED, Links, attachment, collect
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler, WrittenAnswer


class Driver(Protocol):
    """Controls the answers of `handler`."""

    @property
    def handler(self) -> ThreadHandler: ...

    async def write(self, answer: Answer, text: str) -> None: ...

    async def end(self, answer: Answer) -> None:
        """End the model's answer. Returns when the answer has ended."""

    async def fail(self, answer: Answer) -> None:
        """Make the model fail."""

    async def stopped(self, answer: Answer) -> None:
        """Let the model notice that the answer was stopped."""

    def refuse_next(self, sentence: str) -> None:
        """Make the queue full for the next question."""

    async def ratings(self) -> dict[tuple[int, str], bool]:
        """The ratings, by turn and person."""


class MemoryDriver:
    def __init__(self) -> None:
        self.handler = MemoryChatHandler()

    async def write(self, answer: Answer, text: str) -> None:
        await _written(answer).add(AnswerText(text))

    async def end(self, answer: Answer) -> None:
        await self.handler.end(_written(answer))

    async def fail(self, answer: Answer) -> None:
        await self.handler.end(_written(answer), AnswerStatus.FAILED, "The model broke.")

    async def stopped(self, answer: Answer) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await _written(answer).is_stop_wanted.wait()
        await self.handler.end(_written(answer), AnswerStatus.STOPPED)

    def refuse_next(self, sentence: str) -> None:
        self.handler.next_refusal = sentence

    async def ratings(self) -> dict[tuple[int, str], bool]:
        return dict(self.handler.ratings)


def _written(answer: Answer) -> WrittenAnswer:
    assert isinstance(answer, WrittenAnswer)
    return answer


Said = asyncio.Queue[Delta | FinishReason | EngineFailed]


class WrittenStream:
    def __init__(self, said: Said) -> None:
        self._said = said
        self._has_finished = False

    def cancel(self) -> None:
        if not self._has_finished:
            self._said.put_nowait(FinishReason.CANCELLED)

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        text = ""
        while isinstance(said := await self._said.get(), Delta):
            text += said.text
            yield said
        self._has_finished = True
        if isinstance(said, EngineFailed):
            raise said
        yield Finished(said, text, (1,), Usage(1, 0, 1))


class WrittenModel:
    """Answers each turn with what the test writes."""

    def __init__(self) -> None:
        self.capabilities = ModelCapabilities("written", 1_000, 10, 3)
        self.said: defaultdict[int, Said] = defaultdict(asyncio.Queue)
        self.refusal: QueueFull | None = None

    def submit(self, request: ChatRequest) -> WrittenStream:
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        return WrittenStream(self.said[int(request.request_id.split("-")[1])])  # turn-7-...

    async def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        return len(messages)


class BotDriver:
    def __init__(self, store: Store) -> None:
        self._store, self._model = store, WrittenModel()
        reader, writer = ImageReader(1_000_000, Links().fetch), AnswerWriter(store, self._model)
        self.handler = ThreadChats(store, self._model, reader, writer)

    async def write(self, answer: Answer, text: str) -> None:
        self._say(answer, Delta(text, (1,)))

    async def end(self, answer: Answer) -> None:
        await self._end(answer, FinishReason.STOP)

    async def fail(self, answer: Answer) -> None:
        await self._end(answer, EngineFailed("The model broke."))

    async def stopped(self, answer: Answer) -> None:
        await collect(answer)

    def refuse_next(self, sentence: str) -> None:
        self._model.refusal = QueueFull(sentence)

    async def ratings(self) -> dict[tuple[int, str], bool]:
        table = Row.metadata.tables["ratings"]
        async with self._store.reading() as session:
            rows = await session.execute(sa.select(table.c.turn_id, table.c.author_id, table.c.is_helpful))
            return {(turn_id, author_id): is_helpful for turn_id, author_id, is_helpful in rows}

    async def _end(self, answer: Answer, how: FinishReason | EngineFailed) -> None:
        self._say(answer, how)
        await collect(answer)

    def _say(self, answer: Answer, what: Delta | FinishReason | EngineFailed) -> None:
        assert answer.turn_id is not None
        self._model.said[answer.turn_id].put_nowait(what)


ADA, BOB = Author("1", "Ada"), Author("2", "Bob")
KEY = ThreadKey("test", "workspace", "channel", "one")
OTHER = replace(KEY, thread="two")
UNKNOWN = 999


def question(
    message_id: str, text: str = "What is this?", *files: Attachment, key: ThreadKey = KEY, author: Author = ADA
) -> IncomingMessage:
    return IncomingMessage(key, message_id, author, text, files or (attachment(RED),), destination=f"to {message_id}")


async def begun(driver: Driver, message: IncomingMessage) -> tuple[int, Answer]:
    answer = await driver.handler.handle(message)
    assert answer.turn_id is not None
    return answer.turn_id, answer


async def answered(driver: Driver, message: IncomingMessage, text: str = "Red.") -> int:
    turn_id, answer = await begun(driver, message)
    await written(driver, answer, text)
    return turn_id


async def written(driver: Driver, answer: Answer | None, text: str) -> list[AnswerEvent]:
    assert answer is not None
    await driver.write(answer, text)
    await driver.end(answer)
    return await collect(answer)


async def until_written(answer: Answer, text: str) -> None:
    so_far = ""
    async with asyncio.timeout(20):
        async for event in answer.events():
            so_far += event.text if isinstance(event, AnswerText) else ""
            if so_far == text:
                return


class Slow:
    """A picture whose download has `begun`, and goes on when the test lets it `go`."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.file = Attachment("slow.png", self._fetch)

    async def _fetch(self, max_bytes: int) -> bytes:
        self.begun.set()
        await self.go.wait()
        return RED


async def answers_in(handler: ThreadHandler, key: ThreadKey = KEY) -> list[tuple[str, str, AnswerStatus]]:
    chat = await handler.read_chat(key)
    return [] if chat is None else [(turn.question, turn.answer, turn.status) for turn in chat.turns]
