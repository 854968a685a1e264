"""Answers a stored question and stores the answer.

Rules: the answer always ends with an event (if the program stops before the writer is done, `bot/chats.py` ends it), and the turn's
row changes in one transaction or not at all. A turn stays PENDING only if the program stops before the answer has ended; it is then
answered after the restart. A regenerated answer replaces the earlier one only if it succeeds. While the database cannot be written
an answer has not ended: it says so, and is stored when that is over.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from adapters.base import AnswerStatus, Waiting
from bot.answers import RunningAnswer
from bot.database import StoreError
from bot.history import Exchange, fit_history
from bot.model import Model, TokenStream
from bot.store import Store
from bot.turns import StoredTurn
from model_server.errors import ModelServerError, PromptTooLong, QueueFull, RequestRefused, ShuttingDown
from model_server.types import ChatRequest, Delta, Finished, FinishReason, Image, Queued, SamplingParams

log = logging.getLogger(__name__)

CUT_NOTICE = "The answer stops here because it reached the longest length; ask me to go on if you want more."
FILTERED_NOTICE = "The answer stops here because the model server's content filter cut it off."
TOOL_NOTICE = "The answer stops here because the model wanted to use a tool, and it has none here."
NO_IMAGE = "I need a picture to talk about: please send me one, and ask again."
RESTART_NOTICE = "I am being restarted. Your question is kept, and I will answer it when I am back."
NOT_STORED = "I cannot write to my database at the moment, so this is not kept yet. I keep trying."
STORED = "My database works again, and this is kept."
NOT_READ = "I cannot read my database at the moment, so I cannot answer. Please ask again in a few minutes."
_SECONDS_BETWEEN_TRIES = 1.0
_MAX_SECONDS_BETWEEN_STORING = 60.0
_AGAIN_TEMPERATURE = 0.8  # at the usual low temperature the model would repeat itself


@dataclass(frozen=True, slots=True)
class AnswerWriter:
    """Has the model write answers, and stores them.

    `max_new_tokens` and `temperature` are those of every answer.
    """

    store: Store
    model: Model
    max_new_tokens: int = 512
    temperature: float = 0.2
    system: str | None = None  # system text of every chat; None: the template's own

    async def write(self, turn: StoredTurn, answer: RunningAnswer, *, is_patient: bool = False, is_edited: bool = False) -> None:
        """Answer `turn`, with events for `answer`'s listeners.

        If the queue is full, a new question is removed again; `is_patient` waits for room instead, and an edited question
        (`is_edited`) is kept, because it is part of the chat already.
        """
        is_again = turn.status in (AnswerStatus.COMPLETE, AnswerStatus.STOPPED)
        try:
            finished = await self._ask(turn, answer, is_again=is_again, is_patient=is_patient)
            text = answer.text if finished is None else finished.text
            if answer.is_stopped and is_again and not text:
                answer.write(turn.answer)
                answer.add_notice("I kept the earlier answer.")
                answer.end(AnswerStatus.STOPPED)
                return
            status = AnswerStatus.COMPLETE
            match FinishReason.CANCELLED if finished is None else finished.reason:
                case FinishReason.STOP:
                    pass
                case FinishReason.LENGTH:
                    answer.add_notice(CUT_NOTICE)
                case FinishReason.FILTERED:
                    answer.add_notice(FILTERED_NOTICE)
                case FinishReason.TOOL_CALL:
                    answer.add_notice(TOOL_NOTICE)
                case FinishReason.CANCELLED:
                    status = AnswerStatus.STOPPED
                case _ as never:
                    assert_never(never)
            token_ids = None if finished is None else finished.token_ids or None  # a remote engine gives no ids
            store = partial(self.store.finish_turn, answer=text, token_ids=token_ids, notices=_kept(answer.notices))
            await self._store(answer, partial(store, turn.turn_id, status))
            answer.end(status)
        except ShuttingDown:
            pass  # the same as when the writer is cancelled
        except StoreError:
            await self._fail(turn, answer, NOT_READ)
        except QueueFull as error:
            if turn.status is AnswerStatus.PENDING and not is_edited:
                await self._take_back(turn, answer)
                answer.end(AnswerStatus.FAILED, str(error))
            else:
                await self._fail(turn, answer, str(error))
        except ModelServerError as error:
            await self._fail(turn, answer, str(error), is_refused=isinstance(error, RequestRefused))
        except Exception:
            log.exception("Turn %d could not be answered.", turn.turn_id)
            await self._fail(turn, answer, "Something went wrong on my side, and I could not answer. Please try again.")

    async def _ask(self, turn: StoredTurn, answer: RunningAnswer, *, is_again: bool, is_patient: bool) -> Finished | None:
        """Ask the model, and once more with fewer of the older turns if only its refusal told how little it takes, as a remote
        server's does."""
        if is_patient:  # before anything that might be what ended the program
            await self._store(answer, partial(self.store.count_attempt, turn.turn_id))
        context_length = self.model.capabilities.context_length
        try:
            return await self._ask_once(turn, answer, is_again=is_again, is_patient=is_patient)
        except PromptTooLong:
            if answer.text or self.model.capabilities.context_length >= context_length:
                raise
        return await self._ask_once(turn, answer, is_again=is_again, is_patient=is_patient)

    async def _ask_once(self, turn: StoredTurn, answer: RunningAnswer, *, is_again: bool, is_patient: bool) -> Finished | None:
        """Send the turn to the model and follow its stream. None if the answer was stopped before the stream ended."""
        if answer.is_stopped:
            return None
        request, num_dropped = await self._request(turn, is_again=is_again)
        if num_dropped:
            turns = "turn no longer fits" if num_dropped == 1 else f"{num_dropped} turns no longer fit"
            answer.add_notice(f"This chat has grown long: its oldest {turns}, so I answer without looking back that far.")
        stream = await self._submit(request, is_patient=is_patient)
        answer.when_stopped(stream.cancel)
        finished = None
        try:
            async for event in stream:
                match event:
                    case Queued():
                        answer.wait_at(Waiting(event.position, event.estimated_wait_seconds, event.is_loading))
                    case Delta():
                        answer.write(event.text)
                    case Finished():
                        finished = event
                    case _ as never:
                        assert_never(never)
        finally:
            stream.cancel()
        return finished

    async def _submit(self, request: ChatRequest, *, is_patient: bool) -> TokenStream:
        while True:
            try:
                return self.model.submit(request)
            except QueueFull:
                if not is_patient:
                    raise
            await asyncio.sleep(_SECONDS_BETWEEN_TRIES)

    async def _request(self, turn: StoredTurn, *, is_again: bool) -> tuple[ChatRequest, int]:
        """Make the request for a turn. Also returns how many older turns it leaves out. Raises RequestRefused."""
        context_length = self.model.capabilities.context_length
        exchanges = await self._exchanges(turn)
        if not any(exchange.images for exchange in exchanges):  # the question with the picture was removed
            raise RequestRefused(NO_IMAGE)
        room = context_length - min(self.max_new_tokens, max(1, context_length // 4))
        fitted = await fit_history(exchanges, room, partial(self.model.num_prompt_tokens, system=self.system))
        sampling = SamplingParams(
            max_new_tokens=min(self.max_new_tokens, context_length - fitted.num_tokens),
            temperature=max(self.temperature, _AGAIN_TEMPERATURE) if is_again else self.temperature,
        )
        request_id = f"turn-{turn.turn_id}-{uuid.uuid4().hex[:8]}"
        return ChatRequest(request_id, fitted.messages, sampling, self.system), fitted.num_dropped

    async def _exchanges(self, turn: StoredTurn) -> list[Exchange]:
        """The chat of a turn from its first picture on, without unanswered questions; `turn` is the open question."""
        images: dict[str, Image] = {}
        exchanges = []
        carried: tuple[Image, ...] = ()  # a picture whose question failed belongs to the next question
        for other in await self.store.turns_since_start(turn):
            carried += await self._images(other, images)
            if other.turn_id == turn.turn_id:
                exchanges.append(Exchange(turn.question, carried))
            elif other.answer and other.status in (AnswerStatus.COMPLETE, AnswerStatus.STOPPED):
                exchanges.append(Exchange(other.question, carried, other.answer, other.token_ids))
                carried = ()
        return exchanges

    async def _images(self, turn: StoredTurn, known: dict[str, Image]) -> tuple[Image, ...]:
        for sha256 in turn.image_ids:
            if sha256 not in known:
                image = await self.store.read_image(turn.key, sha256)
                if image is None:
                    raise LookupError(f"the picture of turn {turn.turn_id} is gone")
                known[sha256] = image
        return tuple(known[sha256] for sha256 in turn.image_ids)

    async def _take_back(self, turn: StoredTurn, answer: RunningAnswer) -> None:
        try:
            await self._store(answer, partial(self.store.drop_turn, turn.turn_id))
            answer.forget_turn()
        except Exception:
            log.exception("Turn %d could not be taken back.", turn.turn_id)

    async def _store(self, answer: RunningAnswer, store: Callable[[], Awaitable[None]]) -> None:
        """Call `store` until the database takes it, less and less often, and say so in the answer."""
        wait = _SECONDS_BETWEEN_TRIES
        while True:
            try:
                await store()
                break
            except StoreError:  # which the store logs
                answer.add_notice(NOT_STORED)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _MAX_SECONDS_BETWEEN_STORING)
        if NOT_STORED in answer.notices:
            answer.add_notice(STORED)

    async def _fail(self, turn: StoredTurn, answer: RunningAnswer, sentence: str, *, is_refused: bool = False) -> None:
        if turn.status in (AnswerStatus.COMPLETE, AnswerStatus.STOPPED):
            if not answer.text:
                answer.write(turn.answer)
            answer.end(AnswerStatus.FAILED, f"{sentence} I kept the earlier answer.")
            return
        try:
            store = partial(self.store.finish_turn, notices=_kept(answer.notices), error=sentence, is_refused=is_refused)
            await self._store(answer, partial(store, turn.turn_id, AnswerStatus.FAILED))
        except Exception:
            log.exception("The failure of turn %d could not be written down.", turn.turn_id)
        answer.end(AnswerStatus.FAILED, sentence)


def leave_for_restart(turn: StoredTurn, answer: RunningAnswer) -> None:
    """End the answer for its listeners, and leave the row unchanged: PENDING, or with the earlier answer."""
    if turn.status is AnswerStatus.PENDING:
        answer.add_notice(RESTART_NOTICE)
        answer.end(AnswerStatus.PENDING)
    else:
        answer.end(AnswerStatus.FAILED, "I am being restarted. I kept the earlier answer; please ask again in a moment.")


def first_notices(turn: StoredTurn) -> Sequence[str]:
    """The notices that a turn had before its answer, for when it is answered again."""
    return [notice for notice in turn.notices if notice not in (CUT_NOTICE, FILTERED_NOTICE, TOOL_NOTICE)]


def _kept(notices: Sequence[str]) -> list[str]:
    """The notices that are stored: not those about storing."""
    return [notice for notice in notices if notice not in (NOT_STORED, STORED)]
