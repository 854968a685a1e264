"""One command per loopback platform: it runs until Ctrl-C, and prints a page for people and the settings for a bot."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass


@dataclass(frozen=True)
class Opened:
    """A loopback platform that runs: the page on which people use it, and the settings with which a bot finds it."""

    platform: str
    page: str
    settings: dict[str, str]


def main(name: str, open_to_people: Callable[[int], AbstractAsyncContextManager[Opened]]) -> int:
    """Exit status 0 after Ctrl-C or SIGTERM, 1 if the port is taken. What is printed may be kept as a bot's `.env`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.loopbacks.{name}", description="A loopback platform with a page, to try a bot by hand."
    )
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; a free one unless given")
    port = parser.parse_args().port
    try:
        asyncio.run(_serve(open_to_people(port)))
    except (OSError, OverflowError) as error:
        print(f"Port {port} cannot be used: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(opening: AbstractAsyncContextManager[Opened]) -> None:
    stop = stopped_by_signals()
    async with opening as opened:
        print(f"# A loopback {opened.platform}. Write to the bot at {opened.page}")
        print("# With these settings a bot talks to it:")
        print("\n".join(f"{name}={value}" for name, value in opened.settings.items()), flush=True)
        await stop.wait()


def stopped_by_signals() -> asyncio.Event:
    """Set by Ctrl-C and SIGTERM, from now on."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
