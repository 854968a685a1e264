"""Stored chats as the page gets them: read once and written as JSON once, however many tabs want them at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from adapters.base import Answer, AnswerStatus, ChatHandler, ChatView, ThreadKey, TurnView

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Json = dict[str, Any]


class SharedReads(Generic[K, V]):
    """Reads what belongs to a key. Whoever asks before a read has begun shares it; at most one per key is running."""

    def __init__(self, read: Callable[[K], Awaitable[V]]) -> None:
        self._read = read
        self._next: dict[K, asyncio.Task[V]] = {}
        self._last: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """What is there now: read after this call. Raises what `read` raises."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._run(key, self._last.get(key)))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel what is being read."""
        tasks = {*self._next.values(), *self._last.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: K, before: asyncio.Task[V] | None) -> V:
        if before is not None:
            await asyncio.wait([before])
        task = self._last[key] = self._next.pop(key)
        try:
            return await self._read(key)
        except Exception:
            # Everybody who waited may be gone; asyncio would log the error as one that nobody has seen.
            task.add_done_callback(lambda done: done.exception())
            raise
        finally:
            if self._last[key] is task:
                del self._last[key]


class StoredChat:
    """What was stored of a thread at one moment; `chat` is None if there is nothing."""

    def __init__(self, key: ThreadKey, chat: ChatView | None) -> None:
        self._thread = key.thread
        self._chat = chat
        self._turns: dict[int, str] = {}  # as JSON

    @property
    def is_pending(self) -> bool:
        """Whether its last question waits for an answer."""
        return self._chat is not None and bool(self._chat.turns) and self._chat.turns[-1].status is AnswerStatus.PENDING

    @cached_property
    def fingerprints(self) -> Mapping[int, int]:
        """Each turn's id with a number that changes when the turn does, in the turns' order."""
        return {} if self._chat is None else {turn.turn_id: hash(turn) for turn in self._chat.turns}

    @cached_property
    def listed(self) -> str:
        """The message about the chat's line in the list, which begins, changes or goes away."""
        return json.dumps(
            {"type": "listed", "thread": self._thread, "chat": None if self._chat is None else _view_of_listed(self._chat)}
        )

    def since(self, known: Mapping[int, int], running: Answer | None) -> str:
        """The message for a tab that shows the thread: all its turns' ids, and the turns that are not in `known`."""
        message: Json = {
            "type": "chat",
            "thread": self._thread,
            "is_running": running is not None,
            "running_turn_id": None if running is None else running.turn_id,
        }
        if self._chat is None:
            return json.dumps({**message, "chat": None})
        message["turn_ids"] = list(self.fingerprints)
        changed = [turn for turn in self._chat.turns if known.get(turn.turn_id) != self.fingerprints[turn.turn_id]]
        chat = _within(_view_of_listed(self._chat), "turns", f"[{', '.join(map(self._turn, changed))}]")
        return _within(message, "chat", chat)

    def _turn(self, turn: TurnView) -> str:
        if turn.turn_id not in self._turns:
            self._turns[turn.turn_id] = json.dumps(_view_of_turn(turn))
        return self._turns[turn.turn_id]


class StoredChats:
    """The page's chats in the store."""

    def __init__(self, handler: ChatHandler) -> None:
        self._handler = handler
        self._lists = SharedReads[None, str](self._read_list)
        self._chats = SharedReads[ThreadKey, StoredChat](self._read_chat)

    async def read_list(self) -> str:
        """The message with the list of all chats, newest first."""
        return await self._lists.get(None)

    async def read(self, key: ThreadKey) -> StoredChat:
        """What is stored of one thread."""
        return await self._chats.get(key)

    async def close(self) -> None:
        """Cancel what is being read."""
        await self._lists.close()
        await self._chats.close()

    async def _read_list(self, _: None) -> str:
        chats = await self._handler.list_chats("web", "local")
        return json.dumps({"type": "chats", "chats": [_view_of_listed(chat) for chat in chats]})

    async def _read_chat(self, key: ThreadKey) -> StoredChat:
        return StoredChat(key, await self._handler.read_chat(key))


def _within(message: Json, name: str, value: str) -> str:
    """The message as JSON with one more field, whose value is JSON already."""
    return f'{json.dumps(message)[:-1]}, "{name}": {value}}}'


def _view_of_listed(chat: ChatView) -> Json:
    return {"thread": chat.key.thread, "title": chat.title, "updated_at": chat.updated_at.isoformat()}


def _view_of_turn(turn: TurnView) -> Json:
    return {
        "turn_id": turn.turn_id,
        "question": turn.question,
        "answer": turn.answer,
        "status": turn.status.value,
        "notices": list(turn.notices),
        "error": turn.error,
        "image_ids": list(turn.image_ids),
        "created_at": turn.created_at.isoformat(),
    }
