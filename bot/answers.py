"""A running answer and its listeners.

The writer changes the answer's state and never waits for a listener; every listener follows the state at its own pace. So a hung
listener blocks nobody, a late one gets the text so far in one piece, and nothing is stored but the answer itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from adapters.base import AnswerEvent, AnswerStatus, AnswerText, Ended, Notice, ThreadKey, Waiting


class RunningAnswer:
    """Implements `adapters.base.Answer`. Use it on the event loop's thread only."""

    def __init__(self, key: ThreadKey, turn_id: int | None, notices: Iterable[str] = ()) -> None:
        self._key = key
        self._turn_id = turn_id
        self._notices = list(notices)
        self._pieces: list[str] = []  # joined at the end: a text that grows by a word at a time would be copied for each
        self._waiting: Waiting | None = None
        self._ended: Ended | None = None
        self._changed = asyncio.Event()
        self._on_stop: Callable[[], object] | None = None
        self._is_stopped = False

    @property
    def key(self) -> ThreadKey:
        return self._key

    @property
    def turn_id(self) -> int | None:
        return self._turn_id

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(self._notices)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def ended(self) -> Ended | None:
        return self._ended

    @property
    def is_stopped(self) -> bool:
        """Whether somebody stopped it before it had ended."""
        return self._is_stopped

    async def events(self) -> AsyncIterator[AnswerEvent]:
        num_notices = num_pieces = 0
        waiting: Waiting | None = None
        while True:
            changed, ended = self._changed, self._ended  # read first: later changes set `changed`
            while num_notices < len(self._notices):
                num_notices += 1
                yield Notice(self._notices[num_notices - 1])
            if self._waiting != waiting:
                waiting = self._waiting
                if waiting is not None and not self._pieces:
                    yield waiting
            if num_pieces < len(self._pieces):
                new = self._pieces[num_pieces:]
                num_pieces += len(new)
                yield AnswerText("".join(new))
            if ended is not None:
                yield ended
                return
            await changed.wait()

    def stop(self) -> None:
        if self._ended is None and not self._is_stopped:
            self._is_stopped = True
            if self._on_stop is not None:
                self._on_stop()

    async def wait_ended(self) -> None:
        while self._ended is None:
            await self._changed.wait()

    # -- for the writer ----------------------------------------------------------------------------------------------------

    def when_stopped(self, call: Callable[[], object]) -> None:
        """Call `call` when somebody stops the answer; at once if it is stopped already."""
        self._on_stop = call
        if self._is_stopped:
            call()

    def wait_at(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._change()

    def add_notice(self, text: str) -> None:
        if text not in self._notices:
            self._notices.append(text)
            self._change()

    def write(self, text: str) -> None:
        if text:
            self._pieces.append(text)
        self._change()

    def end(self, status: AnswerStatus, error: str | None = None) -> None:
        self._ended, self._on_stop = Ended(status, error), None
        self._change()

    def forget_turn(self) -> None:
        """The stored turn was removed: `turn_id` becomes None."""
        self._turn_id = None

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def ended_answer(
    key: ThreadKey,
    status: AnswerStatus,
    *,
    turn_id: int | None = None,
    text: str = "",
    notices: Iterable[str] = (),
    error: str | None = None,
) -> RunningAnswer:
    """An answer that has ended already: a stored one, or a refusal."""
    answer = RunningAnswer(key, turn_id, notices)
    answer.write(text)
    answer.end(status, error)
    return answer
