"""The part of Discord that the adapter's tests need, on a loopback port, for the unmodified discord.py: REST v10 and the gateway.

It stores what people would see, records every call, and fails when told to. Formats: https://discord.com/developers/docs/reference.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import discord
from aiohttp import web

from tests.loopbacks.discord.gateway import Gateway
from tests.loopbacks.discord.limits import Limits
from tests.loopbacks.discord.payloads import (
    APPLICATION,
    BOT,
    GUILD,
    Payload,
    channel_payload,
    message_payload,
    thread_payload,
    user_payload,
)
from tests.loopbacks.discord.rest import Rest

TIMEOUT_SECONDS = 10.0


@dataclass
class DiscordLoopback:
    max_message_chars: int = 2_000
    flags: int = 1 << 18  # message content, switched on
    permissions: int = (1 << 10) | (1 << 11) | (1 << 16) | (1 << 35) | (1 << 38)
    has_guild: bool = True
    num_shards: int = 1
    can_resume: bool = True
    close_code: int | None = None  # with which an IDENTIFY is refused
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    identities: list[Payload] = field(default_factory=list)
    channels: dict[int, Payload] = field(default_factory=dict)  # and threads
    messages: dict[int, dict[int, Payload]] = field(default_factory=lambda: defaultdict(dict))
    history: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))  # all contents that a message has had
    typed_in: list[int] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    callbacks: dict[int, Payload] = field(default_factory=dict)  # by interaction
    followups: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    commands: list[list[Payload]] = field(default_factory=list)
    faults: list[tuple[str, re.Pattern[str], deque[Any]]] = field(default_factory=list)
    url: str = ""
    nonces: dict[str, int] = field(default_factory=dict)
    interactions: dict[str, Payload] = field(default_factory=dict)  # by token
    limits: Limits = field(default_factory=Limits)
    port: int = 0  # 0 takes a free one
    more_routes: list[web.RouteDef] = field(default_factory=list)  # beside Discord's own
    num_changes: int = 0
    gateway: Gateway = field(init=False)
    _newest: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.gateway = Gateway(self)

    # -- for tests ---------------------------------------------------------------------------------------------------------

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v10"

    @property
    def gateway_url(self) -> str:
        return self.url.replace("http", "ws") + "/gateway/"

    def snowflake(self) -> int:
        self._newest = max(self._newest + 1, discord.utils.time_snowflake(datetime.now(UTC)))
        return self._newest

    def add_channel(self, name: str = "general", kind: int = 0, **more: Any) -> int:
        id_ = self.snowflake()
        self.channels[id_] = channel_payload(id_, name, kind) | more
        return id_

    def add_thread(self, parent: int, owner: int, **more: Any) -> int:
        id_ = int(more.pop("id", 0)) or self.snowflake()
        self.channels[id_] = thread_payload(id_, parent, owner, str(more.pop("name", "a thread")))
        return id_

    def add_file(self, name: str, data: bytes) -> Payload:
        id_ = self.snowflake()
        path = f"/cdn/{id_}/{name}"
        self.files[path] = data
        return {"id": str(id_), "filename": name, "size": len(data), "url": self.url + path, "proxy_url": self.url + path}

    def fail(self, method: str, path: str, *faults: Any) -> None:
        """Make the next calls fail: a status, (status, code), ("429", seconds, is_global), "reset", "done, then reset".

        A file may also be ("cut", after so many bytes).
        """
        self.faults.append((method, re.compile(path), deque(faults)))

    def hold(self, method: str, path: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Make the next such call wait. The first event is set when it arrives; the test sets the second to let it continue."""
        arrived, go = asyncio.Event(), asyncio.Event()
        self.fail(method, path, ("hold", arrived, go))
        return arrived, go

    async def wait_for(self, is_so: Callable[[], Any], seconds: float | None = TIMEOUT_SECONDS) -> Any:
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(is_so)
        return is_so()

    def people_say(self, channel: int, text: str, author: Payload | None = None, **more: Any) -> Payload:
        """Add a person's message, without an event."""
        id_ = self.snowflake()
        message = message_payload(id_, channel, text, author or user_payload(), **more)
        if (guild := self.channels[channel].get("guild_id")) is not None:
            message |= {"guild_id": guild, "member": more.get("member") or {"roles": [], "flags": 0, "joined_at": None}}
        if f"<@{BOT}>" in text:
            message["mentions"] = [*message["mentions"], user_payload(BOT, "sight", bot=True)]
        self.channels[channel]["last_message_id"] = str(id_)
        self.messages[channel][id_] = message
        return message

    async def post(self, channel: int, text: str, author: Payload | None = None, **more: Any) -> Payload:
        message = self.people_say(channel, text, author, **more)
        await self.dispatch("MESSAGE_CREATE", message)
        return message

    async def edit(self, message: Payload, *, is_real: bool = True, **changes: Any) -> None:
        message |= changes
        if is_real:
            message["edited_timestamp"] = datetime.now(UTC).isoformat()
        await self.dispatch("MESSAGE_UPDATE", message)

    async def delete(self, message: Payload) -> None:
        channel = int(message["channel_id"])
        del self.messages[channel][int(message["id"])]
        where = {"guild_id": str(GUILD)} if "guild_id" in message else {}
        await self.dispatch("MESSAGE_DELETE", {"id": message["id"], "channel_id": str(channel), **where})

    def bots(self, channel: int) -> list[Payload]:
        """What the bot has written there, in order."""
        return [message for message in self.messages[channel].values() if message["author"]["id"] == str(BOT)]

    def called(self, method: str, path: str) -> list[Any]:
        return [body for name, where, body in self.calls if name == method and re.fullmatch(path, where)]

    async def interact(self, kind: int, data: Payload, channel: int, **more: Any) -> int:
        """Send an interaction. Kinds: 2 a command, 3 a button, 5 a modal."""
        id_ = self.snowflake()
        where = self.channels[channel]
        person = more.pop("user", user_payload())
        who: Payload = {"user": person}
        if guild := where.get("guild_id"):
            member = {"user": person, "roles": [], "flags": 0, "joined_at": None, "permissions": str(more.pop("rights", 0))}
            who = {"member": member, "guild_id": guild, "guild": {"id": guild, "locale": "en-US", "features": []}}
        payload = {
            "id": str(id_),
            "application_id": str(APPLICATION),
            "type": kind,
            "token": f"token-{id_}",
            "version": 1,
            "channel_id": str(channel),
            "channel": {"permissions": "0", **where},
            "data": data,
            "app_permissions": str(self.permissions),
            "entitlements": [],
            "attachment_size_limit": 10_000_000,
            "authorizing_integration_owners": {"0": str(GUILD)},
            "context": 0 if "guild_id" in where else 1,
            **who,
            **more,
        }
        self.interactions[f"token-{id_}"] = payload
        await self.dispatch("INTERACTION_CREATE", payload)
        await self.wait_for(lambda: id_ in self.callbacks)
        return id_

    def add_direct(self, person: int = 0) -> int:
        id_ = self.snowflake()
        self.channels[id_] = {"id": str(id_), "type": 1, "recipients": [user_payload(person) if person else user_payload()]}
        return id_

    async def command(self, name: str, channel: int, *, kind: int = 1, **more: Any) -> int:
        data = {"id": "1", "name": name, "type": kind, **more.pop("data", {})}
        return await self.interact(2, data, channel, **more)

    async def click(self, message: Payload, custom_id: str, **more: Any) -> int:
        data = {"custom_id": custom_id, "component_type": 2}
        return await self.interact(3, data, int(message["channel_id"]), message=message, **more)

    async def reply_to(self, interaction: int) -> Payload:
        """The newest response to the interaction."""
        await self.wait_for(lambda: self.followups[interaction])
        return next(
            m for messages in self.messages.values() for id_, m in messages.items() if id_ == self.followups[interaction][-1]
        )

    async def dispatch(self, name: str, data: Payload) -> None:
        await self.gateway.dispatch(name, data)

    async def drop(self, code: int = 4000, *, shard: int | None = None) -> None:
        """Close all connections, or that of one shard."""
        await self.gateway.drop(code, shard=shard)

    async def ask_to_reconnect(self) -> None:
        await self.gateway.ask_to_reconnect()

    async def changed(self) -> None:
        async with self._changed:
            self.num_changes += 1
            self._changed.notify_all()

    # -- Discord -----------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[DiscordLoopback]:
        rest = Rest(self)
        app = web.Application(middlewares=[rest.guard])
        for method, path, handler in rest.routes():
            app.router.add_route(method, path, handler)
        app.router.add_get("/gateway/", self.gateway.serve)
        app.add_routes(self.more_routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await self.drop()
            await runner.cleanup()
