"""The answers that are being shown: one task for each, and never two for the same turn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from adapters.base import Answer, ThreadHandler
from adapters.conversations.pace import Pace
from adapters.conversations.reply import TYPING_SECONDS, show
from adapters.surface import DestinationGone, Surface, TryLater

log = logging.getLogger(__name__)


class Screen:
    """Shows the answers of one platform, each in a task of its own. Close it at the end."""

    def __init__(self, platform: str, handler: ThreadHandler, pace: Pace) -> None:
        self._platform = platform
        self._handler = handler
        self._pace = pace
        self._showing: dict[int, tuple[asyncio.Task[None], list[str]]] = {}  # each turn's newest task, and the messages it writes
        self._tasks: set[asyncio.Task[None]] = set()

    def show(self, answer: Answer, surface: Surface, reply_ids: Sequence[str] = ()) -> asyncio.Task[None]:
        """Show the answer at its destination, in its own task, after the task of an earlier answer of the turn has ended.

        `reply_ids`: the messages that already show the turn.
        """
        turn_id = answer.turn_id
        earlier = None if turn_id is None else self._showing.get(turn_id)
        ids = list(reply_ids)

        async def paint() -> None:
            if earlier is not None:
                task, shown = earlier
                await asyncio.wait({task})
                ids[:] = shown
            try:
                if earlier is None and turn_id is not None:
                    turn = await self._handler.find_turn(turn_id)
                    ids[:] = ids if turn is None else turn.reply_ids  # more than the caller knew of may have been shown since
                await show(answer, surface, self._pace, self._handler, reply_ids=ids)
            except Exception:
                log.exception("An answer on %s could not be shown.", self._platform)

        task = asyncio.create_task(paint())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if turn_id is not None:
            newest = self._showing[turn_id] = task, ids
            task.add_done_callback(lambda _: self._showing.pop(turn_id) if self._showing.get(turn_id) is newest else None)
        return task

    def is_showing(self, turn_id: int) -> bool:
        return turn_id in self._showing

    async def wait_shown(self, turn_id: int) -> Sequence[str] | None:
        """Wait until no task shows the turn any more. Returns the messages that show it then; None if there was no task."""
        shown = None
        while newest := self._showing.get(turn_id):
            task, shown = newest
            await asyncio.wait({task})
        return shown

    async def close(self, deadline: float) -> None:
        """Let the tasks end until `deadline` (on the event loop's clock, in seconds), then cancel them."""
        await end_tasks(self._tasks, deadline)


async def end_tasks(tasks: Collection[asyncio.Task[Any]], deadline: float) -> None:
    """Wait for the tasks until the deadline (on the event loop's clock, in seconds), and cancel those that are late."""
    if tasks:
        _, late = await asyncio.wait(set(tasks), timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


@contextlib.asynccontextmanager
async def typing(surface: Surface) -> AsyncIterator[None]:
    """A context during which people see that we are typing."""

    async def repeat() -> None:
        while True:
            with contextlib.suppress(DestinationGone, TryLater):
                await surface.show_typing()
            await asyncio.sleep(TYPING_SECONDS)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
