"""What people say in one conversation reaches the bot in its order and whole, however slow the look-ups are that it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.adapters.slack_world import IMAGE, SlackWorld, slack_world, within
from tests.loopbacks.slack.payloads import mention_event, message_event


@pytest.fixture
async def world() -> AsyncIterator[SlackWorld]:
    async with slack_world() as world:
        yield world


async def test_a_reply_comes_while_the_files_of_the_mention_are_still_looked_up(world: SlackWorld) -> None:
    held = world.slack.faults.hold_next("files.info")
    question = await world.ask(how="thin_files")
    await within(held.arrived.wait())
    await world.slack.post(world.general, world.ann, "And its size?", thread_ts=question.ts)
    await world.slack.settle()
    held.release()
    for text in ("A circle.", "It is large."):
        answer = await world.handler.answer_next(text)
        await world.handler.wait_delivered(answer.turn_id)
    assert [message.text for message in world.handler.messages] == ["What is this?", "And its size?"]
    assert world.texts(question) == ["A circle.", "It is large."]


async def test_a_reply_comes_before_the_second_event_of_the_mention_which_has_its_files(world: SlackWorld) -> None:
    question = await world.ask(how="held")
    world.slack.publish(world.general, mention_event(question, "none"))
    await world.slack.settle()
    await world.slack.post(world.general, world.ann, "And its size?", thread_ts=question.ts)
    await world.slack.settle()
    world.slack.publish(world.general, message_event(question))
    for text in ("A circle.", "It is large."):
        answer = await world.handler.answer_next(text)
        await world.handler.wait_delivered(answer.turn_id)
    assert [message.text for message in world.handler.messages] == ["What is this?", "And its size?"]


async def test_a_direct_message_waits_for_the_slow_one_before_it(world: SlackWorld) -> None:
    direct = world.slack.add_channel("ann", kind="im", members=[world.ann])
    held = world.slack.faults.hold_next("files.info")
    await world.slack.post(direct, world.ann, "What is this?", [IMAGE], how="thin_files")
    await within(held.arrived.wait())
    await world.slack.post(direct, world.ann, "And this?", [IMAGE])
    await world.slack.settle()
    held.release()
    for text in ("A circle.", "A square."):
        answer = await world.handler.answer_next(text)
        await world.handler.wait_delivered(answer.turn_id)
    assert [message.text for message in world.handler.messages] == ["What is this?", "And this?"]
