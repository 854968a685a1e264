"""How much memory all decoding in this process takes together, whoever asks for it and from whatever thread.

What one picture may take is bounded where it is decoded; here it is how many of them may be decoded side by side. A thread that
waits for room waits here alone: `aside` has threads of its own, so that other work beside the event loop goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MAX_BYTES = 1_200_000_000  # two of the largest pictures, or many small ones
_NUM_THREADS = 4

_Result = TypeVar("_Result")


class Budget:
    """A number of bytes, given out in the order in which they are asked for. For threads."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = self._num_free = num_bytes
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextlib.contextmanager
    def room(self, num_bytes: int) -> Iterator[None]:
        """A context in which `num_bytes` are ours. Blocks until they are free, and nobody waits since longer. What is more than
        the whole budget gets all of it. Not for a thread that has room already."""
        num_bytes = min(num_bytes, self._num_bytes)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._num_free >= num_bytes)
                self._num_free -= num_bytes
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._num_free += num_bytes
                self._changed.notify_all()


DECODING = Budget(MAX_BYTES)
_threads = ThreadPoolExecutor(_NUM_THREADS, "threadsight-decoding")


async def aside(work: Callable[[], _Result]) -> _Result:
    """Run work that decodes pictures beside the event loop. Returns or raises what it does."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work)
