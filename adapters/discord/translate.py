"""Discord's messages as the dispatcher's posts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta

import discord

from adapters.base import Attachment, Author, LookBack
from adapters.bounded import BoundedDict
from adapters.discord.api_errors import CannotEdit, translated_errors
from adapters.discord.destination import DIRECT
from adapters.discord.files import Downloads
from adapters.discord.images import attachments_of, has_unresolved_link, sources_in, unusable
from adapters.post import Post, asked_once, no_attachments
from adapters.surface import DestinationGone, TryLater
from adapters.text.mentions import OUR_MENTION, without_our_mention

EMBED_SECONDS = 3.0  # how long we wait for Discord to resolve a link
_PAGE = 100  # messages, as many as Discord gives at once
_MAX_PAGES = 5  # of a thread or a direct message
_MAX_REPLIES = 10
_AGAIN = "Please post the picture again with your question, or reply to it and mention me"
_TOO_LONG = f"I looked at the last {_PAGE * _MAX_PAGES} messages here and found none"
_NO_ANSWER = "Discord did not show me all of the messages before yours, so that I may have missed the newest picture"
_NO_RIGHT = "I may not read the messages before yours here"
_HIDDEN = "Discord does not show me all that people write here, so that I may have missed the newest picture"
_NEARBY = timedelta(minutes=10)  # in a channel with many people
_MAX_REMEMBERED = 500
_PEOPLES_TYPES = frozenset({discord.MessageType.default, discord.MessageType.reply})
# Code comes first: Discord shows what looks like a mention there as it was written.
_CODE_OR_MENTION = re.compile(
    r"(?P<code>\\[`\\]|(?P<ticks>`++)(?:(?s:.+?)(?<!`)(?P=ticks)(?!`))?)"  # all at once if nothing closes it
    r"|<(?:(?P<kind>@[!&]?|#)(?P<id>\d+)|a?(?P<emoji>:\w+:)\d+)>"
)


class _NotAllRead(Exception):
    """Why a message with a picture may be unseen, as the rest of a sentence for the person."""


class Translator:
    """Makes posts. `has_content`: whether Discord shows us the content of messages that are not for us. `embed_seconds`: how long
    to wait for a link's embed."""

    def __init__(
        self, client: discord.Client, downloads: Downloads, *, has_content: bool, embed_seconds: float = EMBED_SECONDS
    ) -> None:
        self._client = client
        self._downloads = downloads
        self._has_content = has_content
        self._embed_seconds = embed_seconds
        self._resolved: BoundedDict[int, discord.Message] = BoundedDict(
            _MAX_REMEMBERED
        )  # messages whose links Discord has resolved
        self._waiting: dict[int, asyncio.Event] = {}
        self._threads: BoundedDict[int, discord.Thread] = BoundedDict(_MAX_REMEMBERED)  # threads that discord.py does not know

    def is_readable(self, message: discord.Message) -> bool:
        """Whether we see the message's content: always if it is for us, with the message-content intent also others."""
        return self._has_content or message.guild is None or self._is_mention(message)

    def post(self, message: discord.Message) -> Post:
        """Translate a message, without a request to Discord. Only an archived thread has to be looked up later, by `complete`."""
        channel = message.channel
        if message.guild is None or not isinstance(channel, discord.PartialMessageable):
            return self._post(message, channel)
        if channel.id in self._threads:
            return self._post(message, self._threads[channel.id])

        async def complete() -> Post:
            return self._post(message, await self._thread_or(channel))

        return replace(self._post(message, channel), conversation=str(channel.id), complete=complete)

    def _post(self, message: discord.Message, channel: discord.abc.MessageableChannel) -> Post:
        thread = channel if isinstance(channel, discord.Thread) else None
        is_mention, is_direct = self._is_mention(message), message.guild is None
        is_automatic = is_automatic_message(message)
        parent_id = channel.id if thread is None else thread.parent_id
        category_id = getattr(thread.parent if thread is not None else channel, "category_id", None)
        reference = message.reference
        is_reply = reference is not None and reference.type is discord.MessageReferenceType.reply

        async def attachments() -> Sequence[Attachment]:
            return await self._attachments(message, is_for_us=is_mention or is_direct, is_own_room=thread is not None)

        return Post(
            workspace=workspace_of(message.guild),
            conversation=str(channel.id if is_direct or thread is not None else message.id),  # a new thread has this id
            channel=str(parent_id),
            thread=None if thread is None else str(thread.id),
            message_id=str(message.id),
            author=author_of(message.author),
            text=self._text(message),
            sent_at=message.created_at,
            is_mention=is_mention,
            is_direct=is_direct,
            is_automatic=is_automatic,
            is_own_room=is_direct or thread is not None,
            reply_to=str(reference.message_id) if is_reply and reference is not None and reference.message_id else None,
            attachments=no_attachments if is_automatic else asked_once(attachments),
            look_back=self._look_back(message, channel),
            container_ids=frozenset() if category_id is None else frozenset({str(category_id)}),
        )

    def saw_update(self, message: discord.Message) -> None:
        """Note that Discord has resolved a message's links."""
        if message.embeds:
            self._resolved[message.id] = message
            if waiting := self._waiting.get(message.id):
                waiting.set()

    def images_of(self, message: discord.Message, *, only_likely: bool = False) -> tuple[Attachment, ...]:
        """All pictures that a message shows, including previews of pages. `only_likely`: without files that Discord gives another
        type, which nobody has pointed at."""
        sources = [each for each in sources_in(message, with_previews=True) if each.is_likely or not only_likely]
        return attachments_of(sources, self._downloads, lambda: self._reread(message))

    async def read(self, channel_id: int, guild_id: int | None, message_id: int) -> discord.Message | None:
        """Read a message; None if it does not exist or cannot be read."""
        try:
            async with translated_errors():
                return await self._client.get_partial_messageable(channel_id, guild_id=guild_id).fetch_message(message_id)
        except (DestinationGone, TryLater, CannotEdit):
            return None

    # -- pictures ----------------------------------------------------------------------------------------------------------

    async def _attachments(self, message: discord.Message, *, is_for_us: bool, is_own_room: bool) -> tuple[Attachment, ...]:
        """The message's own pictures, or else those of the message that it replies to."""
        if is_for_us and has_unresolved_link(message):
            message = await self._with_embeds(message)
        # A page's preview counts only in a channel, in a message that mentions us: in a conversation the link may be an aside.
        sources = sources_in(message, with_previews=is_for_us and not is_own_room and message.guild is not None)
        own = attachments_of(sources, self._downloads, lambda: self._reread(message))
        if own:
            return own
        replied_to = await self._replied_to(message, may_ask=is_for_us)
        if replied_to is None or replied_to.author.id == self._own_id:
            return ()
        return self.images_of(replied_to)

    async def _with_embeds(self, message: discord.Message) -> discord.Message:
        """The message after Discord has resolved its links, or as it is if that takes too long."""
        if message.id not in self._resolved:
            waiting = self._waiting[message.id] = asyncio.Event()
            try:
                async with asyncio.timeout(self._embed_seconds):
                    await waiting.wait()
            except TimeoutError:
                return await self._reread(message) or message
            finally:
                del self._waiting[message.id]
        return self._resolved.get(message.id) or message

    async def _replied_to(self, message: discord.Message, *, may_ask: bool) -> discord.Message | None:
        reference = message.reference
        if reference is None or reference.type is not discord.MessageReferenceType.reply or reference.message_id is None:
            return None
        if isinstance(reference.resolved, discord.Message):
            return reference.resolved
        if isinstance(reference.resolved, discord.DeletedReferencedMessage) or not may_ask:
            return None
        return await self.read(reference.channel_id, reference.guild_id, reference.message_id)

    def _look_back(self, message: discord.Message, channel: discord.abc.MessageableChannel) -> LookBack:
        async def look_back() -> Sequence[Attachment]:
            reference = message.reference
            if reference is not None and isinstance(reference.resolved, discord.DeletedReferencedMessage):
                return (unusable("the message that you replied to", "it was deleted"),)
            async for replied_to in self._chain(message):
                if found := self.images_of(replied_to):
                    return found
            if found := self.images_of(await self._with_embeds(message) if has_unresolved_link(message) else message):
                return found
            try:
                async for earlier in self._earlier(message, channel):
                    if earlier.author.id != self._own_id and (found := self.images_of(earlier, only_likely=True)):
                        return found
            except _NotAllRead as error:
                return (unusable("an earlier picture", f"{error}. {_AGAIN}"),)
            return ()

        return look_back

    async def _chain(self, message: discord.Message) -> AsyncIterator[discord.Message]:
        """Yields the message that this one replies to, the one that that one replies to, and so on."""
        for _ in range(_MAX_REPLIES):
            replied_to = await self._replied_to(message, may_ask=True)
            if replied_to is None:
                return
            yield replied_to
            message = replied_to

    async def _earlier(self, message: discord.Message, channel: discord.abc.MessageableChannel) -> AsyncIterator[discord.Message]:
        """Yields earlier messages, newest first: in a thread or a direct message all, in a channel the same person's latest.

        Raises _NotAllRead where a picture may be in a message that is not yielded: what follows would be older.
        """
        is_conversation = isinstance(channel, discord.Thread) or message.guild is None
        last = message
        for _ in range(_MAX_PAGES if is_conversation else 1):
            page = await self._page_before(last, channel, is_conversation=is_conversation)
            for earlier in page:
                is_same_person = earlier.author.id == message.author.id
                if is_conversation or (is_same_person and message.created_at - earlier.created_at <= _NEARBY):
                    if self._is_hidden(earlier):
                        raise _NotAllRead(_HIDDEN)
                    yield earlier
            if len(page) < _PAGE or not is_conversation:
                break
            last = page[-1]
        else:
            raise _NotAllRead(_TOO_LONG)
        if isinstance(channel, discord.Thread):
            try:
                async with translated_errors():
                    parent = self._client.get_partial_messageable(channel.parent_id, guild_id=channel.guild.id)
                    starter = await parent.fetch_message(channel.id)
            except (DestinationGone, CannotEdit):
                return  # a thread that was not begun with a message
            except TryLater:
                raise _NotAllRead(_NO_ANSWER) from None
            yield starter

    async def _page_before(
        self, message: discord.Message, channel: discord.abc.MessageableChannel, *, is_conversation: bool
    ) -> list[discord.Message]:
        """The messages before this one, newest first. In a channel where they cannot be read: none."""
        try:
            async with translated_errors():
                return [each async for each in channel.history(limit=_PAGE, before=message)]
        except (DestinationGone, CannotEdit):
            reason = _NO_RIGHT
        except TryLater:
            reason = _NO_ANSWER
        if is_conversation:
            raise _NotAllRead(reason)
        return []

    def _is_hidden(self, message: discord.Message) -> bool:
        """Whether Discord keeps from us what a person wrote, and with it perhaps a picture."""
        shown = (
            message.content,
            message.attachments,
            message.embeds,
            message.stickers,
            message.components,
            message.message_snapshots,
        )
        is_empty = not any(shown)
        return is_empty and message.type in _PEOPLES_TYPES and message.author.id != self._own_id and not self.is_readable(message)

    async def _reread(self, message: discord.Message) -> discord.Message | None:
        return await self.read(message.channel.id, message.guild.id if message.guild else None, message.id)

    # -- words -------------------------------------------------------------------------------------------------------------

    @property
    def _own_id(self) -> int:
        return self._client.user.id if self._client.user is not None else 0

    def _is_mention(self, message: discord.Message) -> bool:
        """Whether it mentions us: by name, by our own role, or by a reply that notifies us."""
        role = message.guild.self_role if message.guild is not None else None
        return any(user.id == self._own_id for user in message.mentions) or (
            role is not None and any(each.id == role.id for each in message.role_mentions)
        )

    async def _thread_or(self, channel: discord.PartialMessageable) -> discord.abc.MessageableChannel:
        """The thread's channel object. discord.py does not know archived threads, nor their parents.

        Raises TryLater: until it is known which thread it is, the message must not count as somebody else's.
        """
        try:
            async with translated_errors():
                fetched = await self._client.fetch_channel(channel.id)
        except (DestinationGone, CannotEdit, discord.InvalidData):
            return channel
        if not isinstance(fetched, discord.Thread):
            return channel
        self._threads[fetched.id] = fetched
        return fetched

    def _text(self, message: discord.Message) -> str:
        """The message's text, with names for mentions and without the mention of us."""
        role = message.guild.self_role if message.guild is not None else None
        users = {user.id: user.display_name for user in message.mentions}
        roles = {each.id: each.name for each in message.role_mentions}
        channels = {each.id: each.name for each in message.channel_mentions if hasattr(each, "name")}

        def name(match: re.Match[str]) -> str:
            if match["code"]:
                return match["code"]
            if match["emoji"]:
                return match["emoji"]
            kind, id_ = match["kind"], int(match["id"])
            if (kind in ("@", "@!") and id_ == self._own_id) or (role is not None and id_ == role.id):
                return OUR_MENTION
            if kind == "#":
                return f"#{channels.get(id_, 'channel')}"
            return f"@{(roles if kind == '@&' else users).get(id_, 'somebody')}"

        return without_our_mention(_CODE_OR_MENTION.sub(name, message.content.replace(OUR_MENTION, "")))


def is_automatic_message(message: discord.Message) -> bool:
    """Whether the message is not written by a person: bots, webhooks, Discord itself; also voice messages, which have no text."""
    is_of_people = message.type in _PEOPLES_TYPES and message.webhook_id is None
    return message.author.bot or not is_of_people or message.flags.voice


def workspace_of(guild: discord.Guild | discord.Object | None) -> str:
    """The guild's id as our workspace; direct messages have one of their own."""
    return DIRECT if guild is None else str(guild.id)


def author_of(user: discord.abc.User) -> Author:
    """Who wrote it, with the roles that a member has in the guild."""
    roles = user.roles if isinstance(user, discord.Member) else []
    return Author(str(user.id), user.display_name, frozenset(str(role.id) for role in roles))
