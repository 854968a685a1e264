"""What people wanted to be forgotten, and when, by the platform's clock: nothing that was written before is asked any more.

It outlives a restart, because reading back what was missed, or a late edit, may tell of such a message again. The note that keeps
it names nobody: it has digests of people's and chats' ids, of a bounded number.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime

from adapters.base import ThreadHandler, ThreadKey
from adapters.bounded import BoundedDict

_NOTE = "forgotten"
_MAX_KEPT = 1_000


class Forgotten:
    """One platform's. `load` it before anything is asked that an earlier run may have forgotten."""

    def __init__(self, platform: str, handler: ThreadHandler) -> None:
        self._platform = platform
        self._handler = handler
        self._times: BoundedDict[str, float] = BoundedDict(_MAX_KEPT)  # by digest, in seconds since 1970
        self._changing = asyncio.Lock()
        self._is_loaded = False

    async def load(self) -> None:
        """Read what earlier runs of the program noted."""
        if not self._is_loaded:
            async with self._changing:
                await self._load()

    async def add_author(self, author_id: str, at: datetime) -> None:
        """Note that this person wanted to be forgotten at that time."""
        await self._add(_author(author_id), at)

    async def add_chat(self, key: ThreadKey, at: datetime) -> None:
        """Note that this chat was to be forgotten at that time."""
        await self._add(_chat(key), at)

    def has(self, sent_at: datetime, author_id: str, key: ThreadKey | None = None) -> bool:
        """Whether a message that this person sent then, in this chat if it is known, was forgotten."""
        digests = [_author(author_id)] if key is None else [_author(author_id), _chat(key)]
        return any(sent_at < at for at in map(self._time, digests) if at is not None)

    def times(self, author_id: str, key: ThreadKey) -> tuple[datetime | None, datetime | None]:
        """When the person and the chat were forgotten last; None for never."""
        return self._time(_author(author_id)), self._time(_chat(key))

    def _time(self, digest: str) -> datetime | None:
        seconds = self._times.get(digest)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    async def _add(self, digest: str, at: datetime) -> None:
        self._times[digest] = max(at.timestamp(), self._times.get(digest) or 0.0)  # at once, also while the note is written
        async with self._changing:
            await self._load()
            text = json.dumps({each: self._times[each] for each in self._times})
            await self._handler.write_note(self._platform, _NOTE, text)

    async def _load(self) -> None:
        if self._is_loaded:
            return
        note = await self._handler.read_note(self._platform, _NOTE)
        newer, self._times = self._times, BoundedDict(_MAX_KEPT)
        for times in (json.loads(note or "{}"), {each: newer[each] for each in newer}):
            for digest, seconds in times.items():
                self._times[digest] = max(seconds, self._times.get(digest) or 0.0)
        self._is_loaded = True


def _author(author_id: str) -> str:
    return _digest("author", author_id)


def _chat(key: ThreadKey) -> str:
    return _digest("chat", key.workspace, key.channel, key.thread)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]
