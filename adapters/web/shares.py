"""A number of places of which nobody gets more than a share, so that whoever is slow is slow for themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class Share:
    """One person's share of the places."""

    def __init__(self, num: int, places: asyncio.Semaphore) -> None:
        self._own = asyncio.Semaphore(num)
        self._places = places

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place. Who waits for a place of their own share takes none of the others'."""
        async with self._own, self._places:
            yield


class Shares:
    """`num` places, of which each person gets `num_each`."""

    def __init__(self, num: int, num_each: int) -> None:
        self._places = asyncio.Semaphore(num)
        self._num_each = num_each
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()

    def of(self, person: str) -> Share:
        """The share of a person, which is kept as long as somebody has it."""
        return self._shares.setdefault(person, Share(self._num_each, self._places))
