"""discord.py's client, and its events as calls of the dispatcher, which return at once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import discord
from yarl import URL

from adapters.conversations.dispatcher import Dispatcher
from adapters.discord.actions import Actions
from adapters.discord.buttons import AnswerButton, ConfirmButton, Interaction
from adapters.discord.destination import DIRECT
from adapters.discord.setup import API_URL
from adapters.discord.translate import Translator, is_automatic_message

log = logging.getLogger(__name__)

READY_SECONDS = 2.0  # after so long without another server, all are taken to be known
MAX_RATELIMIT_SECONDS = 30.0
_DEFAULT_GATEWAY = discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY


class ThreadsightClient(discord.Client):
    """discord.py's client for one connection."""

    actions: Actions


class ThreadsightShards(discord.AutoShardedClient):
    """discord.py's client for bots on so many servers that they need several connections."""

    actions: Actions


AnyClient = ThreadsightClient | ThreadsightShards


# no voice here, so discord.py should not warn about packages for it
discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False


def make_client(*, has_content: bool, num_shards: int, ready_seconds: float, proxy: str | None = None) -> AnyClient:
    """Make a client that has not connected yet. `proxy` is the URL of the proxy for all that discord.py sends, the gateway
    included."""
    intents = discord.Intents.none()
    intents.guilds = intents.guild_messages = intents.dm_messages = True
    intents.message_content = has_content
    options: dict[str, Any] = {
        "intents": intents,
        "allowed_mentions": discord.AllowedMentions(everyone=False, users=False, roles=False, replied_user=True),
        "max_messages": None,
        "max_ratelimit_timeout": MAX_RATELIMIT_SECONDS,
        "guild_ready_timeout": ready_seconds,
        "proxy": proxy,
    }
    return ThreadsightShards(shard_count=num_shards, **options) if num_shards > 1 else ThreadsightClient(**options)


def point_at(api_url: str | None, gateway_url: str | None) -> None:
    """Set the addresses that discord.py uses, for the whole process."""
    discord.http.Route.BASE = api_url or API_URL
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = URL(gateway_url) if gateway_url else _DEFAULT_GATEWAY


class Listener:
    """Passes a client's events on. `when_ready` is called after every sign-in, but not after a resumed connection, which misses
    nothing."""

    def __init__(
        self,
        client: AnyClient,
        dispatcher: Dispatcher,
        translator: Translator,
        set_up: Callable[[], Awaitable[None]],
        when_ready: Callable[[], Coroutine[Any, Any, None]],
        begin: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._client = client
        self._dispatcher = dispatcher
        self._translator = translator
        self._set_up = set_up
        self._when_ready = when_ready
        self._begin = begin
        self._was_ready = False
        self._away: set[int] = set()  # connections that are lost for now; what is missed on one is not to be passed by another
        self._has_missed = False
        for listener in (
            self.setup_hook,
            self.on_error,
            self.on_ready,
            self.on_shard_ready,
            self.on_shard_resumed,
            self.on_shard_disconnect,
            self.on_resumed,
            self.on_disconnect,
            self.on_interaction,
            self.on_message,
            self.on_raw_message_edit,
            self.on_raw_message_delete,
            self.on_raw_bulk_message_delete,
            self.on_raw_thread_delete,
            self.on_guild_channel_delete,
            self.on_guild_remove,
        ):
            client.event(listener)

    async def setup_hook(self) -> None:
        self._client.add_dynamic_items(AnswerButton, ConfirmButton)
        await self._set_up()

    async def on_error(self, event: str, *arguments: object) -> None:
        log.exception("An event of Discord's (%s) could not be understood.", event)

    async def on_ready(self) -> None:
        self._was_ready = True
        self._begin(self._when_ready())

    async def on_shard_ready(self, shard_id: int) -> None:
        self._has_missed = self._was_ready  # one of several began anew; discord.py does not call all of them ready again
        self._is_back(shard_id)

    async def on_shard_resumed(self, shard_id: int) -> None:
        self._is_back(shard_id)

    async def on_shard_disconnect(self, shard_id: int) -> None:
        self._away.add(shard_id)

    def _is_back(self, shard_id: int) -> None:
        """When it is the last of several connections, it is made up for what was missed on any of them."""
        self._away.discard(shard_id)
        if self._away or not self._was_ready:
            return
        if self._has_missed:
            self._has_missed = False
            self._begin(self._when_ready())
        else:
            self._dispatcher.resumed()

    async def on_resumed(self) -> None:
        if not isinstance(self._client, ThreadsightShards):
            self._dispatcher.resumed()

    async def on_disconnect(self) -> None:
        self._dispatcher.offline()

    async def on_interaction(self, interaction: Interaction) -> None:
        if interaction.type is discord.InteractionType.modal_submit:
            actions = self._client.actions
            self._begin(actions.reported(interaction, actions.on_modal(interaction)))

    async def on_message(self, message: discord.Message) -> None:
        if not is_automatic_message(message) and self._translator.is_readable(message):
            self._dispatcher.posted(self._translator.post(message))

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        message = payload.message
        self._translator.saw_update(message)
        if message.edited_at is not None and not is_automatic_message(message) and self._translator.is_readable(message):
            self._dispatcher.edited(self._translator.post(message))

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        self._dispatcher.deleted(_workspace(payload.guild_id), str(payload.message_id))

    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        for message_id in payload.message_ids:
            self._dispatcher.deleted(_workspace(payload.guild_id), str(message_id))

    async def on_raw_thread_delete(self, payload: discord.RawThreadDeleteEvent) -> None:
        self._dispatcher.room_gone(str(payload.guild_id), str(payload.thread_id))

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        self._dispatcher.room_gone(str(channel.guild.id), str(channel.id))
        for thread in getattr(channel, "threads", ()):
            self._dispatcher.room_gone(str(channel.guild.id), str(thread.id))

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        for room in (*guild.channels, *guild.threads):
            self._dispatcher.room_gone(str(guild.id), str(room.id))


def _workspace(guild_id: int | None) -> str:
    return DIRECT if guild_id is None else str(guild_id)
