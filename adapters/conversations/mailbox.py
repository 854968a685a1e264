"""One mailbox per conversation: its events are handled in order of arrival, one step at a time.

Rules: putting a step in never waits. A slow step in one conversation delays no other. A full mailbox refuses posts, and so do all
when they are full together; edits and deletions always fit, because they cannot be found again later. While a conversation is
held, its posts wait and everything else goes on. An idle conversation has neither a mailbox nor a task. Learnt from mautrix
bridgev2, where each portal has one bounded queue and one worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from adapters.tasks import without_words

log = logging.getLogger(__name__)

MAX_POSTS = 32  # in one mailbox
MAX_IN_ALL = 2_000  # in all of them

Conversation = tuple[str, str]
"""A workspace, and in it the id of a thread, of a direct message, or of a message outside both."""

Step = Callable[[], Coroutine[Any, Any, None]]

_T = TypeVar("_T")


@dataclass(slots=True)
class _Mailbox:
    steps: deque[Step] = field(default_factory=deque)
    held: deque[Step] = field(default_factory=deque)  # what waits until the conversation is released
    worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self.steps) + len(self.held)


class Mailboxes:
    """All mailboxes. `max_posts` bounds each, `max_in_all` all of them together, in steps."""

    def __init__(self, *, max_posts: int = MAX_POSTS, max_in_all: int = MAX_IN_ALL) -> None:
        self._max_posts = max_posts
        self._max_in_all = max_in_all
        self._mailboxes: dict[Conversation, _Mailbox] = {}
        self._num_steps = 0
        self._held: set[Conversation] = set()
        self._awaited: set[asyncio.Future[Any]] = set()  # what callers of `run` wait for
        self._is_closed = False

    def __len__(self) -> int:
        """The number of conversations that have a mailbox now."""
        return len(self._mailboxes)

    @property
    def num_steps(self) -> int:
        """The number of steps that wait or run, in all mailboxes."""
        return self._num_steps

    def put(self, conversation: Conversation, step: Step, *, is_post: bool = False, waits: bool = False) -> bool:
        """Put a step after the others of its conversation. Returns False if it `is_post` and the mailbox is full.

        While the conversation is held, a post waits, and what else `waits`.
        """
        mailbox = self._mailboxes.get(conversation)
        num_there = 0 if mailbox is None else len(mailbox)
        if is_post and (num_there >= self._max_posts or self._num_steps >= self._max_in_all):
            return False
        self._add(conversation, step, waits=waits or is_post)
        return True

    def hold(self, conversation: Conversation) -> None:
        """From now on what is put into it waits, if it is to."""
        self._held.add(conversation)

    def held(self) -> frozenset[Conversation]:
        """The conversations that are held."""
        return frozenset(self._held)

    def release(self, conversation: Conversation) -> None:
        """Let what waited go on, after everything else that is there."""
        self._held.discard(conversation)
        mailbox = self._mailboxes.get(conversation)
        if mailbox is not None:
            mailbox.steps.extend(mailbox.held)
            mailbox.held.clear()
            self._begin(conversation, mailbox)

    async def run(self, conversation: Conversation, work: Callable[[], Awaitable[_T]], *, waits: bool = False) -> _T:
        """Run `work` as a step of the conversation, which always fits. Returns its result, and raises its errors.

        Raises CancelledError when the mailboxes are closed before the step has begun.
        """
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._awaited.add(done)
        done.add_done_callback(self._awaited.discard)

        async def step() -> None:
            try:
                result = await work()
            except BaseException as error:
                if done.done():
                    raise
                if isinstance(error, asyncio.CancelledError):
                    done.cancel()
                    raise
                done.set_exception(error)
            else:
                if not done.done():  # the caller was cancelled
                    done.set_result(result)

        if self._is_closed:
            done.cancel()
        else:
            self._add(conversation, step, waits=waits)
        return await done

    async def close(self, grace_seconds: float) -> None:
        """Begin no more steps, and wait up to `grace_seconds` for the running ones. Steps that have not begun are dropped."""
        self._is_closed = True
        workers = {mailbox.worker for mailbox in self._mailboxes.values() if mailbox.worker is not None}
        if workers:
            _, late = await asyncio.wait(workers, timeout=grace_seconds)
            for worker in late:
                worker.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for awaited in tuple(self._awaited):
            awaited.cancel()

    def _add(self, conversation: Conversation, step: Step, *, waits: bool) -> None:
        mailbox = self._mailboxes.setdefault(conversation, _Mailbox())
        (mailbox.held if waits and conversation in self._held else mailbox.steps).append(step)
        self._num_steps += 1
        self._begin(conversation, mailbox)

    def _begin(self, conversation: Conversation, mailbox: _Mailbox) -> None:
        if mailbox.steps and mailbox.worker is None:
            mailbox.worker = asyncio.create_task(self._work(conversation, mailbox))

    async def _work(self, conversation: Conversation, mailbox: _Mailbox) -> None:
        try:
            while mailbox.steps and not self._is_closed:
                try:
                    await mailbox.steps[0]()
                except asyncio.CancelledError:
                    if self._is_closed:
                        raise
                    log.warning("Something that happened in a conversation was cut off.")  # what it waited for was cancelled
                except Exception as error:
                    log.error("Something that happened in a conversation could not be dealt with: %s", without_words(error))
                mailbox.steps.popleft()
                self._num_steps -= 1
        finally:
            mailbox.worker = None
            if not mailbox.held or self._is_closed:
                del self._mailboxes[conversation]  # no await since the last look at `steps`, so no step can be lost
