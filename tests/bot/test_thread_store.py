"""What platforms need that keep the messages themselves, in the store and over restarts; what they are promised is in
`test_handler_contract*.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.command import upgrade
from alembic.config import Config

import bot.database
from adapters.base import AnswerStatus, Attachment, Author, Ended, IncomingMessage, ThreadKey
from bot.chats import SHUTTING_DOWN
from bot.images import ImageReader
from bot.questions import DEFAULT_QUESTION
from bot.schema import Row
from bot.store import Store
from bot.thread_chats import UNDELIVERED_FOR, ThreadChats
from bot.writer import NO_IMAGE, AnswerWriter
from tests.bot.doubles import (
    BLUE,
    RED,
    Links,
    ScriptedModel,
    ask,
    asked,
    attachment,
    begun,
    collect,
    end_of,
    image,
    message,
    notices_of,
    num_rows,
    questions,
    text_of,
    thread,
)

NewThreads = Callable[..., ThreadChats]
ADA, BOB = Author("1", "Ada"), Author("2", "Bob")


@pytest.fixture
def chats(new_threads: NewThreads, model: ScriptedModel) -> ThreadChats:
    return new_threads(model)


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
    assert await collect(again) == [Ended(AnswerStatus.FAILED, NO_IMAGE)]
    assert model.requests == []


async def test_a_button_while_the_program_ends_keeps_the_answer(chats: ThreadChats) -> None:
    turn_id = await asked(chats, "?", attachment(RED))
    await chats.close(0)
    answer = await chats.regenerate_turn(turn_id)
    assert answer is not None
    events = await collect(answer)
    assert text_of(events) == "Answer to: ?"
    assert end_of(events) == Ended(AnswerStatus.FAILED, SHUTTING_DOWN)


# -- where answers stand ------------------------------------------------------------------------------------------------------


async def undelivered(chats: ThreadChats, platform: str = "test") -> list[tuple[int, str]]:
    return [(platform_turn.turn_id, text_of(await collect(answer))) for platform_turn, answer in await chats.undelivered(platform)]


async def test_what_is_not_known_to_stand_in_its_place_is_shown_until_it_does(
    chats: ThreadChats, model: ScriptedModel, new_threads: NewThreads
) -> None:
    first = await asked(chats, "First?", attachment(RED))
    second = await asked(chats, "Second?")
    model.gate = asyncio.Event()
    third = await chats.handle(message("Third?"))
    found = await chats.undelivered("test")
    assert [platform_turn.turn_id for platform_turn, _ in found] == [first, second, third.turn_id]
    assert found[2][1] is third
    model.gate.set()
    await collect(third)
    await chats.set_reply(second, ["a"], is_delivered=True)
    restarted = new_threads(model)
    assert await undelivered(restarted) == [(first, "Answer to: First?"), (third.turn_id, "Answer to: Third?")]
    assert await undelivered(restarted, "other") == []


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
    assert end_of(await ask(chats, "And now?")) == Ended(AnswerStatus.FAILED, NO_IMAGE)
    model.gate.set()
    await asked(chats, "Third?", attachment(BLUE))
    assert questions(model.requests[-1]) == ["Third?"]


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
        chats = ThreadChats(after, model, ImageReader(1), AnswerWriter(after, model))
        assert await chats.undelivered("test") == []
        assert (await after.add_turn(thread(), "m2", "New?")).turn_id > kept.turn_id
    finally:
        await after.close()
