"""Reads back from Slack what was written during an absence: a bounded number of channels, messages and threads."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from adapters.absence import Missed
from adapters.post import Post
from adapters.slack.markup import has_mention
from adapters.slack.translate import Event, Translator, is_automatic, read_channel, read_thread
from adapters.slack.workspaces import Refused, Workspace, translated_errors
from adapters.surface import DestinationGone, TryLater

log = logging.getLogger(__name__)

MAX_CHANNELS = 200
MAX_THREADS = 20  # per channel
_MAX_AT_ONCE = 4
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
        translator.post(workspace, channel, event, is_mention=has_mention(str(event.get("text")), workspace.bot_user_id))
        for ts, event in events.items()
        if float(ts) >= oldest and not is_automatic(event, workspace.bot_user_id)
    ]
