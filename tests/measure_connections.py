"""Measures what half-open connections do to the page: `python tests/measure_connections.py`, in two versions to compare them.

The page's server may have 64 descriptors and writes its log as the program does. 300 connections send half a head and wait; then
somebody opens the page. Printed are the time until it is shown, the log's size after 30 seconds, and how many connections are left.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters.web.server import WebAdapter
from bot.log_format import LogFormat
from tests.chat_handler import MemoryChatHandler

NUM_DESCRIPTORS = 64
NUM_PEERS = 300
SECONDS = 30.0


async def serve() -> None:
    """The page's server; its URL goes to stdout."""
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(LogFormat())
    try:
        from bot.log_repeats import RepeatFilter
    except ImportError:
        pass  # a version from before it
    else:
        to_stderr.addFilter(RepeatFilter(to_stderr))
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr])
    resource.setrlimit(resource.RLIMIT_NOFILE, (NUM_DESCRIPTORS, NUM_DESCRIPTORS))
    adapter = WebAdapter("127.0.0.1", 0, None)
    task = asyncio.create_task(adapter.run(MemoryChatHandler()))
    await adapter.started.wait()
    print(adapter.url, flush=True)
    await task


async def half_ask(port: int) -> None:
    """Send half a head. Ends when the server drops the connection."""
    with suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: local")
        await reader.read()
        writer.close()


async def main() -> None:
    """Run the server and the clients, and print the figures."""
    with tempfile.TemporaryFile() as log:
        server = await asyncio.create_subprocess_exec(sys.executable, __file__, "serve", stdout=asyncio.subprocess.PIPE, stderr=log)
        assert server.stdout is not None
        url = (await server.stdout.readline()).decode().strip()
        port = int(url.rstrip("/").rpartition(":")[2])
        began = time.monotonic()
        peers = [asyncio.create_task(half_ask(port)) for _ in range(NUM_PEERS)]
        await asyncio.sleep(3)
        began = time.monotonic()
        try:
            async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as client, client.get(url) as response:
                shown = f"after {time.monotonic() - began:.2f} s with status {response.status}"
        except (TimeoutError, aiohttp.ClientError) as error:
            shown = f"never ({type(error).__name__})"
        await asyncio.sleep(max(0.0, began + SECONDS - time.monotonic()))
        num_left = sum(not peer.done() for peer in peers)
        server.kill()
        await server.wait()
        print(f"the page was shown {shown}; log {log.seek(0, 2):,} bytes; {num_left} of {NUM_PEERS} connections are left")


if __name__ == "__main__":
    asyncio.run(serve() if len(sys.argv) > 1 else main())
