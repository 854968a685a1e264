"""Updates of open tabs: the list of chats, the chat that a tab shows, and its answer while it is being written.

Every tab has one WebSocket (a browser allows only six streams of server-sent events per host, over all tabs). The tab says which
thread it shows; it then gets the stored chat, the running answer from its beginning, and the stored chat again when the answer has
ended. So a reload, a late tab and a reconnection after a restart are the same case.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar, assert_never

from aiohttp import WSCloseCode, WSMsgType, web

from adapters.base import Answer, AnswerEvent, AnswerStatus, AnswerText, ChatHandler, ChatView, Ended, Notice, ThreadKey, Waiting
from adapters.web.guard import Refused

logger = logging.getLogger(__name__)

MAX_TABS = 200
MAX_COMMAND_BYTES = 4096
HEARTBEAT_SECONDS = 20.0
# A question from before a restart is answered without a request from the page: poll until that answer has begun.
PENDING_LOOK_SECONDS = 1.0
_THREAD = re.compile(r"[a-z0-9]{16,64}")

Json = dict[str, Any]
T = TypeVar("T")


def thread_key(thread: str) -> ThreadKey:
    """The key of a page's thread. Raises `Refused` if the id is not in the format that the page makes."""
    if not _THREAD.fullmatch(thread):
        raise Refused(404, "There is no such chat.")
    return ThreadKey("web", "local", "page", thread)


def view_of_chat(chat: ChatView) -> Json:
    return {
        "thread": chat.key.thread,
        "title": chat.title,
        "updated_at": chat.updated_at.isoformat(),
        "turns": [
            {
                "turn_id": turn.turn_id,
                "question": turn.question,
                "answer": turn.answer,
                "status": turn.status.value,
                "notices": list(turn.notices),
                "error": turn.error,
                "image_ids": list(turn.image_ids),
                "created_at": turn.created_at.isoformat(),
            }
            for turn in chat.turns
        ],
    }


def view_of_event(event: AnswerEvent) -> Json:
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
        self._tabs: set[_Tab] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def announce(self, thread: str) -> None:
        for tab in self._tabs:
            tab.list_changed.set()
            if tab.thread == thread:
                tab.thread_changed.set()

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
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_COMMAND_BYTES)
        await socket.prepare(request)
        tab = _Tab(socket, self._handler)
        self._tabs.add(tab)
        try:
            await tab.run()
        finally:
            self._tabs.discard(tab)
        return socket

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        closing = (tab.socket.close(code=WSCloseCode.GOING_AWAY, message=b"restart") for tab in set(self._tabs))
        await asyncio.gather(*closing, return_exceptions=True)


class _Tab:
    def __init__(self, socket: web.WebSocketResponse, handler: ChatHandler) -> None:
        self.socket = socket
        self.thread: str | None = None
        self.list_changed = asyncio.Event()
        self.thread_changed = asyncio.Event()
        self._handler = handler

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
                self.thread = None if thread is None else thread_key(thread).thread
                self.thread_changed.set()

    async def _send_lists(self) -> None:
        while True:
            self.list_changed.clear()
            chats = await self._handler.list_chats("web", "local")
            await self._send({"type": "chats", "chats": [view_of_chat(chat) for chat in chats]})
            await self.list_changed.wait()

    async def _send_threads(self) -> None:
        ended: Answer | None = None
        while True:
            self.thread_changed.clear()
            if self.thread is None:
                await self.thread_changed.wait()
                continue
            key = thread_key(self.thread)
            answer = self._handler.running_answer(key)
            if answer is ended:  # may still be registered just after its end
                answer = None
            chat = await self._handler.read_chat(key)
            await self._send(
                {
                    "type": "chat",
                    "thread": key.thread,
                    "chat": view_of_chat(chat) if chat else None,
                    "is_running": answer is not None,
                    "running_turn_id": answer.turn_id if answer else None,
                }
            )
            if answer is not None:
                ended = answer if await _first_of(self._relay(answer), self._changed()) else ended
            else:
                is_pending = chat is not None and bool(chat.turns) and chat.turns[-1].status is AnswerStatus.PENDING
                with suppress(TimeoutError):
                    async with asyncio.timeout(PENDING_LOOK_SECONDS if is_pending else None):
                        await self.thread_changed.wait()

    async def _relay(self, answer: Answer) -> bool:
        async for event in answer.events():
            view = {"thread": answer.key.thread, **view_of_event(event)}
            if isinstance(event, Ended):
                view["is_stored"] = answer.turn_id is not None  # a question may be removed again, for example if the queue is full
            await self._send(view)
        return True

    async def _changed(self) -> bool:
        await self.thread_changed.wait()
        return False

    async def _send(self, message: Json) -> None:
        await self.socket.send_json(message)


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
