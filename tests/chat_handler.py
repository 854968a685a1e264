"""A real `ThreadHandler` in memory, whose answers are written by the test: what a model would say, when it says it."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from PIL import Image, ImageDraw

from adapters.base import (
    Answer,
    AnswerEvent,
    AnswerStatus,
    AnswerText,
    Attachment,
    AttachmentError,
    Author,
    ChatView,
    Ended,
    IncomingMessage,
    Notice,
    PlatformTurn,
    Quota,
    ThreadHandler,
    ThreadKey,
    TurnView,
)

TIMEOUT_SECONDS = 10.0


def draw_image(size: tuple[int, int] = (320, 240)) -> bytes:
    """A PNG with a red circle and a blue square."""
    image = Image.new("RGB", size, "#f4f4f4")
    pen = ImageDraw.Draw(image)
    width, height = size
    pen.ellipse((width * 0.1, height * 0.15, width * 0.1 + height * 0.4, height * 0.55), fill="#e12828")
    pen.rectangle((width * 0.6, height * 0.5, width * 0.6 + height * 0.35, height * 0.85), fill="#2d5ad7")
    file = io.BytesIO()
    image.save(file, "PNG")
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
    platform_turns: dict[int, PlatformTurn] = field(default_factory=dict)
    delivered: set[int] = field(default_factory=set)
    ratings: dict[tuple[int, str], bool] = field(default_factory=dict)
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)  # of `delivered`
    _chats: dict[ThreadKey, ChatView] = field(default_factory=dict)
    _images: dict[tuple[ThreadKey, str], tuple[bytes, str]] = field(default_factory=dict)
    _answers: dict[str, WrittenAnswer] = field(default_factory=dict)  # the newest of each message
    _running: dict[ThreadKey, WrittenAnswer] = field(default_factory=dict)
    _running_turns: dict[int, WrittenAnswer] = field(default_factory=dict)
    _new_answers: asyncio.Queue[WrittenAnswer] = field(default_factory=asyncio.Queue)
    _num_turns: int = 0

    # -- for the test

    async def next_answer(self) -> WrittenAnswer:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self._new_answers.get()

    async def end(self, answer: WrittenAnswer, status: AnswerStatus = AnswerStatus.COMPLETE, error: str | None = None) -> None:
        notices = tuple(event.text for event in answer._events if isinstance(event, Notice))
        self._replace_turn(answer, lambda turn: replace(turn, answer=answer.text, status=status, error=error, notices=notices))
        await self._finish(answer, Ended(status, error))

    async def answer_next(self, *pieces: str, status: AnswerStatus = AnswerStatus.COMPLETE) -> WrittenAnswer:
        answer = await self.next_answer()
        await answer.add(*(AnswerText(piece) for piece in pieces))
        await self.end(answer, status)
        return answer

    async def take_back(self, answer: WrittenAnswer, error: str) -> None:
        """As when the queue turns out to be full after the question was stored."""
        turn_id = answer.turn_id or 0
        self._forget(turn_id)
        self._running_turns.pop(turn_id, None)
        answer.turn_id = None
        await self._finish(answer, Ended(AnswerStatus.FAILED, error))

    async def wait_delivered(self, turn_id: int | None) -> PlatformTurn:
        """Where the turn stands, once all of its answer stands there too."""
        assert turn_id is not None
        async with asyncio.timeout(TIMEOUT_SECONDS), self.changed:
            await self.changed.wait_for(lambda: turn_id in self.delivered)
        return self.platform_turns[turn_id]

    def add_image(self, key: ThreadKey, sha256: str, data: bytes, media_type: str) -> None:
        self._images[key, sha256] = data, media_type

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
        image_ids, error = await self._read_images(message, self._turns(message.key))
        self._num_turns += 1
        turn_id, key = self._num_turns, message.key
        now = datetime.now(UTC) + timedelta(microseconds=turn_id)
        turn = TurnView(turn_id, _question(message), "", AnswerStatus.PENDING, (), None, image_ids, now)
        chat = self._chats.get(key) or ChatView(key, turn.question, now)
        self._chats[key] = replace(chat, updated_at=now, turns=(*chat.turns, turn))
        self.platform_turns[turn_id] = PlatformTurn(turn_id, key, message.message_id, message.author.id, message.destination)
        return await self._answer_or_refuse(turn_id, error)

    async def regenerate(self, key: ThreadKey) -> Answer | None:
        turns = self._turns(key)
        return await self.regenerate_turn(turns[-1].turn_id) if turns else None

    def running_answer(self, key: ThreadKey) -> Answer | None:
        return self._running.get(key)

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        newest_first = sorted(self._chats.values(), key=lambda chat: chat.updated_at, reverse=True)
        return [
            replace(chat, turns=()) for chat in newest_first if (chat.key.platform, chat.key.workspace) == (platform, workspace)
        ]

    async def read_chat(self, key: ThreadKey) -> ChatView | None:
        return self._chats.get(key)

    async def delete_chat(self, key: ThreadKey) -> bool:
        is_known = key in self._chats
        await self._forget_turns(turn.turn_id for turn in self._turns(key))
        self._chats.pop(key, None)  # which is empty after a reset
        return is_known

    async def read_image(self, key: ThreadKey, sha256: str) -> tuple[bytes, str] | None:
        return self._images.get((key, sha256))

    # -- ThreadHandler

    async def ask_again(self, message: IncomingMessage) -> Answer | None:
        platform_turn = await self.find_message(message.key.platform, message.key.workspace, message.message_id)
        if platform_turn is None or platform_turn.message_id != message.message_id:
            return None
        turns = self._turns(platform_turn.key)
        turn = next(turn for turn in turns if turn.turn_id == platform_turn.turn_id)
        image_ids, error = await self._read_images(message, [other for other in turns if other.turn_id < turn.turn_id])
        if (turn.question, turn.image_ids) == (_question(message), image_ids):
            return None
        self.messages.append(message)
        if running := self._running_turns.get(turn.turn_id):
            await self.end(running, AnswerStatus.STOPPED)
        asked = replace(turn, question=_question(message), answer="", status=AnswerStatus.PENDING, error=None, image_ids=image_ids)
        self._replace_turn(self._answers[platform_turn.message_id], lambda _: asked)
        return await self._answer_or_refuse(turn.turn_id, error)

    async def retract(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        platform_turn = await self.find_message(platform, workspace, message_id)
        if platform_turn is None or platform_turn.message_id != message_id:
            return None
        await self._forget_turns([platform_turn.turn_id])
        return platform_turn

    async def regenerate_turn(self, turn_id: int) -> Answer | None:
        if turn_id not in self.platform_turns:
            return None
        return self._running_turns.get(turn_id) or await self._answer_or_refuse(turn_id, None)

    def running_turn(self, turn_id: int) -> Answer | None:
        return self._running_turns.get(turn_id)

    async def find_turn(self, turn_id: int) -> PlatformTurn | None:
        return self.platform_turns.get(turn_id)

    async def find_message(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        for platform_turn in self.platform_turns.values():
            is_there = (platform_turn.key.platform, platform_turn.key.workspace) == (platform, workspace)
            if is_there and message_id in (platform_turn.message_id, *platform_turn.reply_ids):
                return platform_turn
        return None

    async def has_chat(self, key: ThreadKey) -> bool:
        return key in self._chats

    async def latest_chat(self, platform: str, workspace: str, channel: str) -> ThreadKey | None:
        return next((chat.key for chat in await self.list_chats(platform, workspace) if chat.key.channel == channel), None)

    async def reset_chat(self, key: ThreadKey) -> bool:
        if key not in self._chats:
            return False
        kept = replace(self._chats[key], turns=())
        await self.delete_chat(key)
        self._chats[key] = kept
        return True

    async def delete_room(self, platform: str, workspace: str, room: str) -> int:
        keys = [chat.key for chat in await self.list_chats(platform, workspace) if room in (chat.key.channel, chat.key.thread)]
        return len([key for key in keys if await self.delete_chat(key)])

    async def set_reply(self, turn_id: int, reply_ids: Sequence[str], *, is_delivered: bool) -> None:
        if turn_id not in self.platform_turns:
            return
        self.platform_turns[turn_id] = replace(self.platform_turns[turn_id], reply_ids=tuple(reply_ids))
        async with self.changed:
            (self.delivered.add if is_delivered else self.delivered.discard)(turn_id)
            self.changed.notify_all()

    async def undelivered(self, platform: str) -> Sequence[tuple[PlatformTurn, Answer]]:
        platform_turns = [self.platform_turns[turn_id] for turn_id in sorted(self.platform_turns) if turn_id not in self.delivered]
        return [
            (platform_turn, self._answers[platform_turn.message_id])
            for platform_turn in platform_turns
            if platform_turn.key.platform == platform
        ]

    async def rate(self, turn_id: int, author_id: str, *, is_helpful: bool) -> bool:
        if turn_id not in self.platform_turns:
            return False
        self.ratings[turn_id, author_id] = is_helpful
        return True

    async def forget_author(self, platform: str, author_id: str) -> int:
        for rating in [rating for rating in self.ratings if rating[1] == author_id]:
            del self.ratings[rating]
        platform_turns = [
            platform_turn
            for platform_turn in self.platform_turns.values()
            if (platform_turn.key.platform, platform_turn.author_id) == (platform, author_id)
        ]
        await self._forget_turns([platform_turn.turn_id for platform_turn in platform_turns])
        return len(platform_turns)

    async def quota(self, platform: str, workspace: str, author: Author) -> Quota:
        return Quota(
            sum(
                (platform_turn.key.platform, platform_turn.author_id) == (platform, author.id)
                for platform_turn in self.platform_turns.values()
            )
        )

    async def read_note(self, platform: str, name: str) -> str | None:
        return self.notes.get((platform, name))

    async def write_note(self, platform: str, name: str, text: str) -> None:
        self.notes[platform, name] = text

    # -- inside

    def _turns(self, key: ThreadKey) -> tuple[TurnView, ...]:
        return self._chats[key].turns if key in self._chats else ()

    async def _read_images(self, message: IncomingMessage, before: Sequence[TurnView]) -> tuple[tuple[str, ...], str | None]:
        """The pictures of a message after these turns; and why one of them cannot be used."""
        attachments: Sequence[Attachment] = message.attachments
        if not attachments and message.look_back is not None and not any(turn.image_ids for turn in before):
            attachments = await message.look_back()
        image_ids, error = [], None
        for attachment in attachments:
            try:
                data = await attachment.fetch(20_000_000)
                with Image.open(io.BytesIO(data)) as image:
                    media_type = Image.MIME[image.format or ""]
            except AttachmentError as reason:
                error = f"I could not use {attachment.name}: {reason}."
            except OSError:
                error = f"I could not use {attachment.name}: it is not a picture."
            else:
                sha256 = hashlib.sha256(data).hexdigest()
                self._images[message.key, sha256] = data, media_type
                image_ids.append(sha256)
        return tuple(image_ids), error

    async def _answer_or_refuse(self, turn_id: int, error: str | None) -> WrittenAnswer:
        platform_turn = self.platform_turns[turn_id]
        self.delivered.discard(turn_id)
        answer = self._answers[platform_turn.message_id] = WrittenAnswer(platform_turn.key, turn_id)
        if error is None:
            self._running_turns[turn_id] = answer
            self._begin(answer)
        else:
            await self.end(answer, AnswerStatus.FAILED, error)
        return answer

    def _begin(self, answer: WrittenAnswer) -> None:
        self._running[answer.key] = answer
        self._new_answers.put_nowait(answer)

    async def _finish(self, answer: WrittenAnswer, ended: Ended) -> None:
        if self._running.get(answer.key) is answer:
            del self._running[answer.key]
        if answer.turn_id is not None:
            self._running_turns.pop(answer.turn_id, None)
        await answer.add(ended)

    async def _forget_turns(self, turn_ids: Iterable[int]) -> None:
        for turn_id in list(turn_ids):
            if running := self._running_turns.get(turn_id):
                await self.end(running, AnswerStatus.STOPPED)
            self._forget(turn_id)

    def _forget(self, turn_id: int) -> None:
        """The turn, and its chat when that is empty now."""
        platform_turn = self.platform_turns.pop(turn_id)
        self._answers.pop(platform_turn.message_id, None)
        chat = self._chats[platform_turn.key]
        self._chats[platform_turn.key] = replace(chat, turns=tuple(turn for turn in chat.turns if turn.turn_id != turn_id))
        if not self._chats[platform_turn.key].turns:
            del self._chats[platform_turn.key]

    def _replace_turn(self, answer: WrittenAnswer, change: Callable[[TurnView], TurnView]) -> None:
        chat = self._chats.get(answer.key)
        if chat is not None:
            turns = tuple(change(turn) if turn.turn_id == answer.turn_id else turn for turn in chat.turns)
            self._chats[answer.key] = replace(chat, turns=turns)


def _question(message: IncomingMessage) -> str:
    return message.text or "Describe the picture."


def _is_thread_handler(handler: MemoryChatHandler) -> ThreadHandler:
    """For the type checker: all of the protocol is there."""
    return handler
