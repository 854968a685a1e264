"""Updates of open tabs: the list of chats, the chat that a tab shows, and its answer while it is being written.

Every tab has one WebSocket (a browser allows only six streams of server-sent events per host, over all tabs). The tab says which
thread it shows; it then gets the stored chat, the running answer from its beginning, and what of the stored chat has changed when
the answer has ended. So a reload, a late tab and a reconnection after a restart are the same case.

A tab gets the whole list once, then what changes. Nothing is queued for it: it remembers which threads have changed, and gets their
newest state when its connection takes it. If there are more than `MAX_CHANGES` by then, it gets the whole list again.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar, assert_never

from aiohttp import WSCloseCode, WSMsgType, web

from adapters.base import Answer, AnswerEvent, AnswerText, ChatHandler, Ended, Notice, ThreadKey, Waiting
from adapters.web.guard import SESSION, Refused
from adapters.web.stored import Json, StoredChats

logger = logging.getLogger(__name__)

MAX_TABS = 200
MAX_CHANGES = 20
MAX_COMMAND_BYTES = 4096
HEARTBEAT_SECONDS = 20.0
# A question from before a restart is answered without a request from the page: poll until that answer has begun.
PENDING_LOOK_SECONDS = 1.0
_THREAD = re.compile(r"[a-z0-9]{16,64}")

T = TypeVar("T")


def thread_key(thread: str) -> ThreadKey:
    """The key of a page's thread. Raises `Refused` if the id is not in the format that the page makes."""
    if not _THREAD.fullmatch(thread):
        raise Refused(404, "There is no such chat.")
    return ThreadKey("web", "local", "page", thread)


def view_of_event(event: AnswerEvent) -> Json:
    """An event of an answer as the page gets it."""
    match event:
        case Waiting(position, seconds, is_loading):
            return {"type": "waiting", "position": position, "estimated_wait_seconds": seconds, "is_loading": is_loading}
        case Notice(text):
            return {"type": "notice", "text": text}
        case AnswerText(text):
            return {"type": "text", "text": text}
        case Ended(status, error):
            return {"type": "ended", "status": status.value, "error": error}
        case _ as never:
            assert_never(never)


class Tabs:
    """All open tabs. Call `announce` after every change of a thread."""

    def __init__(self, handler: ChatHandler) -> None:
        self._handler = handler
        self._store = StoredChats(handler)
        self._tabs: set[_Tab] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def announce(self, thread: str) -> None:
        """Tell every tab that the thread's stored chat has changed, has begun, or is gone."""
        for tab in self._tabs:
            tab.note_change(thread)

    def follow(self, answer: Answer) -> None:
        """Announce the answer's end, also to tabs that show another thread."""
        task = asyncio.create_task(self._announce_end(answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce_end(self, answer: Answer) -> None:
        async for _ in answer.events():
            pass
        self.announce(answer.key.thread)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """The WebSocket endpoint; returns when the tab is gone."""
        if len(self._tabs) >= MAX_TABS:
            raise Refused(503, "Too many tabs are open.")
        # Not compressed: that would be done for each tab anew, and the page is rarely far away.
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_COMMAND_BYTES, compress=False)
        tab = _Tab(socket, self._handler, self._store, request.get(SESSION))
        self._tabs.add(tab)
        try:
            await socket.prepare(request)
            await tab.run()
        finally:
            self._tabs.discard(tab)
        return socket

    async def close_session(self, session_id: str) -> None:
        """Close the tabs of a session that has ended."""
        tabs = [tab for tab in self._tabs if tab.session_id == session_id]
        closing = (tab.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"signed out") for tab in tabs)
        await asyncio.gather(*closing, return_exceptions=True)

    async def close(self) -> None:
        """Tell all tabs that the server stops; they come back by themselves."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        closing = (tab.socket.close(code=WSCloseCode.GOING_AWAY, message=b"restart") for tab in set(self._tabs))
        await asyncio.gather(*closing, return_exceptions=True)
        await self._store.close()


class _Tab:
    def __init__(self, socket: web.WebSocketResponse, handler: ChatHandler, store: StoredChats, session_id: str | None) -> None:
        self.socket = socket
        self.session_id = session_id
        self._handler = handler
        self._store = store
        self._thread: str | None = None
        self._num_watches = 0  # each time the page begins with nothing
        self._thread_changed = asyncio.Event()
        self._changes: dict[str, None] = {}  # the threads that have changed since the tab was told, in their order
        self._is_behind = True  # it has to get the whole list
        self._list_changed = asyncio.Event()

    def note_change(self, thread: str) -> None:
        if not self._is_behind:
            self._changes[thread] = None
            if len(self._changes) > MAX_CHANGES:
                self._changes.clear()
                self._is_behind = True
        self._list_changed.set()
        if self._thread == thread:
            self._thread_changed.set()

    async def run(self) -> None:
        try:
            # The first to end ends the tab: a page that lost its socket reconnects and catches up.
            await _first_of(self._listen(), self._send_lists(), self._send_threads())
        except ConnectionError:
            pass  # the tab was closed in the middle of a message
        except Exception as error:
            logger.error("a tab was dropped: %s", type(error).__name__)
            await self.socket.close(code=WSCloseCode.INTERNAL_ERROR)

    async def _listen(self) -> None:
        async for message in self.socket:
            if message.type is not WSMsgType.TEXT:
                continue
            with suppress(ValueError, TypeError, KeyError, Refused):
                thread = message.json()["watch"]
                self._thread = None if thread is None else thread_key(thread).thread
                self._num_watches += 1
                self._thread_changed.set()

    async def _send_lists(self) -> None:
        while True:
            self._list_changed.clear()
            if self._is_behind:
                self._is_behind = False  # what changes from here on is told after the list
                await self.socket.send_str(await self._store.read_list())
            while self._changes and not self._is_behind:
                thread = next(iter(self._changes))
                del self._changes[thread]
                await self.socket.send_str((await self._store.read(thread_key(thread))).listed)
            if not self._is_behind:
                await self._list_changed.wait()

    async def _send_threads(self) -> None:
        ended: Answer | None = None
        num_watches = 0
        known: Mapping[int, int] = {}  # the turns that the tab has
        while True:
            self._thread_changed.clear()
            if self._num_watches != num_watches:
                num_watches, known = self._num_watches, {}
            if self._thread is None:
                await self._thread_changed.wait()
                continue
            key = thread_key(self._thread)
            answer = self._handler.running_answer(key)
            if answer is ended:  # may still be registered just after its end
                answer = None
            stored = await self._store.read(key)
            await self.socket.send_str(stored.since(known, answer))
            known = stored.fingerprints
            if answer is not None:
                ended = answer if await _first_of(self._relay(answer), self._changed()) else ended
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PENDING_LOOK_SECONDS if stored.is_pending else None):
                        await self._thread_changed.wait()

    async def _relay(self, answer: Answer) -> bool:
        async for event in answer.events():
            view = {"thread": answer.key.thread, **view_of_event(event)}
            if isinstance(event, Ended):
                view["is_stored"] = answer.turn_id is not None  # a question may be removed again, for example if the queue is full
            await self.socket.send_json(view)
        return True

    async def _changed(self) -> bool:
        await self._thread_changed.wait()
        return False


async def _first_of(*coroutines: Coroutine[Any, Any, T]) -> T:
    """Run all until the first ends. Returns its result; the others are cancelled and awaited."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
