"""Retries while a platform cannot be reached, with growing delays."""

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
    """Yields delays in seconds, endlessly: each twice the one before, up to `MAX_SECONDS`."""
    seconds = FIRST_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, MAX_SECONDS)


async def until_reached(call: Callable[[], Awaitable[_T]], platform: str) -> _T:
    """Repeat `call` while it raises `TryLater`, waiting at least as long as the platform asked. Returns its result, and raises its
    other errors."""
    waits = growing_waits()
    while True:
        try:
            return await call()
        except TryLater as later:
            log.warning("%s could not be reached; I try again.", platform)
            seconds = next(waits)
            await asyncio.sleep(later.retry_after_seconds or seconds)
