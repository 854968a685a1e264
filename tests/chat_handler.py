"""A real `ChatHandler` in memory, whose answers are written by the test: what a model would say, when it says it."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from PIL import Image, ImageDraw

from adapters.base import (
    Answer,
    AnswerEvent,
    AnswerStatus,
    AnswerText,
    AttachmentError,
    ChatView,
    Ended,
    IncomingMessage,
    Notice,
    ThreadKey,
    TurnView,
)

TIMEOUT_SECONDS = 10.0


def draw_picture(size: tuple[int, int] = (320, 240)) -> bytes:
    """A PNG with a red circle and a blue square."""
    picture = Image.new("RGB", size, "#f4f4f4")
    pen = ImageDraw.Draw(picture)
    width, height = size
    pen.ellipse((width * 0.1, height * 0.15, width * 0.1 + height * 0.4, height * 0.55), fill="#e12828")
    pen.rectangle((width * 0.6, height * 0.5, width * 0.6 + height * 0.35, height * 0.85), fill="#2d5ad7")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class WrittenAnswer:
    """An answer whose events the test adds one by one. It keeps all of them, so that a late listener gets them too."""

    def __init__(self, key: ThreadKey, turn_id: int | None) -> None:
        self.key = key
        self.turn_id = turn_id
        self.is_stop_wanted = asyncio.Event()
        self._events: list[AnswerEvent] = []
        self._changed = asyncio.Condition()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self._events if isinstance(event, AnswerText))

    async def add(self, *events: AnswerEvent) -> None:
        async with self._changed:
            self._events.extend(events)
            self._changed.notify_all()

    async def events(self) -> AsyncIterator[AnswerEvent]:
        index = 0
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._events) > index)  # noqa: B023 - awaited at once
            event = self._events[index]
            index += 1
            yield event
            if isinstance(event, Ended):
                return

    def stop(self) -> None:
        self.is_stop_wanted.set()


@dataclass
class MemoryChatHandler:
    """Records every message; a test takes the answers from `next_answer` and writes them with `write` and `end`."""

    messages: list[IncomingMessage] = field(default_factory=list)
    next_refusal: str | None = None
    _chats: dict[ThreadKey, ChatView] = field(default_factory=dict)
    _images: dict[tuple[ThreadKey, str], tuple[bytes, str]] = field(default_factory=dict)
    _answers: dict[str, WrittenAnswer] = field(default_factory=dict)
    _running: dict[ThreadKey, WrittenAnswer] = field(default_factory=dict)
    _new_answers: asyncio.Queue[WrittenAnswer] = field(default_factory=asyncio.Queue)
    _num_turns: int = 0

    # -- for the test

    async def next_answer(self) -> WrittenAnswer:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self._new_answers.get()

    async def end(self, answer: WrittenAnswer, status: AnswerStatus = AnswerStatus.COMPLETE, error: str | None = None) -> None:
        notices = tuple(event.text for event in answer._events if isinstance(event, Notice))
        self._replace_turn(answer, lambda turn: replace(turn, answer=answer.text, status=status, error=error, notices=notices))
        self._running.pop(answer.key, None)
        await answer.add(Ended(status, error))

    async def answer_next(self, *pieces: str, status: AnswerStatus = AnswerStatus.COMPLETE) -> WrittenAnswer:
        answer = await self.next_answer()
        await answer.add(*(AnswerText(piece) for piece in pieces))
        await self.end(answer, status)
        return answer

    async def take_back(self, answer: WrittenAnswer, error: str) -> None:
        """As when the queue turns out to be full after the question was stored."""
        chat = self._chats[answer.key]
        self._chats[answer.key] = replace(chat, turns=chat.turns[:-1])
        if len(chat.turns) == 1:
            del self._chats[answer.key]
        answer.turn_id = None
        self._running.pop(answer.key, None)
        await answer.add(Ended(AnswerStatus.FAILED, error))

    # -- ChatHandler

    async def handle(self, message: IncomingMessage) -> Answer:
        self.messages.append(message)
        if message.message_id in self._answers:
            return self._answers[message.message_id]
        if self.next_refusal is not None:
            sentence, self.next_refusal = self.next_refusal, None
            refused = WrittenAnswer(message.key, None)
            await refused.add(Ended(AnswerStatus.FAILED, sentence))
            return refused
        image_ids, error = [], None
        for attachment in message.attachments:
            try:
                data = await attachment.fetch(20_000_000)
                with Image.open(io.BytesIO(data)) as picture:
                    media_type = Image.MIME[picture.format or ""]
            except AttachmentError as reason:
                error = f"I could not use {attachment.name}: {reason}."
            except OSError:
                error = f"I could not use {attachment.name}: it is not a picture."
            else:
                sha256 = hashlib.sha256(data).hexdigest()
                self._images[message.key, sha256] = data, media_type
                image_ids.append(sha256)
        self._num_turns += 1
        status = AnswerStatus.FAILED if error else AnswerStatus.PENDING
        now = datetime.now(UTC) + timedelta(microseconds=self._num_turns)
        text = message.text or "Describe the picture."
        turn = TurnView(self._num_turns, text, "", status, (), error, tuple(image_ids), now)
        chat = self._chats.get(message.key) or ChatView(message.key, text, now)
        self._chats[message.key] = replace(chat, updated_at=now, turns=(*chat.turns, turn))
        answer = self._answers[message.message_id] = WrittenAnswer(message.key, turn.turn_id)
        if error:
            await answer.add(Ended(AnswerStatus.FAILED, error))
        else:
            self._begin(answer)
        return answer

    async def regenerate(self, key: ThreadKey) -> Answer | None:
        chat = self._chats.get(key)
        if chat is None or not chat.turns:
            return None
        answer = WrittenAnswer(key, chat.turns[-1].turn_id)
        self._begin(answer)
        return answer

    def running_answer(self, key: ThreadKey) -> Answer | None:
        return self._running.get(key)

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        assert (platform, workspace) == ("web", "local")
        newest_first = sorted(self._chats.values(), key=lambda chat: chat.updated_at, reverse=True)
        return [replace(chat, turns=()) for chat in newest_first]

    async def read_chat(self, key: ThreadKey) -> ChatView | None:
        return self._chats.get(key)

    async def delete_chat(self, key: ThreadKey) -> bool:
        if answer := self._running.pop(key, None):
            await answer.add(Ended(AnswerStatus.STOPPED))
        return self._chats.pop(key, None) is not None

    async def read_image(self, key: ThreadKey, sha256: str) -> tuple[bytes, str] | None:
        return self._images.get((key, sha256))

    def add_image(self, key: ThreadKey, sha256: str, data: bytes, media_type: str) -> None:
        self._images[key, sha256] = data, media_type

    def _begin(self, answer: WrittenAnswer) -> None:
        self._running[answer.key] = answer
        self._new_answers.put_nowait(answer)

    def _replace_turn(self, answer: WrittenAnswer, change: Callable[[TurnView], TurnView]) -> None:
        chat = self._chats.get(answer.key)
        if chat is not None:
            turns = tuple(change(turn) if turn.turn_id == answer.turn_id else turn for turn in chat.turns)
            self._chats[answer.key] = replace(chat, turns=turns)
