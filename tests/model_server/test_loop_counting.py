"""Prompts are counted beside the event loop, one at a time and in their order, and each before it begins."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from model_server.errors import EngineFailed, ModelServerError, RequestRefused, ShuttingDown
from model_server.loop import InferenceLoop
from model_server.types import Finished, FinishReason, Message, Queued
from tests.model_server.scripted_engine import TIMEOUT, ScriptedEngine, collect, request, settle


class SlowlyCounting(ScriptedEngine):
    """Counts a prompt when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[str] = []
        self.threads: set[int] = set()
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.may_count = threading.Semaphore(0)
        self.count_error: Exception | None = None

    def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        self.threads.add(threading.get_ident())
        self.begun.put(messages[-1].text)
        assert self.may_count.acquire(timeout=TIMEOUT)
        self.counted.append(messages[-1].text)
        if self.count_error is not None:
            raise self.count_error
        return super().num_prompt_tokens(messages, system)

    async def next_begun(self) -> str:
        return await asyncio.to_thread(self.begun.get, timeout=TIMEOUT)


@pytest.fixture
def engine() -> SlowlyCounting:
    return SlowlyCounting()


@pytest.fixture
async def loop(engine: SlowlyCounting) -> AsyncIterator[InferenceLoop]:
    loop = InferenceLoop(engine, max_queue=3, max_running=1)
    await loop.start()
    yield loop
    engine.may_count.release(100)
    await loop.close()


async def test_a_prompt_that_takes_long_to_count_holds_up_only_those_behind_it(loop: InferenceLoop, engine: SlowlyCounting) -> None:
    first, second = loop.submit(request("1")), loop.submit(request("2"))
    counting = asyncio.create_task(loop.num_prompt_tokens(request("3").messages))
    assert await engine.next_begun() == "1"  # the event loop goes on meanwhile: this test does
    assert engine.begun.empty()
    assert (loop.num_running, loop.num_waiting) == (0, 2)
    engine.may_count.release(3)
    async with asyncio.timeout(TIMEOUT):
        assert await counting == 1
        assert await anext(second) == Queued(1, None)
    await settle(loop)
    assert engine.counted == ["1", "2", "3"]
    assert [question for _, question in engine.added] == ["1"]
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads
    engine.finish("0")
    end = (await collect(first))[-1]
    assert isinstance(end, Finished)
    assert end.usage.num_prompt_tokens == 1


async def test_what_is_stopped_meanwhile_is_not_counted_and_does_not_begin(loop: InferenceLoop, engine: SlowlyCounting) -> None:
    streams = [loop.submit(request(name)) for name in "123"]
    await engine.next_begun()
    streams[0].cancel()
    streams[1].cancel()
    engine.may_count.release(2)
    await settle(loop)
    assert engine.counted == ["1", "3"]
    assert [question for _, question in engine.added] == ["3"]
    for stream in streams[:2]:
        end = (await collect(stream))[-1]
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.CANCELLED


@pytest.mark.parametrize("error", [ValueError("secret"), RequestRefused("This picture is too long and thin for me.")])
async def test_one_that_cannot_be_counted_ends_with_a_sentence_and_the_next_one_begins(
    loop: InferenceLoop, engine: SlowlyCounting, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    engine.count_error = error
    first, second = loop.submit(request("1")), loop.submit(request("2"))
    engine.may_count.release()
    with pytest.raises(ModelServerError) as caught:
        await collect(first)
    assert str(caught.value) == (str(error) if error is caught.value else "Something went wrong in the model. Please try again.")
    assert isinstance(caught.value, EngineFailed | RequestRefused)
    assert "secret" not in caplog.text
    assert await engine.next_begun() == "1"
    assert await engine.next_begun() == "2"
    engine.count_error = None
    engine.may_count.release()
    await settle(loop)
    assert [question for _, question in engine.added] == ["2"]
    assert not second.is_ended


async def test_closing_meanwhile_tells_everybody(loop: InferenceLoop, engine: SlowlyCounting) -> None:
    streams = [loop.submit(request(name)) for name in "12"]
    await engine.next_begun()
    closing = asyncio.create_task(loop.close())
    for stream in streams:
        with pytest.raises(ShuttingDown):
            await collect(stream)
    engine.may_count.release()
    async with asyncio.timeout(TIMEOUT):
        await closing
    assert (engine.counted, engine.added) == (["1"], [])
    assert not [thread for thread in threading.enumerate() if "counting" in thread.name]
    with pytest.raises(ShuttingDown):
        await loop.num_prompt_tokens(request().messages)
