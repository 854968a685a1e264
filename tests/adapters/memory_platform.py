"""A platform in memory, for tests of what all platforms share: it records what users would see, and fails when told to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from adapters.base import Attachment, Author, ThreadKey
from adapters.post import Post
from adapters.surface import DestinationGone, Page
from tests.chat_handler import TIMEOUT_SECONDS, draw_image

ANN, BOB = Author("u-ann", "ann"), Author("u-bob", "bob")


def image(name: str = "drawing.png") -> Attachment:
    data = draw_image()

    async def fetch(max_bytes: int) -> bytes:
        return data

    return Attachment(name, fetch, len(data))


def already(attachments: tuple[Attachment, ...]) -> Callable[[], Awaitable[Sequence[Attachment]]]:
    """Attachments that need no look-up."""

    async def attached() -> Sequence[Attachment]:
        return attachments

    return attached


class SlowImage:
    """A picture whose download has `begun`, and goes on when the test lets it `go`."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    def attachment(self) -> Attachment:
        drawing = image()

        async def fetch(max_bytes: int) -> bytes:
            self.begun.set()
            await self.go.wait()
            return await drawing.fetch(max_bytes)

        return Attachment(drawing.name, fetch)


def post(message_id: str, text: str = "What is this?", **fields: Any) -> Post:
    """By ann, now, in the channel `c`, in no thread, without a mention. `attachments`: a tuple, or what looks them up."""
    attachments = fields.pop("attachments", ())
    if isinstance(attachments, tuple):
        fields["attachments"] = already(attachments)
    else:
        fields["attachments"] = attachments
    whole = {
        "workspace": "w",
        "channel": "c",
        "thread": None,
        "author": ANN,
        "sent_at": datetime.now(UTC),
        "conversation": (fields.get("channel", "c") if fields.get("is_direct") else None) or fields.get("thread") or message_id,
        **fields,
    }
    return Post(message_id=message_id, text=text, **whole)


@dataclass
class MemoryPlatform:
    """Opens a thread, with its message's id, for every chat that begins in a channel; direct messages are answered in place."""

    name: str = "memory"
    shown: dict[str, dict[str, Page]] = field(default_factory=dict)  # by destination, then by reply id
    is_gone: set[str] = field(default_factory=set)
    num_writes: int = 0
    commands: list[Post] = field(default_factory=list)
    written: list[Post] = field(default_factory=list)  # what can be read back
    read_faults: list[Exception] = field(default_factory=list)  # of the next pages that are read
    num_pages: int = 0
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def start(self, post: Post) -> tuple[ThreadKey, str]:
        thread = post.thread or post.message_id
        return ThreadKey(self.name, post.workspace, post.channel, thread), f"{post.channel}/{thread}"

    def destination(self, post: Post) -> str:
        return f"{post.channel}/{post.thread or post.message_id}"

    def surface(self, destination: str) -> MemorySurface:
        if destination in self.is_gone:
            raise DestinationGone
        return MemorySurface(self, destination)

    async def run_command(self, post: Post) -> None:
        self.commands.append(post)

    async def read_on(self, post: Post, until: datetime) -> AsyncGenerator[Post, None]:
        """Two messages a page."""
        after: Post | None = None
        while True:
            self.num_pages += 1
            await asyncio.sleep(0)
            if self.read_faults:
                raise self.read_faults.pop(0)
            there = [each for each in self.written if (each.channel, each.thread) == (post.channel, post.thread)]
            later = there[there.index(after) + 1 :] if after is not None else [p for p in there if p.sent_at >= post.sent_at]
            page = [each for each in later[:2] if each.sent_at <= until]
            for each in page:
                yield each
            if len(page) < 2:
                return
            after = page[-1]

    def texts(self, destination: str) -> list[str]:
        return [page.text for page in self.shown.get(destination, {}).values()]

    async def wait_for(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS), self._changed:
            await self._changed.wait_for(is_so)

    async def change(self) -> None:
        self.num_writes += 1
        async with self._changed:
            self._changed.notify_all()


@dataclass
class MemorySurface:
    platform: MemoryPlatform
    channel: str
    max_page_chars: int = 2_000
    has_tables: bool = True

    async def show_typing(self) -> None:
        self._check()

    async def post(self, page: Page) -> str:
        self._check()
        reply_id = f"r{next(self.platform._numbers)}"
        self.platform.shown.setdefault(self.channel, {})[reply_id] = page
        await self.platform.change()
        return reply_id

    async def edit(self, reply_id: str, page: Page) -> None:
        self._check()
        if reply_id not in self.platform.shown.get(self.channel, {}):
            raise DestinationGone
        self.platform.shown[self.channel][reply_id] = page
        await self.platform.change()

    async def delete(self, reply_id: str) -> None:
        self._check()
        self.platform.shown.get(self.channel, {}).pop(reply_id, None)
        await self.platform.change()

    def _check(self) -> None:
        if self.channel in self.platform.is_gone:
            raise DestinationGone
