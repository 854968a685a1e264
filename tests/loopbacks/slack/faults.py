"""Faults of Web API calls on a test's request, and Slack's rate limits."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

from tests.loopbacks.slack.state import Json


@dataclass
class Fault:
    """The fault of one call. `is_done`: Slack carries the call out, and only the response fails."""

    error: str | None = None  # Slack's word, with HTTP 200
    status: int | None = None  # 429 with Retry-After; 5xx with an HTML page
    retry_after_seconds: int = 1
    is_reset: bool = False  # the TCP connection is reset
    is_done: bool = False
    delay_seconds: float = 0.0
    hold: Hold | None = None


class Hold:
    """A call that waits: `arrived` is set when it arrives, and the test calls `release()` to let it continue."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def wait(self) -> None:
        self.arrived.set()
        await self._released.wait()


class Faults:
    def __init__(self) -> None:
        self._waiting: dict[str, deque[Fault]] = defaultdict(deque)

    def fail_next(
        self,
        method: str,
        *,
        error: str | None = None,
        status: int | None = None,
        retry_after_seconds: int = 1,
        is_reset: bool = False,
        is_done: bool = False,
        delay_seconds: float = 0.0,
        times: int = 1,
    ) -> None:
        """Make the next `times` calls of `method` ("*": of any) fail, after the faults requested before."""
        fault = Fault(error, status, retry_after_seconds, is_reset, is_done, delay_seconds)
        self._waiting[method].extend([fault] * times)

    def hold_next(self, method: str) -> Hold:
        """Make the next call of `method` wait until it is released; it then succeeds."""
        hold = Hold()
        self._waiting[method].append(Fault(hold=hold))
        return hold

    def forget(self) -> None:
        """Drop all requested faults."""
        self._waiting.clear()

    def take(self, method: str) -> Fault | None:
        for name in (method, "*"):
            if self._waiting[name]:
                return self._waiting[name].popleft()
        return None


@dataclass(frozen=True)
class Violation:
    """A call over the limit. `limit`: number of calls, and seconds."""

    method: str
    channel: str
    limit: tuple[int, float]


# (calls, seconds), counted per channel or per workspace (https://docs.slack.dev/apis/web-api/rate-limits).
_PER_CHANNEL = {"chat.postMessage": (1, 1.0)}
_PER_WORKSPACE = {
    "chat.startStream": (20, 60.0),
    "chat.stopStream": (20, 60.0),
    "chat.appendStream": (100, 60.0),
    "chat.update": (50, 60.0),
    "chat.delete": (50, 60.0),
    "chat.postEphemeral": (100, 60.0),
    "conversations.history": (50, 60.0),
    "conversations.replies": (50, 60.0),
    "conversations.info": (50, 60.0),
    "users.conversations": (50, 60.0),
    "users.info": (100, 60.0),
    "files.info": (100, 60.0),
    "views.open": (100, 60.0),
    "views.publish": (100, 60.0),
    "reactions.add": (50, 60.0),
}


@dataclass
class RateLimits:
    """Counts violations always, and refuses calls only if `is_enforced`."""

    is_enforced: bool = False
    violations: list[Violation] = field(default_factory=list)
    _times: dict[tuple[str, str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def refuse(self, method: str, token: str, arguments: Json) -> int | None:
        """None if the call is allowed, else the whole seconds to wait."""
        channel = str(arguments.get("channel", "")) if method in _PER_CHANNEL else ""
        limit = _PER_CHANNEL.get(method) or _PER_WORKSPACE.get(method)
        if limit is None:
            return None
        times, now = self._times[method, token, channel], time.monotonic()
        while times and now - times[0] >= limit[1]:
            times.popleft()
        if len(times) < limit[0]:
            times.append(now)
            return None
        self.violations.append(Violation(method, channel, limit))
        return max(1, round(limit[1] - (now - times[0]) + 0.5)) if self.is_enforced else None
