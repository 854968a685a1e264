"""Routes a message: was it seen before, is it for us, and which chat does it belong to?

Each of the three is decided only here. A message is for us if it mentions us, is a direct message to us, is in one of our threads,
or replies to a message of a chat.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from adapters.access import Access
from adapters.base import Author, ThreadHandler, ThreadKey
from adapters.bounded import BoundedDict, BoundedSet
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
    def __init__(self, platform: str, handler: ThreadHandler, access: Access) -> None:
        self._platform = platform
        self._handler = handler
        self._access = access
        self._taken: BoundedSet[MessageId] = BoundedSet(_MAX_REMEMBERED)
        self._forgotten: BoundedDict[str, datetime] = BoundedDict(_MAX_REMEMBERED)
        self._deleted: BoundedSet[MessageId] = BoundedSet(_MAX_REMEMBERED)  # a deletion may arrive before its message

    def has_taken(self, post: Post) -> None:
        """From now on the message counts as seen."""
        self._taken.add(_id_of(post))

    def has_deleted(self, workspace: str, message_id: str) -> None:
        """From now on the message is not taken."""
        self._deleted.add((workspace, message_id))

    def has_forgotten(self, author_id: str, at: datetime) -> None:
        """Messages that this person wrote until then are not taken any more; catching up may still find some."""
        self._forgotten[author_id] = at

    def is_allowed(self, author: Author, workspace: str, channels: Collection[str], *, is_direct: bool) -> bool:
        return self._access.is_allowed(author, workspace, channels, is_direct=is_direct)

    def may_use(self, post: Post) -> bool:
        """Whether a person wrote it, and may use us there."""
        channels = {post.channel, post.room, *post.container_ids}
        return not post.is_automatic and self.is_allowed(post.author, post.workspace, channels, is_direct=post.is_direct)

    def is_forgotten(self, post: Post) -> bool:
        """Whether its author wanted to be forgotten after writing it."""
        forgotten_at = self._forgotten.get(post.author.id)
        return forgotten_at is not None and post.sent_at < forgotten_at

    def is_over(self, post: Post) -> bool:
        """Whether it was taken, deleted or forgotten by this run of the program."""
        return _id_of(post) in self._taken or _id_of(post) in self._deleted or self.is_forgotten(post)

    async def route(self, post: Post) -> Route:
        if not self.may_use(post):
            return NotForUs()
        if self.is_over(post):
            return SeenBefore()
        route = await self._conversation(post)
        if not isinstance(route, NotForUs) and await self._handler.find_message(self._platform, *_id_of(post)) is not None:
            return SeenBefore()  # stored, so it was answered before a restart or will be
        return route

    async def _conversation(self, post: Post) -> NotForUs | Begins | Continues:
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
