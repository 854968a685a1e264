"""Requests to a remote model server, and its answers: OpenAI's chat-completions protocol, as vLLM, SGLang, llama.cpp, Ollama,
`transformers serve` and our own server implement it.

Nothing here opens a connection. Answers may be malformed. A server's error texts are never shown or logged, because some servers
quote the question in them. Format: https://platform.openai.com/docs/api-reference/chat; a picture is sent as a data URL (RFC 2397).
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image as PilImage

from model_server.errors import EngineFailed, ModelServerError, PromptTooLong
from model_server.images import to_pil
from model_server.types import FinishReason, Image, Message, SamplingParams, Usage

_log = logging.getLogger(__name__)

TELL = "Please tell the person who runs me."
AWAY = "The model server cannot be reached right now. Please ask again in a little while."
BUSY = "The model server is very busy right now. Please ask again in a little while."
BROKEN_OFF = "The model server broke off in the middle of the answer. Please ask again."
NOT_UNDERSTOOD = f"The model server gave an answer that I cannot read. {TELL}"
_LOSSY = ("image/jpeg", "image/heic", "image/avif", "image/webp")
_ORIENTATION = 0x0112  # Exif
# Servers phrase this differently; these are parts of their messages.
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum model length|max_model_len|too long|max_tokens must be at least 1",
    re.IGNORECASE,
)
_NO_IMAGES = re.compile(r"image|picture|vision|multi-?modal|mmproj", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Piece:
    """The content of one event of a streamed answer; None or empty for what it does not have."""

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ServedModel:
    name: str
    context_length: int | None


def request_body(model: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> bytes:
    """Make the JSON body of a streaming request. Encodes the pictures, which takes time: call it off the event loop."""
    first = [{"role": "system", "content": system.strip()}] if system and system.strip() else []
    body: dict[str, Any] = {
        "model": model,
        "messages": [*first, *(_message(message) for message in messages)],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # Not every server knows every name, so default values are left out.
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    return json.dumps(body).encode()


async def read_pieces(lines: AsyncIterable[bytes]) -> AsyncGenerator[Piece, None]:
    """Yields the pieces of a streamed answer (server-sent events, one line of data each) until its end, however that is marked.

    Raises a `ModelServerError` when the server reports an error, and `EngineFailed` for malformed events.
    """
    async for line in lines:
        if not line.startswith(b"data:"):
            continue  # a comment, an empty line, or a field that the protocol does not use
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
            if event.get("error"):
                refused = refusal(500, data)
                _log.error("The model server reported an error in place of the rest of its answer: %s.", refused.advice)
                raise refused.error
            piece = _piece(event)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            raise EngineFailed(NOT_UNDERSTOOD) from None
        yield piece


def read_models(body: bytes) -> list[ServedModel]:
    """Parse the answer of /models. Raises ValueError if it is malformed."""
    try:
        entries = json.loads(body)["data"]
        # vLLM and SGLang give the context length; OpenAI's own protocol has no field for it.
        return [ServedModel(str(entry["id"]), _positive(entry.get("max_model_len"))) for entry in entries]
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError("not a list of models") from error


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error response means. `error` is for the person who asked, `advice` for the operator."""

    error: ModelServerError
    advice: str


def refusal(status: int, body: bytes) -> Refusal:
    """Interpret an error response."""
    words = _error_words(body)
    if status in (401, 403):
        return Refusal(EngineFailed(f"The model server does not let me in. {TELL}"), "it refuses the API key")
    if 300 <= status < 400:
        return Refusal(EngineFailed(AWAY), "it redirects, and the API key is not sent elsewhere: give the address that it leads to")
    if status in (400, 413, 422, 500):
        if _TOO_LONG.search(words):
            return Refusal(
                PromptTooLong(), "the chat is longer than its model's context: set the engine's context length to what it is"
            )
        if _NO_IMAGES.search(words):
            sentence = f"The model behind me cannot look at this picture. {TELL}"
            return Refusal(EngineFailed(sentence), "its model takes no pictures, or fewer than the chat has")
    if status == 404:
        sentence = f"The model server does not have the model that I was told to use. {TELL}"
        return Refusal(EngineFailed(sentence), "it does not know the model, or the address lacks a part such as /v1")
    return Refusal(EngineFailed(f"The model server could not answer this. {TELL}"), "see its own log")


def _message(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role.value, "content": message.text}
    images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return {"role": message.role.value, "content": [*images, {"type": "text", "text": message.text}]}


def _data_url(image: Image) -> str:
    data, media_type = _portable(image)
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _portable(image: Image) -> tuple[bytes, str]:
    """The picture as bytes and media type that all servers decode alike: they differ in formats, rotation, transparency and bit
    depths."""
    with PilImage.open(io.BytesIO(image.data)) as pil:
        is_plain = pil.format in ("JPEG", "PNG") and pil.mode in ("RGB", "L") and not pil.has_transparency_data
        if is_plain and pil.getexif().get(_ORIENTATION, 1) == 1:
            return image.data, image.media_type
    buffer = io.BytesIO()
    if image.media_type in _LOSSY:
        to_pil(image).save(buffer, "JPEG", quality=95)
        return buffer.getvalue(), "image/jpeg"
    to_pil(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "image/png"


def _piece(event: dict[str, Any]) -> Piece:
    usage = _usage(event.get("usage"))
    choices = event.get("choices")
    if not choices:
        return Piece(usage=usage)
    choice = choices[0]
    text = (choice.get("delta") or {}).get("content") or ""
    reason = choice.get("finish_reason")
    if not isinstance(text, str) or reason in ("abort", "error"):
        raise ValueError("not an answer")
    finish_reason = None if reason is None else FinishReason.LENGTH if reason == "length" else FinishReason.STOP
    return Piece(text, finish_reason, usage)


def _usage(usage: Any) -> Usage | None:
    if not usage:
        return None
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(int(usage["prompt_tokens"]), int(cached), int(usage.get("completion_tokens") or 0))


def _error_words(body: bytes) -> str:
    """All texts of an error object, from any of the usual fields."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if not isinstance(error, dict):
        return str(error)
    return " ".join(str(error[name]) for name in ("code", "type", "message", "detail") if error.get(name))


def _positive(number: object) -> int | None:
    return number if isinstance(number, int) and number > 0 else None
