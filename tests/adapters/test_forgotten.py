"""What was forgotten, or was said in a place that is gone, is neither asked nor kept, whatever restarts, edits or look-ups do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.base import Answer, Attachment, IncomingMessage, ThreadKey
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.forgotten import Forgotten
from adapters.conversations.pace import Pace
from adapters.surface import DestinationGone
from tests.adapters.memory_platform import ANN, BOB, MemorySurface, post
from tests.adapters.test_backlog import Away, slow
from tests.adapters.test_dispatcher_commands import command
from tests.adapters.test_mailbox_hostile import until
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler

KEY = ThreadKey("memory", "w", "c", "t")


@pytest.fixture
async def away() -> AsyncIterator[Away]:
    """Online."""
    made = Away()
    await made.online()
    yield made
    await made.dispatcher.close(0)


async def restarted(away: Away) -> None:
    """The program was killed, and another run is online and has made up for everything."""
    await away.mark()
    await away.dispatcher.close(0)
    away.dispatcher = Dispatcher(away.platform, away.handler, Pace(0.0, 1e6))
    coming = asyncio.create_task(away.online())
    while not coming.done():
        answering = asyncio.create_task(away.handler.next_answer())
        await asyncio.wait({coming, answering}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            await away.handler.end(answering.result())
        answering.cancel()
    await coming


def asked(away: Away) -> list[str]:
    return [message.message_id for message in away.handler.messages]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize("how", ["reset", "forget"])
async def test_what_was_forgotten_is_not_asked_after_a_restart_although_something_older_was_open(away: Away, how: str) -> None:
    away.write("open", thread="x", author=BOB, attachments=slow(asyncio.Event()))
    away.write("1")
    await away.asked("1")
    if how == "reset":
        await away.dispatcher.reset(KEY, now())
    else:
        await away.dispatcher.forget(ANN.id, now())
    away.written[0] = post("open", thread="x", author=BOB, is_mention=True, sent_at=away.written[0].sent_at)
    await restarted(away)
    assert asked(away) == ["1", "open"]


async def test_what_others_asked_meanwhile_is_found_although_somebody_was_forgotten(away: Away) -> None:
    await away.mark()
    away.dispatcher.offline()
    away.written.append(post("bob's", thread="x", author=BOB, is_mention=True))
    away.written.append(post("ann's", thread="y", is_mention=True))
    await away.dispatcher.forget(ANN.id, now())  # by a button, while no messages are delivered
    away.written.append(post("ann's next", thread="z", is_mention=True))
    coming = asyncio.create_task(away.online())
    await away.handler.answer_next("Yes.")
    await away.handler.answer_next("Yes.")
    await asyncio.wait_for(coming, TIMEOUT_SECONDS)
    assert sorted(asked(away)) == ["ann's next", "bob's"]


@pytest.mark.parametrize("ahead", [timedelta(hours=-3), timedelta(), timedelta(hours=3)], ids=["behind", "right", "ahead"])
async def test_what_was_asked_before_or_after_is_judged_by_the_platforms_clock(away: Away, ahead: timedelta) -> None:
    """`ahead`: of how much the platform's clock is ahead of ours."""
    their_now = now() + ahead
    await away.dispatcher.forget(ANN.id, their_now)
    away.write("before", thread="x", sent_at=their_now - timedelta(milliseconds=1))
    away.write("after", sent_at=their_now + timedelta(milliseconds=1))
    await away.asked("after")


async def test_a_mark_that_a_wrong_clock_set_into_the_future_does_not_hide_what_is_missed(away: Away) -> None:
    away.dispatcher.offline()
    away.written.append(post("1", thread="t", is_mention=True))
    await away.handler.write_note("memory", "seen_until", (now() + timedelta(days=9)).isoformat())
    coming = asyncio.create_task(away.online())
    await away.asked("1")
    await coming


@pytest.mark.parametrize("has_restarted", [False, True])
@pytest.mark.parametrize("how", ["reset", "forget"])
async def test_an_update_of_a_forgotten_mention_does_not_ask_it_again(away: Away, how: str, has_restarted: bool) -> None:
    mention = away.write("1", thread=None)
    await away.asked("1")
    await away.settled()
    if how == "reset":
        await away.dispatcher.reset(ThreadKey("memory", "w", "c", "1"), now())
    else:
        await away.dispatcher.forget(ANN.id, now())
    if has_restarted:
        await restarted(away)
    away.dispatcher.edited(mention)  # as Discord tells it, for an embed
    await away.settled()
    assert asked(away) == ["1"]


async def test_a_mention_may_still_be_added_by_an_edit_after_somebody_was_forgotten(away: Away) -> None:
    await away.dispatcher.forget(ANN.id, now())
    await away.dispatcher.reset(KEY, now())
    away.dispatcher.edited(post("1", thread="t", is_mention=True))
    away.dispatcher.edited(post("2", thread="x", author=BOB, is_mention=True, sent_at=now() - timedelta(hours=1)))
    await until(lambda: sorted(asked(away)) == ["1", "2"])


async def test_a_question_that_is_looked_up_while_its_chat_is_forgotten_is_not_asked(away: Away) -> None:
    gate, has_begun = asyncio.Event(), asyncio.Event()

    async def attachments() -> Sequence[Attachment]:
        has_begun.set()
        await gate.wait()
        return ()

    away.write("1", attachments=attachments)
    await asyncio.wait_for(has_begun.wait(), TIMEOUT_SECONDS)
    await away.dispatcher.reset(KEY, now())
    gate.set()
    away.write("2")
    await away.asked("2")


class SlowToAccept:
    """The bot accepts a question only when the test lets it `go`."""

    def __init__(self, handler: MemoryChatHandler) -> None:
        self.has_begun, self.go = asyncio.Event(), asyncio.Event()
        self._handle = handler.handle
        handler.handle = self.handle  # type: ignore[method-assign]

    async def handle(self, message: IncomingMessage) -> Answer:
        self.has_begun.set()
        await self.go.wait()
        return await self._handle(message)


@pytest.mark.parametrize("what", ["forget", "room gone", "channel gone"])
async def test_nothing_is_kept_of_a_question_that_was_being_accepted(away: Away, what: str) -> None:
    accepting = SlowToAccept(away.handler)
    away.write("1")
    await asyncio.wait_for(accepting.has_begun.wait(), TIMEOUT_SECONDS)
    if what == "forget":
        await away.dispatcher.forget(ANN.id, now())
    else:
        away.dispatcher.room_gone("w", "t" if what == "room gone" else "c")
    accepting.go.set()
    await away.settled()
    assert not away.handler.platform_turns
    assert not away.handler._touched
    assert not away.platform.shown


@pytest.mark.parametrize("gone", ["t", "c"])
async def test_nothing_is_kept_of_a_place_that_goes_while_a_question_there_is_looked_up(away: Away, gone: str) -> None:
    gate = asyncio.Event()
    away.write("1", attachments=slow(gate))
    await asyncio.sleep(0)
    away.dispatcher.room_gone("w", gone)
    gate.set()
    await away.settled()
    assert not asked(away)


async def test_a_place_that_is_back_is_answered_in(away: Away) -> None:
    away.dispatcher.room_gone("w", "c")
    away.write("1")
    await away.asked("1")
    await away.mark()
    away.dispatcher.room_gone("w", "c")
    await away.settled()
    away.dispatcher.offline()
    away.written.append(post("2", thread="t", is_mention=True))
    coming = asyncio.create_task(away.online())
    await until(lambda: asked(away)[-1] == "2")
    coming.cancel()


@pytest.mark.parametrize("what", ["forget", "room gone"])
async def test_nothing_is_kept_of_a_command_either(away: Away, what: str) -> None:
    accepting = SlowToAccept(away.handler)
    asking = asyncio.create_task(away.dispatcher.ask(("w", "t"), command("1"), MemorySurface(away.platform, "c/t")))
    await asyncio.wait_for(accepting.has_begun.wait(), TIMEOUT_SECONDS)
    if what == "forget":
        await away.dispatcher.forget(ANN.id, now())
    else:
        away.dispatcher.room_gone("w", "c")
    accepting.go.set()
    with pytest.raises(DestinationGone):
        await asyncio.wait_for(asking, TIMEOUT_SECONDS)
    assert not away.handler.platform_turns
    await away.handler.next_answer()  # which is of nothing any more
    asking = asyncio.create_task(away.dispatcher.ask(("w", "t"), command("2"), MemorySurface(away.platform, "c/t")))
    await away.handler.answer_next("Yes.")
    await asyncio.wait_for(asking, TIMEOUT_SECONDS)


async def test_what_must_not_be_kept_is_deleted_although_that_fails_at_first(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    accepting, retract, errors = SlowToAccept(away.handler), away.handler.retract, [OSError("away")]

    async def fail_once(*arguments: str) -> Any:
        if errors:
            raise errors.pop()
        return await retract(*arguments)

    away.handler.retract = fail_once  # type: ignore[assignment, method-assign]
    away.write("1")
    await asyncio.wait_for(accepting.has_begun.wait(), TIMEOUT_SECONDS)
    await away.dispatcher.forget(ANN.id, now())
    accepting.go.set()
    await away.settled()
    assert not errors
    assert not away.handler.platform_turns


# --- the note


async def test_the_note_names_nobody_is_bounded_and_outlives_a_restart() -> None:
    handler, at = MemoryChatHandler(), datetime(2026, 5, 1, 12, tzinfo=UTC)
    first = Forgotten("memory", handler)
    await first.add_author("u-ann", at)
    await first.add_chat(KEY, at)
    [note] = handler.notes.values()
    assert "u-ann" not in note
    again = Forgotten("memory", handler)
    await again.add_author("u-bob", at + timedelta(days=1))  # before it has read what is there
    third = Forgotten("memory", handler)
    await third.load()
    before, later = at - timedelta(microseconds=1), at + timedelta(hours=1)
    assert [third.has(before, author) for author in ("u-ann", "u-bob", "u-eve")] == [True, True, False]
    assert [third.has(later, author) for author in ("u-ann", "u-bob")] == [False, True]
    assert not third.has(at, "u-ann")
    assert third.has(before, "u-eve", KEY)
    assert not third.has(before, "u-eve", ThreadKey("memory", "w", "c", "other"))
    for number in range(1_000):
        third._times[str(number)] = 0.0
    await third.add_author("u-last", at)
    assert not third.has(before, "u-ann")  # the oldest of more than a thousand
    assert len(handler.notes["memory", "forgotten"]) < 100_000


async def test_an_earlier_time_does_not_undo_a_later_one() -> None:
    handler, at = MemoryChatHandler(), datetime(2026, 5, 1, 12, tzinfo=UTC)
    forgotten = Forgotten("memory", handler)
    for time in (at, at - timedelta(hours=1)):
        await forgotten.add_author("u-ann", time)
    assert forgotten.has(at - timedelta(minutes=1), "u-ann")
    assert forgotten.times("u-ann", KEY) == (at, None)
