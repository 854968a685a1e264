"""What every platform with threads decides alike: routing, deduplication, edits, deletes, buttons, being away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.access import Access, parse_entries
from adapters.base import AnswerText, Author, Quota, ThreadKey
from adapters.conversations.absence import CatchUp, Missed
from adapters.conversations.dispatcher import ONLY_ASKER, TURN_GONE, Dispatcher
from adapters.conversations.pace import Pace
from adapters.post import Post
from adapters.surface import Control, Page
from adapters.text.phrases import quota_sentence
from tests.adapters.memory_platform import ANN, BOB, MemoryPlatform, SlowImage, image, post
from tests.chat_handler import MemoryChatHandler


class Bench:
    """A dispatcher between a platform and a handler in memory."""

    def __init__(self, **options: Any) -> None:
        self.platform, self.handler = MemoryPlatform(), MemoryChatHandler()
        self.dispatcher = Dispatcher(self.platform, self.handler, Pace(0.0, 1e6), **options)

    async def answered(self, asked: Post, *pieces: str) -> int:
        """Post it, write its answer, and wait until that stands there; returns the turn's id."""
        self.dispatcher.posted(asked)
        return await self.shown(*pieces)

    async def posted(self, *posts: Post) -> None:
        """They were written, and dealt with."""
        for each in posts:
            self.dispatcher.posted(each)
        await self.settled()

    async def edited(self, changed: Post) -> None:
        self.dispatcher.edited(changed)
        await self.settled()

    async def deleted(self, message_id: str) -> None:
        self.dispatcher.deleted("w", message_id)
        await self.settled()

    async def settled(self) -> None:
        """Until every mailbox is empty."""
        while workers := [mailbox.worker for mailbox in self.dispatcher._mailboxes._mailboxes.values() if mailbox.worker]:
            await asyncio.wait(workers)
        await asyncio.sleep(0)

    async def catches_up_on(self, *missed: Post, age: timedelta = timedelta(days=9)) -> None:
        """We come back after having been away for so long, and these were written."""

        async def read_missed(since: datetime) -> Missed:
            return Missed(missed)

        await self.handler.write_note("memory", "seen_until", (datetime.now(UTC) - age).isoformat())
        await self.dispatcher.online(read_missed)

    async def shown(self, *pieces: str) -> int:
        answer = await self.handler.answer_next(*pieces)
        assert answer.turn_id is not None
        text = "".join(pieces)
        await self.platform.wait_for(
            lambda: any(page.text == text and not page.is_open for pages in self.platform.shown.values() for page in pages.values())
        )
        return answer.turn_id

    def page(self, text: str) -> Page:
        return Page(text)

    @property
    def questions(self) -> list[str]:
        return [message.message_id for message in self.handler.messages]


@asynccontextmanager
async def bench(**options: Any) -> AsyncIterator[Bench]:
    made = Bench(**options)
    async with asyncio.timeout(20):
        yield made
        await made.dispatcher.close(0)


async def nothing_missed(since: datetime) -> Missed:
    return Missed()


def start(message_id: str = "1", **fields: Any) -> Post:
    return post(message_id, **{"is_mention": True, "attachments": (image(),), **fields})


# --- which messages are for us


async def test_a_mention_starts_a_chat_and_its_thread_goes_on_without_one() -> None:
    async with bench() as b:
        await b.answered(start(), "A red circle.")
        assert b.platform.texts("c/1") == ["A red circle."]
        await b.answered(post("2", "And its size?", thread="1"), "It is large.")
        assert b.platform.texts("c/1") == ["A red circle.", "It is large."]
        assert [message.key for message in b.handler.messages] == [ThreadKey("memory", "w", "c", "1")] * 2


async def test_what_is_not_for_us_is_left_alone() -> None:
    async with bench() as b:
        await b.posted(post("1"))
        await b.posted(post("2", thread="someone's"))
        await b.posted(post("3", reply_to="someone's"))
        await b.posted(start("4", is_automatic=True))
        await b.edited(post("5"))
        await b.deleted("6")
        assert not b.questions
        assert not b.platform.shown


async def test_a_reply_to_an_answer_goes_on_with_its_chat() -> None:
    async with bench() as b:
        await b.answered(start(), "A red circle.")
        [reply_id] = b.platform.shown["c/1"]
        await b.answered(post("2", "Sure?", reply_to=reply_id), "Yes.")
        assert b.handler.messages[1].key == b.handler.messages[0].key


async def test_a_direct_message_after_a_picture_is_about_it_even_when_it_comes_at_once() -> None:
    async with bench() as b:
        slow = SlowImage()
        first = post("1", "", is_direct=True, is_own_room=True, channel="dm", attachments=(slow.attachment(),))
        posting = [asyncio.create_task(b.posted(first))]
        posting.append(asyncio.create_task(b.posted(post("2", "What colour?", is_direct=True, is_own_room=True, channel="dm"))))
        await slow.begun.wait()
        slow.go.set()
        await asyncio.wait(posting)
        await b.shown("A circle.")
        await b.shown("Red.")
        assert b.questions == ["1", "2"]
        assert b.handler.messages[1].key == b.handler.messages[0].key
        await b.answered(start("3", is_direct=True, is_own_room=True, channel="dm"), "A new one.")
        assert b.handler.messages[2].key != b.handler.messages[0].key


async def test_a_message_in_a_thread_whose_beginning_is_still_being_accepted_belongs_to_it() -> None:
    async with bench() as b:
        slow = SlowImage()
        beginning = asyncio.create_task(b.posted(start(attachments=(slow.attachment(),))))
        await slow.begun.wait()
        b.dispatcher.posted(post("2", "And?", thread="1"))
        slow.go.set()
        await beginning
        assert b.questions == ["1", "2"]


async def test_lists_of_who_may() -> None:
    async with bench(access=Access(deny=parse_entries("user:u-bob channel:x"))) as b:
        await b.posted(start("1", author=BOB))
        await b.posted(start("2", channel="x"))
        await b.posted(start("3", container_ids=frozenset({"x"})))
        assert not b.questions
        await b.posted(start("4"))
        assert b.questions == ["4"]


# --- once, whatever is delivered

deliveries = st.lists(st.sampled_from(["a", "b", "c", "delete a", "delete b"]), max_size=14)


@settings(max_examples=40)
@given(deliveries)
def test_a_message_is_answered_once_however_it_is_delivered(deliveries: list[str]) -> None:
    async def run() -> None:
        async with bench() as b:
            for delivery in deliveries:
                if delivery.startswith("delete "):
                    await b.deleted(delivery.removeprefix("delete "))
                else:
                    await b.posted(start(delivery))
            expected = []
            for delivery in deliveries:  # what comes after its own deletion is not answered
                if delivery not in expected and f"delete {delivery}" not in deliveries[: deliveries.index(delivery)]:
                    expected.append(delivery)
            assert b.questions == [message_id for message_id in expected if not message_id.startswith("delete")]

    asyncio.run(run())


async def test_the_same_message_at_the_same_time_is_answered_once() -> None:
    async with bench() as b:
        await asyncio.gather(*(b.posted(start()) for _ in range(5)))
        assert b.questions == ["1"]


async def test_a_message_that_was_answered_before_a_restart_is_not_answered_again() -> None:
    async with bench() as b:
        await b.answered(start(), "Red.")
        again = Dispatcher(b.platform, b.handler, Pace(0.0, 1e6))
        again.posted(start())
        await again.close()
        assert b.questions == ["1"]


# --- edits and deletes


async def test_an_edited_question_replaces_the_answer() -> None:
    async with bench() as b:
        await b.answered(start(), "A red circle.")
        await b.edited(start(text="How large is it?"))
        await b.shown("Large.")
        assert b.platform.texts("c/1") == ["Large."]
        await b.edited(start(text="How large is it?"))
        assert len(b.handler.messages) == 2


async def test_a_mention_that_is_added_by_an_edit_starts_a_chat() -> None:
    async with bench() as b:
        await b.posted(start(is_mention=False))
        assert not b.questions
        await b.edited(start())
        assert b.questions == ["1"]


async def test_a_deleted_question_takes_its_answer_with_it() -> None:
    async with bench() as b:
        await b.posted(start())
        answer = await b.handler.next_answer()
        await answer.add(AnswerText("A re"))
        await b.platform.wait_for(lambda: b.platform.texts("c/1") == ["A re"])
        await b.deleted("1")
        await b.platform.wait_for(lambda: b.platform.texts("c/1") == [])
        assert await b.handler.find_message("memory", "w", "1") is None


async def test_a_question_that_is_deleted_while_it_is_accepted_is_forgotten() -> None:
    async with bench() as b:
        slow = SlowImage()
        posting = asyncio.create_task(b.posted(start(attachments=(slow.attachment(),))))
        await slow.begun.wait()
        deleting = asyncio.create_task(b.deleted("1"))
        await asyncio.sleep(0)
        slow.go.set()
        await asyncio.wait({posting, deleting})
        assert await b.handler.find_message("memory", "w", "1") is None


async def test_a_room_that_is_gone_takes_its_chats_with_it() -> None:
    async with bench() as b:
        await b.answered(start(), "Red.")
        b.dispatcher.room_gone("w", "1")
        await b.settled()
        assert not await b.handler.has_chat(ThreadKey("memory", "w", "c", "1"))


# --- buttons


async def test_only_the_asker_and_moderators_stop_and_regenerate() -> None:
    async with bench() as b:
        await b.posted(start())
        answer = await b.handler.next_answer()
        assert answer.turn_id is not None
        assert await b.dispatcher.press(Control.STOP, answer.turn_id, BOB, is_moderator=False) == ONLY_ASKER
        assert not answer.is_stop_wanted.is_set()
        assert await b.dispatcher.press(Control.STOP, answer.turn_id, BOB, is_moderator=True) is None
        assert answer.is_stop_wanted.is_set()
        await answer.add(AnswerText("Old."))
        await b.handler.end(answer)
        await b.platform.wait_for(lambda: b.platform.texts("c/1") == ["Old."])
        assert await b.dispatcher.press(Control.REGENERATE, answer.turn_id, BOB, is_moderator=False) == ONLY_ASKER
        assert await b.dispatcher.press(Control.REGENERATE, answer.turn_id, ANN, is_moderator=False) is None
        await b.shown("New.")
        assert b.platform.texts("c/1") == ["New."]
        assert await b.dispatcher.press(Control.STOP, answer.turn_id, ANN, is_moderator=False) == "This answer has ended already."


async def test_buttons_work_after_a_restart_and_say_so_when_the_question_is_forgotten() -> None:
    async with bench() as b:
        turn_id = await b.answered(start(), "Old.")
        again = Dispatcher(b.platform, b.handler, Pace(0.0, 1e6))
        assert await again.press(Control.HELPFUL, turn_id, BOB, is_moderator=False) == "Thank you, I wrote that down."
        assert await again.press(Control.REGENERATE, turn_id, ANN, is_moderator=False) is None
        await b.shown("New.")
        assert b.platform.texts("c/1") == ["New."]
        assert await again.press(Control.REGENERATE, 999, ANN, is_moderator=False) == TURN_GONE
        await again.close()


# --- being away


async def test_what_an_earlier_run_left_is_shown_in_its_place() -> None:
    async with bench() as b:
        await b.posted(start())
        answer = await b.handler.next_answer()
        await answer.add(AnswerText("A re"))
        await b.platform.wait_for(lambda: b.platform.texts("c/1") == ["A re"])
        for task in list(b.dispatcher._screen._tasks):
            task.cancel()
        again = Dispatcher(b.platform, b.handler, Pace(0.0, 1e6))
        await again.online(nothing_missed)
        await answer.add(AnswerText("d circle."))
        await b.handler.end(answer)
        await b.platform.wait_for(lambda: b.platform.texts("c/1") == ["A red circle."])
        await again.close()
        assert not await b.handler.undelivered("memory")


async def test_what_is_asked_before_we_are_ready_is_painted_once() -> None:
    async with bench() as b:
        await b.posted(start())
        await b.dispatcher.online(nothing_missed)
        await b.shown("A red circle.")
        await b.dispatcher.close()
        assert b.platform.num_writes == 1


async def test_missed_messages_are_answered_once_oldest_first_and_not_too_many() -> None:
    async with bench(catch_up=CatchUp(timedelta(hours=1), max_posts=2)) as b:
        now = datetime.now(UTC)
        missed = [start(str(age), sent_at=now - timedelta(minutes=age)) for age in (5, 50, 20, 90, 10)]
        missed += [post("unrelated", sent_at=now), start("bot", is_automatic=True)]
        answering = asyncio.create_task(b.catches_up_on(*missed, *missed))
        await b.shown("One.")
        await b.shown("Two.")
        await answering
        assert sorted(b.questions) == ["10", "5"]
        await b.catches_up_on(*missed[:1])
        assert sorted(b.questions) == ["10", "5"]


async def test_what_follows_on_a_missed_beginning_is_answered_too() -> None:
    async with bench(catch_up=CatchUp(max_posts=2)) as b:
        now = datetime.now(UTC)
        following = [post(str(n), f"And {n}?", thread="1", sent_at=now - timedelta(seconds=20 - n)) for n in (2, 3, 4)]
        answering = asyncio.create_task(b.catches_up_on(*following, start(sent_at=now - timedelta(minutes=1))))
        await b.shown("A circle.")
        await b.shown("Large.")
        await answering
        assert b.questions == ["1", "4"]
        assert b.platform.texts("c/1") == ["A circle.", "Large."]


async def test_the_mark_says_from_when_on_something_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(catch_up=CatchUp(timedelta(hours=1))) as b:
        asked_since: list[datetime] = []

        async def read_missed(since: datetime) -> Missed:
            asked_since.append(since)
            return Missed()

        written, write_note = asyncio.Event(), b.handler.write_note

        async def note(platform: str, name: str, text: str) -> None:
            await write_note(platform, name, text)
            written.set()

        monkeypatch.setattr(b.handler, "write_note", note)
        await b.dispatcher.online(read_missed)
        assert asked_since == []  # we were never here before
        await written.wait()
        b.dispatcher.offline()
        await b.dispatcher.online(read_missed)
        b.dispatcher.offline()
        await b.handler.write_note("memory", "seen_until", (datetime.now(UTC) - timedelta(days=9)).isoformat())
        await b.dispatcher.online(read_missed)
        minutes = [(datetime.now(UTC) - since) / timedelta(minutes=1) for since in asked_since]
        assert minutes == [pytest.approx(2, abs=1), pytest.approx(60, abs=1)]


# --- sentences


def test_what_a_quota_says() -> None:
    now = datetime.now(UTC)
    assert quota_sentence(Quota(1), now) == "You have asked 1 question in the last 24 hours. There is no limit here."
    assert quota_sentence(Quota(3, 20), now) == "You have asked 3 questions in the last 24 hours, of 20."
    used_up = quota_sentence(Quota(20, 20, now + timedelta(hours=3)), now)
    assert used_up.endswith("which is the limit here. The next one is free in about 3 hours.")
    assert "about 25 minutes" in quota_sentence(Quota(2, 2, now + timedelta(minutes=25)), now)


async def test_forgetting_and_starting_anew() -> None:
    async with bench() as b:
        assert "nothing stored" in await b.dispatcher.forget(ANN.id, datetime.now(UTC))
        await b.answered(start(), "Red.")
        key = ThreadKey("memory", "w", "c", "1")
        assert "I have forgotten this chat" in await b.dispatcher.reset(key, datetime.now(UTC))
        assert await b.handler.has_chat(key)
        await b.answered(start("2", thread="1", is_mention=False), "Blue.")
        assert "deleted your question" in await b.dispatcher.forget(ANN.id, datetime.now(UTC))
        assert "There is no limit" in await b.dispatcher.quota("w", Author("u-new", "new"))
