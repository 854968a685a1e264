"""What every platform with threads does with what happens there; an adapter translates, the dispatcher decides.

Rules: a message is for us when it mentions us, is said to us alone, stands in a thread of ours, or replies to a message of a chat.
The same message is answered once, however often and in whatever order it is delivered. A changed question is asked again, a deleted
one is cancelled and forgotten. What was missed while we were away is answered after the return: bounded in age and number, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

from adapters.absence import CatchUp, Mark
from adapters.access import Access
from adapters.base import Answer, Author, IncomingMessage, ThreadHandler, ThreadKey
from adapters.pace import Pace
from adapters.phrases import quota_sentence
from adapters.post import Platform, Post
from adapters.reply import show
from adapters.surface import Control, DestinationGone, Surface, TryLater

log = logging.getLogger(__name__)

TYPING_SECONDS = 5.0
_MAX_REMEMBERED = 10_000
_MAX_CAUGHT_UP_AT_ONCE = 2

NOT_ALLOWED = "I am not set up to answer here."
ONLY_ASKER = "Only the person who asked, or a moderator, can do this."
TURN_GONE = "I no longer have this question: it was forgotten. Please ask again."


class Dispatcher:
    """One platform's dispatcher. The adapter calls `on_...` from tasks of its own; `close` at the end."""

    def __init__(
        self,
        platform: Platform,
        handler: ThreadHandler,
        pace: Pace,
        *,
        access: Access | None = None,
        catch_up: CatchUp | None = None,
    ) -> None:
        self._platform = platform
        self._handler = handler
        self._pace = pace
        self._access = access or Access()
        self._catch_up = catch_up or CatchUp()
        self._rooms: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._taken = _Remembered()  # messages that were handed to the bot
        self._deleted = _Remembered()  # an event may come before the message that it is about
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}  # messages that the bot is accepting
        self._starting: Counter[ThreadKey] = Counter()  # chats that begin with one of them
        self._showing: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._mark = Mark(platform.name, handler)

    # -- messages ----------------------------------------------------------------------------------------------------------

    async def concerns_us(self, post: Post) -> bool:
        """Whether it is worth looking at what the message brings; its attachments do not matter yet."""
        return (post.workspace, post.message_id) in self._taken or (self.may_use(post) and await self._place(post) is not None)

    async def on_post(self, post: Post) -> None:
        """A message was written. Returns when it is known to be none of ours, or its answer is under way."""
        if post.is_automatic or not self.may_use(post):
            return
        id_ = (post.workspace, post.message_id)
        if id_ in self._taken or id_ in self._deleted:
            return
        async with self._lock(post):
            place = await self._place(post)
            if place is None or not self._taken.add(id_):
                return
            if await self._handler.find_message(self._platform.name, *id_) is not None:
                return  # answered before a restart, or about to be by `resume`
            asking = self._asking[id_] = self._begin(self._ask(post, place))
            asking.add_done_callback(lambda _: self._asking.pop(id_))
            if post.is_own_room or post.is_direct:  # the next message there may go on with what this one begins
                await asyncio.wait({asking})
        await asyncio.wait({asking})

    async def on_edit(self, post: Post) -> None:
        """A message says something else now; `post` is what it says."""
        if post.is_automatic or not self.may_use(post):
            return
        id_ = (post.workspace, post.message_id)
        if asking := self._asking.get(id_):
            await asyncio.wait({asking})
        turn = await self._handler.find_message(self._platform.name, *id_)
        if turn is None:
            if post.is_mention:
                await self.on_post(post)  # the mention was added afterwards
            return
        if turn.message_id != post.message_id:
            return  # a message of ours
        with contextlib.suppress(DestinationGone):
            surface = self._platform.surface(turn.destination)
            answer = await self._handler.ask_again(self._message(post, turn.key, turn.destination))
            if answer is not None:
                self._show(answer, surface, turn.reply_ids)

    async def on_delete(self, workspace: str, message_id: str) -> None:
        id_ = (workspace, message_id)
        self._deleted.add(id_)
        if asking := self._asking.get(id_):
            await asyncio.wait({asking})
        turn = await self._handler.retract(self._platform.name, workspace, message_id)
        if turn is None:
            return
        with contextlib.suppress(DestinationGone, TryLater):
            if showing := self._showing.get(turn.turn_id):
                await asyncio.wait({showing})  # it ends because its answer was stopped, and may have written once more
            surface = self._platform.surface(turn.destination)
            for reply_id in turn.reply_ids:
                await surface.delete(reply_id)

    async def on_room_gone(self, workspace: str, room: str) -> None:
        """A thread or channel was deleted, or we were removed from it."""
        num_deleted = await self._handler.delete_room(self._platform.name, workspace, room)
        if num_deleted:
            log.info("A place on %s is gone; %d chats went with it.", self._platform.name, num_deleted)

    # -- commands and buttons ----------------------------------------------------------------------------------------------

    def may_use(self, post: Post) -> bool:
        return self.is_allowed(
            post.author, post.workspace, {post.channel, post.room, *post.container_ids}, is_direct=post.is_direct
        )

    def is_allowed(self, author: Author, workspace: str, channels: Collection[str], *, is_direct: bool) -> bool:
        return self._access.is_allowed(author, workspace, channels, is_direct=is_direct)

    async def ask(self, message: IncomingMessage, surface: Surface, reply_ids: Sequence[str] = ()) -> None:
        """A question that came by a command, whose place is known already. Returns when the answer stands there.

        `reply_ids`: what stands there already, and shall become the answer.
        """
        answer = await self._handle(message, surface)
        if reply_ids and answer.turn_id is not None:
            await self._handler.set_reply(answer.turn_id, reply_ids, is_delivered=False)
        await asyncio.wait({self._show(answer, surface, reply_ids)})

    async def on_button(self, control: Control, turn_id: int, person: Author, *, is_moderator: bool) -> str | None:
        """Do what the button says; returns a sentence for this person alone when there is something to say."""
        turn = await self._handler.find_turn(turn_id)
        if turn is None:
            return TURN_GONE
        if control in (Control.HELPFUL, Control.NOT_HELPFUL):
            is_helpful = control is Control.HELPFUL
            is_kept = await self._handler.rate(turn_id, person.id, is_helpful=is_helpful)
            return "Thank you, I wrote that down." if is_kept else TURN_GONE
        if person.id != turn.author_id and not is_moderator:
            return ONLY_ASKER
        if control is Control.STOP:
            running = self._handler.running_turn(turn_id)
            if running is None:
                return "This answer has ended already."
            running.stop()
            return None
        try:
            surface = self._platform.surface(turn.destination)
        except DestinationGone:
            return "I cannot write there any more."
        answer = await self._handler.regenerate_turn(turn_id)
        if answer is None:
            return TURN_GONE
        self._show(answer, surface, turn.reply_ids)
        return None

    async def reset(self, key: ThreadKey) -> str:
        if await self._handler.reset_chat(key):
            return "I have forgotten this chat. Send me a picture, and we start anew."
        return "There is no chat here that I could forget."

    async def forget(self, author_id: str) -> str:
        num_turns = await self._handler.forget_author(self._platform.name, author_id)
        if not num_turns:
            return "I have nothing stored about you."
        questions = "your question" if num_turns == 1 else f"your {num_turns} questions"
        return f"Done: I have deleted {questions}, with the pictures and answers. Messages on this platform are yours to delete."

    async def quota(self, workspace: str, author: Author) -> str:
        return quota_sentence(await self._handler.quota(self._platform.name, workspace, author), datetime.now(UTC))

    # -- being away --------------------------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """Show the answers that are not known to stand in their place. Once, when the adapter can write."""
        for turn, answer in await self._handler.undelivered(self._platform.name):
            if turn.turn_id in self._showing:
                continue  # it was asked while we were on our way
            try:
                surface = self._platform.surface(turn.destination)
            except DestinationGone:
                await self._handler.set_reply(turn.turn_id, turn.reply_ids, is_delivered=True)
                continue
            self._show(answer, surface, turn.reply_ids)

    async def missed_since(self) -> datetime | None:
        """From when on messages may have been missed; None when nothing was, because we were never here before."""
        mark = await self._mark.read()
        return None if mark is None else max(mark, datetime.now(UTC) - self._catch_up.max_age)

    async def answer_missed(self, posts: Iterable[Post]) -> int:
        """Answer what is for us among these, oldest first and few at a time; returns how many. More than enough are left alone."""
        left, num_answered = self._catch_up.recent(posts), 0
        while ours := [post for post in left if await self._is_missed(post)]:
            chosen = self._catch_up.newest(ours, num_answered)
            await self._answer_all(chosen)
            num_answered += len(chosen)
            left = [post for post in left if post not in ours]  # what follows on them is ours now
        return num_answered

    def connected(self) -> None:
        """From now on nothing is missed, until `disconnected`."""
        self._mark.move_on()

    def disconnected(self) -> None:
        self._mark.stop()

    async def close(self, grace_seconds: float = 5.0) -> None:
        """Let what is being shown come to its end for a moment."""
        self.disconnected()
        tasks = {*self._tasks, *self._showing.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # -- inside ------------------------------------------------------------------------------------------------------------

    async def _place(self, post: Post) -> ThreadKey | bool | None:
        """The chat in which the message goes on; True when it begins one; None when it is not for us."""
        name, workspace = self._platform.name, post.workspace
        if post.thread is not None:
            key = ThreadKey(name, workspace, post.channel, post.thread)
            if key in self._starting or await self._handler.has_chat(key):
                return key
        if post.reply_to is not None:
            turn = await self._handler.find_message(name, workspace, post.reply_to)
            if turn is not None:
                return turn.key
        if not post.is_mention and not post.is_direct:
            return None
        if post.is_own_room and post.reply_to is None and not post.attachments:
            latest = await self._handler.latest_chat(name, workspace, post.room)
            if latest is not None:
                return latest
        return True

    async def _ask(self, post: Post, place: ThreadKey | bool) -> None:
        try:
            if isinstance(place, ThreadKey):
                key, destination = place, self._platform.destination(post)
            else:
                key, destination = await self._platform.start(post)
            surface = self._platform.surface(destination)
        except DestinationGone:
            log.info("A question on %s cannot be answered in its place.", self._platform.name)
            return
        self._starting[key] += 1
        try:
            answer = await self._handle(self._message(post, key, destination), surface)
        finally:
            self._starting -= Counter({key: 1})  # keeps positive counts only
        self._show(answer, surface)

    async def _handle(self, message: IncomingMessage, surface: Surface) -> Answer:
        async with _typing(surface):
            return await self._handler.handle(message)

    def _show(self, answer: Answer, surface: Surface, reply_ids: Sequence[str] = ()) -> asyncio.Task[None]:
        """Paint the answer in its place, in a task of its own; one task per turn, a newer one takes over."""
        turn_id = answer.turn_id
        earlier = None if turn_id is None else self._showing.get(turn_id)

        async def paint() -> None:
            ids = reply_ids
            if earlier is not None:
                await asyncio.wait({earlier})
                turn = None if turn_id is None else await self._handler.find_turn(turn_id)
                ids = ids if turn is None else turn.reply_ids
            await show(answer, surface, self._pace, self._handler, reply_ids=ids)

        task = self._begin(paint())
        if turn_id is not None:
            self._showing[turn_id] = task
            task.add_done_callback(lambda _: self._showing.pop(turn_id) if self._showing.get(turn_id) is task else None)
        return task

    async def _answer_all(self, posts: Sequence[Post]) -> None:
        """Few at a time, and one after the other in each room."""
        slots = asyncio.Semaphore(_MAX_CAUGHT_UP_AT_ONCE)
        rooms: dict[tuple[str, str], list[Post]] = {}
        for post in posts:
            rooms.setdefault((post.workspace, post.room), []).append(post)

        async def answer_room(posts_of_room: Sequence[Post]) -> None:
            for post in posts_of_room:
                async with slots:
                    await self.on_post(post)
                    await self._wait_shown(post)

        await asyncio.gather(*(answer_room(posts_of_room) for posts_of_room in rooms.values()))

    async def _is_missed(self, post: Post) -> bool:
        if post.is_automatic or not self.may_use(post) or (post.workspace, post.message_id) in self._taken:
            return False
        if await self._place(post) is None:
            return False
        return await self._handler.find_message(self._platform.name, post.workspace, post.message_id) is None

    async def _wait_shown(self, post: Post) -> None:
        turn = await self._handler.find_message(self._platform.name, post.workspace, post.message_id)
        if turn is not None and (showing := self._showing.get(turn.turn_id)):
            await asyncio.wait({showing})

    def _message(self, post: Post, key: ThreadKey, destination: str) -> IncomingMessage:
        return IncomingMessage(key, post.message_id, post.author, post.text, post.attachments, post.look_back, destination)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _lock(self, post: Post) -> asyncio.Lock:
        """Messages of one conversation are taken in their order; those that begin a chat in a channel wait for nobody."""
        name = post.room if post.thread is not None or post.is_direct else post.message_id
        lock = self._rooms.get((post.workspace, name))
        if lock is None:
            lock = self._rooms[post.workspace, name] = asyncio.Lock()  # lives as long as somebody holds or awaits it
        return lock


class _Remembered:
    """A bounded set of ids; the oldest are forgotten."""

    def __init__(self) -> None:
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __contains__(self, id_: tuple[str, str]) -> bool:
        return id_ in self._ids

    def add(self, id_: tuple[str, str]) -> bool:
        """False when it was known."""
        if id_ in self._ids:
            return False
        self._ids[id_] = None
        if len(self._ids) > _MAX_REMEMBERED:
            self._ids.popitem(last=False)
        return True


@contextlib.asynccontextmanager
async def _typing(surface: Surface) -> AsyncIterator[None]:
    async def repeat() -> None:
        while True:
            with contextlib.suppress(DestinationGone, TryLater):
                await surface.show_typing()
            await asyncio.sleep(TYPING_SECONDS)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("Something that happened on a platform could not be dealt with.")
