"""Shows an answer at its destination, on any platform that keeps messages.

Rules: the answer's events change a state, and one loop writes the newest state whenever the pace allows a write; so a slow platform
skips intermediate states and never lags. An intermediate state that cannot be written is replaced by the next; the final one is
retried until it is shown. The ids of the messages that show the answer are stored before more is written, so that a restart
continues with the same messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import assert_never

from adapters.base import Answer, AnswerStatus, AnswerText, Ended, Notice, ThreadHandler, Waiting
from adapters.conversations.pace import Pace
from adapters.surface import Control, DestinationGone, Page, Surface, TooLong, TryLater
from adapters.text.markdown import heal, literal, split_pages
from adapters.text.phrases import waiting_sentence

log = logging.getLogger(__name__)

TYPING_SECONDS = 5.0
QUIET_SECONDS = 2.5  # after so long without text, a message says that we are working
FINAL_SECONDS = 900.0  # how long we try to write the end of an answer
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 30.0

LOOKING = "I am looking at it …"
NOTHING_SAID = "I have nothing to say about this. Perhaps ask me in other words."
STOPPED = "(stopped)"
NOT_YET = "I was interrupted. I will answer this when I am back."
_AFTER_END = (Control.REGENERATE, Control.HELPFUL, Control.NOT_HELPFUL)
_AROUND_NOTICE = 8  # characters that a platform may add around one of our sentences


class Shown(StrEnum):
    """How showing an answer ended."""

    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"  # it has to be shown again: the program is going down, or the platform took nothing for too long
    GONE = "gone"  # the destination is


@dataclass(slots=True)
class _State:
    text: str = ""
    notices: list[str] = field(default_factory=list)
    waiting: Waiting | None = None
    ended: Ended | None = None

    def pages(self, max_chars: int, turn_id: int | None, *, has_tables: bool, is_quiet: bool) -> list[Page]:
        """The pages that should be shown now."""
        if self.ended is not None:
            return self._final_pages(self.ended, max_chars, turn_id, has_tables=has_tables)
        controls = () if turn_id is None else (Control.STOP,)
        texts = split_pages(self.text, max_chars, has_tables=has_tables)
        if texts:
            earlier = [Page(text) for text in texts[:-1]]
            return [*earlier, Page(texts[-1], controls=controls, turn_id=turn_id, is_open=True)]
        waiting = self.waiting
        if waiting is not None and (waiting.position > 1 or waiting.is_loading):
            return [Page("", waiting_sentence(waiting), controls=controls, turn_id=turn_id, is_open=True)]
        return [Page("", LOOKING, controls=controls, turn_id=turn_id, is_open=True)] if is_quiet else []

    def _final_pages(self, ended: Ended, max_chars: int, turn_id: int | None, *, has_tables: bool) -> list[Page]:
        notices, text = list(self.notices), self.text
        controls: tuple[Control, ...] = () if turn_id is None else _AFTER_END
        match ended.status:
            case AnswerStatus.COMPLETE:
                text = text if text.strip() else NOTHING_SAID
            case AnswerStatus.STOPPED:
                notices.append(STOPPED)
            case AnswerStatus.FAILED:
                controls = controls[:1]
                if text.strip():
                    notices.append(ended.error or "")
                else:
                    text = literal(ended.error or NOTHING_SAID)
            case AnswerStatus.PENDING:
                controls, notices = (), notices or [NOT_YET]
            case _ as never:
                assert_never(never)
        texts = split_pages(text, max_chars, has_tables=has_tables, is_whole=True) or [""]
        texts[-1] = heal(texts[-1])  # so that our sentences are not in a code block that the model left open
        groups = _grouped([notice for notice in notices if notice], max_chars, max_chars - len(texts[-1]))
        if texts[-1]:
            pages = [*(Page(text) for text in texts[:-1]), Page(texts[-1], notices=groups[0])]
        else:
            pages = [Page("", notices=groups[0])] if groups[0] else []
        pages += [Page("", notices=group) for group in groups[1:]]
        return [*pages[:-1], replace(pages[-1], controls=controls, turn_id=turn_id)]


async def show(
    answer: Answer,
    surface: Surface,
    pace: Pace,
    handler: ThreadHandler,
    *,
    reply_ids: list[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    final_seconds: float = FINAL_SECONDS,
) -> Shown:
    """Show an answer until its end. `reply_ids`: the messages that already show the turn; the list is kept up to date.

    Returns when all of it is shown, when the destination is gone, or when the end could not be written for `final_seconds`.
    """
    return await _Painting(answer, surface, pace, handler, [] if reply_ids is None else reply_ids, clock, final_seconds).run()


class _Painting:
    def __init__(
        self,
        answer: Answer,
        surface: Surface,
        pace: Pace,
        handler: ThreadHandler,
        reply_ids: list[str],
        clock: Callable[[], float],
        final_seconds: float,
    ) -> None:
        self._answer = answer
        self._surface = surface
        self._pace = pace
        self._handler = handler
        self._reply_ids = reply_ids
        self._painted: list[Page | None] = [None] * len(reply_ids)
        self._clock = clock
        self._final_seconds = final_seconds
        self._state = _State()
        self._turn_id = answer.turn_id
        self._changed = asyncio.Event()
        self._began_at = clock()
        self._ended_at: float | None = None
        self._typing_at: float | None = None
        self._is_noted = False

    async def run(self) -> Shown:
        following = asyncio.create_task(self._follow())
        try:
            return await self._paint()
        except DestinationGone:
            self._answer.stop()
            await self._note(is_delivered=True)  # nothing more can be done
            return Shown.GONE
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self) -> None:
        async for event in self._answer.events():
            match event:
                case Waiting():
                    self._state.waiting = event
                case Notice(text):
                    self._state.notices.append(text)
                case AnswerText(text):
                    self._state.text += text
                case Ended():
                    self._turn_id = self._answer.turn_id  # the question may have been removed from the store
                    self._state.ended, self._ended_at = event, self._clock()
                case _ as never:
                    assert_never(never)
            self._changed.set()

    async def _paint(self) -> Shown:
        wait_seconds = _FIRST_WAIT_SECONDS
        while True:
            self._changed.clear()
            is_final, wanted = self._state.ended is not None, self._wanted()
            try:
                if await self._write_one(wanted, is_final=is_final):
                    wait_seconds = _FIRST_WAIT_SECONDS
                elif is_final:
                    return await self._finish()
                else:
                    await self._rest()
            except TooLong:
                continue
            except TryLater as later:
                if self._ended_at is not None and self._clock() - self._ended_at > self._final_seconds:
                    log.warning("The end of an answer could not be written for %d seconds.", self._final_seconds)
                    return Shown.UNDELIVERED
                self._pace.hold(self._surface.channel, later.retry_after_seconds or wait_seconds)
                wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)

    def _wanted(self) -> list[Page]:
        is_quiet = self._clock() - self._began_at >= QUIET_SECONDS
        surface = self._surface
        return self._state.pages(surface.max_page_chars, self._turn_id, has_tables=surface.has_tables, is_quiet=is_quiet)

    async def _write_one(self, wanted: Sequence[Page], *, is_final: bool) -> bool:
        """Bring one message up to date. Returns False if all are."""
        num_surplus = len(self._reply_ids) - len(wanted) if is_final else 0
        index = next((i for i, page in enumerate(wanted) if i >= len(self._painted) or self._painted[i] != page), None)
        if index is None and num_surplus <= 0:
            return False
        await self._pace.turn(self._surface.channel, is_final=is_final)
        newest = self._wanted()  # there may be more text since we began to wait for the pace
        if index is None:
            await self._surface.delete(self._reply_ids[-1])
            self._reply_ids.pop()
            self._painted.pop()
        elif index >= len(newest):
            return True  # the pages have changed completely
        elif index < len(self._reply_ids):
            moved_to = await self._surface.edit(self._reply_ids[index], newest[index])
            if moved_to is None and self._is_noted:
                self._painted[index] = newest[index]
                return True
            self._reply_ids[index] = moved_to or self._reply_ids[index]
            self._painted[index] = newest[index]
        else:
            self._reply_ids.append(await self._surface.post(newest[index]))
            self._painted.append(newest[index])
        await self._note(is_delivered=False)
        return True

    async def _finish(self) -> Shown:
        is_to_be_answered = self._state.ended is not None and self._state.ended.status is AnswerStatus.PENDING
        await self._note(is_delivered=not is_to_be_answered)
        return Shown.UNDELIVERED if is_to_be_answered else Shown.DELIVERED

    async def _note(self, *, is_delivered: bool) -> None:
        self._is_noted = True
        if self._turn_id is not None:
            await self._handler.set_reply(self._turn_id, self._reply_ids, is_delivered=is_delivered)

    async def _rest(self) -> None:
        """Wait for something new. Until there is text, keep showing that we are typing."""
        now = self._clock()
        until = None
        if not self._state.text.strip():
            if self._typing_at is None or now - self._typing_at >= TYPING_SECONDS:
                self._typing_at = now
                with contextlib.suppress(TryLater):
                    await self._surface.show_typing()
            until = min(t for t in (self._typing_at + TYPING_SECONDS, self._began_at + QUIET_SECONDS) if t > now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if until is None else until - now):
                await self._changed.wait()


def _grouped(notices: Sequence[str], max_chars: int, room: int) -> list[tuple[str, ...]]:
    """Group the sentences by page: the first page has `room` characters for them, the others contain nothing else.

    A sentence longer than a page is cut. All move to the next page if that keeps them together.
    """
    groups: list[list[str]] = [[]]
    if sum(len(notice) + _AROUND_NOTICE for notice in notices) > room:
        groups.append([])
        room = max_chars
    for notice in notices:
        if len(notice) + _AROUND_NOTICE > max_chars:
            notice = f"{notice[: max_chars - _AROUND_NOTICE - 1]}…"
        if len(notice) + _AROUND_NOTICE > room:
            groups.append([])
            room = max_chars
        groups[-1].append(notice)
        room -= len(notice) + _AROUND_NOTICE
    return [tuple(group) for group in groups]
