"""After an absence, what is said in a conversation comes after what was missed there; nobody waits for what is missed elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import pytest

from adapters.base import AnswerText
from adapters.conversations.absence import CatchUp, Missed
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.pace import Pace
from adapters.surface import TryLater
from tests.adapters.memory_platform import BOB, post
from tests.adapters.test_backlog import Away, slow
from tests.adapters.test_mailbox_hostile import until
from tests.chat_handler import TIMEOUT_SECONDS

Read = Callable[[datetime], Awaitable[Missed]]


class Reading:
    """The platform is asked what was missed, and tells it when the test lets it `go`."""

    def __init__(self, away: Away, *errors: Exception) -> None:
        self.has_begun, self.go = asyncio.Event(), asyncio.Event()
        self._read, self._errors = away.read_missed, list(errors)
        away.read_missed = self.read  # type: ignore[method-assign]

    async def read(self, since: datetime) -> Missed:
        missed = await self._read(since)
        self.has_begun.set()
        if self._errors:
            raise self._errors.pop(0)
        await self.go.wait()
        return missed


@asynccontextmanager
async def returning(away: Away, *errors: Exception) -> AsyncIterator[Reading]:
    """We come back, and it is being read what was missed."""
    reading = Reading(away, *errors)
    coming = asyncio.create_task(away.online())
    await asyncio.wait_for(reading.has_begun.wait(), TIMEOUT_SECONDS)
    yield reading
    reading.go.set()
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)


@pytest.fixture
async def away() -> AsyncIterator[Away]:
    """Was online, and is away."""
    made = Away()
    await made.online()
    await made.mark()
    made.dispatcher.offline()
    yield made
    await made.dispatcher.close(0)


def ids(away: Away) -> list[str]:
    return [message.message_id for message in away.handler.messages]


async def test_what_is_said_while_it_is_read_what_was_missed_comes_after_that(away: Away) -> None:
    away.written += [post(str(number), thread="t", is_mention=True) for number in (1, 2)]
    async with returning(away) as reading:
        for number in (3, 4):
            away.dispatcher.posted(post(str(number), thread="t", is_mention=True))
        away.dispatcher.posted(post("new", is_mention=True))  # where nothing was said before, nothing was missed
        await until(lambda: ids(away) == ["new"])
        reading.go.set()
        await away.asked("new", "1", "2", "3", "4")


async def test_what_is_said_while_what_was_missed_is_answered_comes_after_that_and_nobody_else_waits(away: Away) -> None:
    away.written += [post(str(number), thread="t", is_mention=True) for number in (1, 2)]
    async with returning(away) as reading:
        reading.go.set()
        first = await away.handler.next_answer()
        away.dispatcher.posted(post("3", thread="t", is_mention=True))
        away.dispatcher.posted(post("elsewhere", thread="x", is_mention=True))
        await until(lambda: ids(away) == ["1", "elsewhere"])
        await first.add(AnswerText("Yes."))
        await away.handler.end(first)
        await until(lambda: ids(away) == ["1", "elsewhere", "2"])
        away.num_answered = 1
        await away.asked("1", "elsewhere", "2", "3")


async def test_what_was_held_goes_on_as_soon_as_it_is_known_that_nothing_was_missed_there(away: Away) -> None:
    away.written.append(post("1", thread="t", is_mention=True))
    async with returning(away) as reading:
        away.dispatcher.posted(post("elsewhere", thread="x", is_mention=True))
        await asyncio.sleep(0)
        assert ids(away) == []
        reading.go.set()
        await until(lambda: sorted(ids(away)) == ["1", "elsewhere"])  # the first is not answered yet


async def test_nobody_waits_for_long_because_the_reading_takes_long(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.conversations.absence.MAX_HELD_SECONDS", 0.01)
    async with returning(away):
        away.dispatcher.posted(post("1", thread="t", is_mention=True))
        await away.asked("1")


async def test_nobody_waits_for_long_for_a_return_that_is_not_told(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.conversations.absence.MAX_HELD_SECONDS", 0.01)
    away.dispatcher.posted(post("1", thread="t", is_mention=True))
    await away.asked("1")


@pytest.mark.parametrize("error", [TryLater(3_600.0), OSError("away")], ids=repr)
async def test_nobody_waits_for_long_because_it_could_not_be_read_what_was_missed(
    away: Away, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.conversations.absence.MAX_HELD_SECONDS", 0.01)
    async with returning(away, error):
        away.dispatcher.posted(post("1", thread="t", is_mention=True))
        await away.asked("1")


async def test_what_comes_before_it_is_asked_what_was_missed_waits_too(away: Away) -> None:
    away.written.append(post("1", thread="t", is_mention=True))
    away.dispatcher.posted(post("2", thread="t", is_mention=True))
    coming = asyncio.create_task(away.online())
    await away.asked("1", "2")
    await coming


async def test_nothing_is_held_after_the_first_connection_ever_or_a_resumed_one() -> None:
    away = Away()
    away.dispatcher.offline()
    away.write("1")
    await away.online()
    await away.asked("1")
    away.dispatcher.offline()
    away.write("2")
    away.dispatcher.resumed()
    await away.asked("1", "2")
    await away.dispatcher.close()


async def test_an_edit_of_a_message_that_is_held_does_not_bring_it_forward(away: Away) -> None:
    away.written.append(post("1", thread="t", is_mention=True))
    async with returning(away) as reading:
        away.dispatcher.posted(post("2", thread="t", is_mention=True))
        away.dispatcher.edited(post("2", "How large?", thread="t", is_mention=True))
        await away.dispatcher._mailboxes.run(("w", "t"), _nothing)
        assert ids(away) == []
        reading.go.set()
        await away.handler.answer_next("Yes.")
        await until(lambda: [message.text for message in away.handler.messages][-1] == "How large?")
        assert list(dict.fromkeys(ids(away))) == ["1", "2"]


async def test_a_mention_added_by_an_edit_is_answered_after_what_was_missed(away: Away) -> None:
    old = post("0", thread="t")  # long ago, and not read any more
    away.written.append(post("1", thread="t", is_mention=True))
    async with returning(away) as reading:
        away.dispatcher.edited(replace(old, is_mention=True))
        await away.dispatcher._mailboxes.run(("w", "t"), _nothing)
        assert ids(away) == []
        reading.go.set()
        await away.asked("1", "0")


async def test_more_than_a_mailbox_holds_comes_after_what_was_missed(away: Away) -> None:
    away.dispatcher._mailboxes._max_posts = 2
    away.written.append(post("1", thread="t", is_mention=True))
    async with returning(away) as reading:
        for number in range(2, 7):
            away.write(str(number))
        reading.go.set()
        await away.asked("1", "2", "3", "4", "5", "6")


async def test_what_has_arrived_does_not_count_as_missed(away: Away) -> None:
    away.dispatcher._absence._catch_up = CatchUp(max_posts=1)
    away.dispatcher._mailboxes._max_posts = 2
    away.written += [post(str(number), thread="t", is_mention=True) for number in (1, 2)]
    reading = Reading(away)
    for number in range(3, 9):  # before it is read, so that the platform tells of these too
        away.write(str(number))
    reading.go.set()
    coming = asyncio.create_task(away.online())
    await away.asked("2", "3", "4", "5", "6", "7", "8")
    await coming


async def test_what_was_missed_and_is_too_much_holds_nothing_up(away: Away) -> None:
    away.dispatcher._absence._catch_up = CatchUp(max_posts=1)
    away.written += [post("1", thread="t", is_mention=True), post("2", thread="x", is_mention=True)]
    async with returning(away) as reading:
        away.dispatcher.posted(post("3", thread="t", is_mention=True))
        reading.go.set()
        await until(lambda: sorted(ids(away)) == ["2", "3"])


async def _nothing() -> None:
    pass


# --- said to others


async def test_what_was_said_to_others_before_a_chat_began_is_not_answered_by_another_run(away: Away) -> None:
    away.dispatcher.resumed()
    away.write("1", "Shall we have lunch?", is_mention=False, author=BOB)
    away.write("2")
    away.write("3", "And its size?", is_mention=False)
    await away.asked("2", "3")
    await away.mark()
    await away.dispatcher.close()
    away.written.append(post("4", "And its colour?", thread="t"))
    away.dispatcher = Dispatcher(away.platform, away.handler, Pace(0.0, 1e6))
    coming = asyncio.create_task(away.online())
    await away.asked("2", "3", "4")
    await coming


async def test_what_was_said_to_others_before_a_chat_began_that_was_missed_is_not_answered(away: Away) -> None:
    away.written += [post("1", "Lunch?", thread="t", author=BOB), post("2", thread="t", is_mention=True)]
    away.written.append(post("3", "And its size?", thread="t"))
    coming = asyncio.create_task(away.online())
    await away.asked("2", "3")
    await coming


async def test_what_was_missed_in_a_chat_is_answered_although_a_later_one_was_heard(away: Away) -> None:
    away.dispatcher.resumed()
    away.write("1")
    await away.asked("1")
    away.written.append(post("2", "And its size?", thread="t"))  # got lost
    away.write("3")
    await away.asked("1", "3")
    away.dispatcher.offline()
    coming = asyncio.create_task(away.online())
    await away.asked("1", "3", "2")
    await coming


async def test_a_mention_that_is_older_than_the_chat_is_answered(away: Away) -> None:
    away.dispatcher.resumed()
    away.written.append(post("1", thread="t", is_mention=True))  # got lost
    away.write("2")
    await away.asked("2")
    coming = asyncio.create_task(away.online())
    await away.asked("2", "1")
    await coming


async def test_a_conversation_that_hangs_holds_up_only_itself(away: Away) -> None:
    away.written.append(post("1", thread="t", is_mention=True, attachments=slow(asyncio.Event())))
    async with returning(away) as reading:
        away.dispatcher.posted(post("2", thread="t", is_mention=True))
        away.dispatcher.posted(post("3", thread="x", is_mention=True))
        reading.go.set()
        await away.asked("3")
