"""Trying again: how long is waited, and what ends it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from adapters.backoff import MAX_TRIES, growing_waits, until_done, until_reached
from adapters.base import TokenError
from adapters.surface import DestinationGone, TryLater


def test_waits_grow_up_to_a_minute() -> None:
    assert list(itertools.islice(growing_waits(), 8)) == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []

    async def sleep(num: float) -> None:
        seconds.append(num)

    monkeypatch.setattr("adapters.backoff.asyncio.sleep", sleep)
    return seconds


async def test_it_waits_as_long_as_it_is_asked_to_and_else_ever_longer(
    waited: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    failures = [TryLater(), TryLater(7.0), TryLater(0.0), TryLater()]

    async def call() -> str:
        if failures:
            raise failures.pop(0)
        return "reached"

    assert await until_reached(call, "Elsewhere") == "reached"
    assert waited == [1.0, 7.0, 4.0, 8.0]  # no wait at all would be a storm
    told = ["Elsewhere could not be reached; I try again until it can.", "Elsewhere can be reached again."]
    assert [record.getMessage() for record in caplog.records] == told
    assert await until_reached(call, "Elsewhere") == "reached"
    assert len(caplog.records) == len(told)  # nothing to tell


async def test_a_wrong_token_is_not_tried_again(waited: list[float]) -> None:
    async def call() -> str:
        raise TokenError("wrong")

    with pytest.raises(TokenError):
        await until_reached(call, "Elsewhere")
    assert waited == []


async def test_what_fails_is_tried_again_until_it_is_done_or_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[Exception] = []

    async def call() -> str:
        if faults:
            raise faults.pop(0)
        return "done"

    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    faults += [OSError(), TryLater(), TryLater(0.001)]
    assert await until_done(call, "Slack", asyncio.Event()) == "done"
    faults += [ConnectionError()] * (MAX_TRIES - 1)
    assert await until_done(call, "Slack", asyncio.Event()) == "done"
    faults += [ConnectionError()] * MAX_TRIES
    with pytest.raises(ConnectionError):
        await until_done(call, "Slack", asyncio.Event())
    assert not faults
    assert len(caplog.records) == 3  # once for each of the three


@pytest.mark.parametrize("lasting", [DestinationGone(), KeyError("x"), TypeError(), ValueError(), AssertionError()], ids=repr)
async def test_what_would_only_fail_again_is_not_tried_again(lasting: Exception) -> None:
    num_tries = 0

    async def call() -> None:
        nonlocal num_tries
        num_tries += 1
        raise lasting

    with pytest.raises(type(lasting)):
        await until_done(call, "Slack", asyncio.Event())
    assert num_tries == 1


async def test_nothing_is_tried_again_once_it_is_closing() -> None:
    closing, num_tries = asyncio.Event(), 0

    async def call() -> None:
        nonlocal num_tries
        num_tries += 1
        asyncio.get_running_loop().call_soon(closing.set)
        raise TryLater(3_600.0)

    for _ in range(2):  # while it waits, and from the beginning
        with pytest.raises(TryLater):
            await asyncio.wait_for(until_done(call, "Slack", closing), 5.0)
    assert num_tries == 2
