"""Having been away: from when on messages may have been missed, and how many of them are answered.

While we are connected a mark is moved on every few seconds; after a return, what is younger than the mark may be news. The mark
never passes a message that was not accepted yet, so that one which waits when the program is killed is found again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from adapters.base import ThreadHandler
from adapters.post import Post

log = logging.getLogger(__name__)

MARK_SECONDS = 20.0
MARK_MARGIN = timedelta(minutes=2)  # a dead connection is noticed late; what is found twice is answered once
_MARK = "seen_until"


@dataclass(frozen=True, slots=True)
class CatchUp:
    """How much of what was missed is answered."""

    max_age: timedelta = timedelta(hours=12)
    max_posts: int = 20

    def recent(self, posts: Iterable[Post]) -> list[Post]:
        """Those that are young enough, each once, oldest first."""
        oldest = datetime.now(UTC) - self.max_age
        each_once = {(post.workspace, post.message_id): post for post in posts if post.sent_at >= oldest}
        return sorted(each_once.values(), key=lambda post: post.sent_at)

    def newest(self, posts: list[Post], num_answered: int) -> list[Post]:
        """As many as are answered, when so many have been."""
        num_left = max(0, len(posts) + num_answered - self.max_posts)
        if num_left:
            log.info("%d missed messages are too many; the oldest %d stay unanswered.", len(posts) + num_answered, num_left)
        return posts[num_left:]


class Mark:
    """Until when everything was seen on a platform, also over a restart. `oldest_open`: when the oldest message was sent that was
    not accepted yet; None when there is none."""

    def __init__(self, platform: str, handler: ThreadHandler, oldest_open: Callable[[], datetime | None]) -> None:
        self._platform = platform
        self._handler = handler
        self._oldest_open = oldest_open
        self._moving: asyncio.Task[None] | None = None

    async def read(self) -> datetime | None:
        """None when we were never there before."""
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
            except Exception:  # the database may be away for a while
                log.exception("The mark of what was seen on %s could not be written.", self._platform)
            await asyncio.sleep(MARK_SECONDS)
