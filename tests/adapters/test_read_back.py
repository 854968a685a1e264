"""What does not fit into the mailboxes is read back where it was written: all of it, in its order, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

import pytest

from adapters.base import AnswerText
from adapters.conversations.absence import CatchUp
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.mailbox import Mailboxes
from adapters.conversations.pace import Pace
from adapters.post import Post
from tests.adapters.memory_platform import BOB, MemoryPlatform, post
from tests.adapters.test_backlog import Away, slow
from tests.adapters.test_mailbox import HERE, THERE, empty, noting


async def test_a_mailbox_that_is_full_loses_nothing_however_much_there_is() -> None:
    away, gate = Away(max_posts=3, catch_up=CatchUp(max_posts=2)), asyncio.Event()
    await away.online()
    away.write("0", attachments=slow(gate))
    for number in range(1, 300):
        away.write(str(number))
    gate.set()
    await away.asked(*map(str, range(300)))
    await away.read_back()
    assert not away.dispatcher._backlog._left
    assert not away.dispatcher._backlog._open
    assert away.num_read_back == 0
    await away.dispatcher.close()


async def test_all_places_of_a_conversation_are_read_back_in_one_order() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    for number in range(9):  # a direct message, with a thread in it
        away.write(str(number), thread="t" if number % 3 else None, conversation="c", is_direct=True, attachments=slow(gate))
    gate.set()
    await away.asked(*map(str, range(9)))
    await away.dispatcher.close()


async def test_of_a_channel_only_what_belongs_to_the_conversation_is_taken() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    away.write("1", thread=None, attachments=slow(gate))
    away.write("2", "And?", thread=None, is_mention=False, reply_to="1")
    away.write("3", thread=None, attachments=slow(gate))
    away.write("4", "Nothing for us.", thread=None, is_mention=False)
    away.write("5", "Sure?", thread=None, is_mention=False, reply_to="2")
    gate.set()
    while away.num_answered < 4:
        await away.handler.answer_next("Yes.")
        away.num_answered += 1
    await away.read_back()
    ids = [message.message_id for message in away.handler.messages]
    assert sorted(ids) == ["1", "2", "3", "5"]
    assert [id_ for id_ in ids if id_ != "3"] == ["1", "2", "5"]
    await away.dispatcher.close()


async def test_commands_that_did_not_fit_are_carried_out_once_and_in_their_place() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    away.write("1", attachments=slow(gate))
    for number in (2, 3):
        word = away.write(str(number), "!help", is_command=True)
    away.dispatcher.posted(word)
    gate.set()
    await away.asked("1")
    await away.read_back()
    away.dispatcher.posted(word)
    await away.settled()
    assert [each.message_id for each in away.platform.commands] == ["2", "3"]
    await away.dispatcher.close()


async def test_what_is_deleted_before_it_is_read_back_is_not_asked() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    for number in range(1, 4):
        away.write(str(number), attachments=slow(gate))
    away.dispatcher.deleted("w", "2")  # the platform still shows it for a moment
    gate.set()
    await away.asked("1", "3")
    await away.dispatcher.close()


async def test_an_answer_is_stopped_and_forgotten_with_its_question_while_others_wait_to_be_read_back() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    for number in range(1, 4):
        away.write(str(number), attachments=slow(gate))
    gate.set()
    await away.handler.answer_next("Yes.")
    answer = await away.handler.next_answer()  # of the second, behind which the third waits
    await answer.add(AnswerText("Ye"))
    away.dispatcher.deleted("w", "2")
    assert (await away.handler.next_answer()).turn_id == 3
    assert answer.ended is not None
    assert await away.handler.find_message("memory", "w", "2") is None
    await away.dispatcher.close(0)


async def test_what_is_left_outlives_a_restart() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    first = away.write("1", attachments=slow(gate))
    for number in range(2, 5):
        away.write(str(number))
    assert await away.mark() == first.sent_at
    away.platform.read_faults += [OSError("away")] * 9
    gate.set()
    await away.asked("1")
    await asyncio.wait_for(away.dispatcher.close(60.0), 5.0)  # it does not wait until the platform can be asked
    away.dispatcher = Dispatcher(away.platform, away.handler, Pace(0.0, 1e6))
    away.platform.read_faults.clear()
    coming = asyncio.create_task(away.online())
    await away.asked("1", "2", "3", "4")
    await coming
    await away.dispatcher.close()


async def test_coming_back_while_posts_are_left_neither_doubles_nor_drops_any() -> None:
    away, gate = Away(max_posts=1, catch_up=CatchUp(max_posts=2)), asyncio.Event()
    await away.online()
    away.write("1", attachments=slow(gate))
    for number in range(2, 8):
        away.write(str(number))
    await away.mark()
    away.dispatcher.offline()
    away.written.append(post("8", thread="t"))  # was never delivered
    coming = asyncio.create_task(away.online())
    await asyncio.sleep(0)
    away.write("9")
    gate.set()
    await away.asked(*map(str, range(1, 10)))
    await coming
    await away.dispatcher.close()


async def test_all_mailboxes_together_are_bounded() -> None:
    mailboxes, told, gate = Mailboxes(max_in_all=3), list[str](), asyncio.Event()
    places = [HERE, HERE, THERE, ("w", "elsewhere")]
    taken = [mailboxes.put(place, noting(told, str(n), gate), is_post=True) for n, place in enumerate(places)]
    assert taken == [True, True, True, False]
    assert len(mailboxes) == 2
    assert mailboxes.put(("w", "elsewhere"), noting(told, "deletion"))
    assert mailboxes.num_steps == 4
    gate.set()
    await empty(mailboxes)
    assert mailboxes.num_steps == 0
    assert mailboxes.put(HERE, noting(told, "again"), is_post=True)
    await empty(mailboxes)


async def test_mentions_without_number_are_kept_in_bounded_memory_and_the_latest_are_looked_for() -> None:
    away, gate = Away(max_in_all=3, catch_up=CatchUp(max_posts=2)), asyncio.Event()
    away.dispatcher._backlog._max_left = 3
    await away.online()
    first = away.write("0", thread=None, attachments=slow(gate))
    for number in range(1, 200):
        away.write(str(number), thread=None, attachments=slow(gate))
    backlog = away.dispatcher._backlog
    assert (len(backlog._open), len(backlog._left), away.dispatcher._mailboxes.num_steps) == (3, 3, 3)
    assert await away.mark() == first.sent_at
    assert away.dispatcher._mailboxes.num_steps <= 6  # as far as it may, what was left goes on
    gate.set()
    expected = [*range(6), 198, 199]
    while away.num_answered < len(expected):
        await away.handler.answer_next("Yes.")
        away.num_answered += 1
    await away.read_back()
    assert sorted(int(message.message_id) for message in away.handler.messages) == expected
    assert await away.mark() > away.written[-1].sent_at
    await away.dispatcher.close()


async def test_a_conversation_that_hangs_keeps_no_other_from_being_read_back() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    for number in (1, 2):
        away.write(f"hangs {number}", thread="h", attachments=slow(asyncio.Event()))
        away.write(f"goes on {number}", attachments=slow(gate))
    gate.set()
    await away.asked("goes on 1", "goes on 2")
    await away.dispatcher.close(0)


async def test_what_others_say_meanwhile_is_not_answered() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    away.write("1", is_mention=False, attachments=slow(gate), complete=_when(gate, post("1", thread="t")))
    away.write("2", is_mention=False)
    away.write("3", author=BOB)
    away.write("4", is_mention=False)
    gate.set()
    await away.asked("3", "4")
    await away.dispatcher.close()


def _when(gate: asyncio.Event, whole: Post) -> Any:
    async def complete() -> Post:
        await gate.wait()
        return whole

    return complete


async def test_what_comes_while_the_last_page_is_read_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    away, gate, read_on = Away(max_posts=1), asyncio.Event(), MemoryPlatform.read_on

    async def late(platform: MemoryPlatform, first: Post, until: datetime) -> AsyncGenerator[Post, None]:
        async for each in read_on(platform, first, until):
            yield each
        if len(away.written) < 5:
            away.write(str(len(away.written) + 1))

    monkeypatch.setattr(MemoryPlatform, "read_on", late)
    await away.online()
    away.write("1", attachments=slow(gate))
    away.write("2")
    gate.set()
    await away.asked("1", "2", "3", "4", "5")
    await away.dispatcher.close()
