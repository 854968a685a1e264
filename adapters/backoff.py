"""Trying again while a platform cannot be reached: at first soon, then ever more seldom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from adapters.surface import TryLater

log = logging.getLogger(__name__)

FIRST_SECONDS = 1.0
MAX_SECONDS = 60.0

_T = TypeVar("_T")


def growing_waits() -> Iterator[float]:
    """Seconds, twice as many each time, up to `MAX_SECONDS`, for ever."""
    seconds = FIRST_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, MAX_SECONDS)


async def until_reached(call: Callable[[], Awaitable[_T]], platform: str) -> _T:
    """What `call` returns at last. `TryLater` is waited for, as long as the platform asked; everything else is raised."""
    waits = growing_waits()
    while True:
        try:
            return await call()
        except TryLater as later:
            log.warning("%s could not be reached; I try again.", platform)
            seconds = next(waits)
            await asyncio.sleep(later.retry_after_seconds or seconds)
