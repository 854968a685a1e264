"""Reads the multipart form that carries a question and its pictures.

A picture that is too large is read to its end and discarded: a browser whose upload is refused half-way shows a broken connection
without a reason. The person gets the reason through the chat, as an `AttachmentError`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from adapters.base import Attachment
from adapters.sizes import check_size, format_size
from adapters.web.guard import Refused

MAX_TEXT_BYTES = 256 * 1024  # far above any context window; the bot explains when a text exceeds that
MAX_IMAGES = 8
MAX_BODY_BYTES = 2**30  # up to this size a body is read to its end, so that the refusal can be shown
CHUNK_BYTES = 256 * 1024
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")


@dataclass(frozen=True, slots=True)
class Question:
    message_id: str
    text: str
    attachments: tuple[Attachment, ...]


async def read_question(request: web.Request, max_image_bytes: int) -> Question:
    """Read the form: fields `message_id`, `text` and any number of `picture`. Raises `Refused`."""
    if request.content_type != "multipart/form-data":
        raise Refused(415, "Please send a form.")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise Refused(413, f"That is more than {format_size(MAX_BODY_BYTES)}, far too much for a picture.")
    message_id, text = "", ""
    attachments: list[Attachment] = []
    num_bytes = 0
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise Refused(400, "That form could not be understood.")
            limit = max_image_bytes if part.name == "picture" else MAX_TEXT_BYTES
            data, size = await _read_part(part, limit, MAX_BODY_BYTES - num_bytes)
            num_bytes += size
            match part.name:
                case "message_id":
                    message_id = data.decode(errors="replace")
                case "text":
                    if size > limit:
                        raise Refused(413, f"That question is longer than {format_size(limit)}. Please ask in fewer words.")
                    text = data.decode(errors="replace").replace("\r\n", "\n")  # forms send line ends as CR LF
                case "picture" if len(attachments) < MAX_IMAGES:
                    attachments.append(_attachment(part.filename, data, size, limit))
                case _:
                    raise Refused(400, f"Please send at most {MAX_IMAGES} pictures at a time.")
    except (ValueError, HttpProcessingError) as error:
        raise Refused(400, "The upload did not arrive whole. Please try again.") from error
    if not _MESSAGE_ID.fullmatch(message_id):
        raise Refused(400, "That question came without a proper id. Please reload the page.")
    return Question(message_id, text, tuple(attachments))


async def _read_part(part: BodyPartReader, limit: int, num_bytes_left: int) -> tuple[bytes, int]:
    """The part's bytes and its size in bytes. Above `limit` the bytes are discarded."""
    kept = bytearray()
    size = 0
    while chunk := await part.read_chunk(CHUNK_BYTES):
        size += len(chunk)
        if size > num_bytes_left:
            raise Refused(413, f"That is more than {format_size(MAX_BODY_BYTES)}, far too much for a picture.")
        if size <= limit:
            kept += chunk
        else:
            kept.clear()
    return bytes(kept), size


def _attachment(name: str | None, data: bytes, size: int, limit: int) -> Attachment:
    return Attachment(clean_file_name(name), _fetcher(data, size, limit), size)


def _fetcher(data: bytes, size: int, limit: int) -> Callable[[int], Awaitable[bytes]]:
    async def fetch(max_bytes: int) -> bytes:
        check_size(size, min(max_bytes, limit))
        return data

    return fetch


def clean_file_name(name: str | None) -> str:
    """Make a file name safe to show: no folders, no control or direction-changing characters, at most 100 characters."""
    last = re.split(r"[/\\]", name or "")[-1]
    printable = "".join(character for character in last if unicodedata.category(character)[0] != "C").strip()
    if len(printable) > 100:
        printable = printable[:60] + "…" + printable[-39:]
    return printable or "the picture"
