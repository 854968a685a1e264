"""Interleavings and faults against the mailboxes that nobody plans for: each once lost, doubled or mixed up something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partialmethod
from types import SimpleNamespace
from typing import Any, cast

import discord
import pytest

from adapters.base import Answer, AnswerText, Attachment, IncomingMessage
from adapters.conversations.absence import Missed
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.mailbox import Mailboxes
from adapters.conversations.pace import Pace
from adapters.discord.client import Listener, make_client
from adapters.discord.translate import Translator
from adapters.surface import Control, TryLater
from tests.adapters.memory_platform import ANN, MemorySurface, post
from tests.adapters.slack_world import IMAGE, SlackWorld, running, slack_world, within
from tests.adapters.test_backlog import Away, slow
from tests.adapters.test_mailbox import HERE, empty, noting
from tests.chat_handler import TIMEOUT_SECONDS
from tests.loopbacks.slack.payloads import mention_event, message_event


async def until(is_so: Any) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.fixture
async def away() -> AsyncIterator[Away]:
    """Online, and never away until the test says so."""
    made = Away()
    await made.online()
    yield made
    await made.dispatcher.close(0)


# --- a step ends in a way that is neither a result nor an error


async def test_a_step_in_which_something_else_was_cancelled_takes_nothing_with_it() -> None:
    mailboxes, told = Mailboxes(), list[str]()

    async def await_something_cancelled() -> None:
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    mailboxes.put(HERE, await_something_cancelled)
    mailboxes.put(HERE, noting(told, "next"))
    await empty(mailboxes)
    assert told == ["next"]


async def test_a_question_whose_acceptance_was_cancelled_does_not_hold_the_mark_for_ever(away: Away) -> None:
    await away.mark()

    async def cancelled(message: IncomingMessage) -> Answer:
        raise asyncio.CancelledError

    away.handler.handle = cancelled  # type: ignore[method-assign]
    lost = away.write("1")
    await away.settled()
    assert away.dispatcher._backlog.oldest() == lost.sent_at
    away.written.clear()  # it is not there any more when it is looked for
    await away.online()
    assert away.dispatcher._backlog.oldest() is None


# --- edits that do not find their question


async def test_an_edit_that_comes_before_its_message_is_not_lost(away: Away) -> None:
    away.write("1")
    await away.asked("1")
    away.dispatcher.edited(post("2", "And its colour?", thread="t"))
    away.dispatcher.posted(post("2", "And its size?", thread="t"))
    await away.settled()
    await until(lambda: [message.text for message in away.handler.messages][-1] == "And its colour?")


async def test_an_edit_that_comes_while_its_message_is_read_back_is_not_lost(away: Away) -> None:
    await away.mark()
    away.write("1")
    await away.asked("1")
    away.dispatcher.offline()
    away.written.append(post("2", "And its size?", thread="t"))
    gate, has_read, read_missed = asyncio.Event(), asyncio.Event(), away.read_missed

    async def slowly(since: datetime) -> Missed:
        missed = await read_missed(since)
        has_read.set()
        await gate.wait()
        return missed

    away.read_missed = slowly  # type: ignore[method-assign]
    coming = asyncio.create_task(away.online())
    await has_read.wait()
    away.dispatcher.edited(post("2", "And its colour?", thread="t"))
    await away.settled()
    gate.set()
    await until(lambda: [message.text for message in away.handler.messages][-1] == "And its colour?")
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)


async def test_an_edit_of_a_message_that_is_left_does_not_overtake_those_before_it() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    away.write("1", attachments=slow(gate))
    away.write("2")
    third = away.write("3")
    changed = post("3", "And what is that?", thread="t", is_mention=True, sent_at=third.sent_at)
    away.written[2] = changed
    away.dispatcher.edited(changed)
    gate.set()
    await away.asked("1", "2", "3")
    assert away.handler.messages[-1].text == "And what is that?"
    await away.dispatcher.close()


# --- which messages show an answer


async def test_an_edit_whose_look_up_outlasts_the_showing_of_the_answer_shows_it_once(away: Away) -> None:
    gate = asyncio.Event()
    away.write("1")
    answer = await away.handler.next_answer()
    away.dispatcher.edited(post("1", "How large?", thread="t", is_mention=True, attachments=slow(gate)))
    await answer.add(AnswerText("A circle."))
    await away.handler.end(answer)
    turn = await away.handler.wait_delivered(answer.turn_id)
    await until(lambda: not away.dispatcher._screen.is_showing(turn.turn_id))
    gate.set()
    await away.handler.answer_next("Large.")
    await away.platform.wait_for(lambda: "Large." in away.platform.texts("c/t"))
    assert away.platform.texts("c/t") == ["Large."]


async def test_an_answer_that_is_asked_for_anew_behind_an_edit_takes_the_place_of_all_its_messages(away: Away) -> None:
    gate = asyncio.Event()
    away.write("1")
    first = await away.handler.answer_next("Short.")
    turn = await away.handler.wait_delivered(first.turn_id)
    away.dispatcher.edited(post("1", "How large?", thread="t", is_mention=True))
    long = await away.handler.next_answer()
    away.dispatcher.edited(post("1", "How large?", thread="t", is_mention=True, attachments=slow(gate)))
    pressing = asyncio.create_task(away.dispatcher.press(Control.REGENERATE, turn.turn_id, ANN, is_moderator=False))
    await asyncio.sleep(0)
    text = "Word after word. " * 200
    await long.add(AnswerText(text))
    await away.handler.end(long)
    await away.handler.wait_delivered(turn.turn_id)
    await until(lambda: not away.dispatcher._screen.is_showing(turn.turn_id))
    assert len(away.platform.texts("c/t")) > 1
    gate.set()
    again = await away.handler.answer_next("Large.")
    assert await pressing is None
    await until(lambda: not away.dispatcher._screen.is_showing(turn.turn_id))
    assert again.turn_id == turn.turn_id
    assert away.platform.texts("c/t") == ["Large."]


async def test_a_deleted_question_takes_its_answer_with_it_although_the_platform_is_slow(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    away.write("1")
    await away.asked("1")
    await away.handler.wait_delivered(1)
    failures, delete = [TryLater(), TryLater(0.0)], MemorySurface.delete

    async def fail_twice(surface: MemorySurface, reply_id: str) -> None:
        if failures:
            raise failures.pop()
        await delete(surface, reply_id)

    monkeypatch.setattr(MemorySurface, "delete", fail_twice)
    away.dispatcher.deleted("w", "1")
    await away.platform.wait_for(lambda: away.platform.texts("c/t") == [])


# --- forgetting


async def test_a_question_that_is_looked_up_while_its_author_is_forgotten_is_not_asked(away: Away) -> None:
    gate, has_begun = asyncio.Event(), asyncio.Event()

    async def attachments() -> Sequence[Attachment]:
        has_begun.set()
        await gate.wait()
        return ()

    away.write("1", attachments=attachments)
    await asyncio.wait_for(has_begun.wait(), TIMEOUT_SECONDS)
    await away.dispatcher.forget(ANN.id, datetime.now(UTC))
    gate.set()
    await away.settled()
    assert not away.handler.messages


# --- coming online, and the mark


async def test_answers_of_an_earlier_run_are_shown_although_the_first_try_failed(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    away.write("1")
    answer = await away.handler.next_answer()
    await away.dispatcher.close(0)
    again = Dispatcher(away.platform, away.handler, Pace(0.0, 1e6))
    undelivered = away.handler.undelivered

    async def fail(platform: str) -> Any:
        raise OSError("the database is away")

    away.handler.undelivered = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="away"):
        await again.online(away.read_missed)
    away.handler.undelivered = undelivered  # type: ignore[method-assign]
    await again.online(away.read_missed)
    await answer.add(AnswerText("A circle."))
    await away.handler.end(answer)
    await away.platform.wait_for(lambda: away.platform.texts("c/t") == ["A circle."])
    await again.close()


async def test_the_mark_does_not_move_on_when_it_could_not_be_read(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    before = await away.mark()
    away.dispatcher.offline()
    read_note = away.handler.read_note

    async def fail(platform: str, name: str) -> Any:
        raise OSError("the database is away")

    away.handler.read_note = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="away"):
        await away.online()
    away.handler.read_note = read_note  # type: ignore[method-assign]
    away.dispatcher.offline()
    away.dispatcher.resumed()
    for _ in range(20):
        await asyncio.sleep(0)
    assert datetime.fromisoformat(away.handler.notes["memory", "seen_until"]) == before


async def test_a_return_that_had_to_wait_does_not_move_the_mark_on_when_the_connection_is_lost_again(away: Away) -> None:
    await away.mark()
    away.dispatcher.offline()
    gates, num_begun, read_missed = [asyncio.Event(), asyncio.Event()], 0, away.read_missed

    async def slowly(since: datetime) -> Missed:
        nonlocal num_begun
        num_begun += 1
        missed = await read_missed(since)
        await gates[num_begun - 1].wait()
        return missed

    away.read_missed = slowly  # type: ignore[method-assign]
    first = asyncio.create_task(away.online())
    await until(lambda: num_begun == 1)
    away.dispatcher.offline()
    second = asyncio.create_task(away.online())
    await asyncio.sleep(0)
    away.dispatcher.offline()
    for gate in gates:
        gate.set()
    await asyncio.gather(first, second)
    lost_at = datetime.now(UTC)
    for _ in range(20):
        await asyncio.sleep(0)
    assert away.dispatcher._absence._mark._moving is None
    assert datetime.fromisoformat(away.handler.notes["memory", "seen_until"]) < lost_at


async def test_what_was_said_to_others_before_we_were_asked_is_not_answered_after_a_return(away: Away) -> None:
    away.write("1", is_mention=False)
    away.write("2")
    await away.asked("2")
    await away.settled()
    away.dispatcher.offline()
    away.written.append(post("3", thread="t"))
    coming = asyncio.create_task(away.online())
    await away.asked("2", "3")
    await asyncio.wait_for(coming, TIMEOUT_SECONDS)


# --- Discord


async def test_what_one_connection_has_missed_is_not_passed_when_another_comes_back() -> None:
    told = list[str]()
    dispatcher: Any = SimpleNamespace(resumed=lambda: told.append("resumed"), offline=lambda: told.append("offline"))
    client = make_client(has_content=True, num_shards=2, ready_seconds=0.0)

    async def make_up() -> None:
        told.append("online")

    listener = Listener(client, dispatcher, cast(Any, None), make_up, make_up, asyncio.create_task)
    for shard in (0, 1):
        await listener.on_shard_ready(shard)
    await listener.on_ready()
    await asyncio.sleep(0)
    for shard in (0, 1):
        await listener.on_disconnect()
        await listener.on_shard_disconnect(shard)
    await listener.on_resumed()
    await listener.on_shard_resumed(0)
    assert told == ["online", "offline", "offline"]
    await listener.on_shard_ready(1)
    await asyncio.sleep(0)
    assert told[3:] == ["online"]
    for come_back in (listener.on_shard_ready, listener.on_shard_resumed):  # and the other way round
        await listener.on_shard_disconnect(0)
        await listener.on_shard_disconnect(1)
        await listener.on_shard_ready(0)
        assert told[4:] == []
        await come_back(1)
        await asyncio.sleep(0)
        assert told.pop() == "online"
    await listener.on_shard_disconnect(0)
    await listener.on_resumed()
    await listener.on_shard_resumed(0)
    assert told[4:] == ["resumed"]


class RateLimitedClient:
    async def fetch_channel(self, channel_id: int) -> object:
        raise discord.RateLimited(60.0)


async def test_a_thread_that_cannot_be_looked_up_for_now_is_not_taken_for_somebody_elses() -> None:
    client, place = cast(Any, RateLimitedClient()), cast(Any, discord.Object(1))
    with pytest.raises(TryLater):  # so that the message's step fails, and it is looked for again
        await Translator(client, cast(Any, None), has_content=True)._thread_or(place)


# --- Slack


@pytest.fixture
async def slack() -> AsyncIterator[SlackWorld]:
    async with slack_world() as made:
        yield made


@pytest.mark.parametrize("fault", [None, "conversations.history", "conversations.replies"])
async def test_what_is_left_on_slack_is_read_back_whole(monkeypatch: pytest.MonkeyPatch, fault: str | None) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    monkeypatch.setattr(Dispatcher, "__init__", partialmethod(Dispatcher.__init__, max_posts=1))
    async with slack_world() as slack:
        question, _, _ = await slack.answered()
        held = slack.slack.faults.hold_next("files.info")
        await slack.slack.post(slack.general, slack.ann, "Number 0", [IMAGE], how="thin_files", thread_ts=question.ts)
        await within(held.arrived.wait())
        for number in range(1, 4):
            await slack.slack.post(slack.general, slack.ann, f"Number {number}", thread_ts=question.ts)
        await slack.slack.settle()
        if fault is not None:
            slack.slack.faults.fail_next(fault, error="internal_error")
        held.release()
        for _ in range(4):
            answer = await slack.handler.answer_next("Yes.")
            await slack.handler.wait_delivered(answer.turn_id)
        assert [message.text for message in slack.handler.messages][1:] == [f"Number {number}" for number in range(4)]


async def test_what_was_missed_on_slack_is_read_back_although_slack_was_busy(
    slack: SlackWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    await slack.answered()
    await slack.slack.settle()
    await slack.stop()
    await slack.ask("Missed?", how="held")
    slack.slack.faults.fail_next("conversations.history", error="internal_error")
    async with running(slack.slack, slack.handler):
        answer = await slack.handler.answer_next("Late.")
        await slack.handler.wait_delivered(answer.turn_id)
    assert [message.text for message in slack.handler.messages][1:] == ["Missed?"]


async def test_files_that_slack_tells_of_after_an_edit_do_not_undo_it(slack: SlackWorld) -> None:
    question = await slack.ask(how="held")
    slack.slack.faults.fail_next("conversations.history", error="internal_error")  # and the look-up tells nothing
    slack.slack.publish(slack.general, mention_event(question, "none"))
    await slack.handler.next_answer()
    original = message_event(question)
    await slack.slack.edit(question, f"{slack.slack.mention} How large is it?")
    await until(lambda: slack.handler.messages[-1].text == "How large is it?")
    slack.slack.publish(slack.general, original)
    await slack.slack.settle()
    await slack.slack.post(slack.general, slack.ann, "And its colour?", thread_ts=question.ts)
    await until(lambda: slack.handler.messages[-1].text == "And its colour?")
    assert [message.text for message in slack.handler.messages] == ["What is this?", "How large is it?", "And its colour?"]
