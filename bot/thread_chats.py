"""Chats on platforms that keep the messages themselves: implements `adapters.base.ThreadHandler`.

Rules: a question that was edited is asked anew in its place, with the turns before it only; one that was deleted is forgotten. What
runs is stopped first, and its listeners are told, before anything is deleted under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from adapters.base import Answer, AnswerStatus, Author, IncomingMessage, Quota, ThreadKey, TurnPlace
from bot.answers import RunningAnswer, ended_answer
from bot.chats import DEFAULT_QUESTION, SHUTTING_DOWN, Chats, stored_answer
from bot.pictures import links_in, without_links
from bot.schema import clean
from bot.store import StoredTurn

UNDELIVERED_FOR = timedelta(days=3)  # an answer that found no way to its place for so long surprises more than it helps


class ThreadChats(Chats):
    async def ask_again(self, message: IncomingMessage) -> Answer | None:
        key = message.key
        async with self._lock(key):
            turn = await self._store.find_turn(key.platform, key.workspace, message.message_id)
            if turn is None or (not turn.is_refused and _says_the_same(turn, message)):
                return None
            refusal = SHUTTING_DOWN if self._is_closing else await self._shares.refusal(key.platform, message.author)
            if refusal:
                return _kept(turn, refusal)
            await self._stop([turn])
            before = [other for other in await self._store.read_turns(key) if other.turn_id < turn.turn_id]
            question = await self._examine(message, before)
            changed = await self._store.replace_question(
                turn.turn_id,
                question.question,
                images=question.images,
                is_start=question.is_start,
                notices=question.notices,
                refusal=question.refusal,
            )
            if changed is None:
                return None
            await self._shares.count(key.platform, turn.author_id, datetime.now(UTC))
            return stored_answer(changed) if changed.is_refused else self._start(changed)

    async def retract(self, platform: str, workspace: str, message_id: str) -> TurnPlace | None:
        found = await self._store.find_turn(platform, workspace, message_id)
        if found is None:
            return None
        async with self._lock(found.key):
            turn = await self._store.get_turn(found.turn_id)
            if turn is None:
                return None
            await self._stop([turn])
            turn = await self._store.get_turn(turn.turn_id) or turn  # it may have been shown in more messages meanwhile
            await self._store.drop_turn(turn.turn_id)
            return turn.place

    async def regenerate_turn(self, turn_id: int) -> Answer | None:
        turn = await self._store.get_turn(turn_id)
        if turn is None:
            return None
        async with self._lock(turn.key):
            if running := self._running(turn_id):
                return running
            turn = await self._store.get_turn(turn_id)
            if turn is None:
                return None
            if busy := self._shares.busy(turn.key.platform, turn.author_id):
                return _kept(turn, busy)
            if not turn.is_refused:
                await self._shares.count(turn.key.platform, turn.author_id, datetime.now(UTC))
            return self._answer_again(turn)

    def running_turn(self, turn_id: int) -> Answer | None:
        return self._running(turn_id)

    async def find_turn(self, turn_id: int) -> TurnPlace | None:
        turn = await self._store.get_turn(turn_id)
        return None if turn is None else turn.place

    async def find_message(self, platform: str, workspace: str, message_id: str) -> TurnPlace | None:
        turn = await self._places.find_message(platform, workspace, message_id)
        return None if turn is None else turn.place

    async def has_chat(self, key: ThreadKey) -> bool:
        return await self._places.has_chat(key)

    async def latest_chat(self, platform: str, workspace: str, channel: str) -> ThreadKey | None:
        return await self._places.latest_chat(platform, workspace, channel)

    async def reset_chat(self, key: ThreadKey) -> bool:
        async with self._lock(key):
            await self._stop(await self._store.read_turns(key))
            return await self._places.empty_chat(key)

    async def delete_room(self, platform: str, workspace: str, room: str) -> int:
        keys = await self._places.chats_in(platform, workspace, room)
        return sum([await self.delete_chat(key) for key in keys])

    async def set_reply(self, turn_id: int, reply_ids: Sequence[str], *, is_delivered: bool) -> None:
        await self._places.set_reply(turn_id, reply_ids, is_delivered=is_delivered)

    async def undelivered(self, platform: str) -> Sequence[tuple[TurnPlace, Answer]]:
        turns = await self._places.undelivered(platform, datetime.now(UTC) - UNDELIVERED_FOR)
        return [(turn.place, self._known_answer(turn)) for turn in turns]

    async def rate(self, turn_id: int, author_id: str, *, is_helpful: bool) -> bool:
        return await self._places.rate(turn_id, author_id, is_helpful=is_helpful)

    async def forget_author(self, platform: str, author_id: str) -> int:
        await self._stop(await self._places.turns_of(platform, author_id))
        return await self._places.forget(platform, author_id)

    async def quota(self, platform: str, workspace: str, author: Author) -> Quota:
        return await self._shares.quota(platform, author)

    async def read_note(self, platform: str, name: str) -> str | None:
        return await self._places.read_note(platform, name)

    async def write_note(self, platform: str, name: str, text: str) -> None:
        await self._places.write_note(platform, name, text)

    def _running(self, turn_id: int) -> RunningAnswer | None:
        return next((answer for answers in self._unanswered.values() for answer in answers if answer.turn_id == turn_id), None)

    async def _stop(self, turns: Sequence[StoredTurn]) -> None:
        """Stop what runs of these, and wait until it has ended."""
        running = [answer for turn in turns if (answer := self._running(turn.turn_id))]
        for answer in running:
            answer.stop()
        for answer in running:
            await answer.wait_ended()


def _kept(turn: StoredTurn, refusal: str) -> RunningAnswer:
    """The answer as it was, with the reason why there is no new one."""
    return ended_answer(turn.key, AnswerStatus.FAILED, turn_id=turn.turn_id, text=turn.answer, notices=turn.notices, error=refusal)


def _says_the_same(turn: StoredTurn, message: IncomingMessage) -> bool:
    """Links are no part of it: those that were pictures have been taken out of what is stored."""

    def words(text: str) -> str:
        return " ".join(without_links(clean(text), links_in(text)).split())

    return words(message.text) == words(turn.question) or (not words(message.text) and turn.question == DEFAULT_QUESTION)
