"""How much one person may ask, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import AnswerStatus, AnswerText, Attachment, Author, Ended, IncomingMessage, Quota
from bot.images import ImageReader
from bot.limits import WINDOW, Limits, Shares, Ticket
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.writer import AnswerWriter
from tests.bot.doubles import (
    QUEUE_FULL,
    RED,
    ScriptedModel,
    attachment,
    begun,
    collect,
    end_of,
    message,
    text_of,
    thread,
)

ADA, BOB, OWNER = Author("1", "Ada"), Author("2", "Bob"), Author("local", "You")

NewLimited = Callable[..., ThreadChats]


@pytest.fixture
async def new_limited(sqlite_store: Store) -> AsyncIterator[NewLimited]:
    """Makes the bot with these limits over one store, as a fresh start of the program does."""
    made: list[ThreadChats] = []

    def make(model: ScriptedModel, *limits: Any) -> ThreadChats:
        reader, writer = ImageReader(1_000_000), AnswerWriter(sqlite_store, model)
        made.append(ThreadChats(sqlite_store, model, reader, writer, Limits(*limits)))
        return made[-1]

    yield make
    for chats in made:
        await chats.close(0)


def by(author: Author, name: str, *files: Attachment, message_id: str | None = None, text: str = "?") -> IncomingMessage:
    """A question of somebody's in the thread of this name."""
    return replace(message(text, *(files or [attachment(RED)]), key=thread(name), message_id=message_id), author=author)


async def ask_as(chats: ThreadChats, author: Author, name: str, *files: Attachment) -> Ended:
    return end_of(await collect(await chats.handle(by(author, name, *files))))


async def quota(chats: ThreadChats, author: Author = ADA) -> Quota:
    return await chats.quota("test", "workspace", author)


# -- whatever is asked when -------------------------------------------------------------------------------------------------

START = datetime(2026, 1, 1, tzinfo=UTC)
ANN = Author("ann", "Ann")


@settings(max_examples=150, deadline=None)
@given(
    limit=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 20 * 60), st.sampled_from(["answered", "failed", "deleted"])), max_size=25),
    num_before=st.integers(0, 5),
)
def test_never_more_than_the_limit_within_any_24_hours(limit: int, steps: list[tuple[int, str]], num_before: int) -> None:
    now = START
    before = [(-1 - index, START - timedelta(hours=23 - index)) for index in range(num_before)]

    async def asked_since(platform: str, author_id: str, since: datetime) -> Sequence[tuple[int, datetime]]:
        return before

    async def run() -> None:
        nonlocal now
        shares = Shares(Limits(limit), asked_since, lambda: now)
        counted = [at for _, at in before]
        for turn_id, (minutes, fate) in enumerate(steps):
            now += timedelta(minutes=minutes)
            said = await shares.quota("p", ANN)
            ticket = await shares.take("p", ANN)
            num_within = sum(at > now - WINDOW for at in counted)
            assert said.num_used == num_within
            assert isinstance(ticket, Ticket) == (num_within < limit)
            assert (said.next_at is None) == (num_within < limit)
            if isinstance(ticket, Ticket):
                ticket.turn_id = turn_id
                shares.give_back(ticket, counts=fate != "failed")
                if fate == "deleted":
                    shares.forget_turn("p", ANN.id, turn_id)
                elif fate == "answered":
                    counted.append(now)
            else:
                assert said.next_at is not None
                assert now < said.next_at <= now + WINDOW
                assert sum(at > said.next_at - timedelta(microseconds=1) - WINDOW for at in counted) >= limit  # not a moment sooner
                assert sum(at > said.next_at - WINDOW for at in counted) < limit

    asyncio.run(run())


class Clock:
    """Shares over nobody's earlier questions, or these, at a time that the test sets."""

    def __init__(self, limits: Limits, before: Sequence[tuple[int, datetime]] = ()) -> None:
        self.now = START
        self.asked_for: list[str] = []  # who was looked up in the store
        self._before = before
        self.shares = Shares(limits, self._asked_since, lambda: self.now)

    async def _asked_since(self, platform: str, author_id: str, since: datetime) -> Sequence[tuple[int, datetime]]:
        assert since == self.now - WINDOW
        self.asked_for.append(f"{platform} {author_id}")
        return self._before

    async def take(self, name: str) -> Ticket:
        ticket = await self.shares.take("p", Author(name, name))
        assert isinstance(ticket, Ticket)
        return ticket


async def test_who_has_not_asked_for_a_day_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.limits._NUM_REMEMBERED", 3)
    clock = Clock(Limits(5))
    shares = clock.shares
    for name in ("gone", "waits"):
        ticket = await clock.take(name)
        if name == "gone":
            shares.give_back(ticket, counts=True)
    clock.now += WINDOW
    shares.give_back(await clock.take("asked"), counts=True)
    assert (await shares.quota("p", Author("looked", "looked"))).num_used == 0  # the fourth: now those are looked for who may go
    assert set(shares._people) == {("p", "waits"), ("p", "asked"), ("p", "looked")}
    assert (await shares.quota("p", Author("asked", "asked"))).num_used == 1
    assert clock.asked_for == ["p gone", "p waits", "p asked", "p looked"]
    for number in range(3):
        await clock.take(f"more {number}")
    assert len(shares._people) == 6  # as many as twice those who were left, before anybody is looked for again


async def test_questions_that_wait_are_counted_one_by_one() -> None:
    shares = Clock(Limits(max_waiting_per_person=2)).shares
    first, second = await shares.take("p", ANN), await shares.take("p", ANN)
    assert isinstance(first, Ticket)
    assert isinstance(second, Ticket)
    assert "2 questions of yours" in str(await shares.take("p", ANN))
    shares.give_back(first, counts=True)
    third = await shares.take("p", ANN)
    assert isinstance(third, Ticket)
    assert "2 questions of yours" in str(await shares.take("p", ANN))
    open_one = await shares.take_open("p", ANN.id)
    for ticket in (second, third):
        shares.give_back(ticket, counts=False)
    assert isinstance(await shares.take("p", ANN), Ticket)
    assert "2 questions of yours" in str(await shares.take_again("p", ANN.id))
    shares.give_back(open_one, counts=False)
    assert isinstance(await shares.take_again("p", ANN.id), Ticket)


def test_roles_that_nobody_set_a_limit_for_change_nothing() -> None:
    assert Limits(3).of({"members"}) == Limits(3).of_anybody() == 3


async def test_who_may_ask_nothing_is_told_so() -> None:
    shares = Clock(Limits(0)).shares
    assert await shares.take("p", ANN) == "You may not ask questions here."
    assert await shares.quota("p", ANN) == Quota(0, 0)


async def test_what_is_asked_on_one_platform_does_not_count_on_another() -> None:
    shares = Clock(Limits(1)).shares
    assert isinstance(await shares.take("p", ANN), Ticket)
    assert isinstance(await shares.take("q", ANN), Ticket)
    assert isinstance(await shares.take("p", ANN), str)


async def test_a_deleted_question_is_taken_from_the_count_of_who_asked_it() -> None:
    clock = Clock(Limits(3), before=[(1, START), (2, START)])
    assert (await clock.shares.quota("p", ANN)).num_used == 2
    clock.shares.forget_turn("p", "somebody else", 1)
    clock.shares.forget_turn("q", ANN.id, 1)
    clock.shares.forget_turn("p", ANN.id, 7)
    assert (await clock.shares.quota("p", ANN)).num_used == 2
    clock.shares.forget_turn("p", ANN.id, 1)
    assert (await clock.shares.quota("p", ANN)).num_used == 1


async def test_whose_roles_are_not_known_may_ask_as_much_as_anybody() -> None:
    for limits, limit in ((Limits(1, {"a": 4, "b": 2}), 4), (Limits(1, {"a": None}), None), (Limits(None, {"a": 4}), None)):
        shares = Clock(limits).shares
        for _ in range(limit or 9):
            assert isinstance(await shares.take_again("p", ANN.id), Ticket)
        assert isinstance(await shares.take_again("p", ANN.id), str) == (limit is not None)
        assert (await shares.quota("p", ANN)).limit == limits.per_day  # now they are: none


@given(
    st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(1, 9)),
    st.none() | st.integers(1, 9),
    st.sets(st.sampled_from("abcd")),
)
def test_the_most_generous_role_replaces_the_general_limit(
    per_role: dict[str, int | None], per_day: int | None, roles: set[str]
) -> None:
    own = [per_role[role] for role in roles if role in per_role]
    expected = per_day if not own else None if None in own else max(number for number in own if number is not None)
    assert Limits(per_day, per_role).of(roles) == expected


# -- in the chats -------------------------------------------------------------------------------------------------------------


async def test_who_has_asked_enough_is_told_when_the_next_one_is_free(
    new_limited: NewLimited, model: ScriptedModel, sqlite_store: Store
) -> None:
    chats = new_limited(model, 2)
    for number in range(2):
        assert (await ask_as(chats, ADA, f"t{number}")).status is AnswerStatus.COMPLETE
    answer = await chats.handle(by(ADA, "t2"))
    assert answer.turn_id is None
    assert end_of(await collect(answer)) == Ended(
        AnswerStatus.FAILED,
        "You have asked 2 questions in the last 24 hours, which is the limit here. The next one is free in about 24 hours.",
    )
    assert not await chats.has_chat(thread("t2"))
    assert len(model.requests) == 2
    assert (await ask_as(chats, BOB, "t3")).status is AnswerStatus.COMPLETE
    told = await quota(chats)
    assert (told.num_used, told.limit) == (2, 2)
    assert told.next_at is not None
    assert timedelta(hours=23) < told.next_at - datetime.now(UTC) <= WINDOW


async def test_questions_at_the_same_time_do_not_slip_through_together(new_limited: NewLimited, model: ScriptedModel) -> None:
    chats = new_limited(model, 3)
    ended = await asyncio.gather(*(ask_as(chats, ADA, f"t{number}") for number in range(10)))
    assert sorted(one.status for one in ended) == [AnswerStatus.COMPLETE] * 3 + [AnswerStatus.FAILED] * 7
    assert len(model.requests) == 3


async def test_neither_a_restart_nor_forgetting_refills_it(new_limited: NewLimited, model: ScriptedModel) -> None:
    await ask_as(new_limited(model, 1), ADA, "one")
    restarted = new_limited(model, 1)
    assert (await ask_as(restarted, ADA, "two")).status is AnswerStatus.FAILED
    assert await restarted.forget_author("test", ADA.id) == 1
    assert (await ask_as(restarted, ADA, "three")).status is AnswerStatus.FAILED


async def test_what_was_not_answered_does_not_count(new_limited: NewLimited, model: ScriptedModel) -> None:
    chats = new_limited(model, 2)
    await ask_as(chats, ADA, "one", attachment(b"", "empty.png"))  # refused: no picture
    model.refusal = QUEUE_FULL
    await ask_as(chats, ADA, "two")
    model.refusal = None
    deleted = by(ADA, "three", message_id="m")
    await collect(await chats.handle(deleted))
    assert (await quota(chats)).num_used == 1
    assert await chats.retract("test", "workspace", "m") is not None
    assert (await quota(chats)).num_used == 1  # it was answered: deleting one's questions is no way round the limit


async def test_a_question_that_is_deleted_before_its_answer_does_not_count(new_limited: NewLimited, model: ScriptedModel) -> None:
    chats, model.gate, model.num_free = new_limited(model, 2), asyncio.Event(), 0
    await chats.handle(by(ADA, "one", message_id="m"))
    assert await chats.retract("test", "workspace", "m") is not None
    assert (await quota(chats)).num_used == 0


async def test_answering_again_and_asking_again_count(new_limited: NewLimited, model: ScriptedModel) -> None:
    chats = new_limited(model, 3)
    answer = await chats.handle(by(ADA, "one", message_id="m", text="First?"))
    await collect(answer)
    assert answer.turn_id is not None
    again = await chats.regenerate_turn(answer.turn_id)
    assert again is not None
    await collect(again)
    edited = await chats.ask_again(by(ADA, "one", message_id="m", text="Second?"))
    assert edited is not None
    await collect(edited)
    assert (await quota(chats)).num_used == 3
    for refused in (
        await chats.regenerate_turn(answer.turn_id),
        await chats.ask_again(by(ADA, "one", message_id="m", text="Third?")),
    ):
        assert refused is not None
        events = await collect(refused)
        assert text_of(events) == "Answer to: Second?"  # it stays, with the reason beside it
        assert "which is the limit here" in str(end_of(events).error)
    assert await chats.ask_again(by(ADA, "one", message_id="m", text="Second?")) is None  # nothing to refuse
    assert len(model.requests) == 3


async def test_a_role_that_may_ask_more_is_not_held_back_by_a_restart(new_limited: NewLimited, model: ScriptedModel) -> None:
    member = replace(ADA, role_ids=frozenset({"members"}))
    chats = new_limited(model, 1, {"members": 5})
    assert (await ask_as(chats, BOB, "one")).status is AnswerStatus.COMPLETE
    assert (await ask_as(chats, BOB, "one")).status is AnswerStatus.FAILED
    answer = await chats.handle(by(member, "two"))
    await collect(answer)
    assert (await ask_as(chats, member, "two")).status is AnswerStatus.COMPLETE
    assert answer.turn_id is not None
    again = await new_limited(model, 1, {"members": 5}).regenerate_turn(answer.turn_id)  # the button says nothing about roles
    assert again is not None
    assert end_of(await collect(again)).status is AnswerStatus.COMPLETE


async def test_the_owner_is_not_limited(new_limited: NewLimited, model: ScriptedModel) -> None:
    chats = new_limited(model, 1, {}, 1)
    model.gate = asyncio.Event()
    answers = [await chats.handle(by(OWNER, f"t{number}")) for number in range(3)]
    model.gate.set()
    assert [end_of(await collect(answer)).status for answer in answers] == [AnswerStatus.COMPLETE] * 3
    assert await quota(chats, OWNER) == Quota(3)


async def test_nobody_has_many_unanswered_questions_at_once(new_limited: NewLimited, model: ScriptedModel) -> None:
    chats = new_limited(model, None, {}, 2)
    model.gate = asyncio.Event()
    answers = [await chats.handle(by(ADA, f"t{number}")) for number in range(3)]
    assert answers[2].turn_id is None
    assert end_of(await collect(answers[2])).error == (
        "I am still answering 2 questions of yours. Please wait a little, so that the others get their answers too."
    )
    other = await chats.handle(by(BOB, "t3"))
    async for event in other.events():
        if isinstance(event, AnswerText):
            break
    model.gate.set()
    for answer in (*answers[:2], other):
        assert end_of(await collect(answer)).status is AnswerStatus.COMPLETE
    assert (await ask_as(chats, ADA, "t4")).status is AnswerStatus.COMPLETE


async def test_a_question_left_open_that_is_delivered_again_waits_too(new_limited: NewLimited, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    asked, first = by(ADA, "one"), new_limited(model, 5, {}, 1)
    await begun(await first.handle(asked))
    await first.close(0)
    restarted = new_limited(model, 5, {}, 1)
    again = await restarted.handle(asked)
    assert "still answering a question" in str((await ask_as(restarted, ADA, "two")).error)
    model.gate.set()
    await collect(again)
    assert (await ask_as(restarted, ADA, "two")).status is AnswerStatus.COMPLETE


async def test_what_was_left_open_by_a_restart_still_waits(new_limited: NewLimited, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    first = new_limited(model, 5, {}, 1)
    left = await first.handle(by(ADA, "one"))
    async for event in left.events():
        if isinstance(event, AnswerText):
            break
    await first.close(0)
    restarted = new_limited(model, 5, {}, 1)
    assert await restarted.resume() == 1
    assert "still answering a question" in str((await ask_as(restarted, ADA, "two")).error)
    model.gate.set()
    resumed = restarted.running_answer(thread("one"))
    assert resumed is not None
    await collect(resumed)
    assert (await ask_as(restarted, ADA, "two")).status is AnswerStatus.COMPLETE
    assert (await quota(restarted)).num_used == 2
