"""The model leaves the memory when nobody asks, and comes back for the next one."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator

import pytest

from model_server.errors import EngineFailed, ModelLoadError, ShuttingDown
from model_server.loop import InferenceLoop
from model_server.types import Finished, FinishReason, Queued
from tests.model_server.scripted_engine import TIMEOUT, ScriptedEngine, collect, request


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
async def loop(engine: ScriptedEngine) -> AsyncIterator[InferenceLoop]:
    loop = InferenceLoop(engine, idle_unload_seconds=0.01)
    await loop.start()
    yield loop
    engine.may_load.set()
    await loop.close()


async def heard(engine: ScriptedEngine, *calls: str) -> None:
    """The engine's next calls are these."""
    assert [await engine.next_call() for _ in calls] == list(calls)


async def test_the_next_one_waits_until_it_is_back_and_is_told(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    await heard(engine, "load", "unload")
    assert not loop.is_loaded
    engine.may_load.clear()
    stream = loop.submit(request())
    async with asyncio.timeout(TIMEOUT):
        assert await anext(stream) == Queued(1, None, is_loading=True)
    assert engine.added == []
    engine.may_load.set()
    await heard(engine, "load", "add")
    engine.write("0", "yes")
    engine.finish("0")
    end = (await collect(stream))[-1]
    assert isinstance(end, Finished)
    assert end.text == "yes"
    await heard(engine, "unload")
    assert await loop.num_prompt_tokens(request("four").messages) == 4  # prompts are counted without the model


async def test_it_stays_while_somebody_is_answered(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    stream = loop.submit(request())
    while await engine.next_call() != "add":
        pass
    with pytest.raises(queue.Empty):
        await asyncio.to_thread(engine.calls.get, timeout=0.1)  # ten times as long as it may be idle
    engine.finish("0")
    assert isinstance((await collect(stream))[-1], Finished)
    await heard(engine, "unload")


async def test_without_the_setting_it_stays(engine: ScriptedEngine) -> None:
    loop = InferenceLoop(engine)
    await loop.start()
    assert loop.is_loaded
    assert loop._sleeper is None
    await loop.close()


async def test_when_it_cannot_come_back_those_who_wait_are_told_and_the_next_one_tries_again(
    loop: InferenceLoop, engine: ScriptedEngine
) -> None:
    await heard(engine, "load", "unload")
    engine.load_error = ModelLoadError("no memory")
    with pytest.raises(EngineFailed, match="could not be loaded again"):
        await collect(loop.submit(request()))
    engine.load_error = None
    stream = loop.submit(request("again"))
    await heard(engine, "load", "add")
    assert engine.added == [("1", "again")]
    engine.finish("1")
    assert isinstance((await collect(stream))[-1], Finished)


async def test_stop_while_it_is_loaded_again(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    await heard(engine, "load", "unload")
    engine.may_load.clear()
    stopped, other = loop.submit(request("stopped")), loop.submit(request("other"))
    async with asyncio.timeout(TIMEOUT):
        assert await anext(other) == Queued(2, None, is_loading=True)
        stopped.cancel()
        assert await anext(other) == Queued(1, None, is_loading=True)
    end = (await collect(stopped))[-1]
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.CANCELLED
    engine.may_load.set()
    await heard(engine, "load", "add")
    assert engine.added == [("1", "other")]
    engine.finish("1")
    await collect(other)


async def test_the_end_of_the_program_while_it_is_loaded_again(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    await heard(engine, "load", "unload")
    engine.may_load.clear()
    stream = loop.submit(request())
    async with asyncio.timeout(TIMEOUT):
        await anext(stream)
        closing = asyncio.create_task(loop.close())
        with pytest.raises(ShuttingDown):
            await collect(stream)
        assert not engine.is_stopped  # not in the middle of a load
        engine.may_load.set()
        await closing
    assert engine.is_stopped


async def test_an_engine_that_cannot_be_unloaded_is_a_failure(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(engine, "unload", broken)
    loop = InferenceLoop(engine, idle_unload_seconds=0.01)
    await loop.start()
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(EngineFailed):
            await loop.wait_failed()
    await loop.close()
