"""The Discord adapter: signs in, keeps the connection, and passes events to its parts; the dispatcher decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from datetime import datetime
from functools import partial

import aiohttp
import discord

from adapters.access import Access
from adapters.backoff import growing_waits, until_reached
from adapters.base import AdapterError, ThreadHandler, ThreadKey
from adapters.conversations.absence import CatchUp
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.pace import Pace
from adapters.discord.actions import PLATFORM, Actions
from adapters.discord.api_errors import CannotEdit, quiet_log
from adapters.discord.catch_up import read_missed, read_on
from adapters.discord.checks import NO_CONTENT, SignIn, sign_in
from adapters.discord.client import READY_SECONDS, AnyClient, Listener, make_client, point_at
from adapters.discord.commands import Commands, sync
from adapters.discord.destination import parse_destination
from adapters.discord.files import Downloads
from adapters.discord.setup import API_URL, WRONG_TOKEN, invite_link
from adapters.discord.surface import DiscordSurface
from adapters.discord.threads import begin_chat, destination_in
from adapters.discord.translate import EMBED_SECONDS, Translator
from adapters.post import Post
from adapters.proxies import ProxyFor, no_proxy
from adapters.surface import DestinationGone, Surface, TryLater
from adapters.tasks import Tasks

log = logging.getLogger(__name__)

CHANNEL_SECONDS = 1.2  # Discord allows five writes in five seconds per channel
WRITES_PER_SECOND = 40.0  # and fifty requests per second overall
_FATAL_CODES = {
    4004: WRONG_TOKEN,
    4010: "Discord did not take the number of my connection (shard). Please start me again.",
    4011: "Discord wants more connections (shards) than I opened. Please start me again.",
    4012: "Discord no longer speaks the version of its protocol that I speak. Please install a newer version of me.",
    4013: "Discord did not take what I asked to be told (intents). Please install a newer version of me.",
}
_SYNC_FAILED = "Discord did not take my commands, so that /ask and the menus may be missing. I try again at the next start."


class DiscordAdapter:
    """One bot on Discord. `api_url` and `gateway_url` replace Discord's own addresses; `proxy_for` says by which proxy an address
    is reached. Times are in seconds.

    `run` raises AdapterError if the token is wrong, or when Discord ends the connection for good.
    """

    name = PLATFORM

    def __init__(
        self,
        token: str,
        *,
        api_url: str | None = None,
        gateway_url: str | None = None,
        access: Access | None = None,
        catch_up: CatchUp | None = None,
        proxy_for: ProxyFor = no_proxy,
        ready_seconds: float = READY_SECONDS,
        embed_seconds: float = EMBED_SECONDS,
    ) -> None:
        self._token = token
        self._api_url = api_url
        self._gateway_url = gateway_url
        self._access = access or Access()
        self._catch_up = catch_up or CatchUp()
        self._proxy_for = proxy_for
        self._ready_seconds = ready_seconds
        self._embed_seconds = embed_seconds
        self.started = asyncio.Event()
        self.where = ""
        self.remarks: tuple[str, ...] = ()
        self._client: AnyClient | None = None
        self._translator: Translator | None = None
        self._has_content = True
        self._tasks = Tasks("Discord", (DestinationGone, TryLater, CannotEdit))

    # -- the dispatcher's Platform -----------------------------------------------------------------------------------------------

    async def start(self, post: Post) -> tuple[ThreadKey, str]:
        key, destination = await begin_chat(self._connected(), post, has_content=self._has_content)
        return key, str(destination)

    def destination(self, post: Post) -> str:
        return str(destination_in(self._connected(), post))

    def surface(self, destination: str) -> Surface:
        parsed = parse_destination(destination)
        parsed.has_token(time.time())
        return DiscordSurface(self._connected, parsed)

    async def run_command(self, post: Post) -> None:
        raise AssertionError("on Discord commands are no messages")

    async def read_on(self, post: Post, until: datetime) -> AsyncGenerator[Post, None]:
        if self._client is None or self._translator is None:
            raise TryLater
        async with contextlib.aclosing(read_on(self._client, self._translator, post, until)) as posts:
            async for each in posts:
                yield each

    def _connected(self) -> AnyClient:
        if self._client is None:
            raise DestinationGone
        return self._client

    # -- serving -----------------------------------------------------------------------------------------------------------

    async def run(self, handler: ThreadHandler) -> None:
        quiet_log()
        point_at(self._api_url, self._gateway_url)
        dispatcher = Dispatcher(
            self, handler, Pace(CHANNEL_SECONDS, WRITES_PER_SECOND), access=self._access, catch_up=self._catch_up
        )
        dispatcher.offline()  # until we are connected, messages may be missed
        async with aiohttp.ClientSession() as session:
            try:
                await self._serve(handler, dispatcher, Downloads(session, self._api_url, proxy_for=self._proxy_for))
            finally:
                await self._tasks.aclose()
                await dispatcher.close()
                if self._client is not None:
                    await self._client.close()

    async def _serve(self, handler: ThreadHandler, dispatcher: Dispatcher, downloads: Downloads) -> None:
        """Connect again and again: a connection ends only when Discord does not let it resume."""
        may_read_content, waits = True, growing_waits()
        while True:
            found = await self._sign_in()
            self._has_content = found.has_content and may_read_content
            client = self._make_client(handler, dispatcher, downloads, found)
            try:
                await self._connect(client)
            except discord.LoginFailure as error:
                raise AdapterError(WRONG_TOKEN) from error
            except discord.PrivilegedIntentsRequired:
                log.warning("Discord does not show me what messages say; I start again without asking for it.")
                may_read_content = False
                continue
            except discord.ConnectionClosed as error:
                if error.code in _FATAL_CODES:
                    raise AdapterError(_FATAL_CODES[error.code]) from error
            except (discord.HTTPException, discord.GatewayNotFound, aiohttp.ClientError, OSError) as error:
                log.warning("The connection to Discord broke (%s); I try again.", type(error).__name__)
            dispatcher.offline()
            await asyncio.sleep(next(waits))

    async def _connect(self, client: AnyClient) -> None:
        """Run a client, which replaces the one before it as soon as it can write. Returns or raises when its connection has
        ended."""
        try:
            await client.login(self._token)
        except BaseException:
            await client.close()
            raise
        earlier, self._client = self._client, client
        if earlier is not None:
            await earlier.close()
        await client.connect()

    def _make_client(self, handler: ThreadHandler, dispatcher: Dispatcher, downloads: Downloads, found: SignIn) -> AnyClient:
        has_content = self._has_content
        client = make_client(
            has_content=has_content,
            num_shards=found.num_shards,
            ready_seconds=self._ready_seconds,
            proxy=self._proxy_for(self._api_url or API_URL),
        )
        translator = self._translator = Translator(client, downloads, has_content=has_content, embed_seconds=self._embed_seconds)
        client.actions = Actions(dispatcher, handler, translator, downloads, self._connected, has_content=has_content)
        commands = Commands(client, client.actions)
        remarks = [] if has_content else [f"Discord: {NO_CONTENT}"]

        async def set_up() -> None:
            try:
                await sync(commands, handler, int(found.application_id))
            except (discord.DiscordException, aiohttp.ClientError, OSError) as error:
                log.warning("Discord did not take my commands (%s).", type(error).__name__)
                remarks.append(f"Discord: {_SYNC_FAILED}")

        async def when_ready() -> None:
            if not self.started.is_set():
                if not client.guilds:
                    remarks.append(f"Discord: I am on no server yet. Invite me: {invite_link(found.application_id)}")
                self.where, self.remarks = _where(client), tuple(remarks)
                self.started.set()
            await dispatcher.online(partial(read_missed, client, translator, handler))

        Listener(client, dispatcher, translator, set_up, when_ready, self._tasks.begin)
        return client

    async def _sign_in(self) -> SignIn:
        """Check the token, with retries while Discord cannot be reached. Raises AdapterError."""
        return await until_reached(lambda: sign_in(self._token, self._api_url, self._proxy_for), "Discord")


def _where(client: discord.Client) -> str:
    num_guilds = len(client.guilds)
    return f"Discord, as {client.user}, in {num_guilds} server{'' if num_guilds == 1 else 's'}"
