"""A `ThreadHandler` in memory, whose answers the test writes, piece by piece.

The same tests run over it and over the bot's own handler: `tests/bot/test_handler_contract.py`.
"""

from __future__ import annotations

import asyncio
import io
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

from PIL import Image, ImageDraw

from adapters.base import (
    Answer,
    AnswerEvent,
    AnswerStatus,
    AnswerText,
    Attachment,
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
    Waiting,
)
from bot.answers import RunningAnswer, ended_answer
from bot.images import ImageReader

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


class WrittenAnswer(RunningAnswer):
    """The bot's answer, with events added by the test. It does not end by itself when it is stopped."""

    def __init__(self, key: ThreadKey, turn_id: int | None) -> None:
        super().__init__(key, turn_id)
        self.is_stop_wanted = asyncio.Event()
        self.is_refused = False  # whether the question is refused
        self.when_stopped(self.is_stop_wanted.set)

    async def add(self, *events: AnswerEvent) -> None:
        for event in events:
            match event:
                case Waiting():
                    self.wait_at(event)
                case Notice(text):
                    self.add_notice(text)
                case AnswerText(text):
                    self.write(text)
                case Ended(status, error):
                    self.end(status, error)
                case _ as never:
                    assert_never(never)


@dataclass
class MemoryChatHandler:
    """Records every message; a test takes the answers from `next_answer` and writes them with `add` and `end`."""

    messages: list[IncomingMessage] = field(default_factory=list)
    next_refusal: str | None = None
    platform_turns: dict[int, PlatformTurn] = field(default_factory=dict)
    delivered: set[int] = field(default_factory=set)
    ratings: dict[tuple[int, str], bool] = field(default_factory=dict)
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)  # notified when `delivered` changes
    _touched: dict[ThreadKey, datetime] = field(default_factory=dict)  # when each chat changed last
    _turns: dict[int, TurnView] = field(default_factory=dict)
    _answers: dict[int, WrittenAnswer] = field(default_factory=dict)  # the newest answer of each turn, in the order of their starts
    _images: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    _added_images: set[tuple[ThreadKey, str]] = field(default_factory=set)
    _accepting: dict[tuple[str, str, str], asyncio.Task[RunningAnswer]] = field(default_factory=dict)
    _locks: defaultdict[ThreadKey, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _new_answers: asyncio.Queue[WrittenAnswer] = field(default_factory=asyncio.Queue)
    _turn_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # -- for the test

    async def next_answer(self) -> WrittenAnswer:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self._new_answers.get()

    async def end(self, answer: WrittenAnswer, status: AnswerStatus = AnswerStatus.COMPLETE, error: str | None = None) -> None:
        turn_id = answer.turn_id or 0
        turn, has_failed = self._turns[turn_id], status is AnswerStatus.FAILED
        if not (has_failed and turn.answer):  # otherwise the earlier answer is kept
            text = "" if has_failed else answer.text
            self._keep(replace(turn, answer=text, status=status, error=error, notices=answer.notices))
        answer.end(status, error)

    async def answer_next(self, *pieces: str, status: AnswerStatus = AnswerStatus.COMPLETE) -> WrittenAnswer:
        answer = await self.next_answer()
        await answer.add(*(AnswerText(piece) for piece in pieces))
        await self.end(answer, status)
        return answer

    async def take_back(self, answer: WrittenAnswer, error: str) -> None:
        """Remove the question, as when the queue is full after the question was stored."""
        self._forget([answer.turn_id or 0])
        answer.forget_turn()
        answer.end(AnswerStatus.FAILED, error)

    async def wait_delivered(self, turn_id: int | None) -> PlatformTurn:
        """Wait until all of the turn's answer is shown. Returns the turn's messages."""
        assert turn_id is not None
        async with asyncio.timeout(TIMEOUT_SECONDS), self.changed:
            await self.changed.wait_for(lambda: turn_id in self.delivered)
        return self.platform_turns[turn_id]

    def add_image(self, key: ThreadKey, sha256: str, data: bytes, media_type: str) -> None:
        """Add an unchecked picture that is in no turn."""
        self._images[sha256] = data, media_type
        self._added_images.add((key, sha256))

    # -- ChatHandler

    async def handle(self, message: IncomingMessage) -> Answer:
        self.messages.append(message)
        message_key = (message.key.platform, message.key.workspace, message.message_id)
        task = self._accepting.get(message_key)
        if task is None:
            task = self._accepting[message_key] = asyncio.create_task(self._accept(message))
            task.add_done_callback(lambda _: self._accepting.pop(message_key))
        return await asyncio.shield(task)

    async def regenerate(self, key: ThreadKey) -> Answer | None:
        turn_ids = self._turn_ids_in(key)
        return await self.regenerate_turn(turn_ids[-1]) if turn_ids else None

    def running_answer(self, key: ThreadKey) -> Answer | None:
        return next((answer for answer in self._answers.values() if answer.key == key and answer.ended is None), None)

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        newest_first = sorted(self._touched, key=lambda key: self._touched[key], reverse=True)
        return [
            replace(self._chat(key), turns=()) for key in newest_first if (key.platform, key.workspace) == (platform, workspace)
        ]

    async def read_chat(self, key: ThreadKey) -> ChatView | None:
        return self._chat(key) if key in self._touched else None

    async def delete_chat(self, key: ThreadKey) -> bool:
        is_known = await self.reset_chat(key)
        self._touched.pop(key, None)
        return is_known

    async def read_image(self, key: ThreadKey, sha256: str) -> tuple[bytes, str] | None:
        is_shown = any(sha256 in self._turns[turn_id].image_ids for turn_id in self._turn_ids_in(key))
        return self._images[sha256] if is_shown or (key, sha256) in self._added_images else None

    # -- ThreadHandler

    async def ask_again(self, message: IncomingMessage) -> Answer | None:
        async with self._locks[message.key]:
            turn_id = self._asked_by(message.key.platform, message.key.workspace, message.message_id)
            if turn_id is None:
                return None
            turn = self._turns[turn_id]
            before = [other for other in self._turn_ids_in(message.key) if other < turn_id]
            image_ids, notices, error = await self._read_images(message, before)
            if _question(message) == turn.question and (image_ids == turn.image_ids or notices or error):
                return None  # a picture that can no longer be downloaded does not change the question
            self.messages.append(message)
            await self._stop([turn_id])
            asked = replace(turn, question=_question(message), answer="", error=None, image_ids=image_ids)
            self._keep(replace(asked, status=AnswerStatus.PENDING, notices=()))
            return await self._begin(turn_id, notices, error)

    async def retract(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        if accepting := self._accepting.get((platform, workspace, message_id)):
            await asyncio.wait([accepting])
        turn_id = self._asked_by(platform, workspace, message_id)
        if turn_id is None:
            return None
        async with self._locks[self.platform_turns[turn_id].key]:
            if turn_id not in self.platform_turns:
                return None
            await self._stop([turn_id])
            platform_turn = self.platform_turns[turn_id]
            self._forget([turn_id])
            return platform_turn

    async def regenerate_turn(self, turn_id: int) -> Answer | None:
        if turn_id not in self.platform_turns:
            return None
        async with self._locks[self.platform_turns[turn_id].key]:
            if turn_id not in self.platform_turns:
                return None
            answer = self._answers[turn_id]
            if answer.ended is None or answer.is_refused:
                return answer
            return await self._begin(turn_id, self._turns[turn_id].notices)

    def running_turn(self, turn_id: int) -> Answer | None:
        answer = self._answers.get(turn_id)
        return answer if answer is not None and answer.ended is None else None

    async def find_turn(self, turn_id: int) -> PlatformTurn | None:
        return self.platform_turns.get(turn_id)

    async def find_message(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        asked_by = self._asked_by(platform, workspace, message_id)
        if asked_by is not None:
            return self.platform_turns[asked_by]
        there = [turn for turn in self.platform_turns.values() if (turn.key.platform, turn.key.workspace) == (platform, workspace)]
        return next((turn for turn in reversed(there) if message_id in turn.reply_ids), None)

    async def has_chat(self, key: ThreadKey) -> bool:
        return key in self._touched

    async def latest_chat(self, platform: str, workspace: str, channel: str) -> ThreadKey | None:
        return next((chat.key for chat in await self.list_chats(platform, workspace) if chat.key.channel == channel), None)

    async def reset_chat(self, key: ThreadKey) -> bool:
        async with self._locks[key]:
            await self._stop(self._turn_ids_in(key))
            self._forget(self._turn_ids_in(key), keeps_chats=True)
            return key in self._touched

    async def delete_room(self, platform: str, workspace: str, room: str) -> int:
        keys = [chat.key for chat in await self.list_chats(platform, workspace) if room in (chat.key.channel, chat.key.thread)]
        return len([key for key in keys if await self.delete_chat(key)])

    async def set_reply(self, turn_id: int, reply_ids: Sequence[str], *, is_delivered: bool) -> None:
        if turn_id not in self.platform_turns:
            return
        self.platform_turns[turn_id] = replace(self.platform_turns[turn_id], reply_ids=tuple(reply_ids))
        answer = self._answers[turn_id]
        is_being_written = answer.ended is None and not answer.is_stopped
        async with self.changed:
            (self.delivered.add if is_delivered and not is_being_written else self.delivered.discard)(turn_id)
            self.changed.notify_all()

    async def undelivered(self, platform: str) -> Sequence[tuple[PlatformTurn, Answer]]:
        turns = [turn for turn_id, turn in self.platform_turns.items() if turn_id not in self.delivered]
        return [(turn, self._answers[turn.turn_id]) for turn in turns if turn.key.platform == platform]

    async def rate(self, turn_id: int, author_id: str, *, is_helpful: bool) -> bool:
        if turn_id in self.platform_turns:
            self.ratings[turn_id, author_id] = is_helpful
        return turn_id in self.platform_turns

    async def forget_author(self, platform: str, author_id: str) -> int:
        turn_ids = self._turns_of(platform, author_id)
        await self._stop(turn_ids)
        for turn_id, turn in self.platform_turns.items():
            if turn.key.platform == platform:
                self.ratings.pop((turn_id, author_id), None)
        self._forget(turn_ids)
        return len(turn_ids)

    async def quota(self, platform: str, workspace: str, author: Author) -> Quota:
        turns = [self._turns[turn_id] for turn_id in self._turns_of(platform, author.id)]
        return Quota(sum(turn.status is not AnswerStatus.FAILED for turn in turns))

    async def read_note(self, platform: str, name: str) -> str | None:
        return self.notes.get((platform, name))

    async def write_note(self, platform: str, name: str, text: str) -> None:
        self.notes[platform, name] = text

    # -- inside

    async def _accept(self, message: IncomingMessage) -> RunningAnswer:
        key = message.key
        async with self._locks[key]:
            known = self._asked_by(key.platform, key.workspace, message.message_id)
            if known is not None:
                return self._answers[known]
            if self.next_refusal is not None:
                sentence, self.next_refusal = self.next_refusal, None
                return ended_answer(key, AnswerStatus.FAILED, error=sentence)
            image_ids, notices, error = await self._read_images(message, self._turn_ids_in(key))
            turn_id = next(self._turn_ids)
            self.platform_turns[turn_id] = PlatformTurn(turn_id, key, message.message_id, message.author.id, message.destination)
            now = datetime.now(UTC)
            self._keep(TurnView(turn_id, _question(message), "", AnswerStatus.PENDING, (), None, image_ids, now))
            return await self._begin(turn_id, notices, error)

    async def _read_images(
        self, message: IncomingMessage, before: Sequence[int]
    ) -> tuple[tuple[str, ...], Sequence[str], str | None]:
        """The pictures of a message after these turns, notices about unusable ones, and why it is refused, or None."""
        attachments: Sequence[Attachment] = message.attachments
        if not attachments and message.look_back is not None and not any(self._turns[turn_id].image_ids for turn_id in before):
            attachments = await message.look_back()
        reader = ImageReader(20_000_000)
        found = await reader.read(reader.candidates("", attachments, has_image=False), len(attachments))
        self._images |= {image.sha256: (image.data, image.media_type) for _, image in found.used}
        error = " ".join(found.failures) if found.failures and not found.used else None
        return tuple(image.sha256 for _, image in found.used), found.failures, error

    async def _begin(self, turn_id: int, notices: Sequence[str], error: str | None = None) -> WrittenAnswer:
        """Begin the turn's answer, or refuse it with an `error`."""
        self.delivered.discard(turn_id)
        self._answers.pop(turn_id, None)
        answer = self._answers[turn_id] = WrittenAnswer(self.platform_turns[turn_id].key, turn_id)
        if error is not None:
            answer.is_refused = True
            await self.end(answer, AnswerStatus.FAILED, error)
        else:
            await answer.add(*(Notice(notice) for notice in notices))
            self._new_answers.put_nowait(answer)
        return answer

    async def _stop(self, turn_ids: Collection[int]) -> None:
        for answer in [self._answers[turn_id] for turn_id in turn_ids]:
            if answer.ended is None:
                await self.end(answer, AnswerStatus.STOPPED)

    def _forget(self, turn_ids: Collection[int], *, keeps_chats: bool = False) -> None:
        keys = {self.platform_turns[turn_id].key for turn_id in turn_ids}
        for turn_id in turn_ids:
            del self.platform_turns[turn_id], self._turns[turn_id], self._answers[turn_id]
        self.ratings = {rating: is_helpful for rating, is_helpful in self.ratings.items() if rating[0] not in turn_ids}
        for key in keys:
            if not keeps_chats and not self._turn_ids_in(key):
                del self._touched[key]

    def _keep(self, turn: TurnView) -> None:
        """Store a changed turn; its chat is now the one that changed last."""
        self._turns[turn.turn_id] = turn
        newest = max(self._touched.values(), default=datetime.min.replace(tzinfo=UTC))
        self._touched[self.platform_turns[turn.turn_id].key] = max(datetime.now(UTC), newest + timedelta(microseconds=1))

    def _chat(self, key: ThreadKey) -> ChatView:
        turns = tuple(self._turns[turn_id] for turn_id in self._turn_ids_in(key))
        return ChatView(key, turns[0].question if turns else "", self._touched[key], turns)

    def _turn_ids_in(self, key: ThreadKey) -> list[int]:
        return [turn_id for turn_id, turn in self.platform_turns.items() if turn.key == key]

    def _asked_by(self, platform: str, workspace: str, message_id: str) -> int | None:
        """The turn whose question this message is; None if there is none."""
        questions = {
            (turn.key.platform, turn.key.workspace, turn.message_id): turn.turn_id for turn in self.platform_turns.values()
        }
        return questions.get((platform, workspace, message_id))

    def _turns_of(self, platform: str, author_id: str) -> list[int]:
        turns = self.platform_turns.values()
        return [turn.turn_id for turn in turns if (turn.key.platform, turn.author_id) == (platform, author_id)]


def _question(message: IncomingMessage) -> str:
    return message.text or "Describe the picture."


def _is_thread_handler(handler: MemoryChatHandler) -> ThreadHandler:
    """For the type checker: the class implements the whole protocol."""
    return handler
