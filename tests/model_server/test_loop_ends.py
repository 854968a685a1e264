"""How the inference loop lets go: of one answer, of everybody's, and of itself; and what it says then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from model_server.engine import EngineOutput
from model_server.errors import EngineFailed, ModelServerError, PromptTooLong, QueueFull, RequestRefused, ShuttingDown
from model_server.loop import InferenceLoop
from model_server.types import ChatRequest, Finished, FinishReason, Image, Message, Role, SamplingParams, Usage
from tests.model_server.scripted_engine import TIMEOUT, ScriptedEngine, collect, request, settle

FAILED = "Something went wrong in the model. Please try again."
REFUSED = RequestRefused("This picture is too long and thin for me.")


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
async def loop(engine: ScriptedEngine) -> AsyncIterator[InferenceLoop]:
    loop = InferenceLoop(engine, max_queue=3, max_running=1)
    await loop.start()
    yield loop
    await loop.close()


@pytest.mark.parametrize(("error", "sentence"), [(ValueError("secret"), FAILED), (REFUSED, str(REFUSED))])
async def test_a_request_that_cannot_be_started_ends_with_a_sentence_and_the_next_one_begins(
    loop: InferenceLoop, engine: ScriptedEngine, error: Exception, sentence: str
) -> None:
    engine.add_error = error
    first, second = loop.submit(request("1")), loop.submit(request("2"))
    with pytest.raises(ModelServerError) as caught:
        await collect(first)
    assert str(caught.value) == sentence
    engine.add_error = None
    await settle(loop)
    assert [question for _, question in engine.added] == ["2"]
    assert engine.cancelled == []  # the engine never had the first
    assert not second.is_ended


@pytest.mark.parametrize(("error", "sentence"), [("secret", FAILED), (REFUSED, str(REFUSED))])
async def test_an_answer_that_fails_ends_with_a_sentence_and_the_next_one_begins(
    loop: InferenceLoop, engine: ScriptedEngine, error: str | ModelServerError, sentence: str
) -> None:
    first, second = loop.submit(request("1")), loop.submit(request("2"))
    await settle(loop)
    engine.on_outputs([EngineOutput("0", error=error), EngineOutput("0", "more of it"), EngineOutput("nobody's", "x")])
    with pytest.raises(ModelServerError) as caught:
        await collect(first)
    assert str(caught.value) == sentence
    await settle(loop)
    assert [question for _, question in engine.added] == ["1", "2"]
    engine.on_outputs([EngineOutput("1", "yes", finish_reason=FinishReason.LENGTH, usage=Usage(7, 2, 1))])  # as it counts itself
    assert (await collect(second))[-1] == Finished(FinishReason.LENGTH, "yes", (), Usage(7, 2, 1))
    assert loop.num_running == 0


async def test_an_answer_that_is_stopped_while_its_pictures_are_encoded(
    loop: InferenceLoop, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is told to let go of it as soon as it has it, and only then comes the next one's turn."""
    is_inside, may_go_on = asyncio.Event(), threading.Event()
    event_loop, add = asyncio.get_running_loop(), engine.add

    def slow_add(request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> None:
        event_loop.call_soon_threadsafe(is_inside.set)
        may_go_on.wait(TIMEOUT)
        add(request_id, messages, sampling)

    monkeypatch.setattr(engine, "add", slow_add)
    first, second = loop.submit(request("1")), loop.submit(request("2"))
    async with asyncio.timeout(TIMEOUT):
        await is_inside.wait()
    first.cancel()
    assert (loop.num_running, loop.num_waiting) == (1, 1)
    assert engine.cancelled == []
    may_go_on.set()
    await settle(loop)
    assert engine.cancelled == ["0"]
    assert [question for _, question in engine.added] == ["1", "2"]
    assert not second.is_ended


async def test_an_answer_that_is_stopped_before_its_turn_never_reaches_the_engine(
    loop: InferenceLoop, engine: ScriptedEngine
) -> None:
    loop.submit(request("1")).cancel()
    await settle(loop)
    assert (engine.added, engine.cancelled, loop.num_running) == ([], [], 0)


async def test_closing_frees_the_engine_and_leaves_no_thread_behind(engine: ScriptedEngine) -> None:
    loop = InferenceLoop(engine, max_running=1, idle_unload_seconds=3_600)
    await loop.start()
    running, waiting = loop.submit(request("1")), loop.submit(request("2"))
    await settle(loop)
    assert [thread.name for thread in threading.enumerate() if "beside-the-engine" in thread.name] == [
        "threadsight-beside-the-engine_0"
    ]
    await loop.close()
    assert engine.cancelled == ["0"]
    assert engine.is_stopped
    assert (loop.num_running, loop.num_waiting) == (0, 0)
    assert not [thread for thread in threading.enumerate() if "beside-the-engine" in thread.name]
    assert loop._sleeper is not None
    assert loop._sleeper.done()
    for stream in (running, waiting):
        with pytest.raises(ShuttingDown, match="shutting down"):
            await collect(stream)
    with pytest.raises(ShuttingDown, match="shutting down"):
        loop.submit(request())


async def test_draining_with_nothing_to_do_is_done_at_once(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    assert await loop.drain(0.001)
    other = InferenceLoop(engine)
    await other.start()
    answer = other.submit(request())
    await settle(other)
    answer.cancel()
    assert await other.drain(0.001)  # nor when what ran was stopped
    await other.close()


async def test_after_a_break_everybody_hears_the_same(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    running = loop.submit(request())
    await settle(loop)
    engine.on_failure(RuntimeError("CUDA error"))
    with pytest.raises(EngineFailed, match="has to be started again"):
        await collect(running)
    with pytest.raises(EngineFailed, match="has to be started again"):
        loop.submit(request())
    assert engine.cancelled == ["0"]


async def test_how_many_are_taken_unless_somebody_says_otherwise(engine: ScriptedEngine) -> None:
    loop = InferenceLoop(engine)
    await loop.start()
    for _ in range(16 + 64):
        loop.submit(request())
    with pytest.raises(QueueFull):
        loop.submit(request())
    await settle(loop)
    assert (loop.num_running, loop.num_waiting) == (16, 64)
    with pytest.raises(QueueFull):
        loop.submit(request())
    await loop.close()


async def test_where_the_limits_of_a_prompt_are(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    """The context of this engine has 100 tokens, and a token of it is a character."""
    counted = []
    count = engine.num_prompt_tokens

    def counting(messages: Sequence[Message], system: str | None = None) -> int:
        counted.append(len(messages[-1].text))
        return count(messages, system)

    engine.num_prompt_tokens = counting  # type: ignore[method-assign]
    for length in (100, 12_800):
        with pytest.raises(PromptTooLong) as caught:
            await collect(loop.submit(request("x" * length)))
        assert (caught.value.num_tokens, caught.value.max_tokens) == (length, 99)
    system = replace(request("x" * 12_000), system="y" * 801)
    many = ChatRequest("id", (Message(Role.USER, ""), Message(Role.ASSISTANT, "")) * 50 + (Message(Role.USER, ""),))
    for far_too_long in (request("x" * 12_801), system, many):
        with pytest.raises(PromptTooLong, match=r"^This is too long for me\. Please"):  # without a number that nobody counted
            loop.submit(far_too_long)
        with pytest.raises(PromptTooLong):
            await loop.num_prompt_tokens(far_too_long.messages, far_too_long.system)
    assert counted == [100, 12_800]  # what cannot fit, however few tokens it has, is not even counted
    image = Image(b"", "image/png", "0", 1, 1)
    with pytest.raises(RequestRefused, match=r"^I can look at 1 picture\(s\) in a chat, not 2\.$"):
        loop.submit(ChatRequest("id", (Message(Role.USER, "which?", (image,)), Message(Role.USER, "that?", (image,)))))
    loop.submit(request("x" * 99))
    loop.submit(ChatRequest("id", (Message(Role.USER, "which?", (image,)),)))
    await settle(loop)
    assert engine.max_new_tokens == [1]


async def test_a_request_reaches_the_engine_as_it_was_made(loop: InferenceLoop, engine: ScriptedEngine) -> None:
    seen = []

    def add(request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> None:
        seen.append((request_id, messages, sampling, system))

    engine.add = add  # type: ignore[method-assign]
    chat = (Message(Role.USER, "what?"), Message(Role.ASSISTANT, "a cat"), Message(Role.USER, "sure?"))
    stream = loop.submit(ChatRequest("mine", chat, SamplingParams(7, 0.5, 0.9, 3), "Be short."))
    await settle(loop)
    assert seen == [("0", chat, SamplingParams(7, 0.5, 0.9, 3), "Be short.")]
    assert stream.request_id == "mine"
