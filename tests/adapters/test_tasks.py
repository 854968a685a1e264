"""Work in tasks of its own: what it raises is written down, and nothing is left at the end."""

from __future__ import annotations

import asyncio

import pytest

from adapters.surface import DestinationGone
from adapters.tasks import Tasks


async def test_what_goes_wrong_is_written_down_and_stops_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tasks, done = Tasks("Elsewhere"), asyncio.Event()

    async def gone() -> None:
        raise DestinationGone

    async def broken() -> None:
        raise RuntimeError("a bug")

    async def well() -> None:
        done.set()

    async with asyncio.timeout(10):
        await asyncio.gather(*(tasks.begin(work) for work in (gone(), broken(), well())))
    assert done.is_set()
    expected, unexpected = caplog.records
    assert (expected.levelname, expected.exc_info, "Elsewhere" in expected.getMessage()) == ("INFO", None, True)
    assert unexpected.levelname == "ERROR"
    assert "a bug" in caplog.text


async def test_at_the_end_what_is_quick_ends_by_itself_and_the_rest_is_cancelled() -> None:
    tasks, is_closing = Tasks("Elsewhere"), asyncio.Event()
    ended: list[str] = []

    async def quick() -> None:
        await is_closing.wait()
        ended.append("quick")

    async def later() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("later")

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tasks.begin(later())

    running = [tasks.begin(quick()), tasks.begin(stubborn())]
    await asyncio.sleep(0)
    is_closing.set()
    async with asyncio.timeout(10):
        await tasks.aclose(0.05)
    assert running[0].done()
    assert not running[0].cancelled()
    assert running[1].cancelled()
    assert ended == ["quick", "later"]
    await tasks.aclose()
