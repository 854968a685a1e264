"""What many tabs cost: the store is read once for all of them, they get changes only, and a slow one holds up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from adapters.base import Author, ChatView, IncomingMessage, ThreadKey
from adapters.web.stored import SharedReads
from adapters.web.tabs import MAX_CHANGES
from tests.adapters.web_client import KEY, THREAD, TabReader, ask, form, open_tab, serving
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler

NUM_TABS = 20


class CountingHandler(MemoryChatHandler):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.num_lists = 0
        self.num_chats = 0

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        self.num_lists += 1
        return await super().list_chats(platform, workspace)

    async def read_chat(self, key: ThreadKey) -> ChatView | None:
        self.num_chats += 1
        return await super().read_chat(key)

    async def store(self, thread: str, question: str = "What is it?") -> None:
        """Keep an answered question, without the page."""
        await self.handle(IncomingMessage(_key(thread), f"{thread}-{len(self.messages)}", Author("local", "You"), question))
        await self.answer_next("A circle.")


def _key(thread: str) -> ThreadKey:
    return ThreadKey("web", "local", "page", thread)


def thread_number(number: int) -> str:
    return f"{number:032}"


@asynccontextmanager
async def open_tabs(client: aiohttp.ClientSession, num_tabs: int, thread: str | None = None) -> AsyncIterator[list[TabReader]]:
    async with AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(open_tab(client, thread)) for _ in range(num_tabs)]
        for tab in tabs:
            await tab.next("chats")
            if thread is not None:
                await tab.next("chat")
        yield tabs


async def test_a_change_is_read_once_for_all_tabs_and_is_all_they_get() -> None:
    handler = CountingHandler()
    for number in range(50):
        await handler.store(thread_number(number))
    async with serving(handler) as client, open_tabs(client, NUM_TABS) as tabs:
        num_lists, num_chats = handler.num_lists, handler.num_chats
        await ask(client, form())
        sizes = []
        for tab in tabs:
            message = await tab.socket.receive_str(timeout=TIMEOUT_SECONDS)
            sizes.append(len(message))
            assert json.loads(message)["chat"]["thread"] == THREAD
        assert (handler.num_lists, handler.num_chats) == (num_lists, num_chats + 1)
        assert max(sizes) < 300


async def test_tabs_that_show_one_chat_share_its_reading() -> None:
    handler = CountingHandler()
    await handler.store(THREAD)
    async with serving(handler) as client, open_tabs(client, NUM_TABS, THREAD) as tabs:
        num_chats = handler.num_chats
        await ask(client, form())
        for tab in tabs:
            assert (await tab.next("chat"))["is_running"] is True
        assert handler.num_chats == num_chats + 1
        await handler.answer_next("A square.")
        for tab in tabs:
            assert (await tab.next("chat"))["is_running"] is False


async def test_a_tab_gets_the_turns_that_changed_and_the_order_of_all() -> None:
    handler = CountingHandler()
    for _ in range(30):
        await handler.store(THREAD)
    async with serving(handler) as client, open_tab(client, THREAD) as tab:
        first = await tab.next("chat")
        assert [turn["turn_id"] for turn in first["chat"]["turns"]] == first["turn_ids"] == list(range(1, 31))
        await ask(client, form())
        begun = await tab.next("chat")
        assert begun["turn_ids"] == list(range(1, 32))
        assert [(turn["turn_id"], turn["status"]) for turn in begun["chat"]["turns"]] == [(31, "pending")]
        await handler.answer_next("Two.")
        ended = await tab.next("chat")
        assert [(turn["turn_id"], turn["answer"]) for turn in ended["chat"]["turns"]] == [(31, "Two.")]
        await tab.watch(THREAD)  # the page has begun anew
        assert len((await tab.next("chat"))["chat"]["turns"]) == 31


async def test_the_list_follows_what_begins_changes_and_goes() -> None:
    handler = CountingHandler()
    await handler.store(thread_number(1), "One?")
    async with serving(handler) as client, open_tab(client) as tab:
        assert [chat["title"] for chat in (await tab.next("chats"))["chats"]] == ["One?"]
        await ask(client, form("Two?"))
        assert (await tab.next("listed"))["chat"]["title"] == "Two?"
        before = await handler.answer_next("Yes.")
        assert before.key == KEY
        assert (await tab.next("listed"))["thread"] == THREAD
        async with client.delete(f"/api/chats/{THREAD}"):
            pass
        assert await tab.next("listed") == {"type": "listed", "thread": THREAD, "chat": None}


async def test_a_tab_that_takes_nothing_holds_up_nobody_and_then_gets_the_whole_list(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = CountingHandler()
    is_held = asyncio.Event()
    goes_on = asyncio.Event()
    send = aiohttp.web.WebSocketResponse.send_str
    slow: list[aiohttp.web.WebSocketResponse] = []

    async def send_slowly(self: aiohttp.web.WebSocketResponse, data: str, compress: int | None = None) -> None:
        if not slow:
            slow.append(self)
        elif self is slow[0]:  # its first list went through, then its connection takes nothing
            is_held.set()
            await goes_on.wait()
        await send(self, data, compress)

    monkeypatch.setattr(aiohttp.web.WebSocketResponse, "send_str", send_slowly)
    async with serving(handler) as client, open_tab(client) as behind:
        await behind.next("chats")
        async with open_tab(client) as quick:
            await quick.next("chats")
            for number in range(MAX_CHANGES + 5):
                await ask(client, form(message_id=f"{number:020}"), thread_number(number))
                assert (await quick.next("listed"))["thread"] == thread_number(number)
                if number == 0:
                    async with asyncio.timeout(TIMEOUT_SECONDS):
                        await is_held.wait()
        num_lists = handler.num_lists
        goes_on.set()
        assert (await behind.next("listed"))["thread"] == thread_number(0)
        resent: list[Any] = (await behind.next("chats"))["chats"]
        assert len(resent) == MAX_CHANGES + 5
        assert handler.num_lists == num_lists + 1


# -- reads that are shared


async def test_who_asks_during_a_read_gets_a_newer_one() -> None:
    begun: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

    async def read(key: str) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        begun.put_nowait(future)
        return await future

    reads = SharedReads[str, int](read)
    early = [asyncio.create_task(reads.get("a")) for _ in range(3)]
    async with asyncio.timeout(TIMEOUT_SECONDS):
        first = await begun.get()
        late = [asyncio.create_task(reads.get("a")) for _ in range(3)]
        other = asyncio.create_task(reads.get("b"))
        (await begun.get()).set_result(7)
        assert await other == 7
        assert begun.empty()  # the second read of "a" waits for the first
        first.set_result(1)
        assert await asyncio.gather(*early) == [1, 1, 1]
        (await begun.get()).set_result(2)
        assert await asyncio.gather(*late) == [2, 2, 2]


async def test_a_read_that_fails_is_told_to_all_and_the_next_begins_anew() -> None:
    num_reads = 0

    async def read(_: str) -> int:
        nonlocal num_reads
        num_reads += 1
        if num_reads == 1:
            raise ValueError("once")
        return 3

    reads = SharedReads[str, int](read)
    failed = await asyncio.gather(reads.get("a"), reads.get("a"), return_exceptions=True)
    assert [str(error) for error in failed] == ["once", "once"]
    assert await reads.get("a") == 3
    await reads.close()
