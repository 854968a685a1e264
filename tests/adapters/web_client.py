"""The web adapter on a free port, and a client that speaks to it as the page does."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from adapters.base import ThreadKey
from adapters.web.server import WebAdapter
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler

THREAD = "a" * 32
KEY = ThreadKey("web", "local", "page", THREAD)


@asynccontextmanager
async def serving(handler: MemoryChatHandler, *, token: str | None = None, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    adapter = WebAdapter("127.0.0.1", 0, token, **options)
    task = asyncio.create_task(adapter.run(handler))
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await adapter.started.wait()
        assert adapter.url is not None
        jar = aiohttp.CookieJar(unsafe=True)  # cookies also for IP addresses
        async with aiohttp.ClientSession(adapter.url, cookie_jar=jar) as client:
            yield client
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def form(
    text: str = "What is it?", *, message_id: str = "m" * 20, data: bytes | None = None, name: str = "a.png"
) -> aiohttp.FormData:
    fields = aiohttp.FormData(default_to_multipart=True)
    fields.add_field("message_id", message_id)
    fields.add_field("text", text)
    if data is not None:
        fields.add_field("picture", io.BytesIO(data), filename=name, content_type="image/png")
    return fields


async def ask(client: aiohttp.ClientSession, fields: aiohttp.FormData, thread: str = THREAD) -> tuple[int, Any]:
    async with client.post(f"/api/chats/{thread}/messages", data=fields) as response:
        return response.status, await response.json()


class TabReader:
    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = connection

    async def watch(self, thread: str | None) -> None:
        await self.socket.send_json({"watch": thread})

    async def next(self, kind: str) -> dict[str, Any]:
        """The next message of a kind; others are skipped."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                message: dict[str, Any] = await self.socket.receive_json()
                if message["type"] == kind:
                    return message


@asynccontextmanager
async def open_tab(client: aiohttp.ClientSession, thread: str | None = None) -> AsyncIterator[TabReader]:
    async with client.ws_connect("/api/tab") as connection:
        tab = TabReader(connection)
        if thread is not None:
            await tab.watch(thread)
        yield tab
