"""The body of a question to a model server. Nothing here opens a connection."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from model_server.decoding.decode import is_plain
from model_server.images import to_pil
from model_server.remote.thinking import without_thinking
from model_server.types import Image, Message, Role, SamplingParams

_LOSSY = ("image/jpeg", "image/heic", "image/avif", "image/webp")
_KINDS = {"image/jpeg": "JPEG", "image/png": "PNG"}  # what all servers know


def optional_fields(sampling: SamplingParams, left_out: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a request that a server may refuse, without those in `left_out`. In place of `max_tokens` its newer name
    `max_completion_tokens` is used."""
    fields: dict[str, Any] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # Not every server knows every name, so default values are left out.
    if sampling.top_p < 1:
        fields["top_p"] = sampling.top_p
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if "max_tokens" in left_out:
        fields["max_completion_tokens"] = sampling.max_new_tokens
    if "stream" in left_out:  # one means nothing without the other
        del fields["stream_options"]
    return {name: value for name, value in fields.items() if name not in left_out}


def request_body(model: str, messages: Sequence[Message], optional: Mapping[str, Any], system: str | None = None) -> bytes:
    """Make the JSON body of a request. Encodes the pictures, as data URLs (RFC 2397), which takes time: call it off the event
    loop."""
    first = [{"role": "system", "content": system.strip()}] if system and system.strip() else []
    return json.dumps({"model": model, "messages": [*first, *map(_message, messages)], **optional}).encode()


def _message(message: Message) -> dict[str, Any]:
    # An answer from before its thinking was hidden may still begin with it.
    text = without_thinking(message.text) if message.role is Role.ASSISTANT else message.text
    if not message.images:
        return {"role": message.role.value, "content": text}
    images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return {"role": message.role.value, "content": [*images, {"type": "text", "text": text}]}


def _data_url(image: Image) -> str:
    data, media_type = _portable(image)
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _portable(image: Image) -> tuple[bytes, str]:
    """The picture as bytes and media type that all servers decode alike: they differ in formats, rotation, transparency, bit
    depths, colour profiles, and in what they take for damaged."""
    kind = _KINDS.get(image.media_type)
    if kind is not None and is_plain(image.data, kind):
        return image.data, image.media_type
    buffer = io.BytesIO()
    if image.media_type in _LOSSY:
        to_pil(image).save(buffer, "JPEG", quality=95)
        return buffer.getvalue(), "image/jpeg"
    to_pil(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "image/png"
