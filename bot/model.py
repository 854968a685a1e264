"""What the bot needs of a model: `model_server.loop.InferenceLoop` has it, and so has a remote engine or a test's double."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from model_server.types import ChatRequest, Message, ModelCapabilities, StreamEvent


class TokenStream(Protocol):
    """The events of one request, ending with `Finished`; iterating raises EngineFailed when the engine broke."""

    def __aiter__(self) -> AsyncIterator[StreamEvent]: ...

    def cancel(self) -> None:
        """Free the model within a step; the stream then ends with FinishReason.CANCELLED."""


class Model(Protocol):
    @property
    def capabilities(self) -> ModelCapabilities: ...

    def submit(self, request: ChatRequest) -> TokenStream:
        """Return at once, or raise RequestRefused at once."""

    async def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        """Length of the prompt that these messages make, image tokens and the system text included."""


class LocalModel(Model, Protocol):
    """A model with a life of its own, which the program starts and ends."""

    async def wait_failed(self) -> None:
        """Return only by raising, when the model can no longer answer anything."""

    async def close(self) -> None: ...
