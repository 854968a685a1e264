"""Messages that have arrived but are not accepted yet; the mark of what was seen never passes them.

A post is open from its arrival until its step has ended. If its step failed, or its mailbox was full, it is remembered until it is
read back from the platform. Everything here is bounded, and only ids and times are kept.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime

from adapters.bounded import BoundedDict, BoundedSet
from adapters.mailbox import Conversation
from adapters.post import Post
from adapters.routing import MessageId

_MAX_FAILED = 10_000
_MAX_LEFT = 10_000  # per conversation
_MAX_PASSED_OVER = 1_000
_MAX_OURS = 10_000


class Backlog:
    def __init__(self) -> None:
        self._open: dict[MessageId, datetime] = {}
        self._failed: BoundedDict[MessageId, datetime] = BoundedDict(_MAX_FAILED)
        self._left: dict[Conversation, BoundedDict[MessageId, datetime]] = {}
        self._ours: BoundedSet[Conversation] = BoundedSet(_MAX_OURS)
        self._missed_since: datetime | None = None  # set while catching up, and when that failed
        self._passed_over: deque[Post] | None = None
        self._not_ours: BoundedSet[MessageId] = BoundedSet(_MAX_OURS)  # was passed over when nothing was missing

    def oldest(self) -> datetime | None:
        """When the oldest of all these messages was sent; None if there is none."""
        times = [*self._open.values(), *_times(self._failed)]
        for left in self._left.values():
            times += _times(left)
        if self._missed_since is not None:
            times.append(self._missed_since)
        return min(times, default=None)

    # -- posts -------------------------------------------------------------------------------------------------------------

    def open(self, post: Post) -> None:
        self._open[_id_of(post)] = post.sent_at

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
        """Leave a post that did not fit for later. Returns True for the conversation's first."""
        self.close(post)
        is_first = conversation not in self._left
        self._left.setdefault(conversation, BoundedDict(_MAX_LEFT))[_id_of(post)] = post.sent_at
        return is_first

    def is_left(self, conversation: Conversation, id_: MessageId) -> bool:
        return conversation in self._left and id_ in self._left[conversation]

    def conversations_left(self) -> list[Conversation]:
        return list(self._left)

    def left_in(self, conversation: Conversation) -> dict[MessageId, datetime]:
        """The posts left there, with the times when they were sent."""
        left = self._left.get(conversation)
        return {} if left is None else {id_: left[id_] for id_ in left}

    def let_go(self, conversation: Conversation, ids: Iterable[MessageId]) -> None:
        """These posts were handled."""
        left = self._left.get(conversation)
        if left is None:
            return
        for id_ in ids:
            left.pop(id_)
        if not len(left):
            del self._left[conversation]

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
        earlier, failed = self._missed_since, self._failed
        self._missed_since = _earlier_of(earlier, since)
        self._failed = BoundedDict(_MAX_FAILED)  # reading back finds these again
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
        if post.thread is None and post.reply_to is None:
            return
        if self._passed_over is not None:
            self._passed_over.append(post)
        elif not len(self._failed):  # else its beginning may be among these
            self._not_ours.add(_id_of(post))

    def was_not_ours(self, post: Post) -> bool:
        """Whether it was heard of in its time, and was for somebody else."""
        return _id_of(post) in self._not_ours and not post.is_mention


def _id_of(post: Post) -> MessageId:
    return post.workspace, post.message_id


def _times(kept: BoundedDict[MessageId, datetime]) -> list[datetime]:
    return [kept[id_] for id_ in kept]


def _earlier_of(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((each for each in (one, other) if each is not None), default=None)
