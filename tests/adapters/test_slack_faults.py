"""Whatever Slack does during an answer, people see the whole text, once; and what was left open is finished after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, tzinfo
from functools import partialmethod
from typing import Any

import pytest

from adapters.base import AnswerText
from adapters.desk import Desk
from adapters.slack import SlackAdapter
from tests.adapters.slack_loopback import BOT, Message, SlackLoopback
from tests.adapters.slack_world import CHANNEL, ask, block_types, running, words
from tests.chat_handler import MemoryChatHandler, WrittenAnswer, draw_picture


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slack's rate limits are another test's."""
    monkeypatch.setattr("adapters.slack.app.CHANNEL_SECONDS", 0.0)
    monkeypatch.setattr("adapters.slack.app.WRITES_PER_SECOND", 1000.0)


@pytest.fixture
async def slack() -> AsyncIterator[SlackLoopback]:
    async with SlackLoopback().serving() as slack:
        yield slack


@pytest.fixture
def handler() -> MemoryChatHandler:
    return MemoryChatHandler()


@pytest.fixture
async def adapter(slack: SlackLoopback, handler: MemoryChatHandler) -> AsyncIterator[SlackAdapter]:
    async with running(slack, handler) as adapter:
        yield adapter


async def stream_started(slack: SlackLoopback, handler: MemoryChatHandler) -> tuple[Message, WrittenAnswer]:
    question = await ask(slack)
    answer = await handler.next_answer()
    await answer.add(AnswerText("One. "))
    await slack.wait_for(lambda: [words(m) for m in slack.thread(CHANNEL, question["ts"])] == ["One. "])
    return question, answer


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize("fault", ["message_not_in_streaming_state", ("500",), ("reset",), ("done, then reset",), ("429", 0)])
@pytest.mark.parametrize("method", ["chat.appendStream", "chat.stopStream"])
async def test_a_stream_that_breaks_still_ends_in_the_whole_text_once(
    slack: SlackLoopback, handler: MemoryChatHandler, fault: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.reply._FIRST_WAIT_SECONDS", 0.01)
    question, answer = await stream_started(slack, handler)
    slack.fail(method, fault)
    before = len(slack.calls)
    await answer.add(AnswerText("Two. "))
    await slack.wait_for(lambda: len(slack.calls) > before)
    await answer.add(AnswerText("Three."))
    await handler.end(answer)
    await handler.wait_delivered(answer.turn_id)
    (shown,) = slack.thread(CHANNEL, question["ts"])
    assert words(shown) == "One. Two. Three."
    assert block_types(shown)[-2:] == ["context_actions", "actions"]


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize("fault", [("500",), ("reset",), ("done, then reset",), ("429", 0)])
async def test_an_answer_whose_first_message_failed_stands_there_once(
    slack: SlackLoopback, handler: MemoryChatHandler, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.reply._FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr("adapters.slack.surface.time.time", lambda: 1_800_000_000.0)
    slack.fail("chat.postMessage", fault)
    slack.fail("chat.startStream", fault)
    question = await ask(slack)
    answer = await handler.answer_next("Just this.")
    await handler.wait_delivered(answer.turn_id)
    assert [words(m) for m in slack.thread(CHANNEL, question["ts"])] == ["Just this."]


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize("word", ["not_in_channel", "is_archived", "channel_not_found", "invalid_auth"])
async def test_a_place_that_is_gone_ends_the_answer_quietly(
    slack: SlackLoopback, handler: MemoryChatHandler, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, answer = await stream_started(slack, handler)
    slack.fail("chat.appendStream", word)
    await answer.add(AnswerText("Two."))
    await asyncio.wait_for(answer.is_stop_wanted.wait(), 5)
    await handler.wait_delivered(answer.turn_id)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.usefixtures("adapter")
async def test_a_layout_that_slack_refuses_is_left_out(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    slack.fail("chat.postMessage", "invalid_blocks")
    question = await ask(slack)
    answer = await handler.answer_next("Plain.")
    await handler.wait_delivered(answer.turn_id)
    assert [words(m) for m in slack.thread(CHANNEL, question["ts"])] == ["Plain."]


@pytest.mark.usefixtures("adapter")
async def test_a_place_without_streams_is_written_by_updates(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    slack.fail("chat.startStream", "unknown_method")
    question = await ask(slack)
    answer = await handler.next_answer()
    await answer.add(AnswerText("One. "))
    await slack.wait_for(lambda: slack.thread(CHANNEL, question["ts"]))
    await answer.add(AnswerText("Two."))
    await handler.end(answer)
    await handler.wait_delivered(answer.turn_id)
    assert [words(m) for m in slack.thread(CHANNEL, question["ts"])] == ["One. Two."]


async def test_an_answer_from_before_a_restart_is_finished_in_its_message(
    slack: SlackLoopback, handler: MemoryChatHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Desk, "close", partialmethod(Desk.close, 0.0))
    async with running(slack, handler):
        question, answer = await stream_started(slack, handler)
    assert answer.turn_id is not None
    await handler.end(answer)
    async with running(slack, handler):
        await handler.wait_delivered(answer.turn_id)
    (shown,) = slack.thread(CHANNEL, question["ts"])
    assert words(shown) == "One. "
    assert block_types(shown) == ["markdown", "context_actions", "actions"]


async def test_what_was_missed_is_answered_after_the_return(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    picture = slack.upload("a.png", draw_picture())
    async with running(slack, handler):
        question = await ask(slack)
        answer = await handler.answer_next("A circle.")
        await handler.wait_delivered(answer.turn_id)
        assert handler.notes  # how far it has seen
    followed = slack.people_say(CHANNEL, "And now?", thread_ts=question["ts"])
    question["latest_reply"] = followed["ts"]
    mention = slack.people_say("C2", f"<@{BOT}> missed?", files=[picture], subtype="file_share")
    slack.people_say("C2", "not for us")
    slack.people_say(CHANNEL, "!reset", thread_ts=question["ts"])
    now = datetime.fromtimestamp(float(mention["ts"]), UTC)
    handler.notes["slack", "seen_until"] = datetime.fromtimestamp(float(question["ts"]), UTC).isoformat()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.desk.datetime", _fixed_now(now))
        async with running(slack, handler):
            for _ in range(2):
                late = await handler.answer_next("Late.")
                await handler.wait_delivered(late.turn_id)
            await slack.drop_sockets()  # it comes back, and finds nothing more to answer
            await slack.wait_for(lambda: len(slack.called("users.conversations")) > 1)
    assert [words(m) for m in slack.thread(CHANNEL, question["ts"])] == ["A circle.", "Late."]
    assert [words(m) for m in slack.thread("C2", mention["ts"])] == ["Late."]
    assert len(handler.messages) == 3


def _fixed_now(now: datetime) -> type[datetime]:
    class Fixed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return now

    return Fixed
