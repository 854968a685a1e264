"""How fast we write to a platform: a rest between two writes in one channel, and a rate over all channels.

Whoever waits is served in the order of coming, in its channel and among all; what a platform asks us to wait holds its channel, or
everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_MANY_CHANNELS = 1_000


@dataclass(slots=True)
class _Channel:
    free_at: float = 0.0
    num_waiting: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pace:
    """At least `channel_seconds` between writes in one channel, at most `per_second` over all."""

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
        self._free_at = 0.0
        self._lock = asyncio.Lock()

    async def turn(self, name: str) -> None:
        """Return when the caller may write in this channel, once."""
        channel = self._channel(name)
        channel.num_waiting += 1
        try:
            async with channel.lock:
                await self._wait_until(lambda: channel.free_at)
                async with self._lock:
                    await self._wait_until(lambda: self._free_at)
                    now = self._clock()
                    self._free_at = now + self._seconds_between
                    channel.free_at = max(channel.free_at, now + self._channel_seconds)
        finally:
            channel.num_waiting -= 1

    def hold(self, name: str | None, seconds: float) -> None:
        """Let nobody write in this channel (None: anywhere) for so long."""
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

    async def _wait_until(self, free_at: Callable[[], float]) -> None:
        while (left := free_at() - self._clock()) > 0:  # it may be put off while we wait
            await self._sleep(left)
