"""What people say in one conversation reaches the bot in its order and whole, however slow the look-ups are that it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partialmethod

import pytest

from adapters.conversations.dispatcher import Dispatcher
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


# --- more than a mailbox holds


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message fits into a mailbox, and pages are small."""
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("adapters.slack.catch_up._PAGE", 3)
    monkeypatch.setattr("adapters.slack.catch_up._MAX_KEPT", 4)
    monkeypatch.setattr(Dispatcher, "__init__", partialmethod(Dispatcher.__init__, max_posts=1))


async def _answer(world: SlackWorld, num: int) -> None:
    for _ in range(num):
        answer = await world.handler.answer_next("Yes.")
        await world.handler.wait_delivered(answer.turn_id)


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("num_faults", [0, 1])
async def test_of_a_full_thread_all_is_read_back_page_by_page(num_faults: int) -> None:
    async with slack_world() as world:
        question, _, _ = await world.answered()
        held = world.slack.faults.hold_next("files.info")
        await world.slack.post(world.general, world.ann, "Number 0", [IMAGE], how="thin_files", thread_ts=question.ts)
        await within(held.arrived.wait())
        for number in range(1, 11):
            await world.slack.post(world.general, world.ann, f"Number {number}", thread_ts=question.ts)
            await world.slack.post(world.general, world.ann, f"Elsewhere {number}")
        await world.slack.settle()
        world.slack.faults.fail_next("conversations.replies", error="internal_error", times=num_faults)
        held.release()
        await _answer(world, 11)
        assert [message.text for message in world.handler.messages][1:] == [f"Number {number}" for number in range(11)]
        assert all(call.arguments.get("ts") == question.ts for call in world.slack.called("conversations.replies"))


async def test_of_a_full_thread_more_than_a_hundred_messages_are_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "__init__", partialmethod(Dispatcher.__init__, max_posts=1))
    async with slack_world() as world:
        question, _, _ = await world.answered()
        held = world.slack.faults.hold_next("files.info")
        await world.slack.post(world.general, world.ann, "Number 0", [IMAGE], how="thin_files", thread_ts=question.ts)
        await within(held.arrived.wait())
        for number in range(1, 121):
            await world.slack.post(world.general, world.ann, f"Number {number}", thread_ts=question.ts)
        await world.slack.settle()
        held.release()
        await _answer(world, 121)
        assert [message.text for message in world.handler.messages][1:] == [f"Number {number}" for number in range(121)]


@pytest.mark.usefixtures("one_at_a_time")
async def test_of_a_full_direct_message_all_is_read_back_with_its_threads() -> None:
    async with slack_world() as world:
        direct = world.slack.state.direct_channel(world.ann)
        held = world.slack.faults.hold_next("files.info")
        first = await world.slack.post(direct, world.ann, "Number 0", [IMAGE], how="thin_files")
        await within(held.arrived.wait())
        for number in range(1, 13):
            thread_ts = first.ts if number % 3 == 0 else None
            await world.slack.post(direct, world.ann, f"Number {number}", [IMAGE], thread_ts=thread_ts)
        await world.slack.settle()
        held.release()
        await _answer(world, 13)
        assert [message.text for message in world.handler.messages] == [f"Number {number}" for number in range(13)]


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_command_in_a_full_thread_is_carried_out_once() -> None:
    async with slack_world() as world:
        question, _, _ = await world.answered()
        held = world.slack.faults.hold_next("files.info")
        await world.slack.post(world.general, world.ann, "Number 0", [IMAGE], how="thin_files", thread_ts=question.ts)
        await within(held.arrived.wait())
        for text in ("!quota", "Number 1"):
            await world.slack.post(world.general, world.ann, text, thread_ts=question.ts)
        await world.slack.settle()
        held.release()
        await _answer(world, 2)
        assert len(world.slack.called("chat.postEphemeral")) == 1
