"""Chats on platforms that keep the messages themselves: implements `adapters.base.ThreadHandler`.

Rules: an edited question is asked again in its place, with only the turns before it; a deleted one is forgotten. A running answer
is stopped, and its listeners are told, before anything of it is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from adapters.base import Answer, AnswerStatus, Author, IncomingMessage, PlatformTurn, Quota, ThreadKey
from adapters.text.links import find_links
from bot.chats import MAX_QUESTION_CHARS, NO_DATABASE, SHUTTING_DOWN, TOO_LONG, Chats, kept_answer, refusal, stored_answer
from bot.database import StoreError
from bot.images import ImageReader, without_links
from bot.limits import Limits
from bot.model import Model
from bot.questions import DEFAULT_QUESTION, Question
from bot.store import Store
from bot.turns import StoredTurn
from bot.writer import AnswerWriter

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0

UNDELIVERED_FOR = timedelta(days=3)  # after so long an answer would be more of a surprise than a help


class ThreadChats(Chats):
    """The chats in threads: what `Chats` does, and what people do to messages. Implements `adapters.base.ThreadHandler`."""

    def __init__(self, store: Store, model: Model, images: ImageReader, writer: AnswerWriter, limits: Limits | None = None) -> None:
        super().__init__(store, model, images, writer, limits)
        self._unstored_replies: dict[int, tuple[tuple[str, ...], bool]] = {}  # by turn: its messages, whether all is shown
        self._storing_replies: asyncio.Task[None] | None = None

    async def close(self, grace_seconds: float, hurry: asyncio.Event | None = None) -> int:
        """As that of `Chats`."""
        num_left = await super().close(grace_seconds, hurry)
        if self._storing_replies is not None:
            self._storing_replies.cancel()
            await asyncio.gather(self._storing_replies, return_exceptions=True)
        return num_left

    async def ask_again(self, message: IncomingMessage) -> Answer | None:
        try:
            return await self._ask_again(message)
        except StoreError:
            return refusal(message.key, NO_DATABASE)

    async def _ask_again(self, message: IncomingMessage) -> Answer | None:
        key = message.key
        async with self._lock(key):
            found = await self._store.find_turn(key.platform, key.workspace, message.message_id)
            turn = None if found is None else await self._as_it_is_now(found)
            if turn is None:
                return None
            if len(message.text) > MAX_QUESTION_CHARS:
                return kept_answer(turn, TOO_LONG)
            question = await self._questions.read(message, await self._store.images_in_chat(key, turn.turn_id))
            if turn.is_start and not question.is_start and question.refusal is None:
                question = await self._questions.read(message, set())  # so that it is not about an earlier picture
            if _says_the_same(turn, question):
                return None
            if self._is_closing:
                return kept_answer(turn, SHUTTING_DOWN)
            ticket = await self._shares.take(key.platform, message.author)
            if isinstance(ticket, str):
                return kept_answer(turn, ticket)
            try:
                await self._stop([turn])
                changed = await self._store.replace_question(
                    turn.turn_id,
                    question.question,
                    images=question.images,
                    is_start=turn.is_start or question.is_start,
                    notices=question.notices,
                    refusal=question.refusal,
                )
            except BaseException:
                self._shares.give_back(ticket, counts=False)
                raise
            if changed is None:
                self._shares.give_back(ticket, counts=False)
                return None
            return self._start_or_refuse(changed, ticket, is_edited=True)

    async def retract(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        if accepting := self._accepting.get((platform, workspace, message_id)):
            await asyncio.wait([accepting])
        found = await self._store.find_turn(platform, workspace, message_id)
        if found is None:
            return None
        async with self._lock(found.key):
            turn = await self._store.get_turn(found.turn_id)
            if turn is None:
                return None
            await self._stop([turn])
            turn = await self._store.get_turn(turn.turn_id) or turn  # more messages may show it now
            await self._store.drop_turn(turn.turn_id)
            if not turn.answer:  # an answered question still counts, or deleting questions would evade the limit
                self._shares.forget_turn(platform, turn.author_id, turn.turn_id)
            return turn.platform_turn

    async def regenerate_turn(self, turn_id: int) -> Answer | None:
        found = await self._store.get_turn(turn_id)
        if found is None:
            return None
        try:
            async with self._lock(found.key):
                turn = await self._store.get_turn(turn_id)  # the answer that we waited for may have changed it
                return None if turn is None else await self._answer_again(turn)
        except StoreError:
            return kept_answer(found, NO_DATABASE)

    def running_turn(self, turn_id: int) -> Answer | None:
        return self._running(turn_id)

    async def find_turn(self, turn_id: int) -> PlatformTurn | None:
        turn = await self._store.get_turn(turn_id)
        return None if turn is None else turn.platform_turn

    async def find_message(self, platform: str, workspace: str, message_id: str) -> PlatformTurn | None:
        turn = await self._thread_store.find_message(platform, workspace, message_id)
        return None if turn is None else turn.platform_turn

    async def has_chat(self, key: ThreadKey) -> bool:
        return await self._thread_store.has_chat(key)

    async def latest_chat(self, platform: str, workspace: str, channel: str) -> ThreadKey | None:
        return await self._thread_store.latest_chat(platform, workspace, channel)

    async def reset_chat(self, key: ThreadKey) -> bool:
        async with self._lock(key):
            await self._stop(await self._store.read_turns(key))
            return await self._thread_store.empty_chat(key)

    async def delete_room(self, platform: str, workspace: str, room: str) -> int:
        keys = await self._thread_store.chats_in(platform, workspace, room)
        return sum([await self.delete_chat(key) for key in keys])

    async def set_reply(self, turn_id: int, reply_ids: Sequence[str], *, is_delivered: bool) -> None:
        running = self._running(turn_id)  # this may still be about the earlier answer
        is_being_written = running is not None and running.ended is None and not running.is_stopped
        self._unstored_replies[turn_id] = tuple(reply_ids), is_delivered and not is_being_written
        try:
            await self._store_replies(turn_id)
        except StoreError:  # the answer goes on being shown
            if self._storing_replies is None or self._storing_replies.done():
                self._storing_replies = asyncio.create_task(self._store_replies_later())

    async def _store_replies(self, turn_id: int) -> None:
        reply_ids, is_delivered = self._unstored_replies[turn_id]
        await self._thread_store.set_reply(turn_id, reply_ids, is_delivered=is_delivered)
        if self._unstored_replies.get(turn_id) == (reply_ids, is_delivered):  # otherwise there is news meanwhile
            del self._unstored_replies[turn_id]

    async def _store_replies_later(self) -> None:
        """Store what could not be stored about replies, less and less often, until all is. If the program ends before that, such an
        answer is shown again after the restart."""
        wait = _FIRST_WAIT_SECONDS
        while self._unstored_replies:
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            with contextlib.suppress(StoreError):
                for turn_id in list(self._unstored_replies):
                    if turn_id in self._unstored_replies:
                        await self._store_replies(turn_id)

    async def undelivered(self, platform: str) -> Sequence[tuple[PlatformTurn, Answer]]:
        found = []
        for turn in await self._thread_store.undelivered(platform, datetime.now(UTC) - UNDELIVERED_FOR):
            answer = self._running(turn.turn_id)
            newest: StoredTurn | None = turn
            if answer is None and turn.status is AnswerStatus.PENDING:  # it has just ended, or is about to begin
                newest = await self._store.get_turn(turn.turn_id)
                answer = self._running(turn.turn_id)
            if answer is None and newest is not None and newest.status is not AnswerStatus.PENDING:
                answer = stored_answer(newest)
            if answer is not None:
                found.append((turn.platform_turn, answer))
        return found

    async def rate(self, turn_id: int, author_id: str, *, is_helpful: bool) -> bool:
        return await self._thread_store.rate(turn_id, author_id, is_helpful=is_helpful)

    async def forget_author(self, platform: str, author_id: str) -> int:
        await self._stop(await self._thread_store.turns_of(platform, author_id))
        return await self._thread_store.forget(platform, author_id)

    async def quota(self, platform: str, workspace: str, author: Author) -> Quota:
        return await self._shares.quota(platform, author)

    async def read_note(self, platform: str, name: str) -> str | None:
        return await self._thread_store.read_note(platform, name)

    async def write_note(self, platform: str, name: str, text: str) -> None:
        await self._thread_store.write_note(platform, name, text)

    async def _stop(self, turns: Sequence[StoredTurn]) -> None:
        """Stop the running answers of these turns, and wait until they have ended."""
        running = [answer for turn in turns if (answer := self._running(turn.turn_id))]
        for answer in running:
            answer.stop()
        for answer in running:
            await answer.wait_ended()


def _says_the_same(turn: StoredTurn, question: Question) -> bool:
    if question.has_failures:  # a picture that can no longer be downloaded does not change the question
        return _words(question.question) == _words(turn.question)
    image_ids = tuple(image.sha256 for image in question.images)
    is_refused = question.refusal is not None
    return (turn.question, turn.image_ids, turn.is_refused) == (question.question, image_ids, is_refused)


def _words(question: str) -> str:
    """The words without links: stored questions do not have the links that were pictures."""
    return " ".join(without_links(question, find_links(question)).split()) or DEFAULT_QUESTION
