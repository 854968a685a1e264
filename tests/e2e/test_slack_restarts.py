"""Killed at any moment of a message's way, the program answers it after its restart: once, and in its order.

The moments: it waits in its conversation's mailbox, or did not fit into it; its files are being looked up; it is accepted and not
answered yet; its answer is being written.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from adapters.conversations.read_back import TOO_MANY_AT_ONCE
from tests.e2e.dictated_model import DictatedModel
from tests.e2e.test_slack_program import end
from tests.e2e.test_slack_program_faults import BEGINNING, IMAGE, World
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Message

pytestmark = pytest.mark.whole_program

FIRST, SECOND = "What is this?", "And its size?"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with SlackServer() as slack, DictatedModel() as model:
        yield World(slack, model, slack.add_user("ann"), tmp_path)


async def _look_up(world: World) -> tuple[Message, list[str]]:
    held = world.slack.faults.hold_next("files.info")
    channel = world.slack.add_channel("look-up")
    post = await world.slack.post(channel, world.ann, f"{world.slack.mention} {FIRST}", [IMAGE], how="thin_files")
    await held.arrived.wait()
    return post, [FIRST]


async def _mailbox(world: World) -> tuple[Message, list[str]]:
    post, _ = await _look_up(world)
    await world.slack.post(post.channel, world.ann, SECOND, thread_ts=post.ts)
    await world.slack.settle()  # acknowledged: Slack will not tell it again
    return post, [FIRST, SECOND]


async def _left(world: World) -> tuple[Message, list[str]]:
    """More than the mailbox holds; after the restart, the newest twenty of what was missed are answered."""
    post, _ = await _look_up(world)
    questions = [f"And number {number}?" for number in range(40)]
    for question in questions:
        await world.slack.post(post.channel, world.ann, question, thread_ts=post.ts)
    await world.slack.settle()
    return post, [FIRST, *questions[-19:]]


async def _accepted(world: World) -> tuple[Message, list[str]]:
    post, asked = await world.ask("accepted")
    return post, [asked.question]


async def _answering(world: World) -> tuple[Message, list[str]]:
    post, asked = await world.begin("answering")
    asked.say("a ")  # what follows the beginning is written after it was noted which message shows it
    await world.wait(post, lambda: f"{BEGINNING}a " in world.answers(post)[0].shown)
    return post, [asked.question]


@pytest.mark.parametrize("moment", [_look_up, _mailbox, _left, _accepted, _answering], ids=lambda moment: moment.__name__[1:])
async def test_a_message_outlives_a_kill(world: World, moment: Callable[[World], Awaitable[tuple[Message, list[str]]]]) -> None:
    async with world.program() as (running, _):
        post, questions = await moment(world)
        await end(running, signal.SIGKILL)
    world.slack.faults.forget()
    async with world.program() as (running, _):
        for number, question in enumerate(questions):
            asked = await world.model.next()
            assert asked.question == question
            asked.end(f"Answer {number}.")
        await world.see(post, *(f"Answer {number}." for number in range(len(questions))), beside=TOO_MANY_AT_ONCE)
        await end(running)
    assert world.slack.broadcasts == []
