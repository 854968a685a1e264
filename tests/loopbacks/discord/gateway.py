"""The gateway half of the loopback Discord: one compressed stream per connection, and a log that a RESUME replays.

https://discord.com/developers/docs/events/gateway; transport compression is one stream context per connection, flushed per message.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import zstandard
from aiohttp import WSMsgType, web

from tests.loopbacks.discord.payloads import APPLICATION, BOT, GUILD, TOKEN, Payload, guild_payload, user_payload

if TYPE_CHECKING:
    from tests.loopbacks.discord.server import DiscordLoopback

MESSAGE_CONTENT = 1 << 15
_ACK_SECONDS = 0.2  # as over a network: discord.py misjudges an acknowledgement that comes before its own thread has gone on
_HIDDEN: Payload = {"content": "", "attachments": [], "embeds": [], "components": []}


def _zlib() -> Callable[[bytes], bytes]:
    stream = zlib.compressobj()
    return lambda data: stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)


def _zstd() -> Callable[[bytes], bytes]:
    stream = zstandard.ZstdCompressor().compressobj()
    return lambda data: stream.compress(data) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


_COMPRESSIONS = {"zlib-stream": _zlib, "zstd-stream": _zstd}


class Link:
    """One connection of the client. It gets the events that its intents allow."""

    def __init__(self, socket: web.WebSocketResponse, compression: str | None) -> None:
        self.socket = socket
        self.shard = 0
        self.intents = 0
        self._compress = None if compression is None else _COMPRESSIONS[compression]()

    async def send(self, payload: Payload) -> None:
        if self.socket.closed:
            return
        text = json.dumps(self._seen(payload))
        if self._compress is None:
            await self.socket.send_str(text)
        else:
            await self.socket.send_bytes(self._compress(text.encode()))

    def _seen(self, payload: Payload) -> Payload:
        """The payload without the content of messages that are not for us, if that intent is missing."""
        if self.intents & MESSAGE_CONTENT or payload.get("t") not in ("MESSAGE_CREATE", "MESSAGE_UPDATE"):
            return payload
        data = payload["d"]
        is_ours = "guild_id" not in data or data["author"]["id"] == str(BOT)
        if is_ours or any(user["id"] == str(BOT) for user in data["mentions"]):
            return payload
        return {**payload, "d": data | _HIDDEN}


class Gateway:
    def __init__(self, discord: DiscordLoopback) -> None:
        self._discord = discord
        self.links: list[Link] = []
        self.compressions: list[str | None] = []  # that each connection asked for
        self.log: list[Payload] = []

    async def dispatch(self, name: str, data: Payload, only: Link | None = None) -> None:
        payload = {"op": 0, "t": name, "s": len(self.log) + 1, "d": json.loads(json.dumps(data))}
        self.log.append(payload)
        for link in self.links if only is None else [only]:
            await link.send(payload)

    async def drop(self, code: int, *, shard: int | None = None) -> None:
        for link in list(self.links):
            if shard is None or link.shard == shard:
                await link.socket.close(code=code)

    async def ask_to_reconnect(self) -> None:
        for link in self.links:
            await link.send({"op": 7, "d": None})

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        compression = request.query.get("compress")
        self.compressions.append(compression)
        link = Link(socket, compression)
        await link.send({"op": 10, "d": {"heartbeat_interval": 41_250}})
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                break
            payload = json.loads(frame.data)
            match payload["op"]:
                case 1:
                    await asyncio.sleep(_ACK_SECONDS)
                    await link.send({"op": 11})
                case 2:
                    await self._identify(link, payload["d"])
                case 6 if not self._discord.can_resume or payload["d"]["seq"] > len(self.log):
                    await link.send({"op": 9, "d": False})
                case 6:
                    link.intents = self._discord.identities[-1]["intents"]
                    self.links.append(link)
                    for missed in [each for each in self.log if each["s"] > payload["d"]["seq"]]:
                        await link.send(missed)
                    await self.dispatch("RESUMED", {})
        if link in self.links:
            self.links.remove(link)
            await self._discord.changed()
        return socket

    async def _identify(self, link: Link, identity: Payload) -> None:
        discord = self._discord
        discord.identities.append(identity)
        code = 4004 if identity["token"] != TOKEN else discord.close_code
        if code is not None:
            discord.close_code = None
            await link.socket.close(code=code)
            return
        link.shard, link.intents = identity.get("shard", [0, 1])[0], identity["intents"]
        self.links.append(link)
        self.log.clear()
        ready = {
            "v": 10,
            "user": user_payload(BOT, "sight", bot=True),
            "guilds": [{"id": str(GUILD), "unavailable": True}] if discord.has_guild else [],
            "session_id": "session",
            "resume_gateway_url": discord.gateway_url,
            "application": {"id": str(APPLICATION), "flags": discord.flags},
            "shard": identity.get("shard", [0, 1]),
        }
        await self.dispatch("READY", ready, link)
        if discord.has_guild:
            await self.dispatch("GUILD_CREATE", guild_payload(list(discord.channels.values()), discord.permissions), link)
        await discord.changed()
