"""How answers are generated: the `Engine` that the inference loop drives. Does not import torch: an engine may also be remote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from model_server.errors import ModelServerError
from model_server.types import FinishReason, Message, ModelCapabilities, SamplingParams, Usage


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """New output of one request: the text that these ids completed, and the finish reason if it has ended.

    An `error` that is a `ModelServerError` has a sentence for the person who asked; any other is for the log. `usage` is set with
    the finish reason by engines that give no ids and count by themselves; otherwise None.
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
    """Generates answers. Methods block unless they say otherwise, and may be called from any thread. Callbacks are called on the
    engine's own thread."""

    @property
    def capabilities(self) -> ModelCapabilities: ...

    @property
    def cache_capacity(self) -> int:
        """The most that all running requests may cost together, in the engine's own unit. Known after `start`."""

    def cache_cost(self, num_prompt_tokens: int, max_new_tokens: int) -> int:
        """The most that a request can occupy, in the unit of `cache_capacity`. Does not block."""

    def start(self, on_outputs: OnOutputs, on_failure: OnFailure) -> None:
        """Load the model if needed, and begin to serve. Called once, and again after each `unload`. Raises `ModelLoadError`.
        `on_failure` is called at most once, when the engine has broken for good."""

    def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        """Length of the prompt in tokens, pictures and system text included. Fast when the chat's earlier messages were counted
        before. Raises `RequestRefused`, or ValueError for messages out of order."""

    def add(self, request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> None:
        """Begin to answer. `request_id` must never have been used before. Raises `ModelServerError`."""

    def cancel(self, request_id: str) -> None:
        """Free the request within one step; no more output follows. Does not block."""

    def unload(self) -> None:
        """Free the memory of the model and its cache. Called while no request runs. `start` loads them again; until then prompts
        can still be counted and costs computed."""

    def stop(self) -> None:
        """Stop at once. Safe to call twice."""
