"""An engine for tests of what stands in front of one: it answers "one two three …", and holds an answer where the test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from model_server.engine import EngineOutput, OnFailure, OnOutputs
from model_server.errors import ModelServerError
from model_server.types import FinishReason, Message, ModelCapabilities, SamplingParams

WORDS = ("one", " two", " three", " four", " five")
IMAGE_TOKENS = 10


class WordedEngine:
    """One token per word; the word's number is its id. With `hold_after`, an answer hangs after so many words."""

    def __init__(self, hold_after: int | None = None, max_images_per_chat: int = 1) -> None:
        self.capabilities = ModelCapabilities("worded", 100, IMAGE_TOKENS, max_images_per_chat)
        self.cache_capacity = 10**6
        self.hold_after = hold_after
        self.error: ModelServerError | str | None = None  # in place of what follows the held words
        self.asked: list[tuple[Message, ...]] = []
        self.sampling: list[SamplingParams] = []
        self.systems: list[str | None] = []
        self.cancelled = asyncio.Event()
        self.held = asyncio.Event()
        self._last_id = ""
        self._loop = asyncio.get_running_loop()

    def cache_cost(self, num_prompt_tokens: int, max_new_tokens: int) -> int:
        return 1

    def start(self, on_outputs: OnOutputs, on_failure: OnFailure) -> None:
        self._on_outputs = on_outputs

    def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        return sum(len(message.text.split()) + IMAGE_TOKENS * len(message.images) for message in messages)

    def add(self, request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> None:
        self.asked.append(tuple(messages))
        self.systems.append(system)
        self.sampling.append(sampling)
        num_words = min(len(WORDS), sampling.max_new_tokens)
        num_free = num_words if self.hold_after is None else min(self.hold_after, num_words)
        self._on_outputs([EngineOutput(request_id, WORDS[number], (number,), 3) for number in range(num_free)])
        if self.error is not None:
            self._on_outputs([EngineOutput(request_id, error=self.error)])
        elif self.hold_after is None:
            reason = FinishReason.LENGTH if num_words < len(WORDS) else FinishReason.STOP
            self._on_outputs([EngineOutput(request_id, num_cached_tokens=3, finish_reason=reason)])
        else:
            self._loop.call_soon_threadsafe(self.held.set)

        self._last_id = request_id

    def write(self, text: str) -> None:
        """Say something more in the answer that is held."""
        self._on_outputs([EngineOutput(self._last_id, text, (0,), 3)])

    def cancel(self, request_id: str) -> None:
        self.cancelled.set()

    def unload(self) -> None: ...

    def stop(self) -> None: ...
