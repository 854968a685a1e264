"""The types of the model server's interface.

Requests and everything that is returned for them are defined here. This module imports neither torch nor transformers, so that a
caller can build a request without loading a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """Who wrote a message."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that was checked by decoding it. Made by `model_server.images.read_image` only.

    `data` is the encoded file, as it is stored; `sha256` its hash in hexadecimal; `width` and `height` are in pixels, after EXIF
    rotation.
    """

    data: bytes = field(repr=False)
    media_type: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, by the user or the assistant.

    `token_ids` are the ids that the model generated for an assistant message, including the end-of-sequence id if there was one;
    None when they are not known. They are kept, never re-encoded, so that the next turn's prompt starts with exactly the cached
    tokens.
    """

    role: Role
    text: str
    images: tuple[Image, ...] = ()
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens. `temperature` 0 is greedy decoding; `top_k` 0 and `top_p` 1 are no limit.

    With a `seed` (a signed 64-bit number) the same chat gets the same answer again, whatever else is answered at the time. Raises
    ValueError for a value out of range."""

    max_new_tokens: int = 512
    temperature: float = 0.2
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        if self.temperature < 0:
            raise ValueError("temperature must not be negative")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError("top_k must not be negative (0 means no limit)")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError("seed must be a signed 64-bit number")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A whole chat for the model to continue; its last message is the user's. `request_id` is only echoed.

    `system` is the system text, which replaces the template's own; None or blank keeps the template's. For a model whose template
    takes no system text it goes before the first question.
    """

    request_id: str
    messages: tuple[Message, ...]
    sampling: SamplingParams = SamplingParams()
    system: str | None = None


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # max_new_tokens or the context window was reached
    CANCELLED = "cancelled"
    FILTERED = "content_filter"  # a remote server's content filter cut it off
    TOOL_CALL = "tool_calls"  # the model wanted to go on with a tool, and there is none


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request. `num_cached_tokens` of the prompt's tokens came from the cache and were not computed again."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits: `position` 1 is next. The estimate, in seconds, is None until a first answer has finished.

    `is_loading`: the model was unloaded and is being loaded again; the estimate does not include that.
    """

    position: int
    estimated_wait_seconds: float | None
    is_loading: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer. The texts of all deltas, joined, are the answer's text; likewise their ids."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a stream: the whole answer. `token_ids` is empty when the engine gives no ids."""

    reason: FinishReason
    text: str
    token_ids: tuple[int, ...]
    usage: Usage


StreamEvent = Queued | Delta | Finished


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """What a loaded model can take. `context_length` is in tokens and includes image tokens and the answer.

    A picture takes up to `num_image_tokens` tokens, depending on its size.
    """

    model_name: str
    context_length: int
    num_image_tokens: int
    max_images_per_chat: int
