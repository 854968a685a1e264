"""The words at the model server's border.

Everything that crosses the request queue, and everything that comes back, is defined here. This module imports neither torch
nor transformers, so that a caller can build a request without loading a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that was decoded once and found good: made by `model_server.images.read_image`, never by hand.

    `data` holds the encoded bytes as they are stored and hashed; `width` and `height` are in pixels, after EXIF rotation.
    """

    data: bytes = field(repr=False)
    media_type: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Message:
    """One side of a turn.

    `token_ids` are the ids that the model generated for an assistant message, its end-of-sequence id included where it was
    generated. They are kept, never re-made, so that the next turn's prompt starts with exactly the cached tokens.
    """

    role: Role
    text: str
    images: tuple[Image, ...] = ()
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens. `temperature` 0 means greedy decoding."""

    max_new_tokens: int = 512
    temperature: float = 0.2
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        if self.temperature < 0:
            raise ValueError("temperature must not be negative")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError("top_k must not be negative (0 means no limit)")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A whole chat to be continued; its last message is the user's.

    `system` is what the model is told before all of it, in place of what its template says there by itself; None or blank: nothing
    of ours. A model whose template has no place for it reads it in front of the first question.
    """

    request_id: str
    messages: tuple[Message, ...]
    sampling: SamplingParams = SamplingParams()
    system: str | None = None


class FinishReason(StrEnum):
    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # max_new_tokens or the context window was reached
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request. `num_cached_tokens` of the prompt's tokens came from the cache and were not computed."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits: `position` 1 is next. The estimate is None until the loop has finished something to judge by.

    `is_loading`: the model had left the memory and is being loaded, which the estimate does not know of.
    """

    position: int
    estimated_wait_seconds: float | None
    is_loading: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer. The texts of all deltas, joined, are the answer's text."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a stream."""

    reason: FinishReason
    text: str
    token_ids: tuple[int, ...]
    usage: Usage


StreamEvent = Queued | Delta | Finished


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """What a loaded model can take. Lengths are in tokens, image tokens and the answer included in `context_length`.

    A picture takes up to `num_image_tokens`, by its size.
    """

    model_name: str
    context_length: int
    num_image_tokens: int
    max_images_per_chat: int
