"""The real engine on a small model, compared with what transformers' `generate` says."""

from __future__ import annotations

import asyncio
import io
import random
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PilImage

from model_server.checkpoints.loading import TINY_PATH, Checkpoint, load_checkpoint
from model_server.detokenizer import decode
from model_server.errors import EngineFailed, ModelLoadError, PromptTooLong, ShuttingDown
from model_server.images import read_image, to_pil
from model_server.local import open_local
from model_server.loop import InferenceLoop
from model_server.packed.engine import PackedEngine
from model_server.stream import TokenStream
from model_server.types import ChatRequest, Delta, Finished, FinishReason, Image, Message, Queued, Role, SamplingParams

MakeImage = Callable[..., Image]
TIMEOUT = 60
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "pink", "brown")


def expected(checkpoint: Checkpoint, messages: list[Message], max_new_tokens: int) -> tuple[int, ...]:
    """The reference: the stock model, one chat at a time, with the picture as pixels."""
    model: Any = checkpoint.model
    image_id = model.config.image_token_id
    prompt = checkpoint.template.encode(messages)
    ids = [i for part in prompt.parts for i in ([image_id] * checkpoint.num_image_tokens if isinstance(part, Image) else part)]
    pixels = checkpoint.image_processor([to_pil(image) for image in prompt.images], return_tensors="pt")["pixel_values"]
    inputs = torch.tensor([ids])
    output = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        pixel_values=pixels,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(checkpoint.eos_ids),
        pad_token_id=checkpoint.eos_ids[0],
    )
    assert isinstance(output, torch.Tensor)
    return tuple(output[0, len(ids) :].tolist())


@dataclass
class Chat:
    """Turns of different lengths about one picture; `first_word` is set when the first answer has begun."""

    messages: list[Message]
    questions: list[str]
    lengths: list[int]
    answers: list[tuple[list[Message], int, Finished]] = field(default_factory=list)
    first_word: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, loop: InferenceLoop) -> None:
        for question, length in zip(self.questions, self.lengths, strict=True):
            image = self.messages.pop().images if len(self.messages) == 1 else ()
            self.messages.append(Message(Role.USER, question, image))
            request = ChatRequest("chat", tuple(self.messages), SamplingParams(max_new_tokens=length, temperature=0))
            finished = await self._ask(loop.submit(request))
            self.answers.append((list(self.messages), length, finished))
            self.messages.append(Message(Role.ASSISTANT, finished.text, token_ids=finished.token_ids))

    async def _ask(self, stream: TokenStream) -> Finished:
        async with asyncio.timeout(TIMEOUT):
            async for event in stream:
                if isinstance(event, Delta):
                    self.first_word.set()
                if isinstance(event, Finished):
                    return event
        raise AssertionError("no end")


def make_chats(image: MakeImage, num_chats: int = 8) -> list[Chat]:
    questions = [
        "describe the picture",
        "what colour is it? " * 3,
        "how many?",
        "größer als 中 🎈?",
        "",
        "is there a circle in it?",
    ]
    return [
        Chat(
            [Message(Role.USER, "", (image(COLOURS[i], (40 + 8 * i, 40)),))],
            [questions[(i + turn) % len(questions)] for turn in range(3)],
            [5 + (7 * i + 11 * turn) % 19 for turn in range(3)],
        )
        for i in range(num_chats)
    ]


@asynccontextmanager
async def running(folder: Path, *, max_running: int = 16, **options: Any) -> AsyncIterator[tuple[InferenceLoop, PackedEngine]]:
    engine = PackedEngine(load_checkpoint(str(folder)), max_running=max_running, **options)
    loop = InferenceLoop(engine, max_running=max_running)
    await loop.start()
    try:
        yield loop, engine
    finally:
        await loop.close()


async def ask(loop: InferenceLoop, *messages: Message, max_new_tokens: int = 8, temperature: float = 0) -> Finished:
    request = ChatRequest("ask", messages, SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature))
    async with asyncio.timeout(TIMEOUT):
        async for event in loop.submit(request):
            if isinstance(event, Finished):
                return event
    raise AssertionError("no end")


async def give_up_later(stream: TokenStream, chat: Chat) -> None:
    await chat.first_word.wait()
    stream.cancel()


FOLDERS = ["random", pytest.param("tiny", marks=pytest.mark.skipif(not TINY_PATH.is_dir(), reason="no bundled model here yet"))]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("cache_tokens", [None, 600], ids=["roomy", "tight"])
async def test_every_token_is_that_of_generate_in_a_crowd_and_alone(
    random_llava: Path, image: MakeImage, name: str, cache_tokens: int | None
) -> None:
    """Eight ragged chats of three turns; each joins when the one before it has begun to be answered. Others sample, and give up."""
    folder = random_llava if name == "random" else TINY_PATH
    reference = load_checkpoint(str(folder))
    if cache_tokens is not None:
        cache_tokens = max(cache_tokens, reference.context_length)
    chats = make_chats(image)
    options = {} if cache_tokens is None else {"cache_tokens": cache_tokens}
    async with running(folder, max_running=6, **options) as (loop, engine), asyncio.TaskGroup() as tasks:
        for i, chat in enumerate(chats):
            if i:
                async with asyncio.timeout(TIMEOUT):
                    await chats[i - 1].first_word.wait()
            tasks.create_task(chat.run(loop))
            noise = ChatRequest(
                "noise", (Message(Role.USER, "noise"),), SamplingParams(max_new_tokens=30, temperature=1.5, top_p=0.9)
            )
            stream = loop.submit(noise)
            if i % 2:
                tasks.create_task(give_up_later(stream, chat))
    for chat in chats:
        assert len(chat.answers) == 3
        for messages, length, finished in chat.answers:
            assert finished.token_ids == expected(reference, messages, length)
            assert finished.text == decode(reference.tokenizer, finished.token_ids)
            assert finished.usage.num_completion_tokens == len(finished.token_ids) <= length
    alone = make_chats(image, 3)
    async with running(folder) as (loop, engine):
        for chat in alone:
            await chat.run(loop)
    for chat, crowded in zip(alone, chats, strict=False):
        assert [answer.token_ids for _, _, answer in chat.answers] == [answer.token_ids for _, _, answer in crowded.answers]
    assert engine.images.num_encoded == 3


async def test_the_second_turn_computes_only_what_is_new(random_llava: Path, image: MakeImage) -> None:
    async with running(random_llava) as (loop, engine):
        question = Message(Role.USER, "describe the picture", (image("red"),))
        first = await ask(loop, question, max_new_tokens=21)
        num_prompt = await loop.num_prompt_tokens([question])
        assert first.usage.num_prompt_tokens == num_prompt
        assert first.usage.num_cached_tokens == 0
        assert engine.num_computed_tokens == num_prompt + 20  # the last token is never fed back
        assert engine.num_steps == 21  # the first reads the whole prompt
        answer = Message(Role.ASSISTANT, first.text, token_ids=first.token_ids)
        second = await ask(loop, question, answer, Message(Role.USER, "how many?"), max_new_tokens=5)
        known = num_prompt + 20  # all that was computed for the first turn
        assert second.usage.num_cached_tokens == known
        assert engine.num_computed_tokens == num_prompt + 20 + second.usage.num_prompt_tokens - known + 4
        assert engine.images.num_encoded == 1


async def test_a_picture_is_seen_alike_while_others_are_answered(random_llava: Path) -> None:
    """While it generates, transformers marks the model's configuration as causal; the vision tower must not follow that mark."""
    noise = PilImage.frombytes("RGB", (64, 48), random.Random(1).randbytes(3 * 64 * 48))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    question = Message(Role.USER, "describe the picture", (read_image(buffer.getvalue(), "noise.png"),))
    async with running(random_llava) as (loop, engine):
        stream = loop.submit(ChatRequest("long", (Message(Role.USER, "1"),), SamplingParams(400, 0)))
        async with asyncio.timeout(TIMEOUT):
            assert isinstance(await anext(stream), Delta)
        config = engine._checkpoint.model.config
        config.is_causal = True  # as it is at most times now, but not at every moment
        finished = await ask(loop, question)
        stream.cancel()
    assert finished.token_ids == expected(load_checkpoint(str(random_llava)), [question], 8)


async def test_another_picture_never_shares_cached_tokens(random_llava: Path, image: MakeImage) -> None:
    async with running(random_llava) as (loop, engine):
        reference = load_checkpoint(str(random_llava))
        for colour in ("red", "blue", "red"):
            question = Message(Role.USER, "describe the picture", (image(colour),))
            finished = await ask(loop, question)
            assert finished.token_ids == expected(reference, [question], 8)
        assert engine.images.num_encoded == 2
        assert finished.usage.num_cached_tokens > 16  # red again


async def test_a_cancelled_answer_costs_no_more_steps(random_llava: Path, image: MakeImage) -> None:
    async with running(random_llava) as (loop, engine):
        question = Message(Role.USER, "describe the picture", (image("red"),))
        stream = loop.submit(ChatRequest("long", (question,), SamplingParams(max_new_tokens=400, temperature=0)))
        async with asyncio.timeout(TIMEOUT):
            assert isinstance(await anext(stream), Delta)
        stream.cancel()
        num_steps = engine.num_steps
        end = [event async for event in stream][-1]
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.CANCELLED
        assert end.text == decode(load_checkpoint(str(random_llava)).tokenizer, end.token_ids)
        await ask(loop, Message(Role.USER, "how many?"), max_new_tokens=10)
        assert engine.num_steps <= num_steps + 1 + 10  # the one that was being prepared
        assert engine._requests == {}
        assert engine.images._num_pins == {}


async def test_a_full_house_waits_in_order(random_llava: Path) -> None:
    async with running(random_llava, max_running=1) as (loop, _):
        streams = [loop.submit(ChatRequest(f"{i}", (Message(Role.USER, f"{i}"),), SamplingParams(4, 0))) for i in range(3)]
        ended: list[int] = []

        async def follow(number: int) -> list[int]:
            events = [event async for event in streams[number]]
            ended.append(number)
            assert isinstance(events[-1], Finished)
            return [event.position for event in events if isinstance(event, Queued)]

        positions = await asyncio.gather(*map(follow, range(3)))
        assert ended == [0, 1, 2]
        assert positions[2] in ([2, 1], [2], [1])  # whoever looks late is told the newest


async def test_what_never_fits_is_refused_and_the_engine_lives_on(random_llava: Path, image: MakeImage) -> None:
    async with running(random_llava, cache_tokens=96) as (loop, _):
        with pytest.raises(PromptTooLong):
            await ask(loop, Message(Role.USER, "how many? " * 40))
        with pytest.raises(PromptTooLong):
            await ask(loop, Message(Role.USER, "中" * 600))
        for _ in range(3):
            finished = await ask(loop, Message(Role.USER, "how many?", (image("red"),)), max_new_tokens=300)
            assert finished.reason is FinishReason.LENGTH
            assert finished.usage.num_prompt_tokens + finished.usage.num_completion_tokens <= 96


async def test_an_answer_ends_with_the_context(random_llava: Path) -> None:
    async with running(random_llava) as (loop, _):
        question = Message(Role.USER, "中" * 130)
        num_prompt = await loop.num_prompt_tokens([question])
        finished = await ask(loop, question, max_new_tokens=1000)
        assert num_prompt + finished.usage.num_completion_tokens == loop.capabilities.context_length == 512


async def test_stopping_at_the_end_of_sequence(random_llava: Path) -> None:
    """Every token of the vocabulary is made an end; so the first one ends the answer, and is not lost."""
    checkpoint = load_checkpoint(str(random_llava))
    engine = PackedEngine(replace(checkpoint, eos_ids=tuple(range(len(checkpoint.tokenizer)))))
    loop = InferenceLoop(engine)
    await loop.start()
    finished = await ask(loop, Message(Role.USER, "how many?"))
    await loop.close()
    assert finished.reason is FinishReason.STOP
    assert len(finished.token_ids) == 1


async def test_when_the_generation_thread_dies(random_llava: Path, image: MakeImage) -> None:
    async with running(random_llava, max_running=1) as (loop, engine):
        streams = [loop.submit(ChatRequest("long", (Message(Role.USER, "1"),), SamplingParams(400, 0))) for _ in range(3)]
        async with asyncio.timeout(TIMEOUT):
            while not isinstance(await anext(streams[0]), Delta):
                pass

        def broken(*args: object) -> None:
            raise RuntimeError("the GPU fell off the bus")

        engine._checkpoint.model.register_forward_pre_hook(broken)
        for stream in streams:
            async with asyncio.timeout(TIMEOUT):
                with pytest.raises(EngineFailed) as caught:
                    async for _ in stream:
                        pass
            assert "GPU" not in str(caught.value)
        with pytest.raises(EngineFailed):
            async with asyncio.timeout(TIMEOUT):
                await loop.wait_failed()
        with pytest.raises(EngineFailed):
            loop.submit(ChatRequest("late", (Message(Role.USER, "1"),)))


async def test_closing_in_the_middle(random_llava: Path) -> None:
    async with running(random_llava) as (loop, engine):
        stream = loop.submit(ChatRequest("long", (Message(Role.USER, "1"),), SamplingParams(400, 0)))
        async with asyncio.timeout(TIMEOUT):
            assert isinstance(await anext(stream), Delta)
    with pytest.raises(ShuttingDown):
        async for _ in stream:
            pass
    assert engine._thread is not None
    assert not engine._thread.is_alive()


async def test_an_unloaded_model_is_gone_and_comes_back(random_llava: Path, image: MakeImage) -> None:
    """Between two turns of a chat; its pictures are seen anew, and the answer is the same."""

    def load() -> Checkpoint:
        return load_checkpoint(str(random_llava))

    engine = PackedEngine(load(), load=load)
    model = weakref.ref(engine._checkpoint.model)
    loop = InferenceLoop(engine)
    await loop.start()
    question = Message(Role.USER, "describe the picture", (image("red"),))
    first = await ask(loop, question)
    num_tokens, cost = engine.num_prompt_tokens([question]), engine.cache_cost(100, 10)
    await asyncio.to_thread(engine.unload)
    assert model() is None
    assert (engine.num_prompt_tokens([question]), engine.cache_cost(100, 10)) == (num_tokens, cost)
    assert engine.cache_capacity > 0
    await loop._load()
    chat = [question, Message(Role.ASSISTANT, first.text, token_ids=first.token_ids), Message(Role.USER, "how many?")]
    second = await ask(loop, *chat)
    await loop.close()
    assert second.usage.num_cached_tokens == 0
    assert second.token_ids == expected(load(), chat, 8)


async def test_what_was_stopped_in_the_last_step_before_an_unload_is_forgotten(
    random_llava: Path, image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> Checkpoint:
        return load_checkpoint(str(random_llava))

    engine = PackedEngine(load(), load=load)
    loop = InferenceLoop(engine)
    await loop.start()
    is_inside, may_end = threading.Event(), threading.Event()
    logits, thread = engine._logits, engine._thread
    assert thread is not None
    join = thread.join

    def slow_logits(*arguments: Any) -> torch.Tensor:
        is_inside.set()
        may_end.wait(TIMEOUT)
        return logits(*arguments)

    def late_join() -> None:  # the engine was told to stop, and its step ends now
        may_end.set()
        join()

    monkeypatch.setattr(engine, "_logits", slow_logits)
    monkeypatch.setattr(thread, "join", late_join)
    stream = loop.submit(ChatRequest("stopped", (Message(Role.USER, "1", (image("red"),)),), SamplingParams(400, 0)))
    await asyncio.to_thread(is_inside.wait, TIMEOUT)
    stream.cancel()
    await asyncio.to_thread(engine.unload)
    await loop._load()
    finished = await ask(loop, Message(Role.USER, "describe the picture", (image("blue"),)))
    await loop.close()
    assert finished.reason in (FinishReason.STOP, FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate"), "not enough memory"),
        (RuntimeError("no kernel\nat line 7"), "this machine: no kernel$"),
        (MemoryError(), "not enough memory"),
        (ValueError(), "this machine: ValueError$"),
    ],
)
def test_what_keeps_a_model_from_starting_is_told(
    random_llava: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    def broken(*arguments: Any) -> torch.Tensor:
        raise error

    engine = PackedEngine(load_checkpoint(str(random_llava)))
    monkeypatch.setattr(engine, "_logits", broken)
    with pytest.raises(ModelLoadError, match=sentence) as raised:
        engine.start(lambda outputs: None, lambda failure: None)
    assert ("memory" in str(raised.value)) == ("memory" in sentence)


def test_pictures_that_find_no_memory_are_told(random_llava: Path) -> None:
    with pytest.raises(ModelLoadError, match="not enough memory"):
        PackedEngine(load_checkpoint(str(random_llava)), image_blocks=10**12)


async def test_a_long_prompt_does_not_stop_an_answer(random_llava: Path, image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read in pieces, and every step that reads one also writes a token of the answer that runs."""
    monkeypatch.setattr("model_server.packed.engine._PROMPT_TOKENS_PER_STEP", {"cpu": 10})
    async with running(random_llava) as (loop, engine):
        stream = loop.submit(ChatRequest("long", (Message(Role.USER, "1"),), SamplingParams(400, 0)))
        async with asyncio.timeout(TIMEOUT):
            assert isinstance(await anext(stream), Delta)
        steps: list[tuple[int, int]] = []
        step = engine._step

        def watched(requests: Sequence[Any]) -> None:
            before = [request.num_new for request in requests]
            step(requests)
            steps.append((len(before), requests[0].num_new - before[0]))

        monkeypatch.setattr(engine, "_step", watched)
        question = Message(Role.USER, "describe the picture " * 20, (image("red"),))
        finished = await ask(loop, question, max_new_tokens=4)
        stream.cancel()
        num_prompt = await loop.num_prompt_tokens([question])
    assert finished.token_ids == expected(load_checkpoint(str(random_llava)), [question], 4)
    together = [num_written for num_requests, num_written in steps if num_requests == 2]
    assert len(together) >= (num_prompt - finished.usage.num_cached_tokens) // 10
    assert set(together) == {1}


async def test_a_cache_that_does_not_fit_is_said_at_the_start(random_llava: Path) -> None:
    engine = PackedEngine(load_checkpoint(str(random_llava)), cache_tokens=10**12)
    with pytest.raises(ModelLoadError, match="memory"):
        await InferenceLoop(engine).start()


async def test_a_local_model_needs_no_network(random_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def offline(*args: object, **options: object) -> None:
        tried.append(args)
        raise OSError("offline")

    monkeypatch.setattr(socket.socket, "connect", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert load_checkpoint(str(random_llava)).model is not None
    assert tried == []


async def test_the_one_function_that_the_program_calls(
    random_llava: Path, image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_server.checkpoints.loading.TINY_PATH", random_llava)
    loop = await open_local("tiny", max_queue=2, max_running=2)
    try:
        assert loop.capabilities.model_name == "tiny"
        finished = await ask(loop, Message(Role.USER, "describe the picture", (image("red"),)), temperature=0.7)
        assert finished.text
        assert await loop.drain(TIMEOUT)
    finally:
        await loop.close()
