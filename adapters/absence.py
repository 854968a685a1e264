"""After an absence: since when messages may have been missed, and how many of them are answered.

While we are connected, a time mark is moved on every few seconds; after a return, messages younger than the mark may be new. The
mark never passes a message that is not accepted yet, so that a message that waits when the program is killed is found again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from adapters.backlog import Backlog
from adapters.backoff import growing_waits, until_reached
from adapters.base import ThreadHandler
from adapters.mailbox import Conversation
from adapters.post import Platform, Post
from adapters.routing import Begins, Continues, Router
from adapters.screen import Screen
from adapters.surface import DestinationGone, TryLater

log = logging.getLogger(__name__)

MARK_SECONDS = 20.0
MARK_MARGIN = timedelta(minutes=2)  # a dead connection is noticed late; a message found twice is answered once
_MARK = "seen_until"
_FORGOTTEN = "forgotten_until"
_MAX_AT_ONCE = 2
_MAX_LOOKS = 4  # afterwards the next connection tries again


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages written while we were away, in any order. `is_complete`: False if some of them could not be read just now."""

    posts: Sequence[Post] = ()
    is_complete: bool = True


ReadMissed = Callable[[datetime], Awaitable[Missed]]
"""Reads messages since a time. Raises TryLater when the platform cannot be reached."""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """How many missed messages are answered."""

    max_age: timedelta = timedelta(hours=12)
    max_posts: int = 20

    def recent(self, posts: Iterable[Post]) -> list[Post]:
        """The posts that are young enough, each once, oldest first."""
        oldest = datetime.now(UTC) - self.max_age
        each_once = {(post.workspace, post.message_id): post for post in posts if post.sent_at >= oldest}
        return sorted(each_once.values(), key=lambda post: post.sent_at)

    def newest(self, posts: list[Post], num_answered: int) -> list[Post]:
        """The newest posts that may still be answered, when `num_answered` have been."""
        num_left = max(0, len(posts) + num_answered - self.max_posts)
        if num_left:
            log.info("%d missed messages are too many; the oldest %d stay unanswered.", len(posts) + num_answered, num_left)
        return posts[num_left:]


class Mark:
    """The time up to which everything on a platform was seen; it survives a restart. `oldest_open` returns when the oldest message
    that is not accepted yet was sent; None if there is none."""

    def __init__(self, platform: str, handler: ThreadHandler, oldest_open: Callable[[], datetime | None]) -> None:
        self._platform = platform
        self._handler = handler
        self._oldest_open = oldest_open
        self._moving: asyncio.Task[None] | None = None

    async def read(self) -> datetime | None:
        """Read the stored mark; None if we were never connected before."""
        mark = await self._handler.read_note(self._platform, _MARK)
        return None if mark is None else datetime.fromisoformat(mark) - MARK_MARGIN

    def move_on(self) -> None:
        if self._moving is None:
            self._moving = asyncio.create_task(self._keep())

    def stop(self) -> None:
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None

    async def _keep(self) -> None:
        while True:
            try:
                now = datetime.now(UTC)
                mark = min(now, self._oldest_open() or now)
                await self._handler.write_note(self._platform, _MARK, mark.isoformat())
            except Exception:  # the database may be unreachable for a while
                log.exception("The mark of what was seen on %s could not be written.", self._platform)
            await asyncio.sleep(MARK_SECONDS)


class Absence:
    """Keeps the mark, and catches up after an absence. `posted` takes a post as if it had just arrived; `take` puts one into its
    mailbox and returns when it was handled."""

    def __init__(
        self,
        platform: Platform,
        handler: ThreadHandler,
        router: Router,
        backlog: Backlog,
        screen: Screen,
        posted: Callable[[Post], None],
        take: Callable[[Post], Awaitable[None]],
        catch_up: CatchUp,
    ) -> None:
        self._platform = platform
        self._handler = handler
        self._router = router
        self._backlog = backlog
        self._screen = screen
        self._posted = posted
        self._take = take
        self._catch_up = catch_up
        self._mark = Mark(platform.name, handler, backlog.oldest)
        self._read_missed: ReadMissed | None = None
        self._coming_online = asyncio.Lock()
        self._has_resumed = False
        self._is_away = True
        self._has_read_mark = False  # only then it is known what must not be passed
        self._forgotten_at: datetime | None = None
        self._answering_left: set[Conversation] = set()

    def begin(self) -> None:
        """From now on messages may be missed."""
        self._is_away = True
        self._mark.stop()

    def end(self) -> None:
        """From now on no message is missed."""
        self._is_away = False
        if self._has_read_mark:
            self._mark.move_on()

    def pass_over(self, post: Post) -> None:
        """The post is not for us at this time."""
        if self._has_read_mark and not self._is_away:  # before that it may follow on something that was missed
            self._backlog.pass_over(post)

    async def do_not_look_back(self) -> None:
        """Something was deleted on request: earlier questions must not be found as missed and asked again."""
        self._forgotten_at = datetime.now(UTC)
        await self._note_forgotten(self._forgotten_at)

    async def _note_forgotten(self, at: datetime) -> None:
        until = min(at, self._backlog.oldest() or at)  # so that open messages are not lost
        await self._handler.write_note(self._platform.name, _FORGOTTEN, until.isoformat())

    async def make_up_for(self, read_missed: ReadMissed) -> None:
        """Catch up after the absence; see `Dispatcher.online`."""
        self._read_missed = read_missed
        self._is_away = self._has_read_mark = False
        async with self._coming_online:
            since = await self._missed_since()
            with self._backlog.catching_up(since) as passed_over:
                self._has_read_mark = True
                if not self._is_away:  # as it may be again, when another return had to be waited for
                    self._mark.move_on()
                if not self._has_resumed:
                    await self._resume()
                    self._has_resumed = True
                if since is not None:
                    await self._look_back(since)
            if self._forgotten_at is not None:
                await self._note_forgotten(self._forgotten_at)  # which was not possible while catching up
        for post in passed_over:  # they may continue a chat that was only answered now
            self._posted(post)
        for conversation in self._backlog.conversations_left():
            await self.answer_left(conversation)

    async def answer_left(self, conversation: Conversation) -> None:
        """Read back the posts that did not fit into the mailbox, and answer them in order until none is left."""
        if self._read_missed is None or conversation in self._answering_left:
            return
        self._answering_left.add(conversation)
        waits = growing_waits()
        try:
            while left := self._backlog.left_in(conversation):
                try:
                    missed = await self._read(min(left.values()))
                except Exception as error:
                    log.warning("What was left on %s could not be read back (%s).", self._platform.name, type(error).__name__)
                    missed = Missed(is_complete=False)
                found = [post for post in _oldest_first(missed.posts) if (post.workspace, post.message_id) in left]
                await self._answer_all(found)
                self._backlog.let_go(conversation, [(post.workspace, post.message_id) for post in found])
                if not missed.is_complete:
                    await asyncio.sleep(next(waits))
                elif not found:
                    log.warning("%d messages on %s that were left are gone.", len(left), self._platform.name)
                    self._backlog.let_go(conversation, left)
        finally:
            self._answering_left.discard(conversation)

    async def _look_back(self, since: datetime) -> None:
        """Answer what was missed since then. Retries what cannot be read just now, and raises TryLater in the end."""
        waits = growing_waits()
        for _ in range(_MAX_LOOKS):
            missed = await until_reached(partial(self._read, since), self._platform.name)
            num_answered = await self._answer_missed(missed.posts)
            if num_answered:
                log.info("Answered %d messages on %s that came while I was away.", num_answered, self._platform.name)
            if missed.is_complete:
                return
            log.warning("Not all that was missed on %s could be read back; I try again.", self._platform.name)
            await asyncio.sleep(next(waits))
        raise TryLater

    async def _read(self, since: datetime) -> Missed:
        """Read through the newest connection, which may be another one than when the reading began."""
        assert self._read_missed is not None
        return await self._read_missed(since)

    async def _missed_since(self) -> datetime | None:
        """Since when messages may have been missed; None if we were never connected before."""
        mark = await self._mark.read()
        if mark is None:
            return None
        forgotten = await self._handler.read_note(self._platform.name, _FORGOTTEN)
        forgotten_until = mark if forgotten is None else datetime.fromisoformat(forgotten)
        return max(mark, forgotten_until, datetime.now(UTC) - self._catch_up.max_age)

    async def _resume(self) -> None:
        """Show the answers that are not known to be delivered."""
        for turn, answer in await self._handler.undelivered(self._platform.name):
            if self._screen.is_showing(turn.turn_id):
                continue  # it was asked in the meantime, and is being shown
            try:
                surface = self._platform.surface(turn.destination)
            except DestinationGone:
                await self._handler.set_reply(turn.turn_id, turn.reply_ids, is_delivered=True)
                continue
            self._screen.show(answer, surface, turn.reply_ids)

    async def _answer_missed(self, posts: Iterable[Post]) -> int:
        """Answer those posts that are for us, oldest first and a few at a time, up to the limit. Returns how many."""
        left, num_answered = self._catch_up.recent(posts), 0
        while ours := [post for post in left if await self._is_missed(post)]:
            chosen = self._catch_up.newest(ours, num_answered)
            for post in ours[: len(ours) - len(chosen)]:
                self._router.has_taken(post)  # it stays unanswered, also when we look back again
            await self._answer_all(chosen)
            num_answered += len(chosen)
            left = [post for post in left if post not in ours]  # replies to them are for us now
        return num_answered

    async def _answer_all(self, posts: Sequence[Post]) -> None:
        """Answer a few conversations at a time, and the posts of each in order."""
        slots = asyncio.Semaphore(_MAX_AT_ONCE)
        conversations: dict[Conversation, list[Post]] = {}
        for post in posts:
            conversations.setdefault((post.workspace, post.conversation), []).append(post)

        async def answer(conversation: Conversation) -> None:
            for post in conversations[conversation]:
                async with slots:
                    try:
                        await self._take(post)
                        turn = await self._handler.find_message(self._platform.name, post.workspace, post.message_id)
                        if turn is not None:
                            await self._screen.wait_shown(turn.turn_id)
                    except Exception:
                        log.exception("A message on %s that is made up for could not be dealt with.", self._platform.name)

        await asyncio.gather(*(answer(conversation) for conversation in conversations))

    async def _is_missed(self, post: Post) -> bool:
        return (
            not post.is_command
            and not self._backlog.was_not_ours(post)
            and isinstance(await self._router.route(post), Begins | Continues)
        )


def _oldest_first(posts: Iterable[Post]) -> list[Post]:
    return sorted(posts, key=lambda post: post.sent_at)
