"""An engine that answers when the test says so, and what a test does with a loop over it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence

from model_server.engine import EngineOutput, OnFailure, OnOutputs
from model_server.errors import ModelLoadError
from model_server.loop import InferenceLoop
from model_server.stream import TokenStream
from model_server.types import ChatRequest, FinishReason, Message, ModelCapabilities, Role, SamplingParams, StreamEvent

TIMEOUT = 10


class ScriptedEngine:
    """One token per character; a request runs until the test lets it write or finish."""

    def __init__(self, cache_capacity: int = 10**6) -> None:
        self.capabilities = ModelCapabilities("scripted", context_length=100, num_image_tokens=10, max_images_per_chat=1)
        self.cache_capacity = cache_capacity
        self.added: list[tuple[str, str]] = []  # engine's id, question
        self.max_new_tokens: list[int] = []
        self.cancelled: list[str] = []
        self.is_stopped = False
        self.add_error: Exception | None = None
        self.load_error: ModelLoadError | None = None
        self.may_load = threading.Event()  # a load waits for it, as a real one takes its time
        self.may_load.set()
        self.calls: queue.SimpleQueue[str] = queue.SimpleQueue()  # load, add, unload, stop, in order

    def cache_cost(self, num_prompt_tokens: int, max_new_tokens: int) -> int:
        return num_prompt_tokens + max_new_tokens

    def start(self, on_outputs: OnOutputs, on_failure: OnFailure) -> None:
        self.may_load.wait(TIMEOUT)
        if self.load_error is not None:
            raise self.load_error
        self.on_outputs, self.on_failure = on_outputs, on_failure
        self.calls.put("load")

    def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        return len(system or "") + sum(len(message.text) + 10 * len(message.images) for message in messages)

    def add(self, request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> None:
        if self.add_error is not None:
            raise self.add_error
        self.added.append((request_id, messages[-1].text))
        self.max_new_tokens.append(sampling.max_new_tokens)
        self.calls.put("add")

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def unload(self) -> None:
        self.calls.put("unload")

    def stop(self) -> None:
        self.is_stopped = True
        self.calls.put("stop")

    async def next_call(self) -> str:
        return await asyncio.to_thread(self.calls.get, timeout=TIMEOUT)

    def write(self, request_id: str, text: str) -> None:
        self.on_outputs([EngineOutput(request_id, text, tuple(map(ord, text)))])

    def finish(self, request_id: str) -> None:
        self.on_outputs([EngineOutput(request_id, "", (0,), 3, FinishReason.STOP)])


def request(text: str = "question", max_new_tokens: int = 10) -> ChatRequest:
    return ChatRequest(f"same for all {text}", (Message(Role.USER, text),), SamplingParams(max_new_tokens=max_new_tokens))


async def settle(loop: InferenceLoop) -> None:
    """Until everything that was handed to the engine has reached it."""
    async with asyncio.timeout(TIMEOUT):
        while loop._tasks:
            await asyncio.gather(*loop._tasks)
        await asyncio.to_thread(lambda: None)


async def collect(stream: TokenStream) -> list[StreamEvent]:
    async with asyncio.timeout(TIMEOUT):
        return [event async for event in stream]
