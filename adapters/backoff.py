"""Retries with growing delays: while a platform cannot be reached, and while something that happened cannot be dealt with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from adapters.surface import DestinationGone, TryLater

log = logging.getLogger(__name__)

FIRST_SECONDS = 1.0
MAX_SECONDS = 60.0
MAX_TRIES = 15  # over about nine minutes

# Not tried again: the place is gone for good, or it is an error in the program, which would only be made again.
_LASTING = (
    DestinationGone,
    *(ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError),
)

_T = TypeVar("_T")


def growing_waits() -> Iterator[float]:
    """Yields delays in seconds, endlessly: each twice the one before, up to `MAX_SECONDS`."""
    seconds = FIRST_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, MAX_SECONDS)


async def until_reached(call: Callable[[], Awaitable[_T]], platform: str) -> _T:
    """Repeat `call` while it raises `TryLater`, waiting at least as long as the platform asked. Returns its result, and raises its
    other errors. The log has one line when it begins and one when it is over."""
    waits, is_away = growing_waits(), False
    while True:
        try:
            result = await call()
        except TryLater as later:
            if not is_away:
                log.warning("%s could not be reached; I try again until it can.", platform)
            is_away, seconds = True, next(waits)
            await asyncio.sleep(later.retry_after_seconds or seconds)
        else:
            if is_away:
                log.warning("%s can be reached again.", platform)
            return result


async def until_done(call: Callable[[], Awaitable[_T]], platform: str, closing: asyncio.Event) -> _T:
    """Repeat `call` while it fails in a way that may pass, such as a database or a platform that is away. Returns its result.

    Raises its last error when that will not pass, after `MAX_TRIES`, and as soon as `closing` is set. `call` may be called again
    after it did a part of its work.
    """
    waits, num_tries = growing_waits(), 0
    while True:
        try:
            return await call()
        except _LASTING:
            raise
        except Exception as error:
            num_tries += 1
            if num_tries >= MAX_TRIES or closing.is_set():
                raise
            seconds, name = next(waits), type(error).__name__
            if num_tries == 1:  # the last one is logged by whoever gets it
                log.warning("Something that happened on %s could not be dealt with (%s); I try again.", platform, name)
            wanted = error.retry_after_seconds if isinstance(error, TryLater) else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wanted or seconds):
                    await closing.wait()
            if closing.is_set():
                raise
