"""What the bot needs from a model. Implemented by `model_server.loop.InferenceLoop`, and by doubles in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from model_server.types import ChatRequest, Message, ModelCapabilities, StreamEvent


class TokenStream(Protocol):
    """The events of one request, ending with `Finished`. Iterating raises EngineFailed if the engine breaks."""

    def __aiter__(self) -> AsyncIterator[StreamEvent]: ...

    def cancel(self) -> None:
        """Free the model within a step; the stream then ends with FinishReason.CANCELLED."""


class Model(Protocol):
    """What the chats need of a model; `model_server.loop.InferenceLoop` is one."""

    @property
    def capabilities(self) -> ModelCapabilities: ...

    def submit(self, request: ChatRequest) -> TokenStream:
        """Queue a request. Returns at once. Raises RequestRefused or EngineFailed."""

    async def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        """Length of the messages' prompt in tokens, image tokens and the system text included."""


class LocalModel(Model, Protocol):
    """A model that the program starts and closes."""

    async def wait_failed(self) -> None:
        """Wait until the model has failed for good, then raise."""

    async def close(self) -> None: ...
