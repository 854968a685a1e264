"""Routes a message: into which mailbox, was it seen before, is it for us, and which chat does it belong to?

Each of these is decided only here. A message is for us if it mentions us, is a direct message to us, is in one of our threads,
or replies to a message of a chat.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from adapters.access import Access
from adapters.base import Author, ThreadHandler, ThreadKey
from adapters.bounded import BoundedDict, BoundedSet
from adapters.conversations.forgotten import Forgotten
from adapters.conversations.mailbox import Conversation
from adapters.post import Post

_MAX_REMEMBERED = 10_000

MessageId = tuple[str, str]
"""A workspace, and a message's id there."""


@dataclass(frozen=True, slots=True)
class SeenBefore:
    """The message was taken already, perhaps before a restart, or it has been deleted or forgotten since."""


@dataclass(frozen=True, slots=True)
class NotForUs:
    """The message is not addressed to us, or its author may not use us."""


@dataclass(frozen=True, slots=True)
class Begins:
    """A new chat begins with the message."""


@dataclass(frozen=True, slots=True)
class Continues:
    """The message continues this chat."""

    key: ThreadKey


Route = SeenBefore | NotForUs | Begins | Continues


class Router:
    """Routes one platform's messages, and remembers which of them were taken, deleted or forgotten, and which places are gone."""

    def __init__(self, platform: str, handler: ThreadHandler, access: Access, forgotten: Forgotten) -> None:
        self._platform = platform
        self._handler = handler
        self._access = access
        self._conversations: BoundedDict[MessageId, Conversation] = BoundedDict(_MAX_REMEMBERED)  # by message
        self._taken: BoundedSet[MessageId] = BoundedSet(_MAX_REMEMBERED)
        self._forgotten = forgotten
        self._deleted: BoundedSet[MessageId] = BoundedSet(_MAX_REMEMBERED)  # a deletion may arrive before its message
        self._gone: BoundedSet[tuple[str, str]] = BoundedSet(_MAX_REMEMBERED)  # workspace and room

    def conversation_of(self, post: Post) -> Conversation:
        """The post's conversation. A reply to a message outside threads belongs to that message's conversation."""
        id_ = _id_of(post)
        known = self._conversations.get(id_)
        if known is None and post.reply_to is not None and not post.is_own_room:
            known = self._conversations.get((post.workspace, post.reply_to))
        conversation = known or (post.workspace, post.conversation)
        self._conversations[id_] = conversation
        return conversation

    def conversation_with(self, workspace: str, message_id: str) -> Conversation:
        """The conversation into which this message went, or else one of its own."""
        return self._conversations.get((workspace, message_id)) or (workspace, message_id)

    def has_taken(self, post: Post) -> None:
        """From now on the message counts as seen."""
        self._taken.add(_id_of(post))

    def has_deleted(self, workspace: str, message_id: str) -> None:
        """From now on the message is not taken."""
        self._deleted.add((workspace, message_id))

    def room_gone(self, workspace: str, room: str) -> None:
        """From now on nothing that was written there is kept."""
        self._gone.add((workspace, room))

    def heard_from(self, workspace: str, rooms: Collection[str]) -> None:
        """Something happens there: these places exist, also if they were gone before."""
        for room in rooms:
            self._gone.discard((workspace, room))

    def is_gone(self, key: ThreadKey) -> bool:
        """Whether the chat's thread or channel is gone."""
        return any((key.workspace, room) in self._gone for room in (key.channel, key.thread))

    def is_allowed(self, author: Author, workspace: str, channels: Collection[str], *, is_direct: bool) -> bool:
        """Whether this person may use us there. `channels`: the ids of the place and of what contains it."""
        return self._access.is_allowed(author, workspace, channels, is_direct=is_direct)

    def may_use(self, post: Post) -> bool:
        """Whether a person wrote it, and may use us there."""
        channels = {post.channel, post.room, *post.container_ids}
        return not post.is_automatic and self.is_allowed(post.author, post.workspace, channels, is_direct=post.is_direct)

    def is_forgotten(self, post: Post, key: ThreadKey | None = None) -> bool:
        """Whether its author wanted to be forgotten after writing it, or the chat `key` that it belongs to was."""
        return self._forgotten.has(post.sent_at, post.author.id, key)

    def is_over(self, post: Post) -> bool:
        """Whether it was taken or deleted during this run of the program, or forgotten."""
        return _id_of(post) in self._taken or _id_of(post) in self._deleted or self.is_forgotten(post)

    async def route(self, post: Post) -> Route:
        """Decide about a message. Raises what the handler and the post's look-ups raise."""
        if not self.may_use(post):
            return NotForUs()
        await self._forgotten.load()
        if self.is_over(post):
            return SeenBefore()
        route = await self._chat_of(post)
        if isinstance(route, Continues) and self.is_forgotten(post, route.key):
            return SeenBefore()
        if not isinstance(route, NotForUs) and await self._handler.find_message(self._platform, *_id_of(post)) is not None:
            return SeenBefore()  # stored, so it was answered before a restart or will be
        return route

    async def _chat_of(self, post: Post) -> NotForUs | Begins | Continues:
        name, workspace = self._platform, post.workspace
        if post.thread is not None:
            key = ThreadKey(name, workspace, post.channel, post.thread)
            if await self._handler.has_chat(key):
                return Continues(key)
        if post.reply_to is not None:
            turn = await self._handler.find_message(name, workspace, post.reply_to)
            if turn is not None:
                return Continues(turn.key)
        if not post.is_mention and not post.is_direct:
            return NotForUs()
        if post.is_own_room and post.reply_to is None and not await post.attachments():
            latest = await self._handler.latest_chat(name, workspace, post.room)
            if latest is not None:
                return Continues(latest)
        return Begins()


def _id_of(post: Post) -> MessageId:
    return post.workspace, post.message_id
