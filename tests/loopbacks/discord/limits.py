"""The loopback Discord's rate limits: five messages or edits within five seconds per channel, as observed on Discord."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

NUM_WRITES = 5


@dataclass
class Limits:
    """Excess writes are counted in `violations`, and refused with 429 if `is_enforced`. `writes`: channel and time of each."""

    is_enforced: bool = False
    seconds: float = 5.0
    violations: list[int] = field(default_factory=list)
    writes: list[tuple[int, float]] = field(default_factory=list)
    _recent: dict[int, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def take(self, channel: int) -> tuple[dict[str, str], float | None]:
        """The headers for this write, and how long to wait first (None: not at all)."""
        now, recent = time.monotonic(), self._recent[channel]
        while recent and now - recent[0] >= self.seconds:
            recent.popleft()
        is_over = len(recent) >= NUM_WRITES
        if is_over:
            self.violations.append(channel)
        if not is_over or not self.is_enforced:
            recent.append(now)
            self.writes.append((channel, now))
        reset_after = self.seconds - (now - recent[0])
        headers = {
            "X-RateLimit-Limit": str(NUM_WRITES),
            "X-RateLimit-Remaining": str(max(0, NUM_WRITES - len(recent))),
            "X-RateLimit-Reset": f"{time.time() + reset_after:.3f}",
            "X-RateLimit-Reset-After": f"{reset_after:.3f}",
            "X-RateLimit-Bucket": "messages",
        }
        return headers, reset_after if is_over and self.is_enforced else None
