"""Reads back from Discord: what was written during an absence, of a bounded number of channels and messages, one channel after
another; and what was written in one place since a time, all of it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta

import discord

from adapters.base import ThreadHandler
from adapters.conversations.absence import Missed
from adapters.discord.actions import PLATFORM
from adapters.discord.api_errors import CannotEdit, translated_errors
from adapters.discord.destination import DIRECT
from adapters.discord.translate import Translator, is_automatic_message
from adapters.post import Post
from adapters.surface import DestinationGone, TryLater

log = logging.getLogger(__name__)

MAX_ROOMS = 50
MAX_MESSAGES = 100  # per channel
MAX_ARCHIVED = 20  # threads that are looked up
_THREAD_AGE = timedelta(days=2)
_PAUSE_SECONDS = 0.1

Room = discord.TextChannel | discord.VoiceChannel | discord.StageChannel | discord.Thread | discord.DMChannel


async def read_missed(client: discord.Client, translator: Translator, handler: ThreadHandler, since: datetime) -> Missed:
    """Messages since then in channels, active threads, and the threads and direct messages of known chats, in any order."""
    after = discord.Object(discord.utils.time_snowflake(since))
    rooms: list[Room] = [room for guild in client.guilds for room in _rooms_of(guild)]
    rooms += await _archived_rooms(client, handler, since) + await _direct_rooms(client, handler)
    newer = sorted((room for room in rooms if _newest_in(room) > after.id), key=_newest_in, reverse=True)
    if len(newer) > MAX_ROOMS:
        log.info("I look for missed messages in the %d places of %d where something was said last.", MAX_ROOMS, len(newer))
    posts, is_complete = list[Post](), True
    for room in newer[:MAX_ROOMS]:
        try:
            async with translated_errors():
                messages = [message async for message in room.history(limit=MAX_MESSAGES, after=after, oldest_first=False)]
        except (DestinationGone, CannotEdit):
            continue
        except TryLater:
            is_complete = False
            continue
        posts += [
            translator.post(message)
            for message in messages
            if translator.is_readable(message) and not is_automatic_message(message)
        ]
        await asyncio.sleep(_PAUSE_SECONDS)  # not urgent, and other calls share the rate limit
    return Missed(posts, is_complete)


async def read_on(client: discord.Client, translator: Translator, post: Post, until: datetime) -> AsyncGenerator[Post, None]:
    """Yields the messages of people in the post's thread or channel: from its time on until the other, oldest first. Raises
    TryLater and DestinationGone."""
    guild_id = None if post.workspace == DIRECT else int(post.workspace)
    known = client.get_channel(int(post.room))
    room = (
        known if isinstance(known, discord.abc.Messageable) else client.get_partial_messageable(int(post.room), guild_id=guild_id)
    )
    after: discord.abc.Snowflake = discord.Object(discord.utils.time_snowflake(post.sent_at) - 1)
    while True:
        async with translated_errors():
            messages = [message async for message in room.history(limit=MAX_MESSAGES, after=after, oldest_first=True)]
        for message in messages:
            if message.created_at > until:
                return
            if translator.is_readable(message) and not is_automatic_message(message):
                yield translator.post(message)
        if len(messages) < MAX_MESSAGES:
            return
        after = messages[-1]


def _newest_in(room: Room) -> int:
    """The newest message's id. discord.py does not keep that of direct messages, so they are always read."""
    return sys.maxsize if isinstance(room, discord.DMChannel) else room.last_message_id or 0


def _rooms_of(guild: discord.Guild) -> list[Room]:
    rooms: list[Room] = [
        channel
        for channel in guild.channels
        if isinstance(channel, discord.TextChannel | discord.VoiceChannel | discord.StageChannel)
        and channel.permissions_for(guild.me).read_message_history
        and channel.permissions_for(guild.me).view_channel
    ]
    return [*rooms, *guild.threads]


async def _archived_rooms(client: discord.Client, handler: ThreadHandler, since: datetime) -> list[Room]:
    """Threads that were archived during the absence. Discord lists only active threads; our latest chats name the others."""
    chats = [chat for guild in client.guilds for chat in await handler.list_chats(PLATFORM, str(guild.id))]
    recent = sorted((chat for chat in chats if chat.updated_at >= since - _THREAD_AGE), key=lambda c: c.updated_at, reverse=True)
    thread_ids = dict.fromkeys(int(chat.key.thread) for chat in recent if chat.key.thread.isdecimal())
    unknown = [id_ for id_ in thread_ids if client.get_channel(id_) is None]
    found = [await _fetch(client, id_) for id_ in unknown[:MAX_ARCHIVED]]
    return [channel for channel in found if isinstance(channel, discord.Thread)]


async def _direct_rooms(client: discord.Client, handler: ThreadHandler) -> list[Room]:
    """The direct messages of known chats. Discord does not list them."""
    channel_ids = dict.fromkeys(chat.key.channel for chat in await handler.list_chats(PLATFORM, DIRECT))
    found = [await _fetch(client, int(channel_id)) for channel_id in list(channel_ids)[:MAX_ROOMS]]
    return [channel for channel in found if isinstance(channel, discord.DMChannel)]


async def _fetch(client: discord.Client, channel_id: int) -> object:
    """The channel; None if it does not exist or cannot be read."""
    try:
        async with translated_errors():
            return await client.fetch_channel(channel_id)
    except (DestinationGone, TryLater, CannotEdit, discord.InvalidData):
        return None
