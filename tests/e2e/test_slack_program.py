"""The whole program, run as its users run it, in a Slack workspace: the bundled model, the unmodified SDKs, a Slack on loopback."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.images import red_circle
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel, Message
from tests.program import PROGRAM, process

pytestmark = pytest.mark.whole_program

TIMEOUT_SECONDS = 120
READY = r"Threadsight is ready: Slack[^\n]*"


@pytest.fixture
async def slack() -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        yield server


def program(
    folder: Path, slack: SlackServer, ready: str = READY, **settings: str
) -> AbstractAsyncContextManager[tuple[asyncio.subprocess.Process, str]]:
    given = {
        "SLACK_BOT_TOKEN": slack.bot_token,
        "SLACK_APP_TOKEN": slack.app_token,
        "THREADSIGHT_SLACK_API_URL": slack.api_url,
        "THREADSIGHT_TEMPERATURE": "0",
        **settings,
    }
    return process(*PROGRAM, "run", folder=folder, ready=ready, **given)


async def answer(slack: SlackServer, channel: Channel, thread_ts: str, text: str) -> Message:
    """The bot's message in the thread that says so, once it is complete."""

    def look() -> Message | None:
        answers = slack.answers(channel, thread_ts)
        return next((each for each in answers if text in each.shown and each.stream != "live" and each.buttons), None)

    found = await slack.wait_for(look, TIMEOUT_SECONDS)
    assert found is not None
    return found


async def end(running: asyncio.subprocess.Process, number: signal.Signals = signal.SIGTERM) -> None:
    running.send_signal(number)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert await running.wait() == (0 if number is signal.SIGTERM else -number)


async def test_a_chat_about_a_picture_goes_on_after_a_restart(tmp_path: Path, slack: SlackServer) -> None:
    ann, general = slack.add_user("ann"), slack.add_channel("general")
    async with program(tmp_path, slack) as (running, _):
        post = await slack.post(general, ann, f"{slack.mention} What colour is the circle?", [("circle.png", red_circle())])
        await answer(slack, general, post.ts, "The circle is red.")
        await slack.post(general, ann, "and where is it", thread_ts=post.ts)
        await answer(slack, general, post.ts, "The circle is in the middle.")
        await end(running)
    async with program(tmp_path, slack) as (running, _):
        await slack.post(general, ann, "How many shapes are there?", thread_ts=post.ts)
        await answer(slack, general, post.ts, "one")
        await end(running)
    assert len(slack.answers(general, post.ts)) == 3
    assert not slack.broadcasts


async def test_what_was_asked_while_it_was_away_is_answered_once(tmp_path: Path, slack: SlackServer) -> None:
    ann, general = slack.add_user("ann"), slack.add_channel("general")
    async with program(tmp_path, slack) as (running, _):
        post = await slack.post(general, ann, f"{slack.mention} What colour is the circle?", [("circle.png", red_circle())])
        await answer(slack, general, post.ts, "The circle is red.")
        await end(running, signal.SIGKILL)
    missed = await slack.post(general, ann, f"{slack.mention} Where is the circle?", [("b.png", red_circle())], how="held")
    await slack.post(general, ann, "How many shapes are there?", thread_ts=post.ts, how="held")
    await slack.post(general, ann, "Nobody asked the bot this.", how="held")
    async with program(tmp_path, slack) as (running, _):
        await answer(slack, general, missed.ts, "The circle is in the middle.")
        await answer(slack, general, post.ts, "one")
        await end(running)
    assert len(slack.answers(general, missed.ts)) == 1
    assert len(slack.answers(general, post.ts)) == 2
