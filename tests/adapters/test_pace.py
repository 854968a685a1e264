"""How fast a platform is written to."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from adapters.conversations.pace import Pace
from tests.adapters.virtual_time import VirtualTime

ROUNDING = 1e-6


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.floats(0, 3), min_size=1, max_size=6), min_size=1),
    st.floats(0.1, 2),
    st.floats(0.5, 20),
)
def test_no_channel_and_no_platform_is_written_to_too_fast(
    pauses: dict[str, list[float]], channel_seconds: float, per_second: float
) -> None:
    """`pauses`: what a writer in a channel does between its writes."""
    time = VirtualTime()
    pace = Pace(channel_seconds, per_second, clock=time.clock, sleep=time.sleep)
    written: list[tuple[float, str]] = []

    async def write(channel: str) -> None:
        for pause in pauses[channel]:
            await time.sleep(pause)
            await pace.turn(channel)
            written.append((time.now, channel))

    asyncio.run(time.run(*(write(channel) for channel in pauses)))
    assert len(written) == sum(len(writes) for writes in pauses.values())
    assert all(later[0] - earlier[0] >= 1 / per_second - ROUNDING for earlier, later in pairwise(written))
    for channel in pauses:
        times = [at for at, name in written if name == channel]
        assert all(later - earlier >= channel_seconds - ROUNDING for earlier, later in pairwise(times))


async def test_an_idle_platform_is_written_to_at_once() -> None:
    time = VirtualTime()
    pace = Pace(1.2, 40, clock=time.clock, sleep=time.sleep)
    await pace.turn("a")
    assert time.now == 0


async def test_everybody_gets_a_turn_in_the_order_of_coming() -> None:
    time = VirtualTime()
    pace = Pace(0.0, 2, clock=time.clock, sleep=time.sleep)
    turns: list[str] = []

    async def write(channel: str) -> None:
        for _ in range(3):
            await pace.turn(channel)
            turns.append(channel)
            await asyncio.sleep(0)  # as every write to a platform does

    await time.run(write("a"), write("b"), write("c"))
    assert turns == ["a", "b", "c"] * 3


async def test_the_end_of_an_answer_goes_first_but_nobody_waits_for_ever() -> None:
    time = VirtualTime()
    pace = Pace(1.0, 1e6, clock=time.clock, sleep=time.sleep)
    turns: list[str] = []

    async def write(name: str, at: float, *, is_final: bool) -> None:
        await time.sleep(at)
        await pace.turn("a", is_final=is_final)
        turns.append(name)

    ends = [write(f"end {number}", 0.5 + number, is_final=True) for number in range(10)]
    await time.run(write("first", 0, is_final=False), write("paint", 0.1, is_final=False), *ends)
    assert turns.index("end 0") < turns.index("paint") < turns.index("end 9")
    assert turns[:2] == ["first", "end 0"]
    assert len(turns) == 12


async def test_what_the_platform_asks_for_is_waited() -> None:
    time = VirtualTime()
    pace = Pace(1.0, 100, clock=time.clock, sleep=time.sleep)
    pace.hold("a", 7)
    pace.hold("a", 3)  # a shorter one does not shorten it
    at: dict[str, float] = {}

    async def write(channel: str) -> None:
        await pace.turn(channel)
        at[channel] = time.now

    await time.run(write("a"), write("b"))
    assert at["b"] < 1 <= 7 <= at["a"]
    pace.hold(None, 10)
    now = time.now
    await time.run(write("c"))
    assert at["c"] >= now + 10


async def test_a_hold_that_comes_while_somebody_waits_holds_him_too() -> None:
    time = VirtualTime()
    pace = Pace(5.0, 100, clock=time.clock, sleep=time.sleep)
    await pace.turn("a")

    async def hold() -> None:
        await time.sleep(4)
        pace.hold("a", 20)

    await time.run(pace.turn("a"), hold())
    assert time.now >= 24


async def test_a_writer_that_gives_up_leaves_the_way_free() -> None:
    time = VirtualTime()
    pace = Pace(1.0, 100, clock=time.clock, sleep=time.sleep)
    await pace.turn("a")
    waiting = asyncio.create_task(pace.turn("a"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await time.run(pace.turn("a"))
    assert 1 <= time.now < 2


async def test_idle_channels_are_forgotten() -> None:
    time = VirtualTime()
    pace = Pace(0.1, 1e9, clock=time.clock, sleep=time.sleep)
    for number in range(5_000):
        time.now += 1
        await pace.turn(str(number))
    assert len(pace._channels) <= 1_000


async def test_a_channel_that_is_held_is_not_forgotten() -> None:
    time = VirtualTime()
    pace = Pace(0.1, 1e9, clock=time.clock, sleep=time.sleep)
    pace.hold("held", 10_000)
    for number in range(2_000):
        time.now += 1
        await pace.turn(str(number))
    assert len(pace._channels) <= 1_001
    await time.run(pace.turn("held"))
    assert time.now >= 10_000
