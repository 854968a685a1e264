"""Requests to our HTTP server: checks OpenAI's request for a chat completion, and what it has in common with one for a response.

What clients send by default is taken. A parameter that would change the answer and is not supported is refused by name.

Format: https://platform.openai.com/docs/api-reference/chat/create, and vLLM's `top_k`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model_server.serve.messages import ChatMessage, explain
from model_server.serve.parameters import (
    OF_THE_SERVICE,
    UNSUPPORTED_IN_COMPLETIONS,
    UNSUPPORTED_IN_STREAM_OPTIONS,
    Unsupported,
    refuse_unsupported,
)
from model_server.serve.refusal import BadRequest
from model_server.types import SamplingParams

_MAX_STOP_STRINGS = 4
_MAX_PARTS = 10_000  # of a chat: its messages, and the parts of these
_LEAST_TOP_P = 1e-9  # 0 elsewhere means the most likely token alone


def _unless(*unset: int) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value in unset and not isinstance(value, bool) else value)


def _as_stop_strings(value: object) -> object:
    """The strings that are not empty, as clients leave a field empty; no more than are needed to see that they are too many."""
    strings = [value] if isinstance(value, str) else value
    return [string for string in strings if string != ""][: _MAX_STOP_STRINGS + 1] if isinstance(strings, list) else strings


# -1 is llama.cpp's and Ollama's word for "no limit of mine", -2 Ollama's for "as much as fits"; 0 is many clients' empty field.
NumTokens = Annotated[int | None, Field(ge=1), _unless(-2, -1, 0)]
_Seed = Annotated[int | None, Field(ge=-(2**63), lt=2**63), _unless(-1)]  # -1 is llama.cpp's and vLLM's word for "any"


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None


class GenerationRequest(BaseModel):
    """What requests for chat completions and for responses have in common."""

    model_config = ConfigDict(extra="allow")
    chat_param: ClassVar[str]  # the name of the field with the chat
    unsupported: ClassVar[Unsupported]

    model: str
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)

    @property
    def chat(self) -> list[ChatMessage]:
        """All messages, with the system text's before them."""
        raise NotImplementedError

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings that end the answer."""
        return ()

    def sampling(self, max_new_tokens: int, temperature: float) -> SamplingParams:
        """The sampling settings; the arguments are the server's defaults for what the client left out."""
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else max(self.top_p, _LEAST_TOP_P),
        )

    def check(self) -> Self:
        """Look at what pydantic does not. Raises `BadRequest`."""
        refuse_unsupported(self.model_extra, self.unsupported, OF_THE_SERVICE)
        if self.stream_options is not None:
            refuse_unsupported(self.stream_options.model_extra, UNSUPPORTED_IN_STREAM_OPTIONS, param="stream_options")
        return self


class CompletionRequest(GenerationRequest):
    """A checked request for a chat completion; make it with `read_request`."""

    chat_param = "messages"
    unsupported = UNSUPPORTED_IN_COMPLETIONS

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: NumTokens = None
    max_completion_tokens: NumTokens = None
    top_k: int | None = Field(None, ge=-1)
    seed: _Seed = None
    stop: Annotated[list[str] | None, BeforeValidator(_as_stop_strings)] = None

    @property
    def chat(self) -> list[ChatMessage]:
        return self.messages

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def has_usage_chunk(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, max_new_tokens: int, temperature: float) -> SamplingParams:
        common = super().sampling(self.max_completion_tokens or self.max_tokens or max_new_tokens, temperature)
        return SamplingParams(common.max_new_tokens, common.temperature, common.top_p, max(self.top_k or 0, 0), self.seed)

    def check(self) -> Self:
        for number, message in enumerate(self.messages):
            message.check_notes(f"messages.{number}")
        if len(self.stop_strings) > _MAX_STOP_STRINGS:
            raise BadRequest(f"`stop` takes up to {_MAX_STOP_STRINGS} strings.", "stop")
        return super().check()


_Request = TypeVar("_Request", bound=GenerationRequest)


def read_body(body: bytes, charset: str | None = None) -> dict[str, Any]:
    """Parse a body. `charset` is what its content type says. Raises `BadRequest`, which quotes no content."""
    try:
        content = json.loads(body if (charset or "utf-8").lower().startswith("utf") else body.decode(charset or "utf-8"))
        if b"\\ud" in body.lower():  # half a character, as JavaScript cuts texts; no tokenizer takes it
            text = json.dumps(content, ensure_ascii=False)
            content = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (ValueError, LookupError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BadRequest("The body is not a JSON object in UTF-8.")
    return content


def read_request(content: dict[str, Any], kind: type[_Request]) -> _Request:
    """Check a parsed request. Raises `BadRequest`, which quotes no content."""
    _check_size(content.get(kind.chat_param), kind.chat_param)
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param, sentence = explain(problem["loc"], {**problem})
        raise BadRequest(sentence, param) from None
    return request.check()


def _check_size(chat: object, param: str) -> None:
    """Refuse what would take hundreds of times its size in memory. Raises `BadRequest`."""
    messages = chat if isinstance(chat, list) else []
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    if len(messages) + sum(len(content) for content in contents if isinstance(content, list)) > _MAX_PARTS:
        raise BadRequest(f"{param}: These are more than {_MAX_PARTS} messages and parts of messages.", param)
