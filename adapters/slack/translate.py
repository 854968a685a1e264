"""Slack's messages as the dispatcher's posts, and the look-ups that this needs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adapters.base import Attachment, Author, LookBack
from adapters.commands import COMMANDS
from adapters.post import Post, asked_once
from adapters.slack.earlier import Earlier
from adapters.slack.files import Files
from adapters.slack.rich_text import text_of
from adapters.slack.workspaces import Refused, Workspace, translated_errors
from adapters.surface import DestinationGone, TryLater
from adapters.text.links import find_links

# Subtypes of people's messages. All others are by Slack or a bot, or report a change.
PEOPLES_SUBTYPES = frozenset({None, "file_share", "thread_broadcast", "me_message"})
_NUM_LOOKED_BACK = 100
# Slack allows no slash commands in threads, and a word cannot open a modal.
WORDS = {f"!{command.name}": command for command in COMMANDS if not command.has_form}
_FILE_LINK = re.compile(r"https://[a-z0-9.-]+\.slack\.com/files/[A-Z0-9]+/(F[A-Z0-9]+)(?:/[^\s<>|]*)?")

Event = Mapping[str, Any]


def is_automatic(event: Event, bot_user_id: str) -> bool:
    """Whether no person wrote it."""
    user = event.get("user")
    if event.get("subtype") not in PEOPLES_SUBTYPES or event.get("bot_id") or event.get("hidden"):
        return True
    return not user or user in (bot_user_id, "USLACKBOT")


def message_id(channel: str, ts: str) -> str:
    """A message's id within its workspace."""
    return f"{channel}:{ts}"


def is_direct(channel: str, event: Event) -> bool:
    """Whether it is a direct message to us. Messages that were looked up have no channel type, but the channel's id shows it."""
    return event.get("channel_type") == "im" or ("channel_type" not in event and channel.startswith("D"))


def author_of(event: Event) -> Author:
    """Who wrote the message, with the name that people see if Slack tells it."""
    profile = event.get("user_profile") or {}
    user_id = str(event.get("user") or "")
    return Author(user_id, str(profile.get("display_name") or profile.get("real_name") or user_id))


class Translator:
    """Makes posts of Slack's messages, and looks up their pictures."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._earlier = Earlier(self.attachments)

    def post(self, workspace: Workspace, channel: str, event: Event, *, is_mention: bool) -> Post:
        """Translate a message, without a request to Slack. All of a direct message is one conversation, and so is a thread with its
        root message."""
        ts, thread_ts = str(event["ts"]), event.get("thread_ts")
        is_for_us_alone, text = is_direct(channel, event), text_of(event, workspace.bot_user_id)
        return Post(
            workspace=workspace.id,
            conversation=channel if is_for_us_alone else message_id(channel, str(thread_ts or ts)),
            channel=channel,
            thread=str(thread_ts) if thread_ts and thread_ts != ts else None,
            message_id=message_id(channel, ts),
            author=author_of(event),
            text=text,
            sent_at=datetime.fromtimestamp(float(ts), UTC),
            is_mention=is_mention,
            is_direct=is_for_us_alone,
            is_automatic=is_automatic(event, workspace.bot_user_id),
            is_command=text.strip().lower() in WORDS,
            attachments=asked_once(lambda: self.attachments(workspace, event)),
            look_back=self._look_back(workspace, channel, event),
        )

    async def attachments(self, workspace: Workspace, event: Event) -> tuple[Attachment, ...]:
        """The message's files: its uploads, those of a message that it shares, and files of this workspace that it links to."""
        uploaded = list(event.get("files") or ())
        for shared in event.get("attachments") or ():
            uploaded += shared.get("files") or ()
        known = {str(file.get("id")) for file in uploaded}
        found = _FILE_LINK.finditer(str(event.get("text") or ""))
        linked = {match[1]: find_links(match[0])[0] for match in found if match[1] not in known}
        attachments = await self._files.attachments(workspace, uploaded)
        from_links = await self._files.attachments(workspace, [{"id": file_id, "name": "the linked file"} for file_id in linked])
        return attachments + tuple(
            Attachment(attachment.name, attachment.fetch, attachment.size, link)
            for attachment, link in zip(from_links, linked.values(), strict=True)
        )

    def _look_back(self, workspace: Workspace, channel: str, event: Event) -> LookBack | None:
        """A function that finds the newest earlier picture of the thread or direct message; None if there can be none."""
        ts, thread_ts = str(event["ts"]), event.get("thread_ts")
        thread = str(thread_ts) if thread_ts and thread_ts != ts else None
        is_for_us_alone = is_direct(channel, event)
        if thread is None and not is_for_us_alone:
            return None
        return lambda: self._earlier.newest_picture(workspace, channel, ts, thread, is_direct=is_for_us_alone)


async def read_message(workspace: Workspace, channel: str, ts: str, thread_ts: str | None) -> Event | None:
    """Read a message as it is now; None if it does not exist or cannot be read."""
    messages: list[Event] = []
    with contextlib.suppress(TryLater):
        if thread_ts and thread_ts != ts:
            messages = await read_thread(workspace, channel, thread_ts, oldest=ts, latest=ts)
        else:
            messages = await read_channel(workspace, channel, latest=ts, limit=1)
    return next((message for message in messages if message.get("ts") == ts), None)


async def read_thread(
    workspace: Workspace, channel: str, thread_ts: str, *, oldest: str = "0", latest: str | None = None
) -> list[Event]:
    """Read the thread's messages, the first one included; empty if it may not be read. Times are Slack's `ts`. Raises TryLater."""
    try:
        async with translated_errors():
            response = await workspace.client.conversations_replies(
                channel=channel, ts=thread_ts, oldest=oldest, latest=latest, inclusive=True, limit=_NUM_LOOKED_BACK
            )
    except (DestinationGone, Refused):
        return []
    return list(response.get("messages") or ())


async def read_channel(
    workspace: Workspace, channel: str, *, latest: str | None = None, limit: int = _NUM_LOOKED_BACK
) -> list[Event]:
    """Read the newest messages up to `latest` (a `ts`), without those in threads; empty if it may not be read. Raises TryLater."""
    try:
        async with translated_errors():
            response = await workspace.client.conversations_history(channel=channel, latest=latest, inclusive=True, limit=limit)
    except (DestinationGone, Refused):
        return []
    return list(response.get("messages") or ())
