"""Reads back what full mailboxes left, each conversation where it is and in its order, until nothing of it is left.

People there are told once. A conversation is read as soon as what fits into its mailbox was dealt with. What is read is taken one
after the other, as if it had just arrived, each when the answer to the one before it is shown. A few conversations are read at the
same time, so that what they hold is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

from adapters.backoff import growing_waits
from adapters.conversations.backlog import Backlog, Left, Span
from adapters.conversations.mailbox import Conversation, Mailboxes
from adapters.conversations.pace import Pace
from adapters.conversations.routing import Router
from adapters.post import Platform, Post
from adapters.surface import DestinationGone, Page, TryLater
from adapters.tasks import Tasks, without_words

log = logging.getLogger(__name__)

TOO_MANY_AT_ONCE = "That was more than I can take at once. I will look at the rest when I have answered what came before."

_MAX_CONVERSATIONS = 32
_MAX_REQUESTS = 2


class ReadBack:
    """`make_up` takes a post, and returns when its answer is shown. `look_again` is called if more was left than could be kept, and
    makes up for it as after an absence."""

    def __init__(
        self,
        platform: Platform,
        pace: Pace,
        router: Router,
        backlog: Backlog,
        mailboxes: Mailboxes,
        make_up: Callable[[Post], Awaitable[None]],
        look_again: Callable[[], Awaitable[None]],
    ) -> None:
        self._platform = platform
        self._pace = pace
        self._router = router
        self._backlog = backlog
        self._mailboxes = mailboxes
        self._make_up = make_up
        self._look_again = look_again
        self._conversations = asyncio.Semaphore(_MAX_CONVERSATIONS)
        self._requests = asyncio.Semaphore(_MAX_REQUESTS)  # not urgent, and other calls share the platform's limits
        self._tasks = Tasks(platform.name)

    def leave(self, conversation: Conversation, post: Post) -> None:
        """Leave a post that did not fit into the conversation's mailbox for later."""
        if not self._backlog.leave(conversation, post):
            return
        self._tasks.begin(self._read_back(conversation))
        log.warning(
            "A conversation on %s has more messages than I can take at once; the rest is left for later.", self._platform.name
        )
        if (post.is_mention or post.is_direct or self._backlog.is_ours(conversation)) and self._router.may_use(post):
            self._tasks.begin(self._tell_too_many(post))

    async def close(self) -> None:
        """Read no more. What is left stays in the backlog."""
        await self._tasks.aclose()

    async def _tell_too_many(self, post: Post) -> None:
        with contextlib.suppress(DestinationGone, TryLater):
            surface = self._platform.surface(self._platform.destination(post))
            await self._pace.turn(surface.channel)
            await surface.post(Page("", notices=(TOO_MANY_AT_ONCE,)))

    async def _read_back(self, conversation: Conversation) -> None:
        await self._mailboxes.run(conversation, _nothing, waits=True)  # behind what did fit
        async with self._conversations:
            waits = growing_waits()
            while (left := self._backlog.begin_reading(conversation)) is not None:
                try:
                    await self._take_all(conversation, left)
                except Exception as error:
                    name, where = type(error).__name__, self._platform.name
                    log.warning("What was left on %s could not be read back (%s); I try again.", where, name)
                    wanted = error.retry_after_seconds if isinstance(error, TryLater) else None
                    await asyncio.sleep(wanted or next(waits))
        if self._backlog.has_given_up():
            await self._look_again()

    async def _take_all(self, conversation: Conversation, left: Left) -> None:
        """Take what is being read back, in its order, also if it is in several threads."""
        async with contextlib.AsyncExitStack() as stack:
            readings = [
                await stack.enter_async_context(contextlib.aclosing(self._posts_in(conversation, span)))
                for span in left.reading.values()
            ]
            async for post, span in _merged(readings):
                try:
                    await self._make_up(post)
                except Exception as error:  # the backlog keeps it as one that failed
                    where = self._platform.name
                    log.error("A message that was left on %s could not be dealt with: %s", where, without_words(error))
                span.first = post
        left.reading.clear()

    async def _posts_in(self, conversation: Conversation, span: Span) -> AsyncGenerator[tuple[Post, Span], None]:
        async with contextlib.aclosing(self._platform.read_on(span.first, span.last)) as posts:
            while True:
                try:
                    async with self._requests:
                        post = await anext(posts)
                except (StopAsyncIteration, DestinationGone):
                    return
                if not post.is_automatic and span.has(post) and self._router.conversation_of(post) == conversation:
                    yield post, span


async def _merged(readings: Sequence[AsyncIterator[tuple[Post, Span]]]) -> AsyncIterator[tuple[Post, Span]]:
    """What these yield, in the order in which it was sent."""
    heads = [(head, reading) for reading in readings if (head := await anext(reading, None)) is not None]
    while heads:
        oldest = min(heads, key=lambda each: each[0][0].sent_at)
        heads.remove(oldest)
        yield oldest[0]
        following = await anext(oldest[1], None)
        if following is not None:
            heads.append((following, oldest[1]))


async def _nothing() -> None:
    pass
