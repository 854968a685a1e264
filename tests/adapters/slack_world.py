"""The Slack adapter, running over a chat handler in memory and a loopback Slack."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters.slack import SlackAdapter
from tests.adapters.slack_loopback import APP_TOKEN, BOT, BOT_TOKEN, Message, SlackLoopback
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler, draw_picture

CHANNEL, DIRECT = "C1", "D1"


@contextlib.asynccontextmanager
async def running(slack: SlackLoopback, handler: MemoryChatHandler, **settings: Any) -> AsyncIterator[SlackAdapter]:
    """The adapter, connected to the loopback Slack."""
    adapter = SlackAdapter(BOT_TOKEN, APP_TOKEN, api_url=slack.api_url, **settings)
    run = asyncio.create_task(adapter.run(handler))
    started = asyncio.create_task(adapter.started.wait())
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await asyncio.wait({run, started}, return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            run.result()
        yield adapter
    finally:
        started.cancel()
        run.cancel()
        await asyncio.gather(run, started, return_exceptions=True)


@contextlib.asynccontextmanager
async def slack_world(**settings: Any) -> AsyncIterator[tuple[SlackLoopback, MemoryChatHandler]]:
    """A loopback Slack and the adapter connected to it, without Slack's pace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.slack.app.CHANNEL_SECONDS", 0.0)
        patch.setattr("adapters.slack.app.WRITES_PER_SECOND", 1000.0)
        handler = MemoryChatHandler()
        async with SlackLoopback().serving() as slack, running(slack, handler, **settings):
            yield slack, handler


async def ask(slack: SlackLoopback, text: str = f"<@{BOT}> What is this?", channel: str = CHANNEL, **more: Any) -> Message:
    files = more.pop("files", None) or [slack.upload("a.png", draw_picture())]
    message = slack.people_say(channel, text, files=files, subtype="file_share", **more)
    await slack.tell_message(channel, message)
    if not channel.startswith("D"):
        await slack.tell_message(channel, message, "app_mention")
    return message


def words(message: Message) -> str:
    """What people read in a message of ours."""
    markdown = [str(block["text"]) for block in message.get("blocks") or () if block["type"] == "markdown"]
    return str(message.get("markdown_text") or "".join(markdown))


def has_more_calls(slack: SlackLoopback, num_calls: int) -> bool:
    return len(slack.calls) > num_calls


def block_types(message: Message) -> list[str]:
    return [block["type"] for block in message.get("blocks") or ()]
