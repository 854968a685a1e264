"""The Discord adapter, connected to the loopback Discord, over a chat handler in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import discord
import pytest

from adapters.conversations.dispatcher import Dispatcher
from adapters.discord.app import DiscordAdapter
from tests.adapters.running_adapter import started
from tests.chat_handler import MemoryChatHandler, WrittenAnswer, draw_image
from tests.loopbacks.discord.payloads import BOT, TOKEN, Payload
from tests.loopbacks.discord.server import DiscordLoopback

ME = f"<@{BOT}>"


@contextlib.asynccontextmanager
async def running(loopback: DiscordLoopback, handler: MemoryChatHandler, **settings: Any) -> AsyncIterator[DiscordAdapter]:
    """The adapter, ready, without Discord's rate limits."""
    token = settings.pop("token", TOKEN)
    quick = {"ready_seconds": 0.05, "embed_seconds": 0.2, **settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.discord.app.CHANNEL_SECONDS", 0.0)
        patch.setattr("adapters.discord.app.WRITES_PER_SECOND", 1000.0)
        patch.setattr(Dispatcher.close, "__defaults__", (0.05,))  # do not wait for answers that a test leaves open
        adapter = DiscordAdapter(token, api_url=loopback.api_url, gateway_url=loopback.gateway_url, **quick)
        async with started(adapter, handler):
            yield adapter


def skip_identify_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """discord.py waits five seconds before it begins a session anew."""

    async def at_once(client: discord.Client, shard_id: int | None, *, initial: bool = False) -> None:
        return None

    monkeypatch.setattr(discord.Client, "before_identify_hook", at_once)


class Handler(MemoryChatHandler):
    """Also records which threads and channels were reported as deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms_gone: asyncio.Queue[str] = asyncio.Queue()

    async def delete_room(self, platform: str, workspace: str, room: str) -> int:
        num_deleted = await super().delete_room(platform, workspace, room)
        self.rooms_gone.put_nowait(room)
        return num_deleted


class World:
    """A Discord with one channel, and what people do there."""

    def __init__(self, loopback: DiscordLoopback, **settings: Any) -> None:
        self.discord = loopback
        self.handler = Handler()
        self.channel = loopback.add_channel()
        self.adapter: DiscordAdapter
        self._settings = settings
        self._running = contextlib.AsyncExitStack()

    async def start(self) -> None:
        self.adapter = await self._running.enter_async_context(running(self.discord, self.handler, **self._settings))

    async def stop(self) -> None:
        await self._running.aclose()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def image(self, name: str = "a.png") -> Payload:
        return self.discord.add_file(name, draw_image())

    async def ask(self, text: str = f"{ME} What is this?", channel: int | None = None, **more: Any) -> Payload:
        """A mention with a picture, unless `more` says otherwise."""
        return await self.discord.post(channel or self.channel, text, **{"attachments": [self.image()], **more})

    async def answered(self, *pieces: str) -> WrittenAnswer:
        answer = await self.handler.answer_next(*(pieces or ("A red circle.",)))
        await self.handler.wait_delivered(answer.turn_id)
        return answer

    def texts(self, channel: int) -> list[str]:
        return [message["content"] for message in self.discord.bots(channel)]


@contextlib.asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    options = {name: settings.pop(name) for name in list(settings) if name in DiscordLoopback.__dataclass_fields__}
    async with DiscordLoopback(**options).serving() as loopback:
        made = World(loopback, **settings)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()
