"""One mailbox per conversation: its events are handled in order of arrival, one step at a time.

Rules: putting a step in never waits. A slow step in one conversation delays no other. A full mailbox refuses posts; edits and
deletions always fit, because they cannot be found again later. An idle conversation has neither a mailbox nor a task. Learnt from
mautrix bridgev2, where each portal has one bounded queue and one worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

log = logging.getLogger(__name__)

MAX_POSTS = 32

Conversation = tuple[str, str]
"""A workspace, and in it the id of a thread, of a direct message, or of a message outside both."""

Step = Callable[[], Coroutine[Any, Any, None]]

_T = TypeVar("_T")


@dataclass(slots=True)
class _Mailbox:
    steps: deque[Step] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None


class Mailboxes:
    """All mailboxes. `max_posts` bounds each. `on_idle` is called when a mailbox is empty and about to be removed."""

    def __init__(self, *, max_posts: int = MAX_POSTS, on_idle: Callable[[Conversation], None] = lambda _: None) -> None:
        self._max_posts = max_posts
        self._on_idle = on_idle
        self._mailboxes: dict[Conversation, _Mailbox] = {}
        self._awaited: set[asyncio.Future[Any]] = set()  # what callers of `run` wait for
        self._is_closed = False

    def __len__(self) -> int:
        """The number of conversations that have a mailbox now."""
        return len(self._mailboxes)

    def put(self, conversation: Conversation, step: Step, *, is_bounded: bool = False) -> bool:
        """Put a step after the others of its conversation. Returns False if it `is_bounded` and the mailbox is full."""
        mailbox = self._mailboxes.setdefault(conversation, _Mailbox())
        if is_bounded and len(mailbox.steps) >= self._max_posts:
            return False
        mailbox.steps.append(step)
        if mailbox.worker is None:
            mailbox.worker = asyncio.create_task(self._work(conversation, mailbox))
        return True

    async def run(self, conversation: Conversation, work: Callable[[], Awaitable[_T]]) -> _T:
        """Run `work` as a step of the conversation. Returns its result, and raises its errors.

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
            self.put(conversation, step)
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

    async def _work(self, conversation: Conversation, mailbox: _Mailbox) -> None:
        try:
            while mailbox.steps and not self._is_closed:
                try:
                    await mailbox.steps[0]()
                except asyncio.CancelledError:
                    if self._is_closed:
                        raise
                    log.warning("Something that happened in a conversation was cut off.")  # what it waited for was cancelled
                except Exception:
                    log.exception("Something that happened in a conversation could not be dealt with.")
                mailbox.steps.popleft()
        finally:
            del self._mailboxes[conversation]  # no await since the last look at `steps`, so no step can be lost
        self._on_idle(conversation)
