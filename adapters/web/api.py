"""The page's actions, one route each. The tabs get the changes through `tabs.py`, not through the response."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import assert_never

from aiohttp import web

from adapters.base import Answer, AnswerText, Author, ChatHandler, Ended, IncomingMessage, Notice, Waiting
from adapters.web.guard import SESSION, Refused
from adapters.web.shares import Shares
from adapters.web.stored import Json
from adapters.web.tabs import Tabs, thread_key
from adapters.web.uploads import read_question
from adapters.web.visitors import Visitors

MAX_UPLOADS = 16  # large ones at a time; more have to wait, so that disk space stays bounded
MAX_UPLOADS_EACH = 4  # of one session, or without sessions of one address
REFUSAL_SECONDS = 30.0
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/heic", "image/heif"})
READER = Author("local", "You")


class Api:
    """The actions of one page. `visitors` tells people apart who have no session."""

    def __init__(self, handler: ChatHandler, tabs: Tabs, max_image_bytes: int, visitors: Visitors) -> None:
        self._handler = handler
        self._tabs = tabs
        self._max_image_bytes = max_image_bytes
        self._visitors = visitors
        self._uploads = Shares(MAX_UPLOADS, MAX_UPLOADS_EACH)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/api/tab", self._tabs.serve)
        router.add_post("/api/chats/{thread}/messages", self.ask)
        router.add_post("/api/chats/{thread}/stop", self.stop)
        router.add_post("/api/chats/{thread}/regenerate", self.regenerate)
        router.add_delete("/api/chats/{thread}", self.delete)
        router.add_get("/api/chats/{thread}/pictures/{sha256}", self.image)

    async def ask(self, request: web.Request) -> web.Response:
        key = thread_key(request.match_info["thread"])
        share = self._uploads.of(request.get(SESSION) or self._visitors.visitor_of(request))
        async with AsyncExitStack() as stack:
            question = await read_question(request, self._max_image_bytes, share, stack)
            message = IncomingMessage(key, question.message_id, READER, question.text, question.attachments)
            answer = await self._handler.handle(message)
        return await self._accept(answer)

    async def regenerate(self, request: web.Request) -> web.Response:
        answer = await self._handler.regenerate(thread_key(request.match_info["thread"]))
        if answer is None:
            raise Refused(409, "There is no question here that could be answered again.")
        return await self._accept(answer)

    async def stop(self, request: web.Request) -> web.Response:
        answer = self._handler.running_answer(thread_key(request.match_info["thread"]))
        if answer is not None:
            answer.stop()
        return web.Response(status=204)

    async def delete(self, request: web.Request) -> web.Response:
        key = thread_key(request.match_info["thread"])
        if not await self._handler.delete_chat(key):
            raise Refused(404, "This chat is gone already.")
        self._tabs.announce(key.thread)
        return web.Response(status=204)

    async def image(self, request: web.Request) -> web.Response:
        found = await self._handler.read_image(thread_key(request.match_info["thread"]), request.match_info["sha256"])
        if found is None:
            raise Refused(404, "This picture is gone.")
        data, media_type = found
        etag = f'"{request.match_info["sha256"]}"'
        # `no-cache`: the browser asks each time, so that a deleted chat's picture disappears from the page as well.
        headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Security-Policy": "default-src 'none'; sandbox"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        if media_type not in IMAGE_TYPES:
            media_type = "application/octet-stream"
            headers["Content-Disposition"] = "attachment"
        return web.Response(body=data, content_type=media_type, headers=headers)

    async def _accept(self, answer: Answer) -> web.Response:
        if answer.turn_id is None:
            return web.json_response(await _refusal(answer))
        self._tabs.announce(answer.key.thread)
        self._tabs.follow(answer)
        return web.json_response({"turn_id": answer.turn_id}, status=202)


async def _refusal(answer: Answer) -> Json:
    """The events of a question that was not stored. No tab would get them otherwise, so they are in the response."""
    notices: list[str] = []
    error: str | None = None
    async with asyncio.timeout(REFUSAL_SECONDS):
        async for event in answer.events():
            match event:
                case Notice(text):
                    notices.append(text)
                case Ended(_, sentence):
                    error = sentence
                case Waiting() | AnswerText():
                    pass
                case _ as never:
                    assert_never(never)
    return {"turn_id": None, "notices": notices, "error": error}
