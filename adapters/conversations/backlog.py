"""Messages that have arrived but are not accepted yet; the mark of what was seen never passes them.

A post is open from its arrival until its step has ended. If its step failed, it is remembered until it is read back from the
platform; if its mailbox was full, it belongs to what is left of its conversation, which is read back there. All here is bounded.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from adapters.bounded import BoundedDict, BoundedSet
from adapters.conversations.mailbox import Conversation
from adapters.conversations.routing import MessageId
from adapters.post import Post

MAX_LEFT = 1_000  # spans
_MAX_FAILED = 10_000
_MAX_PASSED_OVER = 1_000
_MAX_OURS = 10_000

RoomId = tuple[str, str | None]
"""A channel, and a thread in it."""


@dataclass(slots=True)
class Span:
    """What is left in one thread or channel: from `first` on, all that was sent until `last`."""

    first: Post
    last: datetime

    def add(self, post: Post) -> None:
        if post.sent_at < self.first.sent_at:
            self.first = post
        self.last = max(self.last, post.sent_at)

    def has(self, post: Post) -> bool:
        return self.first.sent_at <= post.sent_at <= self.last


@dataclass(slots=True)
class Left:
    """What is left of a conversation. `reading`: what is being read back now; what is left meanwhile comes after it."""

    spans: dict[RoomId, Span] = field(default_factory=dict)
    reading: dict[RoomId, Span] = field(default_factory=dict)

    def all(self) -> list[Span]:
        return [*self.reading.values(), *self.spans.values()]


class Backlog:
    """Keeps what is not accepted yet of one platform's posts."""

    def __init__(self, *, max_left: int = MAX_LEFT) -> None:
        self._max_left = max_left
        self._open: dict[MessageId, datetime] = {}
        self._failed: BoundedDict[MessageId, datetime] = BoundedDict(_MAX_FAILED)
        self._left: dict[Conversation, Left] = {}
        self._given_up_since: datetime | None = None  # there were too many to know where they are
        self._ours: BoundedSet[Conversation] = BoundedSet(_MAX_OURS)
        self._missed_since: datetime | None = None  # set while catching up, and when that failed
        self._passed_over: deque[Post] | None = None

    def oldest(self) -> datetime | None:
        """When the oldest of all these messages was sent; None if there is none."""
        times = [*self._open.values(), *(self._failed[id_] for id_ in self._failed)]
        times += [span.first.sent_at for left in self._left.values() for span in left.all()]
        times += [since for since in (self._given_up_since, self._missed_since) if since is not None]
        return min(times, default=None)

    # -- posts -------------------------------------------------------------------------------------------------------------

    def open(self, post: Post) -> None:
        """The post waits in its mailbox."""
        self._open[_id_of(post)] = post.sent_at

    def is_open(self, post: Post) -> bool:
        return _id_of(post) in self._open

    def close(self, post: Post) -> None:
        """The post was accepted, or is not for us."""
        self._open.pop(_id_of(post), None)

    def fail(self, post: Post) -> None:
        """The post could not be handled: the next catch-up finds it again."""
        self.close(post)
        self._failed[_id_of(post)] = post.sent_at

    # -- full mailboxes ----------------------------------------------------------------------------------------------------

    def has_left(self, conversation: Conversation) -> bool:
        """Whether posts of the conversation are left for later. Then newer ones have to wait too."""
        return conversation in self._left

    def leave(self, conversation: Conversation, post: Post) -> bool:
        """Leave a post that did not fit for later. Returns True for the conversation's first.

        If too much is left already, only the time is kept: it is made up for as after an absence (`has_given_up`).
        """
        self.close(post)
        room, left = (post.channel, post.thread), self._left.get(conversation)
        span = None if left is None else left.spans.get(room)
        if span is not None:
            span.add(post)
            return False
        if sum(len(each.all()) for each in self._left.values()) >= self._max_left:
            self._given_up_since = _earlier_of(self._given_up_since, post.sent_at)
            return False
        self._left.setdefault(conversation, Left()).spans[room] = Span(post, post.sent_at)
        return left is None

    def is_left(self, conversation: Conversation, post: Post) -> bool:
        """Whether the post is among those that will be read back."""
        left = self._left.get(conversation)
        return left is not None and any(span.has(post) for span in left.all())

    def follows_left(self, conversation: Conversation, post: Post) -> bool:
        """Whether something is left of the conversation that is older than this post."""
        left = self._left.get(conversation)
        return left is not None and any(span.first.sent_at <= post.sent_at for span in left.all())

    def begin_reading(self, conversation: Conversation) -> Left | None:
        """What is left of the conversation, to be read back now; None if it is nothing any more.

        What an earlier reading did not get to, because it failed, is part of it.
        """
        left = self._left[conversation]
        for room, span in left.spans.items():
            earlier = left.reading.setdefault(room, span)
            earlier.add(span.first)
            earlier.last = max(earlier.last, span.last)
        left.spans = {}
        if not left.reading:
            del self._left[conversation]
            return None
        return left

    def has_given_up(self) -> bool:
        """Whether more was left than could be kept, and none of what was kept is left any more."""
        return self._given_up_since is not None and not self._left

    def note_ours(self, conversation: Conversation) -> None:
        """We have answered in this conversation, so we may write notices there."""
        self._ours.add(conversation)

    def is_ours(self, conversation: Conversation) -> bool:
        return conversation in self._ours

    # -- catching up -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def catching_up(self, since: datetime | None) -> Iterator[deque[Post]]:
        """A context for reading back and answering what was missed since then. Until it succeeds, the mark stays there.

        Yields the posts that are passed over meanwhile (`pass_over`): they may belong to a chat that catching up has yet to create.
        """
        self._missed_since = _earlier_of(_earlier_of(self._missed_since, self._given_up_since), since)
        failed, self._failed = self._failed, BoundedDict(_MAX_FAILED)  # reading back finds these again
        self._given_up_since = None
        passed_over = self._passed_over = deque(maxlen=_MAX_PASSED_OVER)
        try:
            yield passed_over
        except BaseException:
            for id_ in failed:
                self._failed[id_] = failed[id_]
            raise
        else:
            self._missed_since = None
        finally:
            self._passed_over = None

    def pass_over(self, post: Post) -> None:
        """The post is not for us at this time."""
        if self._passed_over is not None and post.has_before:
            self._passed_over.append(post)

    @property
    def missed_since(self) -> datetime | None:
        """Since when catching up has not succeeded; None if it has."""
        return self._missed_since

    @property
    def given_up_since(self) -> datetime | None:
        """When the oldest of those was sent of which it is not kept where they are; None if there are none."""
        return self._given_up_since


def _id_of(post: Post) -> MessageId:
    return post.workspace, post.message_id


def _earlier_of(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((each for each in (one, other) if each is not None), default=None)
