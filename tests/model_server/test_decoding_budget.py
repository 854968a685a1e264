from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_server.decoding import apart, decode
from model_server.decoding.budget import Budget, aside
from model_server.images import read_image
from tests.field.picture_files import red

TIMEOUT_SECONDS = 10.0


class Holder:
    """Holds room in a thread of its own, until it is told to let go."""

    def __init__(self, budget: Budget, num_bytes: int, threads: ThreadPoolExecutor, order: list[int]) -> None:
        self.has_room, self._may_end = threading.Event(), threading.Event()
        self._budget, self._num_bytes, self._order = budget, num_bytes, order
        self._future = threads.submit(self._hold)

    def _hold(self) -> None:
        with self._budget.room(self._num_bytes):
            self._order.append(self._num_bytes)
            self.has_room.set()
            assert self._may_end.wait(TIMEOUT_SECONDS)

    def end(self) -> None:
        self._may_end.set()
        self._future.result(TIMEOUT_SECONDS)


def test_room_is_given_in_the_order_in_which_it_is_asked_for() -> None:
    budget, order = Budget(10), list[int]()
    with ThreadPoolExecutor(4) as threads:
        first = Holder(budget, 6, threads, order)
        assert first.has_room.wait(TIMEOUT_SECONDS)
        large = Holder(budget, 9, threads, order)
        while not budget._waiting:  # the thread has to come so far
            threading.Event().wait(0.001)
        small = Holder(budget, 1, threads, order)
        while len(budget._waiting) < 2:
            threading.Event().wait(0.001)
        assert not small.has_room.is_set(), "there would be room, but not before whoever has waited longer"
        first.end()
        assert large.has_room.wait(TIMEOUT_SECONDS)
        assert small.has_room.wait(TIMEOUT_SECONDS), "both have room together"
        large.end()
        small.end()
    assert order == [6, 9, 1]


def test_what_is_more_than_the_whole_budget_gets_all_of_it() -> None:
    budget = Budget(10)
    with budget.room(10**12):
        pass
    with budget.room(10):
        pass


def test_room_is_free_again_after_an_error() -> None:
    budget = Budget(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), budget.room(10):
            raise ValueError("broken")


async def test_who_waits_for_room_holds_up_nothing_else_beside_the_event_loop() -> None:
    budget, may_end = Budget(1), threading.Event()

    def decode() -> None:
        with budget.room(1):
            assert may_end.wait(TIMEOUT_SECONDS)

    async with asyncio.timeout(TIMEOUT_SECONDS):
        decoding = [asyncio.create_task(aside(decode)) for _ in range(100)]
        assert await asyncio.gather(*(asyncio.to_thread(int, f"{number}") for number in range(100))) == list(range(100))
        may_end.set()
        await asyncio.gather(*decoding)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF"])
def test_every_kind_of_picture_is_decoded_within_the_budget(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(10)
    monkeypatch.setattr(decode, "DECODING", budget)
    monkeypatch.setattr(apart, "DECODING", budget)
    data = red(kind)
    with ThreadPoolExecutor(1) as threads, budget.room(1):
        decoding = threads.submit(read_image, data, "x")
        while not budget._waiting and not decoding.done():
            threading.Event().wait(0.001)
        assert not decoding.done()
        with budget._changed:
            budget._num_free += 1  # as if it were all free
            budget._changed.notify_all()
        assert decoding.result(TIMEOUT_SECONDS).width == 64
        budget._num_free -= 1
