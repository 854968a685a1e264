"""Limits how fast we write to a platform: an interval between writes in one channel, and a rate over all channels.

Waiters are served first come, first served, per channel and overall. The end of an answer counts as having come a little earlier,
so it goes before intermediate writes, and nobody starves. When a platform asks us to wait, its channel is held, or all channels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_HEAD_START_SECONDS = 5.0  # for the end of an answer
_MANY_CHANNELS = 1_000


@dataclass(slots=True)
class _Channel:
    free_at: float = 0.0
    num_waiting: int = 0


@dataclass(slots=True, eq=False)
class _Waiter:
    channel: _Channel
    came_at: float
    has_turn: bool = False


class Pace:
    """At least `channel_seconds` between writes in one channel, and at most `per_second` writes per second overall."""

    def __init__(
        self,
        channel_seconds: float,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._channel_seconds = channel_seconds
        self._seconds_between = 1 / per_second
        self._clock = clock
        self._sleep = sleep
        self._channels: dict[str, _Channel] = {}
        self._waiters: list[_Waiter] = []
        self._free_at = 0.0

    async def turn(self, name: str, *, is_final: bool = False) -> None:
        """Wait until the caller may write once in this channel. `is_final`: it will write the end of an answer."""
        channel = self._channel(name)
        waiter = _Waiter(channel, self._clock() - (_HEAD_START_SECONDS if is_final else 0.0))
        channel.num_waiting += 1
        self._waiters.append(waiter)
        try:
            while not self._has_turn(waiter):
                await self._sleep(max(0.0, max(channel.free_at, self._free_at) - self._clock()))
        finally:
            channel.num_waiting -= 1
            if not waiter.has_turn:
                self._waiters.remove(waiter)

    def hold(self, name: str | None, seconds: float) -> None:
        """Let nobody write in this channel (None: in any) for `seconds`."""
        until = self._clock() + seconds
        if name is None:
            self._free_at = max(self._free_at, until)
        else:
            channel = self._channel(name)
            channel.free_at = max(channel.free_at, until)

    def _channel(self, name: str) -> _Channel:
        if len(self._channels) >= _MANY_CHANNELS:
            now = self._clock()
            for idle in [key for key, other in self._channels.items() if other.free_at <= now and not other.num_waiting]:
                del self._channels[idle]
        return self._channels.setdefault(name, _Channel())

    def _has_turn(self, waiter: _Waiter) -> bool:
        """Grants the next free write to the first in line. Returns whether this waiter has one.

        If another waiter gets it, that one wakes by itself: the time that it waits for never moves earlier.
        """
        now = self._clock()
        if not waiter.has_turn and self._free_at <= now:
            ready = [other for other in self._waiters if other.channel.free_at <= now]
            if ready:
                first = min(ready, key=lambda other: other.came_at)  # if two came at once, the first in the list
                first.has_turn = True
                self._waiters.remove(first)
                self._free_at = now + self._seconds_between
                first.channel.free_at = now + self._channel_seconds
        return waiter.has_turn
