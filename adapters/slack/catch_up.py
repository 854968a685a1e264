"""Reads back from Slack: what was written during an absence, of a bounded number of channels, messages and threads; and what was
written in one place since a time, all of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from adapters.conversations.absence import Missed
from adapters.post import Post
from adapters.slack.markup import has_mention
from adapters.slack.translate import Event, Translator, is_automatic, read_channel, read_thread
from adapters.slack.workspaces import Refused, Workspace, translated_errors
from adapters.surface import DestinationGone, TryLater

log = logging.getLogger(__name__)

MAX_CHANNELS = 200
MAX_THREADS = 20  # per channel
_MAX_AT_ONCE = 4
_PAGE = 100  # messages; Slack may give fewer
_MAX_KEPT = 1_000  # messages
_KINDS = "public_channel,private_channel,mpim,im"


async def read_missed(workspace: Workspace, translator: Translator, since: datetime) -> Missed:
    """Messages of people since then, in all channels that we are in and in threads there with new replies.

    Raises TryLater if Slack does not list our channels.
    """
    oldest = since.timestamp()
    slots = asyncio.Semaphore(_MAX_AT_ONCE)

    async def read(channel: str) -> list[Post] | None:
        async with slots:
            try:
                return await _missed_in(workspace, translator, channel, oldest)
            except TryLater:
                return None

    found = await asyncio.gather(*(read(channel) for channel in await _channels(workspace)))
    return Missed([post for posts in found if posts is not None for post in posts], is_complete=None not in found)


async def _channels(workspace: Workspace) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    try:
        while len(found) < MAX_CHANNELS:
            async with translated_errors():
                response = await workspace.client.users_conversations(
                    types=_KINDS, exclude_archived=True, limit=MAX_CHANNELS, cursor=cursor
                )
            found += [str(channel["id"]) for channel in response.get("channels") or ()]
            cursor = (response.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                break
    except (DestinationGone, Refused) as error:
        log.warning("I could not look for missed messages on Slack (%s).", error or type(error).__name__)
    return found[:MAX_CHANNELS]


async def _missed_in(workspace: Workspace, translator: Translator, channel: str, oldest: float) -> list[Post]:
    """Reads only the newest hundred messages of a channel, and those of their threads that have new replies."""
    messages = await read_channel(workspace, channel)
    going_on = [message for message in messages if float(message.get("latest_reply") or 0) >= oldest]
    threads = await asyncio.gather(
        *(read_thread(workspace, channel, str(root["ts"]), oldest=f"{oldest:.6f}") for root in going_on[:MAX_THREADS])
    )
    events: dict[str, Event] = {
        str(event["ts"]): event for event in [*messages, *(reply for thread in threads for reply in thread)]
    }
    return [
        _post(workspace, translator, channel, event)
        for ts, event in events.items()
        if float(ts) >= oldest and not is_automatic(event, workspace.bot_user_id)
    ]


async def read_on(workspace: Workspace, translator: Translator, post: Post, until: datetime) -> AsyncGenerator[Post, None]:
    """Yields the messages of people in a thread, or else in a channel without its threads: from the post's time on until the other,
    oldest first. Raises TryLater, and DestinationGone if they cannot be read."""
    client, channel, oldest = workspace.client, post.channel, post.message_id.rpartition(":")[2]
    latest = f"{(until + timedelta(milliseconds=1)).timestamp():.6f}"
    if post.thread is not None:
        read = partial(client.conversations_replies, channel=channel, ts=post.thread, oldest=oldest, latest=latest)
        async for event in _events(read):  # the thread's first message, then oldest first
            if not is_automatic(event, workspace.bot_user_id):
                yield _post(workspace, translator, channel, event)
        return
    while True:  # Slack gives a channel's newest first: those that are kept in the end are the oldest
        num_found, kept = 0, deque[Event](maxlen=_MAX_KEPT)
        async for event in _events(partial(client.conversations_history, channel=channel, oldest=oldest, latest=latest)):
            num_found += 1
            kept.append(event)
        for event in reversed(kept):
            if not is_automatic(event, workspace.bot_user_id):
                yield _post(workspace, translator, channel, event)
        if num_found <= len(kept):
            return
        oldest = str(kept[0]["ts"])


async def _events(read: Any) -> AsyncGenerator[Event, None]:
    """Yields the messages of all pages that a method of the Web API gives, in their order. Raises TryLater and
    DestinationGone."""
    cursor: str | None = None
    while True:
        try:
            async with translated_errors():
                response = await read(inclusive=True, limit=_PAGE, cursor=cursor)
        except Refused as error:
            log.warning("I could not read back what was left on Slack (%s).", error)
            raise DestinationGone from error
        for event in response.get("messages") or ():
            yield event
        cursor = (response.get("response_metadata") or {}).get("next_cursor")
        if not cursor:
            return


def _post(workspace: Workspace, translator: Translator, channel: str, event: Event) -> Post:
    return translator.post(workspace, channel, event, is_mention=has_mention(str(event.get("text")), workspace.bot_user_id))
