"""Trying again: how long is waited, and what ends it."""

from __future__ import annotations

import itertools

import pytest

from adapters.backoff import growing_waits, until_reached
from adapters.base import TokenError
from adapters.surface import TryLater


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
    assert [record.getMessage() for record in caplog.records] == ["Elsewhere could not be reached; I try again."] * 4


async def test_a_wrong_token_is_not_tried_again(waited: list[float]) -> None:
    async def call() -> str:
        raise TokenError("wrong")

    with pytest.raises(TokenError):
        await until_reached(call, "Elsewhere")
    assert waited == []
