"""After an absence: since when messages may have been missed, and how many of them are answered.

While we are connected, a time mark is moved on every few seconds; after a return, messages younger than the mark may be new. The
mark never passes a message that is not accepted yet, so that a message that waits when the program is killed is found again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from adapters.backoff import growing_waits, until_done, until_reached
from adapters.base import ThreadHandler, ThreadKey
from adapters.conversations.backlog import Backlog
from adapters.conversations.mailbox import Conversation, Mailboxes
from adapters.conversations.routing import Begins, Continues, Router
from adapters.conversations.screen import Screen
from adapters.post import Platform, Post
from adapters.surface import DestinationGone, TryLater
from adapters.tasks import without_words

log = logging.getLogger(__name__)

MARK_SECONDS = 20.0
MARK_MARGIN = timedelta(minutes=2)  # a dead connection is noticed late; a message found twice is answered once
MAX_HELD_SECONDS = 20.0  # longer than that a conversation does not wait until we know whether anything was missed in it
_MARK = "seen_until"
_STILL_AWAY = object()
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
        self._is_known = False
        self.is_new = False  # there was none before this run

    async def begin(self) -> None:
        """See to it that there is one. Without a mark nothing is looked for after a restart."""
        if not self._is_known:
            is_new = await self.read() is None
            if is_new:
                await self._write()
            self.is_new, self._is_known = self.is_new or is_new, True

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
                await self._write()
            except Exception:  # the database may be unreachable for a while
                log.exception("The mark of what was seen on %s could not be written.", self._platform)
            await asyncio.sleep(MARK_SECONDS)

    async def _write(self) -> None:
        now = datetime.now(UTC)
        await self._handler.write_note(self._platform, _MARK, min(now, self._oldest_open() or now).isoformat())


class Absence:
    """Keeps the mark, and catches up after an absence. `posted` takes a post as if it had just arrived; `take` puts one into its
    mailbox and returns when its answer is shown. `closing`: nothing is tried again any more.

    What is said in a conversation comes after what was missed there: its posts are held as long as it is not known what was missed,
    and where something was, until that is made up for.
    """

    def __init__(
        self,
        platform: Platform,
        handler: ThreadHandler,
        router: Router,
        backlog: Backlog,
        mailboxes: Mailboxes,
        screen: Screen,
        posted: Callable[[Post], None],
        take: Callable[[Post], Awaitable[None]],
        catch_up: CatchUp,
        closing: asyncio.Event,
    ) -> None:
        self._platform = platform
        self._handler = handler
        self._router = router
        self._backlog = backlog
        self._mailboxes = mailboxes
        self._screen = screen
        self._posted = posted
        self._take = take
        self._catch_up = catch_up
        self._closing = closing
        self._mark = Mark(platform.name, handler, backlog.oldest)
        self._read_missed: ReadMissed | None = None
        self._coming_online = asyncio.Lock()
        self._has_resumed = False
        self._is_away = True
        self._has_read_mark = False  # only then it is known what must not be passed
        self._unread: set[object] = set()  # absences of which it is not known yet what was missed
        self._reading: object = None  # one of them
        self._behind: set[Conversation] = set()  # where something was missed that is not made up for yet

    def begin(self) -> None:
        """From now on messages may be missed."""
        self._is_away = True
        self._unread.add(_STILL_AWAY)
        self._mark.stop()

    def end(self) -> None:
        """From now on no message is missed."""
        self._is_away = False
        self._has_read(_STILL_AWAY)
        if self._has_read_mark:
            self._mark.move_on()

    def expect(self, post: Post, conversation: Conversation) -> None:
        """It was written or edited: hold its conversation if something may have been missed there. Not if it begins with it."""
        if self._unread and post.has_before:
            self._mailboxes.hold(conversation)
            if self._unread == {_STILL_AWAY}:  # but we are told of messages: the platform may take this for no absence
                asyncio.get_running_loop().call_later(MAX_HELD_SECONDS, self._has_read, _STILL_AWAY)

    async def begin_mark(self) -> None:
        """Before a message is dealt with: from now on it is found again after a kill, also in the very first run."""
        await self._mark.begin()

    async def make_up_for(self, read_missed: ReadMissed) -> None:
        """Catch up after the absence; see `Dispatcher.online`. Raises what it could not get over in several minutes."""
        self._read_missed = read_missed
        self._is_away = self._has_read_mark = False
        async with self._holding():
            await until_done(self._make_up, self._platform.name, self._closing)

    async def _make_up(self) -> None:
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
        for post in passed_over:  # they may continue a chat that was only answered now
            self._posted(post)

    async def look_again(self) -> None:
        """Make up for what was left of more conversations than could be kept, as for what was missed."""
        async with self._coming_online:
            if (since := self._backlog.given_up_since) is not None:
                await until_done(partial(self._make_up_since, since), self._platform.name, self._closing)

    async def _make_up_since(self, since: datetime) -> None:
        with self._backlog.catching_up(since):
            await self._look_back(since)

    @contextlib.asynccontextmanager
    async def _holding(self) -> AsyncIterator[None]:
        """A context in which posts are held that may follow on what was missed: until that is known, or took too long."""
        absence = object()
        self._unread = (self._unread - {_STILL_AWAY}) | {absence}
        stop = asyncio.get_running_loop().call_later(MAX_HELD_SECONDS, self._has_read, absence)
        try:
            async with self._coming_online:
                self._reading = absence
                try:
                    yield
                finally:
                    self._behind.clear()
        finally:
            stop.cancel()
            self._has_read(absence)

    def _has_read(self, absence: object) -> None:
        """It is known what was missed in this absence."""
        self._unread.discard(absence)
        self._release()

    def _release(self) -> None:
        """Let the conversations go on where nothing is missed any more, if that is known."""
        if not self._unread:
            for conversation in self._mailboxes.held() - self._behind:
                self._mailboxes.release(conversation)

    async def _look_back(self, since: datetime) -> None:
        """Answer what was missed since then. Retries what cannot be read just now, and raises TryLater in the end."""
        waits = growing_waits()
        for _ in range(_MAX_LOOKS):
            missed = await until_reached(partial(self._read, since), self._platform.name)
            num_answered = await self._answer_missed(missed.posts)
            self._behind.clear()
            self._has_read(self._reading)
            if num_answered:
                log.info("Answered %d messages on %s that came while I was away.", num_answered, self._platform.name)
            if missed.is_complete:
                return
            log.warning("Not all that was missed on %s could be read back; I try again.", self._platform.name)
            await asyncio.sleep(next(waits))
        raise TryLater

    async def _read(self, since: datetime) -> Missed:
        """Read through the newest connection, which may be another one than when the reading began."""
        if self._read_missed is None:
            raise TryLater  # we were never connected
        return await self._read_missed(since)

    async def _missed_since(self) -> datetime | None:
        """Since when messages may have been missed; None if we were never connected before."""
        mark, now = self._backlog.missed_since or await self._mark.read(), datetime.now(UTC)
        if mark is None or (self._mark.is_new and not self._has_resumed):
            return None
        oldest = now - self._catch_up.max_age
        return oldest if mark > now else max(mark, oldest)  # a mark in the future was written by a clock that was wrong

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

    async def _answer_missed(self, posts: Sequence[Post]) -> int:
        """Answer those posts that are for us, oldest first and a few at a time, up to the limit. Returns how many."""
        for post in posts:
            self._router.heard_from(post.workspace, {post.channel, post.room})
        recent = [post for post in self._catch_up.recent(posts) if not self._comes_anyway(post)]
        left, num_answered = recent, 0
        while ours := [post for post in left if await self._is_missed(post, recent)]:
            chosen = self._catch_up.newest(ours, num_answered)
            for post in ours[: len(ours) - len(chosen)]:
                self._router.has_taken(post)  # it stays unanswered, also when we look back again
            left = [post for post in left if post not in ours]  # replies to them are for us then
            await self._answer_all(chosen, {self._router.conversation_of(post) for post in left})
            num_answered += len(chosen)
        return num_answered

    def _comes_anyway(self, post: Post) -> bool:
        """Whether it arrived and waits, or will be read back with what a full mailbox left, as will all that came after that."""
        conversation = self._router.conversation_of(post)
        if self._backlog.is_open(post) or self._backlog.is_left(conversation, post):
            return True
        if self._backlog.follows_left(conversation, post) and conversation not in self._mailboxes.held():
            self._backlog.leave(conversation, post)
            return True
        return False

    async def _answer_all(self, posts: Sequence[Post], unfinished: Collection[Conversation]) -> None:
        """Answer a few conversations at a time, and the posts of each in order. In the `unfinished` ones more may follow."""
        slots = asyncio.Semaphore(_MAX_AT_ONCE)
        conversations: dict[Conversation, list[Post]] = {}
        for post in posts:
            conversations.setdefault(self._router.conversation_of(post), []).append(post)
        self._behind |= conversations.keys()
        for conversation in conversations:
            self._mailboxes.hold(conversation)
        self._has_read(self._reading)

        async def answer(conversation: Conversation) -> None:
            for post in conversations[conversation]:
                async with slots:
                    try:
                        await self._take(post)
                    except Exception as error:
                        where = self._platform.name
                        log.error("A message on %s that is made up for could not be dealt with: %s", where, without_words(error))
            if conversation not in unfinished:
                self._behind.discard(conversation)
                self._release()

        await asyncio.gather(*(answer(conversation) for conversation in conversations))

    async def _is_missed(self, post: Post, posts: Sequence[Post]) -> bool:
        """Whether it is to be answered; `posts` are all that were read with it."""
        if post.is_command:
            return False
        route = await self._router.route(post)
        if isinstance(route, Continues) and not post.is_mention and not post.is_direct:
            return not await self._began_later(route.key, post, posts)
        return isinstance(route, Begins | Continues)

    async def _began_later(self, key: ThreadKey, post: Post, posts: Sequence[Post]) -> bool:
        """Whether the chat began with one of the posts that were sent after this one. Then this one was said to others."""
        chat = await self._handler.read_chat(key)
        for later in posts if chat is not None and chat.turns else ():
            if later.sent_at > post.sent_at and (later.is_mention or later.is_direct):
                turn = await self._handler.find_message(self._platform.name, later.workspace, later.message_id)
                if turn is not None and chat is not None and turn.turn_id == chat.turns[0].turn_id:
                    return True
        return False
