"""What platforms need that keep the messages themselves: edits, deletes, late buttons, and answers that find their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.command import upgrade
from alembic.config import Config

import bot.database
from adapters.base import Answer, AnswerStatus, AnswerText, Attachment, Author, Ended, IncomingMessage, ThreadKey
from bot.chats import SHUTTING_DOWN
from bot.pictures import PictureReader
from bot.questions import DEFAULT_QUESTION
from bot.schema import Row
from bot.store import Store
from bot.thread_chats import UNDELIVERED_FOR, ThreadChats
from bot.writer import NO_PICTURE, AnswerWriter
from tests.bot.doubles import (
    BLUE,
    QUEUE_FULL,
    RED,
    Links,
    ScriptedModel,
    ask,
    attachment,
    collect,
    end_of,
    image,
    message,
    notices_of,
    questions,
    text_of,
    thread,
)

NewThreads = Callable[..., ThreadChats]
ADA, BOB = Author("1", "Ada"), Author("2", "Bob")


@pytest.fixture
async def new_threads(sqlite_store: Store, links: Links) -> AsyncIterator[NewThreads]:
    """Makes the bot over one store, as a fresh start of the program does."""
    made: list[ThreadChats] = []

    def make(model: ScriptedModel, **options: Any) -> ThreadChats:
        writer = AnswerWriter(sqlite_store, model)
        made.append(ThreadChats(sqlite_store, model, PictureReader(1_000_000, links.fetch), writer, **options))
        return made[-1]

    yield make
    for chats in made:
        await chats.close(0)


@pytest.fixture
def chats(new_threads: NewThreads, model: ScriptedModel) -> ThreadChats:
    return new_threads(model)


async def num_rows(store: Store, table: str) -> int:
    async with store.reading() as session:
        return int(await session.scalar(sa.select(sa.func.count()).select_from(Row.metadata.tables[table])) or 0)


async def begun(answer: Answer) -> None:
    """Until the first word is there."""
    async with asyncio.timeout(20):
        async for event in answer.events():
            if isinstance(event, AnswerText):
                return


async def asked(chats: ThreadChats, text: str, *files: Attachment, **options: Any) -> int:
    """Ask, wait for the answer, and give the turn's id."""
    answer = await chats.handle(message(text, *files, **options))
    await collect(answer)
    assert answer.turn_id is not None
    return answer.turn_id


# -- edits ------------------------------------------------------------------------------------------------------------------


async def test_an_edited_question_is_answered_anew_with_the_turns_before_it_only(chats: ThreadChats, model: ScriptedModel) -> None:
    await asked(chats, "First?", attachment(RED))
    await asked(chats, "Second?", message_id="m")
    await asked(chats, "Third?")
    answer = await chats.ask_again(message("Changed?", message_id="m"))
    assert answer is not None
    assert text_of(await collect(answer)) == "Answer to: Changed?"
    assert questions(model.requests[-1]) == ["First?", "Changed?"]
    chat = await chats.read_chat(thread())
    assert chat is not None
    assert [(turn.question, turn.answer) for turn in chat.turns] == [
        (question, f"Answer to: {question}") for question in ("First?", "Changed?", "Third?")
    ]


async def test_a_question_that_says_the_same_is_not_asked_again(chats: ThreadChats, model: ScriptedModel) -> None:
    assert await chats.ask_again(message("?", attachment(RED), message_id="unknown")) is None
    for text in ("What is this?", ""):
        question = message(text, attachment(RED), message_id=f"m{text}")
        await collect(await chats.handle(question))
        assert await chats.ask_again(question) is None
    assert len(model.requests) == 2


async def test_an_unchanged_question_whose_pictures_are_gone_from_the_platform_keeps_its_answer(chats: ThreadChats) -> None:
    await asked(chats, "What is this?", attachment(RED), message_id="m")
    assert await chats.ask_again(message("What is this?", attachment("it is gone"), message_id="m")) is None


async def test_the_newest_pictures_of_a_question_replace_the_earlier_ones(
    chats: ThreadChats, model: ScriptedModel, sqlite_store: Store
) -> None:
    turn_id = await asked(chats, "What is this?", attachment(RED), message_id="m")
    answer = await chats.ask_again(message("What is this?", attachment(BLUE), message_id="m"))
    assert answer is not None
    assert answer.turn_id == turn_id
    await collect(answer)
    assert model.requests[-1].messages[0].images == (image("blue"),)
    assert await num_rows(sqlite_store, "images") == 1


async def test_another_link_is_another_question(chats: ThreadChats, model: ScriptedModel, links: Links) -> None:
    links.contents = {"https://example.org/red.png": RED, "https://example.org/blue.png": BLUE}
    question = message("What is https://example.org/red.png", message_id="m")
    await collect(await chats.handle(question))
    assert await chats.ask_again(question) is None
    answer = await chats.ask_again(replace(question, text="What is https://example.org/blue.png"))
    assert answer is not None
    await collect(answer)
    assert model.requests[-1].messages[0].images == (image("blue"),)


async def test_an_edit_while_it_is_answered_stops_the_old_answer(chats: ThreadChats, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    first = await chats.handle(message("First?", attachment(RED), message_id="m"))
    await begun(first)
    async with asyncio.timeout(20):
        second = await chats.ask_again(message("Second?", attachment(RED), message_id="m"))
    assert second is not None
    assert end_of(await collect(first)).status is AnswerStatus.STOPPED
    assert model.streams[0].is_cancelled
    model.gate.set()
    assert text_of(await collect(second)) == "Answer to: Second?"


async def test_a_question_whose_picture_is_taken_away_is_refused_and_loses_its_answer(
    chats: ThreadChats, sqlite_store: Store
) -> None:
    await asked(chats, "What is this?", attachment(RED), message_id="m")
    refused = await chats.ask_again(message("What is that?", message_id="m"))
    assert refused is not None
    assert await collect(refused) == [Ended(AnswerStatus.FAILED, NO_PICTURE)]
    [turn] = await sqlite_store.read_turns(thread())
    assert (turn.is_refused, turn.answer, turn.image_ids) == (True, "", ())
    answer = await chats.ask_again(message("What is that?", attachment(BLUE), message_id="m"))
    assert answer is not None
    assert end_of(await collect(answer)).status is AnswerStatus.COMPLETE


async def test_an_edit_never_puts_a_question_to_the_picture_before_its_own(chats: ThreadChats, model: ScriptedModel) -> None:
    await asked(chats, "Red?", attachment(RED))
    blue = message("Blue?", attachment(BLUE), message_id="m")
    await collect(await chats.handle(blue))
    without = await chats.ask_again(replace(blue, text="What is that?", attachments=()))
    assert without is not None
    assert end_of(await collect(without)) == Ended(AnswerStatus.FAILED, NO_PICTURE)
    assert end_of(await ask(chats, "And this?")) == Ended(AnswerStatus.FAILED, NO_PICTURE)
    again = await chats.ask_again(blue)
    assert again is not None
    assert text_of(await collect(again)) == "Answer to: Blue?"
    await asked(chats, "And now?")
    assert [m.images for m in model.requests[-1].messages] == [(image("blue"),), (), ()]


async def test_a_chat_is_called_after_its_first_question_as_it_is_now(chats: ThreadChats) -> None:
    await asked(chats, "First?", attachment(RED), message_id="m")
    await asked(chats, "Second?")
    titles = []
    answer = await chats.ask_again(message("Changed?", attachment(RED), message_id="m"))
    assert answer is not None
    await collect(answer)
    titles += [chat.title for chat in await chats.list_chats("test", "workspace")]
    assert await chats.retract("test", "workspace", "m")
    titles += [chat.title for chat in await chats.list_chats("test", "workspace")]
    assert await chats.reset_chat(thread())
    await asked(chats, "Anew?", attachment(RED))
    titles += [chat.title for chat in await chats.list_chats("test", "workspace")]
    assert titles == ["Changed?", "Second?", "Anew?"]


async def test_an_endless_edit_is_refused_and_the_question_stays(chats: ThreadChats, sqlite_store: Store) -> None:
    await asked(chats, "What is this?", attachment(RED), message_id="m")
    refused = await chats.ask_again(message("x" * 100_000, attachment(RED), message_id="m"))
    assert refused is not None
    assert "too long" in str(end_of(await collect(refused)).error)
    [turn] = await sqlite_store.read_turns(thread())
    assert turn.question == "What is this?"


async def test_a_full_queue_does_not_lose_an_edited_question(chats: ThreadChats, model: ScriptedModel, sqlite_store: Store) -> None:
    await asked(chats, "What is this?", attachment(RED), message_id="m")
    await asked(chats, "And this?")
    model.refusal = QUEUE_FULL
    answer = await chats.ask_again(message("What is that?", attachment(RED), message_id="m"))
    assert answer is not None
    assert end_of(await collect(answer)).status is AnswerStatus.FAILED
    assert [turn.question for turn in await sqlite_store.read_turns(thread())] == ["What is that?", "And this?"]
    model.refusal = None
    assert answer.turn_id is not None
    again = await chats.regenerate_turn(answer.turn_id)
    assert again is not None
    assert text_of(await collect(again)) == "Answer to: What is that?"


# -- deletes ----------------------------------------------------------------------------------------------------------------


async def test_a_deleted_question_is_stopped_and_forgotten_with_its_picture_and_chat(
    chats: ThreadChats, model: ScriptedModel, sqlite_store: Store
) -> None:
    model.gate = asyncio.Event()
    question = replace(message("?", attachment(RED), message_id="m"), reply_place="there")
    answer = await chats.handle(question)
    await begun(answer)
    assert answer.turn_id is not None
    await chats.set_reply(answer.turn_id, ["a", "b"], is_delivered=False)
    async with asyncio.timeout(20):
        place = await chats.retract("test", "workspace", "m")
    assert place is not None
    assert (place.turn_id, place.key, place.message_id) == (answer.turn_id, thread(), "m")
    assert (place.author_id, place.reply_place, place.reply_ids) == ("1", "there", ("a", "b"))
    assert end_of(await collect(answer)).status is AnswerStatus.STOPPED
    assert model.streams[0].is_cancelled
    for table in ("chats", "turns", "images", "turn_images", "replies"):
        assert await num_rows(sqlite_store, table) == 0
    assert await chats.retract("test", "workspace", "m") is None


async def test_a_message_of_ours_that_is_deleted_takes_no_question_with_it(chats: ThreadChats) -> None:
    turn_id = await asked(chats, "?", attachment(RED))
    await chats.set_reply(turn_id, ["a"], is_delivered=True)
    assert await chats.retract("test", "workspace", "a") is None
    assert await chats.find_turn(turn_id) is not None


async def test_the_other_turns_of_the_chat_stay(chats: ThreadChats, model: ScriptedModel) -> None:
    await asked(chats, "First?", attachment(RED))
    await asked(chats, "Second?", message_id="m")
    assert await chats.retract("test", "workspace", "m")
    await asked(chats, "Third?")
    assert questions(model.requests[-1]) == ["First?", "Third?"]


async def test_a_question_that_is_deleted_while_it_waits_in_its_thread_is_gone_at_once(
    chats: ThreadChats, model: ScriptedModel
) -> None:
    await asked(chats, "First?", attachment(RED))
    model.gate = asyncio.Event()
    writing = await chats.handle(message("Second?"))
    await begun(writing)
    waiting = await chats.handle(message("Third?", message_id="m"))
    last = await chats.handle(message("Fourth?"))
    async with asyncio.timeout(20):
        assert await chats.retract("test", "workspace", "m") is not None
    assert end_of(await collect(waiting)).status is AnswerStatus.STOPPED
    assert chats.running_answer(thread()) is writing
    model.gate.set()
    await collect(last)
    assert model.steps == [(step, f"{name}?") for name in ("First", "Second", "Fourth") for step in ("begin", "end")]
    assert questions(model.requests[-1]) == ["First?", "Second?", "Fourth?"]


async def test_a_question_that_is_deleted_while_its_picture_is_fetched_is_forgotten(
    chats: ThreadChats, model: ScriptedModel, sqlite_store: Store
) -> None:
    model.gate = asyncio.Event()
    is_fetching, may_go_on = asyncio.Event(), asyncio.Event()

    async def fetch(max_bytes: int) -> bytes:
        is_fetching.set()
        await may_go_on.wait()
        return RED

    slow = replace(attachment(RED), fetch=fetch)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        asking = group.create_task(chats.handle(message("?", slow, message_id="m")))
        await is_fetching.wait()
        deleting = group.create_task(chats.retract("test", "workspace", "m"))
        await asyncio.sleep(0)  # it has begun
        may_go_on.set()
    assert deleting.result() is not None
    assert end_of(await collect(asking.result())).status is AnswerStatus.STOPPED
    assert await num_rows(sqlite_store, "turns") == 0


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_what_was_asked_about_a_deleted_picture_is_not_put_to_the_one_before(
    chats: ThreadChats, model: ScriptedModel, is_forgotten: bool
) -> None:
    await asked(chats, "Red?", attachment(RED))
    await collect(await chats.handle(replace(message("Blue?", attachment(BLUE), message_id="m"), author=BOB)))
    turn_id = await asked(chats, "And how large?")
    assert await (chats.forget_author("test", BOB.id) if is_forgotten else chats.retract("test", "workspace", "m"))
    again = await chats.regenerate_turn(turn_id)
    assert again is not None
    assert "send me one" in str(end_of(await collect(again)).error)
    assert end_of(await ask(chats, "And what else?")) == Ended(AnswerStatus.FAILED, NO_PICTURE)
    await asked(chats, "Blue, then?", attachment(BLUE))
    assert [(m.text, m.images) for m in model.requests[-1].messages] == [("Blue, then?", (image("blue"),))]


async def test_a_picture_that_the_full_queue_takes_back_is_not_exchanged_for_the_one_before(
    chats: ThreadChats, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asked(chats, "Red?", attachment(RED))
    model.gate = asyncio.Event()
    await begun(await chats.handle(message("And how large?")))
    blue = await chats.handle(message("Blue?", attachment(BLUE)))
    following = await chats.handle(message("And what else?"))
    submit = model.submit

    def refuse_blue(request: Any) -> Any:
        if request.messages[-1].text == "Blue?":
            raise QUEUE_FULL
        return submit(request)

    monkeypatch.setattr(model, "submit", refuse_blue)
    model.gate.set()
    assert end_of(await collect(blue)) == Ended(AnswerStatus.FAILED, str(QUEUE_FULL))
    assert end_of(await collect(following)) == Ended(AnswerStatus.FAILED, NO_PICTURE)


# -- buttons ----------------------------------------------------------------------------------------------------------------


async def test_any_turn_is_answered_again_with_the_turns_before_it_only(
    chats: ThreadChats, model: ScriptedModel, new_threads: NewThreads
) -> None:
    turn_ids = [await asked(chats, "First?", attachment(RED)), await asked(chats, "Second?"), await asked(chats, "Third?")]
    restarted = new_threads(model)  # a button outlives the program
    model.answer = "Something else"
    answer = await restarted.regenerate_turn(turn_ids[1])
    assert answer is not None
    assert answer.turn_id == turn_ids[1]
    assert text_of(await collect(answer)) == "Something else"
    assert questions(model.requests[-1]) == ["First?", "Second?"]
    assert await restarted.regenerate_turn(999) is None


async def test_while_it_is_written_again_the_running_answer_is_given(chats: ThreadChats, model: ScriptedModel) -> None:
    turn_id = await asked(chats, "First?", attachment(RED))
    await asked(chats, "Second?")
    model.gate = asyncio.Event()
    answer = await chats.regenerate_turn(turn_id)
    assert answer is not None
    assert await chats.regenerate_turn(turn_id) is answer
    assert chats.running_turn(turn_id) is answer
    model.gate.set()
    await collect(answer)
    await chats.close(20)
    assert chats.running_turn(turn_id) is None
    assert len(model.requests) == 3


async def test_a_refused_question_is_refused_again(chats: ThreadChats, model: ScriptedModel) -> None:
    answer = await chats.handle(message("?"))
    assert answer.turn_id is not None
    again = await chats.regenerate_turn(answer.turn_id)
    assert again is not None
    assert await collect(again) == [Ended(AnswerStatus.FAILED, NO_PICTURE)]
    assert model.requests == []


async def test_a_button_while_the_program_ends_keeps_the_answer(chats: ThreadChats) -> None:
    turn_id = await asked(chats, "?", attachment(RED))
    await chats.close(0)
    answer = await chats.regenerate_turn(turn_id)
    assert answer is not None
    events = await collect(answer)
    assert text_of(events) == "Answer to: ?"
    assert end_of(events) == Ended(AnswerStatus.FAILED, SHUTTING_DOWN)


async def test_the_last_rating_counts(chats: ThreadChats, sqlite_store: Store) -> None:
    turn_id = await asked(chats, "?", attachment(RED))
    assert await chats.rate(turn_id, "2", is_helpful=True)
    assert await chats.rate(turn_id, "2", is_helpful=False)
    assert await chats.rate(turn_id, "3", is_helpful=True)
    async with sqlite_store.reading() as session:
        ratings = (await session.execute(sa.select(Row.metadata.tables["ratings"]))).all()
    assert sorted(tuple(rating) for rating in ratings) == [(turn_id, "2", False), (turn_id, "3", True)]
    assert not await chats.rate(999, "2", is_helpful=True)


# -- where answers stand ------------------------------------------------------------------------------------------------------


async def test_a_message_is_found_by_the_question_or_by_what_shows_the_answer(chats: ThreadChats) -> None:
    turn_id = await asked(chats, "?", attachment(RED), message_id="m")
    await chats.set_reply(turn_id, ["a", "b"], is_delivered=False)
    await chats.set_reply(turn_id, ["b", "c"], is_delivered=True)
    for message_id in ("m", "b", "c"):
        place = await chats.find_message("test", "workspace", message_id)
        assert place is not None
        assert (place.turn_id, place.reply_ids) == (turn_id, ("b", "c"))
        assert place == await chats.find_turn(turn_id)
        assert await chats.find_message("test", "elsewhere", message_id) is None
        assert await chats.find_message("other", "workspace", message_id) is None
    assert await chats.find_message("test", "workspace", "a") is None
    await chats.set_reply(999, ["x"], is_delivered=True)
    assert await chats.find_message("test", "workspace", "x") is None


async def undelivered(chats: ThreadChats, platform: str = "test") -> list[tuple[int, str]]:
    return [(place.turn_id, text_of(await collect(answer))) for place, answer in await chats.undelivered(platform)]


async def test_what_is_not_known_to_stand_in_its_place_is_shown_until_it_does(
    chats: ThreadChats, model: ScriptedModel, new_threads: NewThreads
) -> None:
    first = await asked(chats, "First?", attachment(RED))
    second = await asked(chats, "Second?")
    model.gate = asyncio.Event()
    third = await chats.handle(message("Third?"))
    found = await chats.undelivered("test")
    assert [place.turn_id for place, _ in found] == [first, second, third.turn_id]
    assert found[2][1] is third
    model.gate.set()
    await collect(third)
    await chats.set_reply(second, ["a"], is_delivered=True)
    restarted = new_threads(model)
    assert await undelivered(restarted) == [(first, "Answer to: First?"), (third.turn_id, "Answer to: Third?")]
    assert await undelivered(restarted, "other") == []


async def test_what_is_written_anew_has_to_be_shown_anew(chats: ThreadChats, sqlite_store: Store) -> None:
    turn_id = await asked(chats, "First?", attachment(RED), message_id="m")
    edited = message("Else?", attachment(RED), message_id="m")
    ways = partial(chats.regenerate_turn, turn_id), partial(chats.ask_again, edited)
    for again in ways:
        await chats.set_reply(turn_id, ["a"], is_delivered=True)
        assert await chats.undelivered("test") == []
        answer = await again()
        assert answer is not None
        await collect(answer)
        [(place, _)] = await chats.undelivered("test")
        assert (place.turn_id, place.reply_ids) == (turn_id, ("a",))


async def test_what_is_older_than_some_days_is_left_alone(chats: ThreadChats, sqlite_store: Store) -> None:
    old, again = await asked(chats, "Old?", attachment(RED)), await asked(chats, "Again?")
    long_ago = datetime.now(UTC) - UNDELIVERED_FOR - timedelta(hours=1)
    async with sqlite_store.writing() as session:
        await session.execute(sa.update(Row.metadata.tables["turns"]).values(created_at=long_ago, finished_at=long_ago))
    assert await chats.undelivered("test") == []
    answer = await chats.regenerate_turn(again)
    assert answer is not None
    await collect(answer)
    assert [turn_id for turn_id, _ in await undelivered(chats)] == [again]
    assert await chats.find_turn(old) is not None


async def test_a_question_that_is_being_accepted_is_answered_once_all_the_same(
    chats: ThreadChats, model: ScriptedModel, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that has just connected asks what is undelivered while messages come in already."""
    add_turn = sqlite_store.add_turn
    found: list[Sequence[Any]] = []

    async def add_and_look(*args: Any, **options: Any) -> Any:
        turn = await add_turn(*args, **options)
        found.append(await chats.undelivered("test"))
        return turn

    monkeypatch.setattr(sqlite_store, "add_turn", add_and_look)
    answer = await chats.handle(message("?", attachment(RED)))
    await collect(answer)
    assert len(model.requests) == 1
    assert all(other is answer for seen in found for _, other in seen)


# -- chats and people ---------------------------------------------------------------------------------------------------------


async def test_a_chat_that_is_reset_stays_in_its_thread(chats: ThreadChats, model: ScriptedModel, sqlite_store: Store) -> None:
    assert not await chats.reset_chat(thread())
    assert not await chats.has_chat(thread())
    await asked(chats, "First?", attachment(RED))
    model.gate = asyncio.Event()
    answer = await chats.handle(message("Second?"))
    async with asyncio.timeout(20):
        assert await chats.reset_chat(thread())
    assert end_of(await collect(answer)).status is AnswerStatus.STOPPED
    assert await chats.has_chat(thread())
    for table in ("turns", "images"):
        assert await num_rows(sqlite_store, table) == 0
    assert end_of(await ask(chats, "And now?")) == Ended(AnswerStatus.FAILED, NO_PICTURE)
    model.gate.set()
    await asked(chats, "Third?", attachment(BLUE))
    assert questions(model.requests[-1]) == ["Third?"]


async def test_the_chat_of_a_channel_that_was_touched_last(chats: ThreadChats) -> None:
    assert await chats.latest_chat("test", "workspace", "channel") is None
    for name in ("one", "two", "one"):
        await asked(chats, "?", attachment(RED), key=thread(name))
        assert await chats.latest_chat("test", "workspace", "channel") == thread(name)
    assert await chats.latest_chat("test", "workspace", "elsewhere") is None


async def test_a_room_takes_its_chats_with_it(chats: ThreadChats) -> None:
    keys = [ThreadKey("test", "workspace", channel, name) for channel, name in (("c", "1"), ("c", "2"), ("d", "c"), ("d", "3"))]
    for key in keys:
        await asked(chats, "?", attachment(RED), key=key)
    assert await chats.delete_room("test", "elsewhere", "c") == 0
    assert await chats.delete_room("test", "workspace", "3") == 1
    assert await chats.delete_room("test", "workspace", "c") == 3
    assert not any([await chats.has_chat(key) for key in keys])


async def test_somebody_is_forgotten_everywhere_and_others_are_not(
    chats: ThreadChats, model: ScriptedModel, sqlite_store: Store
) -> None:
    def by(author: Author, text: str, *files: Attachment, workspace: str = "workspace") -> IncomingMessage:
        key = ThreadKey("test", workspace, "channel", "one")
        return replace(message(text, *files, key=key), author=author)

    kept = await chats.handle(by(BOB, "Mine?", attachment(BLUE)))
    await collect(kept)
    assert kept.turn_id is not None
    await chats.rate(kept.turn_id, ADA.id, is_helpful=True)
    await collect(await chats.handle(by(ADA, "Hers?", attachment(RED))))
    model.gate = asyncio.Event()
    running = await chats.handle(by(ADA, "Hers, elsewhere?", attachment(RED), workspace="other"))
    await begun(running)
    async with asyncio.timeout(20):
        assert await chats.forget_author("test", ADA.id) == 2
    assert end_of(await collect(running)).status is AnswerStatus.STOPPED
    assert [await num_rows(sqlite_store, table) for table in ("chats", "turns", "images", "ratings")] == [1, 1, 1, 0]
    assert await chats.find_turn(kept.turn_id) is not None
    assert await chats.forget_author("test", ADA.id) == 0


async def test_notes_are_kept_per_platform_and_replaced(chats: ThreadChats, new_threads: NewThreads, model: ScriptedModel) -> None:
    assert await chats.read_note("test", "mark") is None
    for text in ("first", "second"):
        await chats.write_note("test", "mark", text)
    assert await new_threads(model).read_note("test", "mark") == "second"
    assert await chats.read_note("other", "mark") is None


# -- pictures -----------------------------------------------------------------------------------------------------------------


async def test_the_same_picture_once_more_starts_no_new_chat(chats: ThreadChats, model: ScriptedModel) -> None:
    await asked(chats, "First?", attachment(RED))
    events = await ask(chats, "Second?", attachment(RED))
    assert notices_of(events) == []
    assert questions(model.requests[-1]) == ["First?", "Second?"]
    assert [m.images for m in model.requests[-1].messages] == [(image("red"),), (), ()]


async def test_pictures_near_by_are_looked_for_only_when_there_is_none(chats: ThreadChats, model: ScriptedModel) -> None:
    looked: list[str] = []

    def near(text: str, *files: Attachment) -> IncomingMessage:
        async def look_back() -> Sequence[Attachment]:
            looked.append(text)
            return [attachment(RED)]

        return replace(message(text, *files), look_back=look_back)

    await collect(await chats.handle(near("First?")))
    assert model.requests[-1].messages[0].images == (image("red"),)
    await collect(await chats.handle(near("Second?")))
    await collect(await chats.handle(near("Third?", attachment(BLUE))))
    assert looked == ["First?"]


async def test_a_link_that_an_attachment_stands_for_is_not_fetched_twice(
    chats: ThreadChats, model: ScriptedModel, links: Links
) -> None:
    resolved = replace(attachment(RED), link="https://example.org/page")
    await asked(chats, "What is https://example.org/page ?", resolved)
    assert links.asked == []
    assert questions(model.requests[-1]) == ["What is ?"]
    await asked(chats, "https://example.org/page", resolved, key=thread("two"))
    assert questions(model.requests[-1]) == [DEFAULT_QUESTION]


# -- the database -------------------------------------------------------------------------------------------------------------


async def test_a_database_of_before_is_brought_up_to_date_with_its_rows(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_version(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(bot.database.__file__).with_name("migrations")))
        config.attributes["connection"] = connection
        upgrade(config, "0001")

    with monkeypatch.context() as patch:
        patch.setattr("bot.database._migrate", first_version)
        before = await Store.open(store_url)
    chat = "INSERT INTO chats (platform, workspace, channel, thread, title, updated_at) VALUES "
    turn = (
        "INSERT INTO turns (chat_id, platform, workspace, message_id, is_start, is_refused, question, answer, status, notices,"
        " num_attempts, created_at) SELECT id, platform, workspace, 'm', true, false, 'Old?', 'Yes.', 'complete', '[]', 0,"
        " updated_at FROM chats"
    )
    async with before._engine.begin() as connection:
        await connection.execute(sa.text(f"{chat} ('test', 'workspace', 'channel', 'one', 'Old?', '2026-11-22 00:00:00+00')"))
        await connection.execute(sa.text(turn))
    await before.close()
    after = await Store.open(store_url)
    try:
        [kept] = await after.read_turns(thread())
        assert (kept.question, kept.answer, kept.author_id, kept.reply_ids) == ("Old?", "Yes.", "local", ())
        model = ScriptedModel()
        chats = ThreadChats(after, model, PictureReader(1), AnswerWriter(after, model))
        assert await chats.undelivered("test") == []
        assert (await after.add_turn(thread(), "m2", "New?")).turn_id > kept.turn_id
    finally:
        await after.close()
