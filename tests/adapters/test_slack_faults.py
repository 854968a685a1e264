"""Whatever Slack does during an answer, people see the whole text, once; and what was left open is finished after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partialmethod
from typing import Any

import pytest

from adapters.base import AnswerText
from adapters.conversations.dispatcher import Dispatcher
from tests.adapters.slack_world import SlackWorld, block_types, running, slack_world, within
from tests.loopbacks.slack.socket_mode import DisconnectReason

BROKEN: dict[str, dict[str, Any]] = {
    "error 500": {"status": 500},
    "reset": {"is_reset": True},
    "done, then reset": {"is_reset": True, "is_done": True},
    "rate limit": {"status": 429, "retry_after_seconds": 0},
}


@pytest.fixture
async def world() -> AsyncIterator[SlackWorld]:
    async with slack_world() as world:
        yield world


@pytest.mark.parametrize("fault", [*BROKEN.values(), {"error": "message_not_in_streaming_state"}], ids=[*BROKEN, "not streaming"])
@pytest.mark.parametrize("method", ["chat.appendStream", "chat.stopStream"])
async def test_a_stream_that_breaks_still_ends_in_the_whole_text_once(
    world: SlackWorld, fault: dict[str, Any], method: str
) -> None:
    question, answer = await world.begun()
    world.slack.faults.fail_next(method, **fault)
    await answer.add(AnswerText("Two. "))
    await world.called("chat.appendStream")
    await answer.add(AnswerText("Three."))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["One. Two. Three."]
    (shown,) = world.slack.answers(world.general, question.ts)
    assert block_types(shown)[-2:] == ["context_actions", "actions"]


async def test_a_stream_that_slack_ends_still_ends_in_the_whole_text(world: SlackWorld) -> None:
    question, answer = await world.begun()
    await world.slack.expire_streams()
    await answer.add(AnswerText("Two. "))
    await world.slack.wait_for(lambda: world.texts(question) == ["One. Two. "])
    await answer.add(AnswerText("Three."))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["One. Two. Three."]


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_an_answer_whose_first_message_failed_stands_there_once(world: SlackWorld, fault: dict[str, Any]) -> None:
    world.slack.faults.fail_next("chat.postMessage", **fault)
    question = await world.ask()
    answer = await world.handler.answer_next("Just this.")
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["Just this."]


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_a_stream_whose_start_failed_stands_there_once(world: SlackWorld, fault: dict[str, Any]) -> None:
    world.slack.faults.fail_next("chat.startStream", **fault)
    question = await world.ask()
    answer = await world.handler.next_answer()
    await answer.add(AnswerText("One. "))
    await world.slack.wait_for(lambda: world.texts(question) == ["One. "])
    await answer.add(AnswerText("Two."))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["One. Two."]


@pytest.mark.parametrize("word", ["not_in_channel", "is_archived", "channel_not_found", "invalid_auth"])
async def test_a_place_that_is_gone_ends_the_answer_quietly(world: SlackWorld, word: str, caplog: pytest.LogCaptureFixture) -> None:
    _, answer = await world.begun()
    world.slack.faults.fail_next("chat.appendStream", error=word)
    await answer.add(AnswerText("Two."))
    await within(answer.is_stop_wanted.wait())
    await world.handler.wait_delivered(answer.turn_id)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_layout_that_slack_refuses_is_left_out(world: SlackWorld) -> None:
    world.slack.faults.fail_next("chat.postMessage", error="invalid_blocks")
    question = await world.ask()
    answer = await world.handler.answer_next("Plain.")
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["Plain."]


async def test_a_place_without_streams_is_written_by_updates(world: SlackWorld) -> None:
    world.slack.faults.fail_next("chat.startStream", error="unknown_method")
    question, answer = await world.begun()
    await answer.add(AnswerText("Two."))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["One. Two."]


# -- connections -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["warning", "refresh_requested", "link_disabled"])
async def test_a_socket_that_slack_gives_up_is_made_anew_during_an_answer(world: SlackWorld, reason: DisconnectReason) -> None:
    question, answer = await world.begun()
    await world.slack.socket.disconnect(reason)
    await world.slack.wait_for(lambda: world.slack.socket.open_connections)
    await answer.add(AnswerText("Two."))
    await world.handler.end(answer)
    await world.slack.post(world.general, world.ann, "And the other?", thread_ts=question.ts)
    second = await world.handler.answer_next("A square.")
    await world.handler.wait_delivered(second.turn_id)
    assert world.texts(question) == ["One. Two.", "A square."]


async def test_an_answer_from_before_a_restart_is_finished_in_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "close", partialmethod(Dispatcher.close, 0.0))
    async with slack_world() as world:
        question, answer = await world.begun()
        await world.stop()
        assert answer.turn_id is not None
        await world.handler.end(answer)
        async with running(world.slack, world.handler):
            await world.handler.wait_delivered(answer.turn_id)
        assert world.texts(question) == ["One. "]
        (shown,) = world.slack.answers(world.general, question.ts)
        assert block_types(shown) == ["markdown", "context_actions", "actions"]


async def test_what_was_missed_is_answered_after_the_return(world: SlackWorld) -> None:
    slack = world.slack
    question, _, _ = await world.answered()
    await slack.settle()
    await world.stop()
    assert world.handler.notes  # how far it has seen
    other = slack.add_channel("other")
    await slack.post(world.general, world.ann, "And now?", thread_ts=question.ts, how="held")
    mention = await slack.post(other, world.ann, f"{slack.mention} missed?", [("a.png", world.image)], how="held")
    await slack.post(other, world.ann, "not for us", how="held")
    await slack.post(world.general, world.ann, "!reset", thread_ts=question.ts, how="held")
    async with running(slack, world.handler):
        for _ in range(2):
            late = await world.handler.answer_next("Late.")
            await world.handler.wait_delivered(late.turn_id)
        num_looks = len(slack.called("users.conversations"))
        await slack.socket.disconnect("refresh_requested")  # it comes back, and finds nothing more to answer
        await slack.wait_for(lambda: len(slack.called("users.conversations")) > num_looks)
    assert world.texts(question) == ["A circle.", "Late."]
    assert world.texts(mention) == ["Late."]
    assert len(world.handler.messages) == 3
    assert slack.ephemeral == []  # a late !reset would delete what was said since


async def test_what_cannot_be_read_back_at_once_is_read_back_later(world: SlackWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    question, _, _ = await world.answered()
    await world.slack.settle()
    await world.stop()
    await world.slack.post(world.general, world.ann, "And now?", thread_ts=question.ts, how="held")
    world.slack.faults.fail_next("conversations.history", error="internal_error")
    async with running(world.slack, world.handler):
        late = await world.handler.answer_next("Late.")
        await world.handler.wait_delivered(late.turn_id)
    assert world.texts(question) == ["A circle.", "Late."]
