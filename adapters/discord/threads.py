"""Where a new chat takes place: in a thread on its first message, or where that message is."""

from __future__ import annotations

import logging
import re
from typing import Literal

import discord

from adapters.base import ThreadKey
from adapters.discord.actions import PLATFORM
from adapters.discord.api_errors import CannotEdit, translated_errors
from adapters.discord.destination import DIRECT, Destination
from adapters.post import Post
from adapters.surface import DestinationGone, TryLater
from adapters.text.links import drop_links

log = logging.getLogger(__name__)

THREAD_EXISTS = 160004
ARCHIVE_MINUTES: Literal[1440] = 1440
MAX_NAME_CHARS = 100
CANNOT_WRITE = (
    "I saw your question in {name}, but I may not write there. Somebody who runs the server can allow it, or ask me here."
)
_MARKS = re.compile(r"[*_`~|>#\\]+")


async def begin_chat(client: discord.Client, post: Post, *, has_content: bool) -> tuple[ThreadKey, Destination]:
    """Begin a chat with a message. In a thread, a direct message, or a channel without threads it is answered in place.

    Raises DestinationGone, and TryLater if it is unknown whether there is a thread now.
    """
    has_hint = not has_content and post.workspace != DIRECT
    thread_id = await _open_thread(client, post)
    if thread_id is None and await _tell_that_i_cannot_write(client, post):
        raise DestinationGone
    if thread_id is not None:
        return ThreadKey(PLATFORM, post.workspace, post.channel, thread_id), Destination(
            post.workspace, thread_id, has_hint=has_hint
        )
    destination = Destination(post.workspace, post.room, reply_to=post.message_id, has_hint=has_hint)
    return ThreadKey(PLATFORM, post.workspace, post.room, post.message_id), destination


def destination_in(client: discord.Client, post: Post) -> Destination:
    """Where an answer in an existing chat goes. In one of our own threads it is not a reply."""
    channel = client.get_channel(int(post.room))
    own_id = client.user.id if client.user is not None else 0
    is_ours = isinstance(channel, discord.Thread) and channel.owner_id == own_id
    return Destination(post.workspace, post.room, reply_to="" if is_ours else post.message_id)


async def _tell_that_i_cannot_write(client: discord.Client, post: Post) -> bool:
    """Returns True if we cannot write here, after telling the author by direct message."""
    channel = client.get_channel(int(post.room))
    if not isinstance(channel, discord.abc.GuildChannel | discord.Thread) or post.workspace == DIRECT:
        return False
    if isinstance(channel, discord.Thread) and channel.parent is None:
        return False  # a thread's permissions come from its parent
    rights = channel.permissions_for(channel.guild.me)
    if rights.send_messages_in_threads if isinstance(channel, discord.Thread) else rights.send_messages:
        return False
    try:
        async with translated_errors():
            person = await client.fetch_user(int(post.author.id))
            await person.send(CANNOT_WRITE.format(name=channel.mention))
    except (DestinationGone, TryLater, CannotEdit):
        log.info("Somebody asked on Discord where I may not write, and takes no direct message either.")
    return True


async def _open_thread(client: discord.Client, post: Post) -> str | None:
    channel = None if post.thread is not None or post.workspace == DIRECT else client.get_channel(int(post.channel))
    if not isinstance(channel, discord.TextChannel):  # includes announcement channels
        return None
    rights = channel.permissions_for(channel.guild.me)
    if not (rights.create_public_threads and rights.send_messages_in_threads):
        return None
    try:
        async with translated_errors():
            try:
                message = channel.get_partial_message(int(post.message_id))
                thread = await message.create_thread(name=thread_name(post.text), auto_archive_duration=ARCHIVE_MINUTES)
            except discord.HTTPException as error:
                if error.code != THREAD_EXISTS:
                    raise
                return post.message_id  # a message's thread has the message's id
    except (DestinationGone, CannotEdit, TryLater) as error:
        if isinstance(error, TryLater) and error.retry_after_seconds is None:
            raise  # there may be a thread now, and trying again shows it
        log.info("No thread could be opened on Discord; the answer goes into the channel.")
        return None
    return str(thread.id)


def thread_name(question: str) -> str:
    """A thread's name: the question without links and markup, cut to fit."""
    words = _MARKS.sub(" ", drop_links(question)).split()
    printable = "".join(character for character in " ".join(words) if character.isprintable())
    if len(printable) > MAX_NAME_CHARS:
        cut = printable[: MAX_NAME_CHARS - 1]
        printable = (cut.rpartition(" ")[0] or cut) + "…"
    return printable or "Picture"
