"""How answers are generated: the `Engine` that the inference loop drives. Free of torch, for an engine may also be far away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from model_server.errors import ModelServerError
from model_server.types import FinishReason, Message, ModelCapabilities, SamplingParams, Usage


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """News of one request: the text that became readable with these ids, and how it ended if it did.

    An `error` that is a `ModelServerError` holds the sentence for the person who asked; any other text is for the log. `usage`
    comes with the end, from an engine that counts for itself because it gives no ids.
    """

    request_id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: str | ModelServerError | None = None
    usage: Usage | None = None


OnOutputs = Callable[[list[EngineOutput]], None]
OnFailure = Callable[[BaseException], None]


class Engine(Protocol):
    """Methods block unless they say otherwise, and may be called from any thread. Callbacks come from the engine's own thread."""

    @property
    def capabilities(self) -> ModelCapabilities: ...

    @property
    def cache_capacity(self) -> int:
        """What the requests that run at the same time may cost together; known once the engine has started."""

    def cache_cost(self, num_prompt_tokens: int, max_new_tokens: int) -> int:
        """What a request may come to occupy, in the unit of `cache_capacity`. Does not block."""

    def start(self, on_outputs: OnOutputs, on_failure: OnFailure) -> None:
        """Raises `ModelLoadError`. Called once, and again after each `unload`. `on_failure` is called at most once, when the engine
        broke and will never answer again."""

    def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        """Tokens of the prompt, pictures and system text included. Fast for a chat whose earlier messages were counted before."""

    def add(self, request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> None:
        """Begin to answer. `request_id` was never used before."""

    def cancel(self, request_id: str) -> None:
        """Free the request within one step; nothing more is heard of it. Does not block."""

    def unload(self) -> None:
        """Give back the memory of the model and its cache, while no request runs. `start` loads them again; until then prompts can
        be counted and costs be told as before."""

    def stop(self) -> None:
        """End at once. Safe to call twice."""
