"""Commands, buttons and replies find their conversation, and keep its order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from adapters.access import Access, parse_entries
from adapters.base import AnswerText, Attachment, IncomingMessage, ThreadKey
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.forgotten import Forgotten
from adapters.conversations.mailbox import Mailboxes
from adapters.conversations.pace import Pace
from adapters.conversations.routing import Begins, NotForUs, Router
from adapters.post import Post, asked_once
from adapters.surface import Control
from tests.adapters.memory_platform import ANN, BOB, MemorySurface, image, post
from tests.adapters.test_backlog import slow
from tests.adapters.test_dispatcher import Bench, bench, nothing_missed, start
from tests.adapters.test_mailbox import HERE
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler

KEY = ThreadKey("memory", "w", "c", "t")


def command(message_id: str, *attachments: Attachment) -> IncomingMessage:
    """A question that ann asked by a command; its answer is shown under the text that already says so."""
    return IncomingMessage(KEY, message_id, ANN, "What is this?", attachments, destination="c/t")


async def begin_slowly(b: Bench) -> asyncio.Event:
    """A mention in the thread whose attachments are looked up until the event is set."""
    gate = asyncio.Event()
    b.dispatcher.posted(post("1", thread="t", is_mention=True, attachments=slow(gate)))
    await asyncio.sleep(0)
    return gate


async def test_a_command_waits_for_its_conversation_and_is_shown_where_it_was_given() -> None:
    async with bench() as b:
        surface = MemorySurface(b.platform, "c/t")
        there = [await surface.post(page) for page in [b.page("I am thinking …")]]
        gate, looked_up = await begin_slowly(b), []

        async def attachments() -> Sequence[Attachment]:
            looked_up.append(len(b.handler.messages))
            return (image("looked-up.png"),)

        asking = asyncio.create_task(b.dispatcher.ask(("w", "t"), command("2"), surface, there, attachments=attachments))
        await asyncio.sleep(0)
        assert looked_up == []
        gate.set()
        await b.shown("Before.")
        answer = await b.handler.next_answer()
        assert looked_up == [1]  # when the message before it was with the bot
        assert not asking.done()
        assert answer.turn_id is not None
        turn_id = answer.turn_id
        async with asyncio.timeout(TIMEOUT_SECONDS), b.handler.changed:  # a restart would go on with the same message
            await b.handler.changed.wait_for(lambda: b.handler.platform_turns[turn_id].reply_ids == tuple(there))
        assert answer.turn_id not in b.handler.delivered
        await answer.add(AnswerText("A circle."))
        await b.handler.end(answer)
        await asyncio.wait_for(asking, TIMEOUT_SECONDS)
        assert answer.turn_id in b.handler.delivered
        assert b.platform.shown["c/t"][there[0]].text == "A circle."
        assert [attachment.name for attachment in b.handler.messages[1].attachments] == ["looked-up.png"]


async def test_a_command_that_brings_its_picture_needs_no_look_up_and_a_refused_one_notes_nothing() -> None:
    async with bench() as b:
        surface = MemorySurface(b.platform, "c/t")
        b.handler.next_refusal = "You have asked enough."
        there = await surface.post(b.page("I am thinking …"))
        await asyncio.wait_for(b.dispatcher.ask(("w", "t"), command("1", image("a.png")), surface, [there]), TIMEOUT_SECONDS)
        assert b.platform.shown["c/t"][there].text == "You have asked enough."
        assert b.handler.platform_turns == {}
        asking = asyncio.create_task(b.dispatcher.ask(("w", "t"), command("2", image("b.png")), surface))
        await b.shown("A circle.")
        await asyncio.wait_for(asking, TIMEOUT_SECONDS)
        assert [attachment.name for attachment in b.handler.messages[-1].attachments] == ["b.png"]


async def test_regenerate_waits_for_its_conversation_and_stop_for_nothing() -> None:
    async with bench() as b:
        turn_id = await b.answered(start("0", thread="t"), "Old.")
        gate = await begin_slowly(b)
        again = asyncio.create_task(b.dispatcher.press(Control.REGENERATE, turn_id, ANN, is_moderator=False))
        stop = b.dispatcher.press(Control.STOP, turn_id, ANN, is_moderator=False)
        assert await asyncio.wait_for(stop, TIMEOUT_SECONDS) == "This answer has ended already."
        assert not again.done()
        gate.set()
        assert await asyncio.wait_for(again, TIMEOUT_SECONDS) is None
        assert b.questions == ["0", "1"]


async def test_a_reply_in_a_channel_goes_the_way_of_what_it_replies_to() -> None:
    async with bench() as b:
        gate = asyncio.Event()
        b.dispatcher.posted(start("1", attachments=slow(gate)))
        b.dispatcher.posted(post("2", "And?", reply_to="1"))
        b.dispatcher.posted(post("3", "Sure?", reply_to="2"))
        b.dispatcher.posted(start("4"))
        await b.shown("Another.")
        assert b.questions == ["4"]
        gate.set()
        await b.settled()
        assert b.questions[:3] == ["4", "1", "2"]


async def test_a_changed_question_whose_place_is_gone_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.answered(start(), "A circle.")
        b.platform.is_gone.add("c/1")
        await b.edited(start(text="How large is it?"))
        assert len(b.handler.messages) == 1
        assert caplog.text == ""


@pytest.mark.parametrize("denied", ["channel:c", "channel:t", "channel:category", "user:u-ann", "guild:w", "dm"])
async def test_every_part_of_a_place_can_be_denied(denied: str) -> None:
    whole = post("1", thread="t", is_mention=True, is_direct=True, container_ids=frozenset({"category"}))
    handler = MemoryChatHandler()
    forgotten, access = Forgotten("memory", handler), [Access(deny=parse_entries(entry)) for entry in (denied, "channel:other")]
    routers = [Router("memory", handler, each, forgotten) for each in access]
    assert [await router.route(whole) for router in routers] == [NotForUs(), Begins()]


async def test_nothing_is_kept_of_what_was_waited_for() -> None:
    mailboxes = Mailboxes()

    async def nothing() -> None:
        pass

    await mailboxes.run(HERE, nothing)
    await asyncio.sleep(0)
    assert not mailboxes._awaited
    assert not len(mailboxes)


async def test_what_is_looked_up_is_asked_once() -> None:
    asked = []

    async def ask() -> Sequence[str]:
        asked.append(1)
        return ()

    answer = asked_once(ask)
    assert [await answer(), await answer()] == [(), ()]
    assert asked == [1]


async def test_a_command_by_word_is_carried_out_once_and_only_where_we_are_spoken_to() -> None:
    def word(message_id: str, **fields: object) -> Post:
        return post(message_id, "!help", is_command=True, **fields)

    async with bench() as b:
        await b.posted(word("1"), word("2", is_mention=True), word("2", is_mention=True), word("3", is_direct=True))
        await b.posted(word("4", thread="x"), start("5", thread="t"), word("6", thread="t", author=BOB))
        assert [each.message_id for each in b.platform.commands] == ["2", "3", "6"]
        assert b.questions == ["5"]


async def test_an_answer_that_is_shown_already_goes_with_its_question() -> None:
    async with bench() as b:
        await b.answered(start(), "A circle.")
        await asyncio.wait_for(b.dispatcher._screen.wait_shown(1), TIMEOUT_SECONDS)
        await b.deleted("1")
        await b.platform.wait_for(lambda: b.platform.texts("c/1") == [])


async def test_an_answer_that_leads_nowhere_any_more_is_not_shown_again_and_again() -> None:
    async with bench() as b:
        await b.posted(start())
        answer = await b.handler.next_answer()
        await b.dispatcher.close(0)
        await b.handler.end(answer)
        b.platform.is_gone.add("c/1")
        again = Dispatcher(b.platform, b.handler, Pace(0.0, 1e6))
        await again.online(nothing_missed)
        await again.close()
        assert answer.turn_id in b.handler.delivered


async def test_what_was_missed_is_asked_few_at_a_time() -> None:
    async with bench() as b:
        now = datetime.now(UTC)
        missed = [start(str(number), sent_at=now - timedelta(minutes=9 - number)) for number in (1, 2, 3)]
        answering = asyncio.create_task(b.catches_up_on(*missed))
        first, _ = await b.handler.next_answer(), await b.handler.next_answer()
        await b.settled()
        assert b.questions == ["1", "2"]  # the third waits until one of these is shown
        await first.add(AnswerText("One."))
        await b.handler.end(first)
        await b.shown("Three.")
        assert b.questions == ["1", "2", "3"]
        answering.cancel()
