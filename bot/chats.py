"""Chats in threads: implements `adapters.base.ChatHandler`.

Rules: one lock per thread, so that messages are accepted in order of arrival; each answer waits for the one before it in its
thread, and threads do not wait for each other. A message is stored before it is answered, and answered once. With LLaVA-1.5 a chat
has one picture (as in its training): a new picture starts a new chat in its thread. If a message has pictures and none is usable,
the model is not asked. `thread_chats.py` adds what is needed for platforms that keep the messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from weakref import WeakValueDictionary

from adapters.base import Answer, AnswerStatus, ChatView, IncomingMessage, ThreadKey
from bot.answers import RunningAnswer, ended_answer
from bot.database import StoreError
from bot.images import ImageReader
from bot.limits import Limits, Shares, Ticket
from bot.model import Model
from bot.questions import QuestionReader
from bot.store import Store
from bot.thread_store import ThreadStore
from bot.turns import StoredTurn
from bot.writer import AnswerWriter, first_notices, leave_for_restart

log = logging.getLogger(__name__)

MAX_QUESTION_CHARS = 20_000
MAX_UNANSWERED = 8  # unanswered questions per thread
MAX_ATTEMPTS = 5  # starts of the program that may try the same turn, which may be what crashes it
_MAX_RESUMED_AT_ONCE = 4
_MANY_ATTEMPTS = 2  # a turn that was begun so often may be what ends the program: it is answered while no other such turn is

NOT_KEPT = "I cannot use my database at the moment, so your message was not kept. Please send it again in a few minutes."
NO_DATABASE = "I cannot use my database at the moment. Please try again in a few minutes."
SHUTTING_DOWN = "I am being restarted. Please ask again in a moment."
TOO_LONG = f"This is too long for me: I can take {MAX_QUESTION_CHARS:,} characters. Please ask in fewer words."


class Chats:
    """The chats of one process: asks, answers and stores. Implements `adapters.base.ChatHandler`.

    `limits` None: no limits.
    """

    def __init__(self, store: Store, model: Model, images: ImageReader, writer: AnswerWriter, limits: Limits | None = None) -> None:
        self._store = store
        self._thread_store = ThreadStore(store)
        self._shares = Shares(limits or Limits(), self._thread_store.asked_since)
        self._model = model
        self._questions = QuestionReader(images, lambda: model.capabilities)
        self._writer = writer
        self._locks: WeakValueDictionary[ThreadKey, asyncio.Lock] = WeakValueDictionary()
        self._accepting: dict[tuple[str, str, str], asyncio.Task[RunningAnswer]] = {}
        self._unanswered: dict[ThreadKey, list[RunningAnswer]] = {}  # in the order of their questions
        self._tasks: set[asyncio.Task[None]] = set()
        self._resumed_slots = asyncio.Semaphore(_MAX_RESUMED_AT_ONCE)
        self._slot_for_suspects = asyncio.Semaphore(1)
        self._is_closing = False

    # -- ChatHandler -------------------------------------------------------------------------------------------------------

    async def handle(self, message: IncomingMessage) -> Answer:
        message_key = (message.key.platform, message.key.workspace, message.message_id)
        task = self._accepting.get(message_key)
        if task is None:
            task = asyncio.create_task(self._accept_safely(message))
            self._accepting[message_key] = task
            task.add_done_callback(lambda _: self._accepting.pop(message_key))
        return await asyncio.shield(task)  # cancelling the caller does not cancel the question

    async def regenerate(self, key: ThreadKey) -> Answer | None:
        try:
            async with self._lock(key):
                turn = await self._store.last_turn(key)
                return None if turn is None else await self._answer_again(turn)
        except StoreError:
            return refusal(key, NO_DATABASE)

    def running_answer(self, key: ThreadKey) -> Answer | None:
        unanswered = self._unanswered.get(key)
        return unanswered[0] if unanswered else None

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        return await self._store.list_chats(platform, workspace)

    async def read_chat(self, key: ThreadKey) -> ChatView | None:
        return await self._store.read_chat(key)

    async def delete_chat(self, key: ThreadKey) -> bool:
        async with self._lock(key):
            unanswered = list(self._unanswered.get(key, ()))
            for answer in unanswered:
                answer.stop()
            for answer in unanswered:
                await answer.wait_ended()
            return await self._store.delete_chat(key)

    async def read_image(self, key: ThreadKey, sha256: str) -> tuple[bytes, str] | None:
        image = await self._store.read_image(key, sha256)
        return None if image is None else (image.data, image.media_type)

    # -- the program's life ------------------------------------------------------------------------------------------------

    async def resume(self) -> int:
        """Begin to answer the questions that an earlier run of the program left open. Returns how many."""
        turns = await self._store.pending_turns()
        for turn in turns:
            if turn.num_attempts >= MAX_ATTEMPTS:
                error = "I was interrupted several times while I answered this, so I gave up. Please ask again."
                await self._store.finish_turn(turn.turn_id, AnswerStatus.FAILED, notices=turn.notices, error=error)
            else:
                ticket = await self._shares.take_open(turn.key.platform, turn.author_id)
                self._start(turn, ticket, is_patient=True)
        return len(turns)

    async def watch_store(self) -> None:
        """Look at the database until cancelled, so that the log says at once when it cannot be used. Raises StoreError if another
        program has taken it."""
        await self._store.watch()

    async def purge_forever(self, retention_days: int, interval_seconds: float = 3_600) -> None:
        """Delete chats that were unchanged for `retention_days`, now and every `interval_seconds`, until cancelled."""
        while True:
            try:
                num_deleted = await self._store.purge(datetime.now(UTC) - timedelta(days=retention_days))
                log.info("Deleted %d chats that nobody touched for %d days.", num_deleted, retention_days)
            except StoreError:  # which the store logs; the next round tries again
                pass
            except Exception:
                log.exception("Old chats could not be deleted.")
            await asyncio.sleep(interval_seconds)

    async def close(self, grace_seconds: float, hurry: asyncio.Event | None = None) -> int:
        """Accept no more questions, give running answers `grace_seconds` to finish (less when `hurry` is set), and leave the others
        PENDING.

        Returns how many were left PENDING; a second call finds none.
        """
        self._is_closing = True
        tasks = {*self._tasks, *self._accepting.values()}
        hurried = asyncio.create_task((hurry or asyncio.Event()).wait())
        deadline = asyncio.get_running_loop().time() + grace_seconds
        while tasks and not hurried.done() and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait({*tasks, hurried}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            tasks = {*self._tasks, *self._accepting.values()}
        hurried.cancel()
        num_left = sum(map(len, self._unanswered.values()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(hurried, *tasks, return_exceptions=True)
        for answer in [answer for answers in self._unanswered.values() for answer in answers]:
            answer.end(AnswerStatus.PENDING)  # its task was cancelled before its first step
        return num_left

    # -- accepting ---------------------------------------------------------------------------------------------------------

    async def _accept_safely(self, message: IncomingMessage) -> RunningAnswer:
        try:
            async with self._lock(message.key):
                return await self._accept(message)
        except StoreError:  # which the store logs
            return refusal(message.key, NOT_KEPT)
        except Exception:
            log.exception("A message could not be accepted.")
            return refusal(message.key, "Something went wrong on my side, and your message was not kept. Please send it again.")
        except asyncio.CancelledError:  # the program is stopping; the adapter gets an answer anyway
            return refusal(message.key, SHUTTING_DOWN)

    async def _accept(self, message: IncomingMessage) -> RunningAnswer:
        key = message.key
        known = await self._store.find_turn(key.platform, key.workspace, message.message_id)
        if known is not None and (known := await self._as_it_is_now(known)) is not None:
            return await self._known_answer(known)
        if self._is_closing:
            return refusal(key, SHUTTING_DOWN)
        if len(self._unanswered.get(key, ())) >= MAX_UNANSWERED:
            return refusal(key, f"I am still answering your last {MAX_UNANSWERED} questions here. Please wait a little.")
        if len(message.text) > MAX_QUESTION_CHARS:
            return refusal(key, TOO_LONG)

        ticket = await self._shares.take(key.platform, message.author)
        if isinstance(ticket, str):
            return refusal(key, ticket)
        try:
            question = await self._questions.read(message, await self._store.images_in_chat(key))
            add_turn = partial(
                self._store.add_turn,
                key,
                message.message_id,
                question.question,
                author_id=message.author.id,
                destination=message.destination,
                images=question.images,
                is_start=question.is_start,
                notices=question.notices,
                refusal=question.refusal,
            )
            try:
                turn = await add_turn()
            except StoreError:  # perhaps only the answer to its commit was lost
                turn = await add_turn()
        except BaseException:
            self._shares.give_back(ticket, counts=False)
            raise
        return self._start_or_refuse(turn, ticket)

    async def _known_answer(self, turn: StoredTurn) -> RunningAnswer:
        """The answer to a message that was delivered before."""
        if running := self._running(turn.turn_id):
            return running
        if turn.status is AnswerStatus.PENDING and not self._is_closing:
            return self._start(turn, await self._shares.take_open(turn.key.platform, turn.author_id))
        return stored_answer(turn)

    # -- answering ---------------------------------------------------------------------------------------------------------

    def _running(self, turn_id: int) -> RunningAnswer | None:
        return next((answer for answers in self._unanswered.values() for answer in answers if answer.turn_id == turn_id), None)

    async def _as_it_is_now(self, turn: StoredTurn) -> StoredTurn | None:
        """The turn, read again if its answer may have ended while it was being read; None if it was taken back then. Call it under
        the thread's lock, so that nothing begins meanwhile."""
        if turn.status is AnswerStatus.PENDING and self._running(turn.turn_id) is None:
            return await self._store.get_turn(turn.turn_id)
        return turn

    async def _answer_again(self, found: StoredTurn) -> RunningAnswer | None:
        """Call it under the thread's lock. None if the turn was taken back."""
        turn = await self._as_it_is_now(found)
        if turn is None:
            return None
        if running := self._running(turn.turn_id):
            return running
        if turn.is_refused:
            return stored_answer(turn)
        if self._is_closing:
            return kept_answer(turn, SHUTTING_DOWN)
        ticket = await self._shares.take_again(turn.key.platform, turn.author_id)
        if isinstance(ticket, str):
            return kept_answer(turn, ticket)
        try:
            await self._thread_store.set_undelivered(turn.turn_id)
        except BaseException:
            self._shares.give_back(ticket, counts=False)
            raise
        return self._start(turn, ticket)

    def _start_or_refuse(self, turn: StoredTurn, ticket: Ticket, *, is_edited: bool = False) -> RunningAnswer:
        if turn.is_refused:
            self._shares.give_back(ticket, counts=False)
            return stored_answer(turn)
        return self._start(turn, ticket, is_edited=is_edited)

    def _start(self, turn: StoredTurn, ticket: Ticket, *, is_patient: bool = False, is_edited: bool = False) -> RunningAnswer:
        ticket.turn_id = turn.turn_id
        answer = RunningAnswer(turn.key, turn.turn_id, first_notices(turn))
        unanswered = self._unanswered.setdefault(turn.key, [])
        ahead = tuple(unanswered)
        unanswered.append(answer)
        writing = self._answer(turn, answer, ahead, ticket, is_patient=is_patient, is_edited=is_edited)
        task = asyncio.create_task(writing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _answer(
        self,
        turn: StoredTurn,
        answer: RunningAnswer,
        ahead: Sequence[RunningAnswer],
        ticket: Ticket,
        *,
        is_patient: bool,
        is_edited: bool,
    ) -> None:
        try:
            if ahead:
                await _wait_behind(ahead, answer)
            if is_patient:
                is_suspect = turn.num_attempts >= _MANY_ATTEMPTS
                async with self._slot_for_suspects if is_suspect else self._resumed_slots:
                    await self._writer.write(turn, answer, is_patient=True)
            else:
                await self._writer.write(turn, answer, is_edited=is_edited)
        finally:
            if answer.ended is None:  # the program is stopping, perhaps before the writer began
                leave_for_restart(turn, answer)
            self._shares.give_back(ticket, counts=answer.ended is None or answer.ended.status is not AnswerStatus.FAILED)
            unanswered = self._unanswered[turn.key]
            unanswered.remove(answer)
            if not unanswered:
                del self._unanswered[turn.key]

    def _lock(self, key: ThreadKey) -> asyncio.Lock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()  # exists while somebody holds or awaits it
        return lock


async def _wait_behind(ahead: Sequence[RunningAnswer], answer: RunningAnswer) -> None:
    """Wait until the answers before it in the thread have ended, or the answer is stopped."""
    waiting = asyncio.gather(*(other.wait_ended() for other in ahead))
    answer.when_stopped(waiting.cancel)
    try:
        await asyncio.wait([waiting])
    finally:
        waiting.cancel()


def refusal(key: ThreadKey, sentence: str) -> RunningAnswer:
    """A refusal, for which nothing was stored."""
    return ended_answer(key, AnswerStatus.FAILED, error=sentence)


def stored_answer(turn: StoredTurn) -> RunningAnswer:
    """The turn's answer as it is stored, as one that has ended."""
    return ended_answer(turn.key, turn.status, turn_id=turn.turn_id, text=turn.answer, notices=turn.notices, error=turn.error)


def kept_answer(turn: StoredTurn, reason: str) -> RunningAnswer:
    """The stored answer, with the reason why there is no new one."""
    return ended_answer(turn.key, AnswerStatus.FAILED, turn_id=turn.turn_id, text=turn.answer, notices=turn.notices, error=reason)
