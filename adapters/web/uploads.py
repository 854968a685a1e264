"""Reads the multipart form that carries a question and its pictures.

A picture that is too large is read to its end and discarded: a browser whose upload is refused half-way shows a broken connection
without a reason. The person gets the reason through the chat, as an `AttachmentError`.

Whoever sends decides how long that takes, within `IDLE_SECONDS` for each piece and `TOTAL_SECONDS` for all. So nothing that others
need is held meanwhile: a text or a small picture needs nothing but a little memory, a larger picture is written to a file, and how
many of those there are is limited per person first (`shares.py`).
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import unicodedata
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import IO, TypeVar

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from adapters.base import Attachment, AttachmentError
from adapters.sizes import check_size, format_size
from adapters.web.guard import Refused
from adapters.web.shares import Share

MAX_TEXT_BYTES = 256 * 1024  # far above any context window; the bot explains when a text exceeds that
MAX_IMAGES = 8
IDLE_SECONDS = 20.0
TOTAL_SECONDS = 600.0
MEMORY_BYTES = 512 * 1024  # of an upload; the part that goes beyond it is in a file
MAX_BODY_BYTES = 2**30  # up to this size a body is read to its end, so that the refusal can be shown
CHUNK_BYTES = 256 * 1024
T = TypeVar("T")
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")


@dataclass(frozen=True, slots=True)
class Question:
    """What was sent. Its pictures can be read until the `AsyncExitStack` of `read_question` is closed."""

    message_id: str
    text: str
    attachments: tuple[Attachment, ...]


async def read_question(request: web.Request, max_image_bytes: int, share: Share, stack: AsyncExitStack) -> Question:
    """Read the form: fields `message_id`, `text` and any number of `picture`. Raises `Refused`.

    `share` is how many large uploads its sender may have at a time. Closing `stack` removes the files.
    """
    if request.content_type != "multipart/form-data":
        raise Refused(415, "Please send a form.")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise Refused(413, f"That is more than {format_size(MAX_BODY_BYTES)}, far too much for a picture.")
    try:
        async with asyncio.timeout(TOTAL_SECONDS), AsyncExitStack() as while_reading:
            return await _read_form(request, max_image_bytes, _Space(share, while_reading, stack))
    except TimeoutError as error:
        raise Refused(408, "The upload stopped on its way. Please try again.") from error
    except (ValueError, HttpProcessingError) as error:
        raise Refused(400, "The upload did not arrive whole. Please try again.") from error


async def _read_form(request: web.Request, max_image_bytes: int, space: _Space) -> Question:
    message_id, text = "", ""
    attachments: list[Attachment] = []
    num_bytes = 0
    form = await request.multipart()
    while (part := await _soon(form.next())) is not None:
        if not isinstance(part, BodyPartReader):
            raise Refused(400, "That form could not be understood.")
        limit = max_image_bytes if part.name == "picture" else MAX_TEXT_BYTES
        data, size = await _read_part(part, limit, MAX_BODY_BYTES - num_bytes, space)
        num_bytes += size
        match part.name:
            case "message_id":
                message_id = (await data.read()).decode(errors="replace")
            case "text":
                if size > limit:
                    raise Refused(413, f"That question is longer than {format_size(limit)}. Please ask in fewer words.")
                text = (await data.read()).decode(errors="replace").replace("\r\n", "\n")  # forms send line ends as CR LF
            case "picture" if len(attachments) < MAX_IMAGES:
                attachments.append(_attachment(part.filename, data, size, limit))
            case _:
                raise Refused(400, f"Please send at most {MAX_IMAGES} pictures at a time.")
    if not _MESSAGE_ID.fullmatch(message_id):
        raise Refused(400, "That question came without a proper id. Please reload the page.")
    return Question(message_id, text, tuple(attachments))


async def _soon(piece: Awaitable[T]) -> T:
    async with asyncio.timeout(IDLE_SECONDS):
        return await piece


@dataclass(slots=True)
class _Space:
    """Room for an upload: a place among the large ones, taken by the first part that needs a file, and the files."""

    share: Share
    while_reading: AsyncExitStack
    files: AsyncExitStack
    is_large: bool = False
    num_bytes_in_memory: int = 0

    async def open_file(self) -> IO[bytes]:
        if not self.is_large:
            self.is_large = True
            await self.while_reading.enter_async_context(self.share.place())
        file = await asyncio.to_thread(tempfile.TemporaryFile)
        self.files.callback(file.close)
        return file


class _Received:
    """A part's bytes: the first in memory, and if there are many, all of them in a file."""

    def __init__(self, space: _Space) -> None:
        self._space = space
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._reading = asyncio.Lock()

    async def add(self, piece: bytes) -> None:
        if self._file is None and self._space.num_bytes_in_memory + len(piece) > MEMORY_BYTES:
            self._file = await self._space.open_file()
        if self._file is None:
            self._memory += piece
            self._space.num_bytes_in_memory += len(piece)
        else:
            await asyncio.to_thread(self._file.write, bytes(self._memory) + piece)
            self._forget()

    async def clear(self) -> None:
        self._forget()
        if self._file is not None:
            await asyncio.to_thread(self._empty, self._file)

    async def read(self) -> bytes:
        if self._file is None:
            return bytes(self._memory)
        async with self._reading:
            return await asyncio.to_thread(self._read, self._file)

    def _forget(self) -> None:
        self._space.num_bytes_in_memory -= len(self._memory)
        self._memory.clear()

    @staticmethod
    def _empty(file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()

    @staticmethod
    def _read(file: IO[bytes]) -> bytes:
        file.seek(0)
        return file.read()


async def _read_part(part: BodyPartReader, limit: int, num_bytes_left: int, space: _Space) -> tuple[_Received, int]:
    """The part's bytes and its size in bytes. Above `limit` the bytes are discarded."""
    kept = _Received(space)
    size = 0
    while chunk := await _soon(part.read_chunk(CHUNK_BYTES)):
        was_kept = size <= limit
        size += len(chunk)
        if size > num_bytes_left:
            raise Refused(413, f"That is more than {format_size(MAX_BODY_BYTES)}, far too much for a picture.")
        if size <= limit:
            await kept.add(chunk)
        elif was_kept:
            await kept.clear()
    return kept, size


def _attachment(name: str | None, data: _Received, size: int, limit: int) -> Attachment:
    async def fetch(max_bytes: int) -> bytes:
        check_size(size, min(max_bytes, limit))
        try:
            return await data.read()
        except ValueError as error:  # the file is closed: the server stops
            raise AttachmentError("the upload broke off") from error

    return Attachment(clean_file_name(name), fetch, size)


def clean_file_name(name: str | None) -> str:
    """Make a file name safe to show: no folders, no control or direction-changing characters, at most 100 characters."""
    last = re.split(r"[/\\]", name or "")[-1]
    printable = "".join(character for character in last if unicodedata.category(character)[0] != "C").strip()
    if len(printable) > 100:
        printable = printable[:60] + "…" + printable[-39:]
    return printable or "the picture"
