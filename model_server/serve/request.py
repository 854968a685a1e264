"""Requests to our HTTP server: checks OpenAI's chat-completions request and converts it into our own types.

* An unsupported parameter that would change the answer is refused by name; one that only concerns OpenAI's own service is ignored.
* System (or developer) messages at the beginning are the chat's system text; later ones go before the next question. Consecutive
  user messages are one question.
* Clients send text back, not token ids: `KnownAnswers` finds the ids again, so that the next turn starts with exactly the cached
  tokens. Only speed depends on it.

Format: https://platform.openai.com/docs/api-reference/chat/create, and vLLM's `top_k`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model_server.errors import ImageError
from model_server.images import read_image
from model_server.types import Image, Message, Role, SamplingParams

FetchImage = Callable[[str, int], Awaitable[bytes]]
_MAX_STOP_STRINGS = 4
_MAX_KNOWN_ANSWERS = 1024

# Unsupported parameters, with the values that mean "off"; any other value is refused.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}


class BadRequest(Exception):
    """The client can correct this request. `param` names the part of the request."""

    def __init__(self, sentence: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(sentence)
        self.param = param
        self.code = code
        self.status = status


class _ImageUrl(BaseModel):
    url: str


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: _ImageUrl


def _as_parts(content: object) -> object:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


_Part = Annotated[_TextPart | _ImagePart, Field(discriminator="type")]


class _ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[_Part], BeforeValidator(_as_parts)] = Field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content if isinstance(part, _TextPart))

    @property
    def image_urls(self) -> list[str]:
        return [part.image_url.url for part in self.content if isinstance(part, _ImagePart)]


class _StreamOptions(BaseModel):
    include_usage: bool = False


class CompletionRequest(BaseModel):
    """A checked request; make it with `read_request`."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[_ChatMessage] = Field(min_length=1)
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    seed: int | None = None
    stop: str | list[str] | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def has_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_new_tokens: int, temperature: float) -> SamplingParams:
        """The sampling settings; the arguments are the server's defaults for what the client left out."""
        return SamplingParams(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or max_new_tokens,
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
        )


def read_request(body: bytes) -> CompletionRequest:
    """Parse and check a request. Slow for large pictures: call it off the event loop. Raises `BadRequest`, which quotes no
    content."""
    try:
        request = CompletionRequest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = ".".join(map(str, problem["loc"]))
        raise BadRequest(f"{param}: {problem['msg']}." if param else "The body is not a JSON object.", param or None) from None
    for name, value in (request.model_extra or {}).items():
        if name in _UNSUPPORTED and value is not None and value not in _UNSUPPORTED[name]:
            raise BadRequest(f"`{name}` is not supported here.", name, "unsupported_parameter")
    if request.seed is not None and request.temperature != 0:
        raise BadRequest("`seed` is not supported here, except with `temperature` 0.", "seed", "unsupported_parameter")
    if len(request.stop_strings) > _MAX_STOP_STRINGS or "" in request.stop_strings:
        raise BadRequest(f"`stop` takes up to {_MAX_STOP_STRINGS} strings, none of them empty.", "stop")
    return request


async def read_messages(
    request: CompletionRequest, fetch: FetchImage, max_image_bytes: int, max_images: int
) -> tuple[tuple[Message, ...], str | None]:
    """The chat, with its pictures fetched and checked, and its system text or None.

    Raises `BadRequest` or `ImageError`.
    """
    num_images = sum(len(message.image_urls) for message in request.messages)
    if num_images > max_images:
        raise BadRequest(f"This model can look at {max_images} picture(s) in a chat, not {num_images}.", "messages")
    messages: list[Message] = []
    system: list[str] = []
    texts: list[str] = []
    images: list[Image] = []
    names = (f"picture {number}" for number in range(1, num_images + 1))
    has_question = False
    for message in request.messages:
        if message.role == "assistant":
            if not has_question:
                raise BadRequest("An assistant's message must answer a user's.", "messages")
            messages += [Message(Role.USER, "\n\n".join(texts), tuple(images)), Message(Role.ASSISTANT, message.text)]
            texts, images, has_question = [], [], False
            continue
        has_question = has_question or message.role == "user"
        is_first = not messages and not has_question
        (system if is_first else texts).extend([message.text] if message.text else [])
        for url in message.image_urls:
            images.append(await _read_image(url, next(names), fetch, max_image_bytes))
    if not has_question:
        raise BadRequest("The last message must be a user's.", "messages")
    return (*messages, Message(Role.USER, "\n\n".join(texts), tuple(images))), "\n\n".join(system) or None


async def _read_image(url: str, name: str, fetch: FetchImage, max_bytes: int) -> Image:
    if url[:5].lower() == "data:":
        return await asyncio.to_thread(_decode, url, name, max_bytes)
    if not url.lower().startswith(("https://", "http://")):
        raise ImageError(name, "only data:, https: and http: URLs work.")
    return await asyncio.to_thread(read_image, await fetch(url, max_bytes), name, max_bytes=max_bytes)


def _decode(url: str, name: str, max_bytes: int) -> Image:
    head, _, data = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise ImageError(name, "a data: URL must be encoded in base64.")
    try:
        decoded = base64.b64decode(data, validate=True)
    except ValueError:
        raise ImageError(name, "its base64 encoding is damaged.") from None
    return read_image(decoded, name, max_bytes=max_bytes)


class KnownAnswers:
    """The token ids of the latest answers, by the chat that each one belongs to."""

    def __init__(self, max_answers: int = _MAX_KNOWN_ANSWERS) -> None:
        self._max_answers = max_answers
        self._token_ids: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()

    def remember(self, messages: Sequence[Message], text: str, token_ids: tuple[int, ...], system: str | None = None) -> None:
        *_, key = _keys([*messages, Message(Role.ASSISTANT, text)], system)
        self._token_ids[key] = token_ids
        self._token_ids.move_to_end(key)
        if len(self._token_ids) > self._max_answers:
            self._token_ids.popitem(last=False)

    def restore(self, messages: Sequence[Message], system: str | None = None) -> tuple[Message, ...]:
        """The same chat, with the ids of those of its answers that are known."""
        return tuple(
            replace(message, token_ids=self._token_ids.get(key)) if message.role is Role.ASSISTANT else message
            for message, key in zip(messages, _keys(messages, system), strict=True)
        )


def _keys(messages: Sequence[Message], system: str | None) -> Iterator[bytes]:
    """For every message, a key of the chat up to it."""
    so_far = hashlib.sha256(repr(system).encode(errors="backslashreplace"))
    for message in messages:
        content: list[Any] = [message.role.value, message.text.strip(), [image.sha256 for image in message.images]]
        so_far.update(repr(content).encode(errors="backslashreplace"))
        yield so_far.digest()
