"""A clock that moves only when every task sleeps on it: to the earliest time that one of them waits for."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Coroutine
from typing import Any


class VirtualTime:
    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), awake))
        await awake

    async def run(self, *works: Coroutine[Any, Any, None]) -> None:
        """Run these concurrently to their ends. Raises if they wait for anything but this clock."""
        tasks = [asyncio.create_task(work) for work in works]
        while not all(task.done() for task in tasks):
            for _ in range(100):  # enough loop iterations for all tasks that can run
                await asyncio.sleep(0)
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            if not self._sleepers:
                assert all(task.done() for task in tasks), "somebody waits, and not for the time"
                break
            self.now, _, awake = heapq.heappop(self._sleepers)
            awake.set_result(None)
        for task in tasks:
            task.result()
