"""The queue in front of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server.engine import EngineOutput
from model_server.errors import EngineFailed, PromptTooLong, QueueFull, RequestRefused, ShuttingDown
from model_server.loop import InferenceLoop
from model_server.stream import TokenStream
from model_server.types import (
    ChatRequest,
    Delta,
    Finished,
    FinishReason,
    Image,
    Message,
    Queued,
    Role,
)
from tests.model_server.scripted_engine import TIMEOUT, ScriptedEngine, collect, request, settle


async def started(engine: ScriptedEngine, max_queue: int = 3, max_running: int = 1) -> InferenceLoop:
    loop = InferenceLoop(engine, max_queue=max_queue, max_running=max_running)
    await loop.start()
    return loop


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
async def loop(engine: ScriptedEngine) -> AsyncIterator[InferenceLoop]:
    loop = await started(engine)
    yield loop
    await loop.close()


async def test_an_answer(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    stream = loop.submit(request())
    await settle(loop)
    assert engine.added == [("0", "question")]
    engine.write("0", "a")
    async with asyncio.timeout(TIMEOUT):
        assert await anext(stream) == Delta("a", (97,))
    engine.write("0", "b")
    engine.write("0", "c")
    engine.finish("0")
    events = await collect(stream)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "bc"
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.text, end.token_ids) == (FinishReason.STOP, "abc", (97, 98, 99, 0))
    assert (end.usage.num_prompt_tokens, end.usage.num_cached_tokens, end.usage.num_completion_tokens) == (8, 3, 4)
    assert await collect(stream) == []


async def test_a_slow_listener_gets_joined_pieces(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    stream = loop.submit(request())
    await settle(loop)
    for letter in "a long answer":
        engine.write("0", letter)
    engine.finish("0")
    await asyncio.sleep(0)
    delta, end = await collect(stream)
    assert isinstance(delta, Delta)
    assert delta.text == "a long answer"
    assert isinstance(end, Finished)


async def test_positions_move_up_and_the_estimate_comes_with_the_first_answer(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    first, second, third = (loop.submit(request(text)) for text in ("1", "2", "3"))
    assert await anext(second) == Queued(1, None)
    assert await anext(third) == Queued(2, None)
    await settle(loop)
    engine.finish("0")
    await collect(first)
    async with asyncio.timeout(TIMEOUT):
        moved = await anext(third)
    assert isinstance(moved, Queued)
    assert moved.position == 1
    assert moved.estimated_wait_seconds is not None
    assert moved.estimated_wait_seconds >= 0
    await settle(loop)
    assert [question for _, question in engine.added] == ["1", "2"]


async def test_a_full_queue_is_said_at_once(loop: InferenceLoop) -> None:
    streams = [loop.submit(request()) for _ in range(4)]
    with pytest.raises(QueueFull):
        loop.submit(request())
    await settle(loop)
    assert (loop.num_running, loop.num_waiting) == (1, 3)
    with pytest.raises(QueueFull):
        loop.submit(request())
    streams[1].cancel()
    loop.submit(request())
    assert loop.num_waiting == 3


async def test_what_can_never_be_answered_is_refused(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    for text in ("x" * 100, "x" * 10_000):
        with pytest.raises(PromptTooLong):
            await collect(loop.submit(request(text)))
    with pytest.raises(PromptTooLong):
        loop.submit(request("x" * 100_000))
    image = Image(b"", "image/png", "0", 1, 1)
    with pytest.raises(RequestRefused, match="picture"):
        loop.submit(ChatRequest("id", (Message(Role.USER, "which?", (image, image)),)))
    assert engine.added == []


async def test_a_prompt_larger_than_the_cache_is_refused_and_an_answer_is_cut_to_it() -> None:
    engine = ScriptedEngine(cache_capacity=50)
    loop = await started(engine)
    for length in (50, 60):  # one token of an answer must fit, too
        with pytest.raises(PromptTooLong) as caught:
            await collect(loop.submit(request("x" * length)))
        assert (caught.value.num_tokens, caught.value.max_tokens) == (length, 49)
    cut, whole = loop.submit(request("x" * 30, max_new_tokens=60)), loop.submit(request("x" * 30, max_new_tokens=20))
    await settle(loop)
    cut.cancel()
    await settle(loop)
    assert engine.max_new_tokens == [15, 20]  # halved until it fits: 60, 30, 15; and not where it fits exactly
    whole.cancel()
    await loop.close()


async def test_nothing_is_taken_before_the_model_is_there(engine: ScriptedEngine) -> None:
    loop = InferenceLoop(engine)
    with pytest.raises(ShuttingDown):
        loop.submit(request())
    await loop.start()
    loop.submit(request()).cancel()
    await loop.close()


async def test_the_estimate_follows_how_long_answers_take(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    loop = await started(engine, max_running=2)
    first, second, third, fourth = (loop.submit(request(name)) for name in "abcd")
    assert [await anext(third), await anext(fourth)] == [Queued(1, None), Queued(2, None)]
    await settle(loop)
    now += 10
    engine.finish("0")
    await collect(first)
    fifth = loop.submit(request("e"))
    assert [await anext(fourth), await anext(fifth)] == [Queued(1, 5.0), Queued(2, 10.0)]  # two are answered at a time
    await settle(loop)
    now += 10
    engine.finish("1")  # it took 20 seconds: the newest counts for three tenths
    await collect(second)
    assert await anext(fifth) == Queued(1, 6.5)
    await loop.close()


async def test_the_answer_is_cut_to_the_context(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    loop.submit(request("x" * 95, max_new_tokens=60))
    await settle(loop)
    assert engine.max_new_tokens == [5]


async def test_requests_wait_for_cache_space() -> None:
    engine = ScriptedEngine(cache_capacity=50)
    loop = await started(engine, max_running=4)
    first = loop.submit(request("x" * 30))
    second = loop.submit(request("y" * 10))
    await settle(loop)
    assert len(engine.added) == 1
    assert await anext(second) == Queued(1, None)
    first.cancel()
    await settle(loop)
    assert len(engine.added) == 2
    await loop.close()


async def test_cancelling_a_running_answer(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    first, second = loop.submit(request("1")), loop.submit(request("2"))
    await settle(loop)
    engine.write("0", "ab")
    assert await anext(first) == Delta("ab", (97, 98))
    first.cancel()
    first.cancel()
    assert engine.cancelled == ["0"]
    engine.write("0", "too late")
    end = (await collect(first))[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.text) == (FinishReason.CANCELLED, "ab")
    await settle(loop)
    assert [question for _, question in engine.added] == ["1", "2"]
    assert not second.is_ended


async def test_leaving_the_context_cancels(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    async with loop.submit(request()) as stream:
        await settle(loop)
    assert stream.is_ended
    assert engine.cancelled == ["0"]
    assert loop.num_running == 0


async def test_cancelling_before_the_engine_has_it(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    loop.submit(request("1")).cancel()
    waiting = loop.submit(request("2"))
    await settle(loop)
    assert [question for _, question in engine.added] == ["2"]
    assert not waiting.is_ended


async def test_one_request_that_fails_does_not_touch_the_others(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    engine.add_error = ValueError("secret detail")
    with pytest.raises(EngineFailed) as caught:
        await collect(loop.submit(request()))
    assert "secret" not in str(caught.value)
    engine.add_error = None
    stream = loop.submit(request())
    await settle(loop)
    engine.on_outputs([EngineOutput(engine.added[0][0], error="secret detail")])
    with pytest.raises(EngineFailed):
        await collect(stream)
    loop.submit(request())
    await settle(loop)
    assert len(engine.added) == 2


async def test_when_the_engine_breaks_everybody_knows_at_once(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    streams = [loop.submit(request()) for _ in range(3)]
    await settle(loop)
    watcher = asyncio.create_task(loop.wait_failed())
    await asyncio.to_thread(engine.on_failure, RuntimeError("secret detail"))
    for stream in streams:
        with pytest.raises(EngineFailed) as caught:
            await collect(stream)
        assert "secret" not in str(caught.value)
    with pytest.raises(EngineFailed):
        async with asyncio.timeout(TIMEOUT):
            await watcher
    with pytest.raises(EngineFailed):
        loop.submit(request())


async def test_draining_finishes_what_runs_and_refuses_the_rest(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    running, waiting = loop.submit(request()), loop.submit(request())
    await settle(loop)
    draining = asyncio.create_task(loop.drain(TIMEOUT))
    with pytest.raises(ShuttingDown):
        await collect(waiting)
    with pytest.raises(ShuttingDown):
        loop.submit(request())
    assert not draining.done()
    engine.write("0", "last words")
    engine.finish("0")
    end = (await collect(running))[-1]
    assert isinstance(end, Finished)
    assert end.text == "last words"
    assert await draining


async def test_draining_gives_up_and_closing_tells_why(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    running = loop.submit(request())
    await settle(loop)
    assert not await loop.drain(0)
    await loop.close()
    with pytest.raises(ShuttingDown):
        await collect(running)
    assert engine.is_stopped
    await loop.close()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["submit", "cancel", "finish"]), st.integers(0, 20)), max_size=25), st.integers(1, 3))
def test_nobody_is_forgotten_and_nobody_overtakes(steps: list[tuple[str, int]], max_running: int) -> None:
    async def play() -> None:
        engine = ScriptedEngine(cache_capacity=60)
        loop = await started(engine, max_queue=5, max_running=max_running)
        streams: list[TokenStream] = []
        for step, number in steps:
            if step == "submit":
                try:
                    streams.append(loop.submit(request("x" * number + f"#{len(streams)}")))
                except QueueFull:
                    assert loop.num_waiting == 5
            elif step == "cancel" and streams:
                streams[number % len(streams)].cancel()
            elif step == "finish" and engine.added:
                engine.finish(engine.added[number % len(engine.added)][0])
            await settle(loop)
            assert loop.num_running <= max_running
            assert loop.num_running + loop.num_waiting == sum(not stream.is_ended for stream in streams)
            assert sum(job.cost or 0 for job in loop._running.values()) <= 60
            order = [int(question.partition("#")[2]) for _, question in engine.added]
            assert order == sorted(order)
        await loop.close()
        for stream in streams:
            assert stream.is_ended

    asyncio.run(play())
