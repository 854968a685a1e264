"""Merges Slack's events about one post into one record.

A mention causes two events, `message` and `app_mention`, in either order, with different content; one may be missing, each may come
twice, and the first may lack the files (https://github.com/slackapi/bolt-python/issues/925,
https://github.com/slackapi/bolt-js/issues/2056). So all events about one (workspace, channel, ts) are merged. Only if a mention
seems to have no file do we wait a moment for the other event, and then look the message up once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from adapters.bounded import BoundedDict
from adapters.slack.files import is_thin

WAIT_SECONDS = 1.0
_MAX_RECORDS = 5_000

Event = Mapping[str, Any]
PostId = tuple[str, str, str]  # workspace, channel, ts


class News(Enum):
    """What an event adds to its post."""

    POST = "the first that is told of it"
    MORE = "a mention or a file that was not known when the post was taken"
    NOTHING = "nothing more, or it is told in time"


@dataclass(slots=True)
class Record:
    """What is known about one post: its newest event, with the files of all events, and whether any of them mentions us."""

    id: PostId
    event: dict[str, Any] = field(default_factory=dict)
    is_mention: bool = False
    kinds: set[str] = field(default_factory=set)
    is_taken: bool = False
    told_all: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, event: Event, *, is_mention: bool) -> bool:
        """Merge an event. Returns True if it added a mention or a file."""
        files = {str(file.get("id")): file for file in self.event.get("files") or ()}
        num_before, was_mention = len(files), self.is_mention
        for file in event.get("files") or ():
            known = files.get(str(file.get("id")))
            if known is None or (is_thin(known) and not is_thin(file)):
                files[str(file.get("id"))] = file
        if "text" in event and "blocks" not in event:
            event = {**event, "blocks": []}  # the older text's blocks would contradict it
        newer = {**event, **self.event} if self.event.get("edited") and not event.get("edited") else {**self.event, **event}
        self.event = {**newer, "files": list(files.values())}
        self.is_mention = was_mention or is_mention
        self.kinds.add(str(event.get("type")))
        return len(files) > num_before or self.is_mention > was_mention

    @property
    def is_complete(self) -> bool:
        """Whether no other event can add a file to it."""
        if self.event["files"] or len(self.kinds) > 1:
            return True
        if self.event.get("subtype") == "file_share":
            return False
        return not self.is_mention or self.event.get("channel_type") == "im"  # without a mention there is only one event


class Merger:
    """Keeps the records. `look_up` asks Slack for the complete message, or returns None. `pause` waits as long as the other event
    may take."""

    def __init__(
        self,
        look_up: Callable[[PostId, Event], Awaitable[Event | None]],
        pause: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(WAIT_SECONDS),
    ) -> None:
        self._look_up = look_up
        self._pause = pause
        self._records: BoundedDict[PostId, Record] = BoundedDict(_MAX_RECORDS)

    def add(self, id_: PostId, event: Event, *, is_mention: bool) -> tuple[Record, News]:
        """Add an event about a post. Does not block."""
        record = self._records.get(id_)
        is_first = record is None
        if record is None:
            record = self._records[id_] = Record(id_)
        has_more = record.add(event, is_mention=is_mention)
        if record.is_complete:
            record.told_all.set()
        if is_first:
            return record, News.POST
        return record, News.MORE if has_more and record.is_taken else News.NOTHING

    def edited(self, id_: PostId, event: Event) -> None:
        """The post says something else now, which what comes late about it must not undo."""
        record = self._records.get(id_)
        if record is not None:
            record.event = {
                **record.event,
                "text": event.get("text"),
                "blocks": event.get("blocks") or [],
                "edited": event.get("edited") or {"ts": None},
            }

    async def complete(self, record: Record) -> None:
        """Wait for the post's other event, or look the message up. Later additions are `News.MORE`."""
        if not record.is_complete:
            await self._wait(record)
        if not record.is_complete:
            whole = await self._look_up(record.id, record.event)
            if whole is not None:
                record.add({**whole, "type": record.event["type"]}, is_mention=False)
        record.is_taken = True

    async def _wait(self, record: Record) -> None:
        waits: list[asyncio.Future[object]] = [
            asyncio.ensure_future(record.told_all.wait()),
            asyncio.ensure_future(self._pause()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
