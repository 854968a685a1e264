"""Background tasks that outlive the call that began them."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Coroutine
from typing import Any

from adapters.surface import DestinationGone, TryLater

log = logging.getLogger(__name__)


def without_words(error: BaseException) -> str:
    """An error's type and where it was raised, for the log: without its own words, among which a person's may be."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


class Tasks:
    """Logs what a task raises. `platform` is the name for people; `expected` errors are logged without a traceback."""

    def __init__(self, platform: str, expected: tuple[type[Exception], ...] = (DestinationGone, TryLater)) -> None:
        self._platform = platform
        self._expected = expected
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin the work in a task of its own, which raises nothing."""
        task = asyncio.create_task(self._logged(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # it may have been cancelled before it began
        return task

    async def aclose(self, grace_seconds: float = 0.0) -> None:
        """Wait until no task runs any more. Tasks that do not end within `grace_seconds` are cancelled."""
        if self._running and grace_seconds:
            await asyncio.wait(self._running, timeout=grace_seconds)
        while self._running:  # a cancelled task may have begun another
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)

    async def _logged(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except self._expected:
            where = self._platform
            log.info("Something that happened on %s could not be dealt with: its place is gone or %s did not answer.", where, where)
        except Exception:
            log.exception("Something that happened on %s could not be dealt with.", self._platform)
