"""A page on which people use a loopback platform by hand: they read, write with pictures, press buttons, edit and delete.

A platform says what a person sees there (`Seen`) and does what they ask for (`Platform`); the page in `page/` is the same for all.
It is served by the loopback's own server, so on 127.0.0.1 only, and does nothing for another site's page.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mimetypes
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from aiohttp import BodyPartReader, web

PAGE = Path(__file__).with_name("page")
MAX_UPLOAD_BYTES = 25_000_000
SHOWN_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif"})  # by browsers
_PAUSE_SECONDS = 0.05  # between two looks at what has changed, so that a fast writer does not fill the line
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_FILE_HEADERS = _HEADERS | {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private"}


class Refused(Exception):
    """What the platform does not do, in a sentence for the person who asked for it."""


@dataclass(frozen=True)
class Person:
    id: str
    name: str


@dataclass(frozen=True)
class Sent:
    """A file in a message; `id` is what `Platform.file` knows it by."""

    id: str
    name: str
    is_image: bool


@dataclass(frozen=True)
class Button:
    id: str
    label: str


@dataclass(frozen=True)
class Shown:
    """A message as the person sees it. `room`: where it is; `thread`: the room of its replies, if there is or could be one."""

    id: str
    room: str
    author: str
    text: str
    files: list[Sent]
    buttons: list[Button]
    is_bot: bool
    is_own: bool
    is_edited: bool
    is_private: bool
    is_being_written: bool
    thread: str | None
    num_replies: int
    answers: str | None = None  # the beginning of the message that it replies to


@dataclass(frozen=True)
class Room:
    """A channel, a thread (which has a `parent`), or direct messages. `status`: what is said to be going on there."""

    id: str
    name: str
    parent: str | None
    is_listed: bool
    status: str
    messages: list[Shown]


@dataclass(frozen=True)
class Seen:
    """All that a person sees. `has_references`: whether a message can reply to another one in the same room."""

    platform: str
    bot: str
    is_bot_here: bool
    has_references: bool
    people: list[Person]
    rooms: list[Room]


@dataclass(frozen=True)
class Draft:
    room: str
    text: str
    files: list[tuple[str, bytes]]
    replies_to: str | None


class Platform(Protocol):
    """Its methods raise Refused, also for a person, room, message or button that there is not."""

    @property
    def people(self) -> list[Person]: ...

    def seen_by(self, person: str) -> Seen: ...

    def file(self, id_: str) -> tuple[str, bytes] | None:
        """Its name and content."""

    async def post(self, person: str, draft: Draft) -> str:
        """The new message's id."""

    async def edit(self, person: str, room: str, message: str, text: str) -> None: ...

    async def delete(self, person: str, room: str, message: str) -> None: ...

    async def press(self, person: str, room: str, message: str, button: str) -> None: ...

    async def changed_since(self, version: int) -> int:
        """The version of what is to be seen, once it is another one than `version`."""


def file_name(name: str) -> str:
    """As platforms keep it: nothing in it has a meaning in an address."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[-100:] or "file"


def is_shown(name: str) -> bool:
    """Whether browsers show such a picture."""
    return mimetypes.guess_type(name)[0] in SHOWN_TYPES


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _for_this_page(handler: Handler) -> Handler:
    """Another site's page gets nothing, whether it asks by itself or by a name that leads here; refusals become sentences."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        name = request.host.rpartition(":")[0] or request.host
        if name not in ("127.0.0.1", "localhost") or request.headers.get("Origin") not in (None, f"http://{request.host}"):
            return _told("This page is for people on this machine.", 403)
        try:
            return await handler(request)
        except Refused as refusal:
            return _told(str(refusal), 400)

    return guarded


def _told(sentence: str, status: int) -> web.Response:
    return web.json_response({"error": sentence}, status=status, headers=_HEADERS)


class View:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", _for_this_page(self._on_page)),
            web.get("/view/{name:[a-z]+\\.(?:js|css)}", _for_this_page(self._on_page)),
            web.get("/view/people", _for_this_page(self._on_people)),
            web.get("/view/seen", _for_this_page(self._on_seen)),
            web.get("/view/live", _for_this_page(self._on_live)),
            web.get("/view/files/{id}", _for_this_page(self._on_file)),
            web.post("/view/post", _for_this_page(self._on_post)),
            web.post("/view/{what:edit|delete|press}", _for_this_page(self._on_change)),
        ]

    async def _on_page(self, request: web.Request) -> web.StreamResponse:
        path = PAGE / request.match_info.get("name", "index.html")
        if not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path, headers=_HEADERS)

    async def _on_people(self, request: web.Request) -> web.StreamResponse:
        return web.json_response([asdict(person) for person in self._platform.people], headers=_HEADERS)

    async def _on_seen(self, request: web.Request) -> web.StreamResponse:
        seen = self._platform.seen_by(request.query.get("person", ""))
        return web.json_response(asdict(seen), headers=_HEADERS)

    async def _on_live(self, request: web.Request) -> web.StreamResponse:
        """What the person sees, again after every change."""
        person = request.query.get("person", "")
        self._platform.seen_by(person)
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        telling = asyncio.create_task(self._tell(socket, person))
        try:
            async for _ in socket:
                pass
        finally:
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await telling
        return socket

    async def _tell(self, socket: web.WebSocketResponse, person: str) -> None:
        told, version = "", -1
        while not socket.closed:
            version = await self._platform.changed_since(version)
            seen = json.dumps(asdict(self._platform.seen_by(person)))
            if seen != told:
                await socket.send_str(seen)
                told = seen
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _on_file(self, request: web.Request) -> web.StreamResponse:
        found = self._platform.file(request.match_info["id"])
        if found is None:
            raise web.HTTPNotFound
        name, data = found
        kind = mimetypes.guess_type(name)[0] if is_shown(name) else None
        headers = _FILE_HEADERS if kind else _FILE_HEADERS | {"Content-Disposition": f'attachment; filename="{file_name(name)}"'}
        return web.Response(body=data, content_type=kind or "application/octet-stream", headers=headers)

    async def _on_post(self, request: web.Request) -> web.StreamResponse:
        fields: dict[str, str] = {}
        files: list[tuple[str, bytes]] = []
        size = 0
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise Refused("This is no message.")
            data = bytearray()
            while chunk := await part.read_chunk():
                size += len(chunk)
                if size > MAX_UPLOAD_BYTES:
                    raise Refused(f"A message may have {MAX_UPLOAD_BYTES // 1_000_000} MB at most.")
                data += chunk
            if part.filename:
                files.append((file_name(part.filename), bytes(data)))
            else:
                fields[part.name or ""] = data.decode(errors="replace")
        draft = Draft(fields.get("room", ""), fields.get("text", "").strip(), files, fields.get("replies_to") or None)
        if not draft.text and not files:
            raise Refused("A message needs a text or a picture.")
        id_ = await self._platform.post(fields.get("person", ""), draft)
        return web.json_response({"id": id_, "room": draft.room}, status=201, headers=_HEADERS)

    async def _on_change(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = await request.json()
            person, room, message = (str(asked[name]) for name in ("person", "room", "message"))
            text, button = str(asked.get("text", "")).strip(), str(asked.get("button", ""))  # an id is as it was shown
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused("This is no request of this page.") from None
        match request.match_info["what"]:
            case "edit":
                if not text:
                    raise Refused("A message needs a text.")
                await self._platform.edit(person, room, message, text)
            case "press":
                await self._platform.press(person, room, message, button)
            case _:
                await self._platform.delete(person, room, message)
        return web.json_response({}, headers=_HEADERS)
