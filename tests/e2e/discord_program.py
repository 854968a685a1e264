"""Runs the whole program as users do, on a loopback Discord with the bundled model, and reads what people see there."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.images import red_circle
from tests.loopbacks.discord.payloads import BOT, TOKEN, Payload
from tests.loopbacks.discord.server import DiscordLoopback
from tests.program import PROGRAM, process

TIMEOUT_SECONDS = 45.0
READY = r"Threadsight is ready: Discord[^\n]*"
ME = f"<@{BOT}>"
COLOUR, PLACE, NUMBER = "What colour is the circle?", "and where is it", "How many shapes are there?"
RED, MIDDLE, ONE = "The circle is red.", "The circle is in the middle.", "There is one shape."


@asynccontextmanager
async def program(folder: Path, discord: DiscordLoopback, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs until the end of the block, unless the test ends it before."""
    given = {
        "DISCORD_TOKEN": TOKEN,
        "THREADSIGHT_DISCORD_API_URL": discord.api_url,
        "THREADSIGHT_DISCORD_GATEWAY_URL": discord.gateway_url,
        "THREADSIGHT_TEMPERATURE": "0",
        "THREADSIGHT_WAITING_PER_PERSON": "100",
        **settings,
    }
    async with process(*PROGRAM, "run", folder=folder, ready=READY, **given) as (running, _):
        yield running


async def end(running: asyncio.subprocess.Process, number: signal.Signals = signal.SIGTERM) -> None:
    running.send_signal(number)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert await running.wait() == (0 if number is signal.SIGTERM else -number)


async def ask(discord: DiscordLoopback, channel: int, text: str = COLOUR, **more: Any) -> Payload:
    """A mention with a picture of a red circle, unless `more` says otherwise."""
    return await discord.post(channel, f"{ME} {text}", **{"attachments": [discord.add_file("circle.png", red_circle())], **more})


def thread_of(message: Payload) -> int:
    """A message's thread has its id."""
    return int(message["id"])


def seen(discord: DiscordLoopback, channel: int) -> list[str]:
    """The texts of the bot's messages there now."""
    return [message["content"] for message in discord.bots(channel)]


def ended(discord: DiscordLoopback, channel: int) -> list[str]:
    """The texts of the messages that end an answer: those with its buttons, and without Stop."""
    return [message["content"] for message in discord.bots(channel) if "regenerate" in str(message["components"])]


async def answered(discord: DiscordLoopback, channel: int, *answers: str, seconds: float = TIMEOUT_SECONDS) -> None:
    """Wait until the bot's messages there are exactly these, and each ends an answer."""
    wanted = list(answers)
    try:
        await discord.wait_for(lambda: seen(discord, channel) == ended(discord, channel) == wanted, seconds)
    except TimeoutError:
        raise AssertionError(f"seen: {seen(discord, channel)}, ended: {ended(discord, channel)}, wanted: {wanted}") from None
