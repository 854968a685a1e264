"""The logic that all platforms with threads share: an adapter translates events, the dispatcher handles them.

Rules: every event is put into its conversation's mailbox at once, and handled there in order of arrival. A step ends when the
question is accepted; a separate task shows its answer, so that Stop, edits and deletions need not wait for it. A step that fails is
tried again, while what came after it in its conversation waits. A message is answered once, however often and in whatever order it
is delivered. An edited question is asked again, a deleted one is cancelled and forgotten. Messages that were missed during an
absence are answered once afterwards, bounded in age and number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import assert_never

from adapters.access import Access
from adapters.backoff import until_done, until_reached
from adapters.base import Answer, Attachment, Author, IncomingMessage, PlatformTurn, ThreadHandler, ThreadKey
from adapters.bounded import BoundedDict
from adapters.conversations.absence import Absence, CatchUp, ReadMissed
from adapters.conversations.backlog import Backlog
from adapters.conversations.forgotten import Forgotten
from adapters.conversations.mailbox import MAX_IN_ALL, MAX_POSTS, Conversation, Mailboxes
from adapters.conversations.pace import Pace
from adapters.conversations.read_back import ReadBack
from adapters.conversations.routing import Begins, Continues, MessageId, NotForUs, Router, SeenBefore
from adapters.conversations.screen import Screen, typing
from adapters.post import Platform, Post
from adapters.surface import Control, DestinationGone, Surface
from adapters.tasks import Tasks
from adapters.text.phrases import quota_sentence

log = logging.getLogger(__name__)

_MAX_EARLY_EDITS = 1_000

NOT_ALLOWED = "I am not set up to answer here."
ONLY_ASKER = "Only the person who asked, or a moderator, can do this."
TURN_GONE = "I no longer have this question: it was forgotten. Please ask again."


class Dispatcher:
    """One platform's dispatcher. Methods that are not coroutines return at once. Call `close` at the end."""

    def __init__(
        self,
        platform: Platform,
        handler: ThreadHandler,
        pace: Pace,
        *,
        access: Access | None = None,
        catch_up: CatchUp | None = None,
        max_posts: int = MAX_POSTS,
        max_in_all: int = MAX_IN_ALL,
    ) -> None:
        self._platform = platform
        self._handler = handler
        self._forgotten = Forgotten(platform.name, handler)
        self._router = Router(platform.name, handler, access or Access(), self._forgotten)
        self._backlog = Backlog()
        self._closing = asyncio.Event()
        self._mailboxes = Mailboxes(max_posts=max_posts, max_in_all=max_in_all)
        self._newest_edits: dict[MessageId, Post] = {}  # for messages whose edit waits in a mailbox
        self._early_edits: BoundedDict[MessageId, Post] = BoundedDict(_MAX_EARLY_EDITS)  # for messages that may still come
        self._screen = Screen(platform.name, handler, pace)
        self._absence = Absence(
            platform,
            handler,
            self._router,
            self._backlog,
            self._mailboxes,
            self._screen,
            self._put_in,
            self._make_up,
            catch_up or CatchUp(),
            self._closing,
        )
        self._read_back = ReadBack(
            platform, pace, self._router, self._backlog, self._mailboxes, self._make_up, self._absence.look_again
        )
        self._tasks = Tasks(platform.name)

    # -- what happens on the platform --------------------------------------------------------------------------------------

    def posted(self, post: Post) -> None:
        """A message was written."""
        if post.is_automatic:
            return
        self._router.heard_from(post.workspace, {post.channel, post.room})
        self._put_in(post)

    def edited(self, post: Post) -> None:
        """A message was edited; `post` is its new content."""
        if post.is_automatic:
            return
        id_ = (post.workspace, post.message_id)
        is_waiting = id_ in self._newest_edits
        self._newest_edits[id_] = post
        if not is_waiting:
            conversation = self._router.conversation_of(post)
            self._absence.expect(post, conversation)
            self._mailboxes.put(conversation, partial(self._take_edit, id_))

    def deleted(self, workspace: str, message_id: str) -> None:
        """A message was deleted."""
        self._router.has_deleted(workspace, message_id)
        step = partial(self._until_done, partial(self._take_deletion, workspace, message_id))
        self._mailboxes.put(self._router.conversation_with(workspace, message_id), step)

    def room_gone(self, workspace: str, room: str) -> None:
        """A thread or channel was deleted, or we were removed from it."""
        self._router.room_gone(workspace, room)
        self._mailboxes.put((workspace, room), partial(self._until_done, partial(self._take_room_gone, workspace, room)))

    # -- commands and buttons ----------------------------------------------------------------------------------------------

    def is_allowed(self, author: Author, workspace: str, channels: Collection[str], *, is_direct: bool) -> bool:
        """Whether this person may use us there. `channels`: the ids of the place and of what contains it."""
        return self._router.is_allowed(author, workspace, channels, is_direct=is_direct)

    async def ask(
        self,
        conversation: Conversation,
        message: IncomingMessage,
        surface: Surface,
        reply_ids: Sequence[str] = (),
        *,
        attachments: Callable[[], Awaitable[Sequence[Attachment]]] | None = None,
    ) -> None:
        """Ask a question that came by a command, with a known destination. Returns when the answer is shown.

        `reply_ids`: existing messages that will become the answer. `attachments` is called when the question's step begins. Raises
        DestinationGone if its place goes, or it is forgotten, before it is accepted.
        """
        key, author_id = message.key, message.author.id
        self._router.heard_from(key.workspace, {key.channel, key.thread})
        forgotten_before = self._forgotten.times(author_id, key)

        async def accept() -> Answer:
            async with typing(surface):
                found = message.attachments if attachments is None else tuple(await attachments())
                whole = replace(message, attachments=found)
                answer = await self._accept(whole, lambda: self._forgotten.times(author_id, key) != forgotten_before)
            if answer is None:
                raise DestinationGone
            if reply_ids and answer.turn_id is not None:
                await self._handler.set_reply(answer.turn_id, reply_ids, is_delivered=False)
            return answer

        answer = await self._mailboxes.run(conversation, accept)
        await asyncio.wait({self._screen.show(answer, surface, reply_ids)})

    async def press(self, control: Control, turn_id: int, person: Author, *, is_moderator: bool) -> str | None:
        """Carry out a button. Returns a sentence for this person only, or None.

        Stop does not go through the mailbox, where it would wait for the look-ups of the next question.
        """
        turn = await self._handler.find_turn(turn_id)
        if turn is None:
            return TURN_GONE
        is_for_asker = control in (Control.STOP, Control.REGENERATE)
        if is_for_asker and person.id != turn.author_id and not is_moderator:
            return ONLY_ASKER
        match control:
            case Control.HELPFUL | Control.NOT_HELPFUL:
                is_kept = await self._handler.rate(turn_id, person.id, is_helpful=control is Control.HELPFUL)
                return "Thank you, I wrote that down." if is_kept else TURN_GONE
            case Control.STOP:
                running = self._handler.running_turn(turn_id)
                if running is None:
                    return "This answer has ended already."
                running.stop()
                return None
            case Control.REGENERATE:
                conversation = self._router.conversation_with(turn.key.workspace, turn.message_id)
                return await self._mailboxes.run(conversation, partial(self._regenerate, turn))
            case _ as never:
                assert_never(never)

    async def reset(self, key: ThreadKey, at: datetime) -> str:
        """Forget a chat. `at`: when a person wanted it, by the platform's clock. Returns what to tell the person."""
        await self._forgotten.add_chat(key, at)
        if await self._handler.reset_chat(key):
            return "I have forgotten this chat. Your next question begins a new one."
        return "There is no chat here that I could forget."

    async def forget(self, author_id: str, at: datetime) -> str:
        """Forget a person, who wanted it `at` that time by the platform's clock. Returns what to tell the person."""
        await self._forgotten.add_author(author_id, at)
        num_turns = await self._handler.forget_author(self._platform.name, author_id)
        if not num_turns:
            return "I have nothing stored about you."
        questions = "your question" if num_turns == 1 else f"your {num_turns} questions"
        return f"Done: I have deleted {questions}, with the pictures and answers. Messages on this platform are yours to delete."

    async def quota(self, workspace: str, author: Author) -> str:
        """How much the person has asked, and may still ask, in a sentence."""
        return quota_sentence(await self._handler.quota(self._platform.name, workspace, author), datetime.now(UTC))

    # -- being away --------------------------------------------------------------------------------------------------------

    async def online(self, read_missed: ReadMissed) -> None:
        """The platform is connected: from now on no message is missed.

        Shows the answers that an earlier run did not deliver, and answers missed messages, which `read_missed` reads back. Raises
        what it could not get over in several minutes; the next connection tries again.
        """
        await self._absence.make_up_for(read_missed)

    def resumed(self) -> None:
        """The connection is back and has delivered what happened meanwhile: no message was missed."""
        self._absence.end()

    def offline(self) -> None:
        """The connection is lost: from now on messages may be missed."""
        self._absence.begin()

    async def close(self, grace_seconds: float = 5.0) -> None:
        """Give running steps and answers up to `grace_seconds` to end. What has not begun is left for the next start."""
        self.offline()
        self._closing.set()
        await self._read_back.close()
        deadline = asyncio.get_running_loop().time() + grace_seconds
        await self._mailboxes.close(grace_seconds)
        await self._tasks.aclose(max(0.0, deadline - asyncio.get_running_loop().time()))
        await self._screen.close(deadline)

    # -- steps -------------------------------------------------------------------------------------------------------------

    async def _take(self, post: Post) -> None:
        try:
            await self._until_done(partial(self._take_once, post))
        except BaseException:
            self._backlog.fail(post)
            raise
        self._backlog.close(post)

    async def _take_once(self, incoming: Post) -> None:
        """Decide what a post is to us, and do it. May be called again after it failed in the middle."""
        await self._absence.begin_mark()
        post = incoming if incoming.complete is None else await incoming.complete()
        route = await self._router.route(post)
        match route:
            case SeenBefore():
                pass
            case NotForUs():
                self._backlog.pass_over(incoming)
            case Begins() | Continues() if post.is_command and (post.is_mention or post.is_direct or route != Begins()):
                await self._platform.run_command(post)
                self._router.has_taken(post)
            case Begins() | Continues():
                await self._ask(post, route)
                self._router.has_taken(post)
                id_ = (post.workspace, post.message_id)
                early_edit = self._early_edits.pop(id_)
                if early_edit is not None and id_ not in self._newest_edits:  # where a newer one would wait
                    self.edited(early_edit)
            case _ as never:
                assert_never(never)

    async def _make_up(self, post: Post) -> None:
        """Put a post that was read back into its mailbox, after what is there. Returns when its answer, if any, is shown."""
        await self._mailboxes.run(self._router.conversation_of(post), partial(self._take, post))
        find = partial(self._handler.find_message, self._platform.name, post.workspace, post.message_id)
        turn = await until_done(find, self._platform.name, self._closing)
        if turn is not None:
            await self._screen.wait_shown(turn.turn_id)

    async def _ask(self, post: Post, route: Begins | Continues) -> None:
        try:
            if isinstance(route, Continues):
                key, destination = route.key, self._platform.destination(post)
            else:
                key, destination = await self._platform.start(post)
            surface = self._platform.surface(destination)
        except DestinationGone:
            log.info("A question on %s cannot be answered in its place.", self._platform.name)
            return
        if self._router.is_forgotten(post, key):
            return
        self._backlog.note_ours(self._router.conversation_of(post))
        message = _message(post, key, destination)
        async with typing(surface):
            whole = replace(message, attachments=tuple(await post.attachments()))
            answer = await self._accept(whole, lambda: self._router.is_forgotten(post, key))
        if answer is not None:
            self._screen.show(answer, surface)

    async def _accept(self, message: IncomingMessage, is_forgotten: Callable[[], bool]) -> Answer | None:
        """Put a question to the bot. None, and nothing of it is kept, if it was forgotten or its place is gone since it came."""

        def is_wanted() -> bool:
            return not is_forgotten() and not self._router.is_gone(message.key)

        if not is_wanted():
            return None
        answer = await self._handler.handle(message)
        if is_wanted():
            return answer
        id_ = (message.key.workspace, message.message_id)
        await self._until_done(partial(self._handler.retract, self._platform.name, *id_))
        return None

    async def _take_edit(self, id_: MessageId) -> None:
        try:
            await self._until_done(partial(self._take_newest_edit, id_))
        except BaseException:
            if self._newest_edits[id_].is_mention:
                self._backlog.fail(self._newest_edits[id_])  # the edit may have added the mention
            raise
        finally:
            del self._newest_edits[id_]

    async def _take_newest_edit(self, id_: MessageId) -> None:
        taken = None
        while taken is not self._newest_edits[id_]:  # another may have come meanwhile
            taken = self._newest_edits[id_]
            self._early_edits.pop(id_)
            if self._router.may_use(taken):
                await self._take_edit_once(taken)

    async def _take_edit_once(self, post: Post) -> None:
        turn = await self._handler.find_message(self._platform.name, post.workspace, post.message_id)
        if turn is None:
            conversation = self._router.conversation_of(post)
            is_held = conversation in self._mailboxes.held()
            is_to_come = is_held or self._backlog.is_left(conversation, post)
            if post.is_mention and not is_to_come:
                await self._take_once(post)  # the edit added the mention
            elif (is_to_come or post.has_before) and not self._router.is_over(post):
                id_ = (post.workspace, post.message_id)
                self._early_edits[id_] = post  # the message may come late, or be about to be read back
                if is_held:  # or it does not, and then this is its turn
                    self._mailboxes.put(conversation, partial(self._until_done, partial(self._take_early_edit, id_)), waits=True)
            return
        if turn.message_id != post.message_id:
            return  # one of our own messages
        with contextlib.suppress(DestinationGone):
            surface = self._platform.surface(turn.destination)
            message = _message(post, turn.key, turn.destination, await post.attachments())
            answer = await self._handler.ask_again(message)
            if answer is not None:
                self._screen.show(answer, surface, turn.reply_ids)

    async def _take_early_edit(self, id_: MessageId) -> None:
        post = self._early_edits.get(id_)
        if post is not None and post.is_mention:
            await self._take_edit_once(post)

    async def _take_deletion(self, workspace: str, message_id: str) -> None:
        turn = await self._handler.retract(self._platform.name, workspace, message_id)
        if turn is not None:
            self._tasks.begin(self._take_away(turn))

    async def _take_away(self, turn: PlatformTurn) -> None:
        """Delete the messages that show a turn's answer."""
        with contextlib.suppress(DestinationGone):
            shown = await self._screen.wait_shown(turn.turn_id)  # its answer was stopped, and its end may still be written
            surface = self._platform.surface(turn.destination)
            for reply_id in turn.reply_ids if shown is None else shown:
                await until_reached(partial(surface.delete, reply_id), self._platform.name)

    async def _take_room_gone(self, workspace: str, room: str) -> None:
        num_deleted = await self._handler.delete_room(self._platform.name, workspace, room)
        if num_deleted:
            log.info("A place on %s is gone; %d chats went with it.", self._platform.name, num_deleted)

    async def _regenerate(self, turn: PlatformTurn) -> str | None:
        try:
            surface = self._platform.surface(turn.destination)
        except DestinationGone:
            return "I cannot write there any more."
        answer = await self._handler.regenerate_turn(turn.turn_id)
        if answer is None:
            return TURN_GONE
        self._screen.show(answer, surface, turn.reply_ids)
        return None

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _put_in(self, post: Post) -> None:
        """Put a post into its mailbox, or leave it for later."""
        conversation = self._router.conversation_of(post)
        self._backlog.open(post)
        self._absence.expect(post, conversation)
        is_behind = self._backlog.has_left(conversation)
        if is_behind or not self._mailboxes.put(conversation, partial(self._take, post), is_post=True):
            self._read_back.leave(conversation, post)

    async def _until_done(self, step: Callable[[], Awaitable[object]]) -> None:
        await until_done(step, self._platform.name, self._closing)


def _message(post: Post, key: ThreadKey, destination: str, attachments: Sequence[Attachment] = ()) -> IncomingMessage:
    return IncomingMessage(key, post.message_id, post.author, post.text, tuple(attachments), post.look_back, destination)
