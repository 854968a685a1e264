"""The loopback Discord itself: the unmodified discord.py against it, and its payloads against Discord's own description."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import discord
import pytest
import yarl
from jsonschema import Draft202012Validator

from tests.loopbacks.discord.limits import NUM_WRITES
from tests.loopbacks.discord.payloads import (
    BOT,
    TOKEN,
    Payload,
    application_payload,
    channel_payload,
    thread_payload,
    user_payload,
)
from tests.loopbacks.discord.server import TIMEOUT_SECONDS, DiscordLoopback

OPENAPI = Path(__file__).parents[4] / "shared" / "data" / "discord_openapi.json"
needs_openapi = pytest.mark.skipif(not OPENAPI.is_file(), reason="Discord's OpenAPI file is not there")


class Client(discord.Client):
    def __init__(self, *, has_content: bool = True) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, dm_messages=True, message_content=has_content)
        super().__init__(intents=intents)
        self.seen: asyncio.Queue[discord.Message] = asyncio.Queue()
        self.resumed = asyncio.Event()

    async def on_message(self, message: discord.Message) -> None:
        self.seen.put_nowait(message)

    async def on_resumed(self) -> None:
        self.resumed.set()

    async def next(self) -> discord.Message:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.seen.get()


@asynccontextmanager
async def connected(loopback: DiscordLoopback, *, has_content: bool = True) -> AsyncIterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discord.http.Route, "BASE", loopback.api_url)
        patch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(loopback.gateway_url))
        client = Client(has_content=has_content)
        client._connection.guild_ready_timeout = 0.05
        async with client:
            running = asyncio.create_task(client.start(TOKEN))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await client.wait_until_ready()
            yield client
            await client.close()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def loopback() -> AsyncIterator[DiscordLoopback]:
    async with DiscordLoopback().serving() as serving:
        yield serving


def content_of(message: discord.Message) -> tuple[str, int]:
    return message.content, len(message.attachments)


# --- the gateway


async def test_zstd(loopback: DiscordLoopback) -> None:
    channel = loopback.add_channel()
    async with connected(loopback) as client:
        await loopback.post(channel, "é" * 1_000)
        assert (await client.next()).content == "é" * 1_000
    assert loopback.gateway.compressions == ["zstd-stream"]


async def test_zlib(loopback: DiscordLoopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """What discord.py asks for where no zstd is installed; the context is its own, as far as it would be defined then."""

    class Zlib:
        COMPRESSION_TYPE = "zlib-stream"

        def __init__(self) -> None:
            import zlib

            self._stream, self._buffer = zlib.decompressobj(), bytearray()

        def decompress(self, data: bytes, /) -> str | None:
            self._buffer.extend(data)
            if data[-4:] != b"\x00\x00\xff\xff":
                return None
            text, self._buffer = self._stream.decompress(self._buffer).decode(), bytearray()
            return text

    monkeypatch.setattr(discord.utils, "_ActiveDecompressionContext", Zlib)
    channel = loopback.add_channel()
    async with connected(loopback) as client:
        for number in range(3):
            await loopback.post(channel, f"hello {number}")
            assert (await client.next()).content == f"hello {number}"
    assert loopback.gateway.compressions == ["zlib-stream"]


async def test_resume_brings_what_was_missed(loopback: DiscordLoopback) -> None:
    channel = loopback.add_channel()
    async with connected(loopback) as client:
        links = list(loopback.gateway.links)
        loopback.gateway.links.clear()  # the connection is dead, and nobody knows it yet
        await loopback.post(channel, "missed")
        loopback.gateway.links.extend(links)
        await loopback.drop()
        assert (await client.next()).content == "missed"
        await client.resumed.wait()
    assert len(loopback.identities) == 1


async def test_without_the_intent_content_is_seen_only_when_it_is_for_the_bot(loopback: DiscordLoopback) -> None:
    channel = loopback.add_channel()
    image = loopback.add_file("a.png", b"x")
    async with connected(loopback, has_content=False) as client:
        await loopback.post(channel, "to somebody else", attachments=[image])
        assert content_of(await client.next()) == ("", 0)
        await loopback.post(channel, f"<@{BOT}> hello", attachments=[image])
        assert content_of(await client.next()) == (f"<@{BOT}> hello", 1)
        await loopback.post(loopback.add_direct(), "hello", attachments=[image])
        assert content_of(await client.next()) == ("hello", 1)


# --- limits


async def test_limits_are_counted_and_the_client_that_heeds_the_headers_breaks_none(loopback: DiscordLoopback) -> None:
    loopback.limits.is_enforced, loopback.limits.seconds = True, 0.5
    channel = loopback.add_channel()
    async with connected(loopback) as client:
        place = client.get_partial_messageable(channel)
        for number in range(NUM_WRITES + 1):
            await place.send(str(number))
    assert not loopback.limits.violations
    times = [at for where, at in loopback.limits.writes if where == channel]
    assert len(times) == NUM_WRITES + 1


def test_a_limit_that_is_broken_is_refused_and_counted() -> None:
    loopback = DiscordLoopback()
    loopback.limits.is_enforced = True
    waits = [loopback.limits.take(1)[1] for _ in range(NUM_WRITES + 2)]
    assert [wait is None for wait in waits] == [True] * NUM_WRITES + [False] * 2
    assert loopback.limits.violations == [1, 1]
    assert loopback.limits.take(2)[1] is None


# --- payloads


@functools.cache
def description() -> Payload:
    loaded: Payload = json.loads(OPENAPI.read_text(encoding="utf-8"))
    return loaded


def check(name: str, payload: Any) -> None:
    """Against a schema of Discord's own; what is there and is not described is no error, as new fields come all the time."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": description()["components"]}
    errors = sorted(Draft202012Validator(schema).iter_errors(payload), key=lambda error: list(error.path))
    assert not errors, [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in errors[:5]]


@needs_openapi
async def test_payloads_are_discords() -> None:
    async with DiscordLoopback().serving() as loopback:
        channel = loopback.add_channel()
        image = loopback.add_file("a.png", b"x" * 100)
        async with connected(loopback) as client:
            message = await loopback.post(channel, f"<@{BOT}> hello", attachments=[image])
            check("MessageResponse", {key: value for key, value in message.items() if key not in ("guild_id", "member")})
            view = discord.ui.View(timeout=None)
            view.add_item(discord.ui.Button(label="Stop", custom_id="stop"))
            asked = await client.next()
            sent = await asked.reply("Hello", view=view)
            check("MessageResponse", loopback.messages[channel][sent.id])
            opened = await asked.create_thread(name="A thread")
            check("ThreadResponse", loopback.channels[opened.id])
        check("UserResponse", user_payload())
        check("PrivateApplicationResponse", application_payload(loopback.flags))
        check("GuildChannelResponse", channel_payload(1, "general", 0))
        check("ThreadResponse", thread_payload(1, 2, 3, "A thread"))
        check("MessageAttachmentResponse", image)
