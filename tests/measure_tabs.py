"""Measures what open tabs cost: `python tests/measure_tabs.py` prints the answers a second for some numbers of tabs and chats.

The page's server and the store (SQLite) are the program's, the model is scripted and writes as fast as it is asked. Each of 60
people asks the next question when the answer is complete. The tabs read everything, in a process of their own, as browsers do. To
compare two versions, run this file in both.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters.base import Attachment, Author, IncomingMessage, ThreadKey
from adapters.web.server import WebAdapter
from bot.images import ImageReader
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.writer import AnswerWriter
from tests.bot.doubles import ScriptedModel
from tests.chat_handler import draw_image

NUM_PEOPLE = 60
SECONDS = 8.0
CASES = [(0, 0), (60, 0), (5, 1000)]  # tabs, stored chats


async def read_tabs(url: str, num_tabs: int) -> None:
    """Open tabs, each of which shows one person's thread, and read them until the process is ended."""

    async def read(number: int) -> None:
        async with client.ws_connect("/api/tab") as tab:
            await tab.send_json({"watch": f"{number % NUM_PEOPLE:032}"})
            async for message in tab:
                num_bytes[0] += len(message.data)

    num_bytes = [0]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as client, asyncio.TaskGroup() as group:
        for number in range(num_tabs):
            group.create_task(read(number))
        await asyncio.to_thread(sys.stdin.read)
        print(num_bytes[0], flush=True)
        os._exit(0)


async def ask(chats: ThreadChats, thread: str, number: int) -> None:
    image = draw_image((8, 8))

    async def fetch(_: int) -> bytes:
        return image

    attachments = (Attachment("a.png", fetch),) if number == 0 else ()
    key = ThreadKey("web", "local", "page", thread)
    answer = await chats.handle(IncomingMessage(key, f"{thread}-{number}", Author("local", "You"), "Why?", attachments))
    async for _ in answer.events():
        pass


@asynccontextmanager
async def page(folder: str, num_stored: int) -> AsyncIterator[tuple[str, ThreadChats]]:
    """The page over a store with some chats. Yields its URL."""
    store = await Store.open(f"sqlite+aiosqlite:///{folder}/chats.db")
    model = ScriptedModel()
    chats = ThreadChats(store, model, ImageReader(20_000_000), AnswerWriter(store, model))
    for number in range(num_stored):
        await ask(chats, f"stored{number:026}", 0)
    adapter = WebAdapter("127.0.0.1", 0, None)
    task = asyncio.create_task(adapter.run(chats))
    await adapter.started.wait()
    assert adapter.url is not None
    yield adapter.url, chats
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await chats.close(0)
    await store.close()


async def measure(num_tabs: int, num_stored: int) -> tuple[float, int]:
    """Answers a second, and the bytes that all tabs got for each."""
    with tempfile.TemporaryDirectory() as folder:
        async with page(folder, num_stored) as (url, chats), aiohttp.ClientSession(url) as client:
            pipe = subprocess.PIPE
            reader = await asyncio.create_subprocess_exec(sys.executable, __file__, url, str(num_tabs), stdin=pipe, stdout=pipe)
            num_answers = 0
            began = time.monotonic() + 3  # the tabs open meanwhile

            async def talk(number: int) -> None:
                nonlocal num_answers
                thread = f"{number:032}"
                for turn in itertools.count():
                    fields = aiohttp.FormData(default_to_multipart=True)
                    fields.add_field("message_id", f"{number:016}-{turn}")
                    fields.add_field("text", "Why?")
                    if turn % 5 == 0:
                        thread = f"{number:028}{turn:04}" if turn else thread
                        fields.add_field("picture", draw_image((8, 8)), filename="a.png")
                    async with client.post(f"/api/chats/{thread}/messages", data=fields) as response:
                        await response.read()
                    answer = chats.running_answer(ThreadKey("web", "local", "page", thread))
                    if answer is not None:
                        async for _ in answer.events():
                            pass
                    num_answers += time.monotonic() > began

            people = [asyncio.create_task(talk(number)) for number in range(NUM_PEOPLE)]
            await asyncio.sleep(3 + SECONDS)
            for person in people:
                person.cancel()
            await asyncio.gather(*people, return_exceptions=True)
            out, _ = await reader.communicate(b"")
            return num_answers / SECONDS, int(out or 0) // max(1, num_answers)


async def main() -> None:
    for num_tabs, num_stored in CASES:
        speed, num_bytes = await measure(num_tabs, num_stored)
        print(f"{num_tabs:3} tabs, {num_stored:4} stored chats: {speed:6.1f} answers/s, {num_bytes} bytes each", flush=True)


if __name__ == "__main__":
    asyncio.run(main() if len(sys.argv) == 1 else read_tabs(sys.argv[1], int(sys.argv[2])))
