"""The store, on every database that it supports."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.base import AnswerStatus, ThreadKey
from bot.database import StoreError
from bot.limits import OWNER
from bot.schema import ChatRow, Row, clean
from bot.store import Store, shorten
from tests.bot.doubles import image, thread


async def _num_rows(store: Store, table: str) -> int:
    async with store.reading() as session:
        return int(await session.scalar(sa.select(sa.func.count()).select_from(Row.metadata.tables[table])) or 0)


async def test_a_turn_is_written_pending_and_finished_once(store: Store) -> None:
    red = image()
    turn = await store.add_turn(thread(), "m1", "What is this?", images=[red], is_start=True, notices=["A notice."])
    assert (turn.status, turn.image_ids, turn.is_start) == (AnswerStatus.PENDING, (red.sha256,), True)
    assert await store.pending_turns() == [turn]

    await store.finish_turn(
        turn.turn_id, AnswerStatus.COMPLETE, answer="A circle.", token_ids=[5, 6, 2], notices=["A notice.", "More."]
    )

    [kept] = await store.read_turns(thread())
    assert (kept.answer, kept.token_ids, kept.status, kept.notices) == (
        "A circle.",
        (5, 6, 2),
        AnswerStatus.COMPLETE,
        ("A notice.", "More."),
    )
    assert await store.pending_turns() == []
    assert await store.find_turn("test", "workspace", "m1") == kept
    assert await store.find_turn("other", "workspace", "m1") is None


async def test_what_is_not_said_about_a_question(store: Store) -> None:
    turn = await store.add_turn(thread(), "m1", "What is this?")
    assert (turn.author_id, turn.destination, turn.image_ids, turn.notices, turn.error) == (OWNER, "", (), (), None)
    assert not turn.is_start
    assert not turn.is_refused


async def test_attempts_are_counted(store: Store) -> None:
    first, second = [await store.add_turn(thread(), name, "?") for name in ("m1", "m2")]
    for num_attempts in (1, 2):
        await store.count_attempt(first.turn_id)
        attempts = {turn.turn_id: turn.num_attempts for turn in await store.pending_turns()}
        assert attempts == {first.turn_id: num_attempts, second.turn_id: 0}


async def test_turns_come_in_the_order_of_their_questions(store: Store) -> None:
    """Whatever changed in between: a database may keep a row that changed behind the others."""
    first, second = [await store.add_turn(thread(), name, "?") for name in ("m1", "m2")]
    await store.finish_turn(first.turn_id, AnswerStatus.COMPLETE, answer="x")
    await store.replace_question(first.turn_id, "Again?")
    for turns in (await store.pending_turns(), await store.read_turns(thread())):
        assert [turn.turn_id for turn in turns] == [first.turn_id, second.turn_id]
    chat = await store.read_chat(thread())
    assert chat is not None
    assert [turn.question for turn in chat.turns] == ["Again?", "?"]


async def test_a_chat_is_called_after_its_first_question(store: Store) -> None:
    for number, question in enumerate(("What is this?", "And that?")):
        await store.add_turn(thread(), f"m{number}", question)
    chat = await store.read_chat(thread())
    assert chat is not None
    assert (chat.key, chat.title) == (thread(), "What is this?")


async def test_a_chat_whose_first_question_goes_is_called_after_the_next(store: Store) -> None:
    first = await store.add_turn(thread(), "m1", "What is this?")
    await store.add_turn(thread(), "m2", "And that?")
    await store.add_turn(thread("two"), "m3", "Who?")
    await store.drop_turn(first.turn_id)
    assert {chat.key: chat.title for chat in await store.list_chats("test", "workspace")} == {
        thread(): "And that?",
        thread("two"): "Who?",
    }


async def test_what_follows_a_picture_that_goes_starts_anew_in_its_own_chat_only(store: Store) -> None:
    await store.add_turn(thread(), "m1", "?", images=[image("red")], is_start=True)
    gone = await store.add_turn(thread(), "m2", "?", images=[image("blue")], is_start=True)
    await store.add_turn(thread("other"), "m3", "?")
    await store.add_turn(thread(), "m4", "?")
    await store.add_turn(thread(), "m5", "?")
    await store.drop_turn(gone.turn_id)
    assert [turn.is_start for turn in await store.read_turns(thread())] == [True, True, False]
    assert [turn.is_start for turn in await store.read_turns(thread("other"))] == [False]


async def test_everything_is_there_after_opening_again(store_url: str) -> None:
    first = await Store.open(store_url)
    red = image()
    turn = await first.add_turn(thread(), "m1", "What is this?", images=[red], is_start=True)
    await first.close()
    second = await Store.open(store_url)
    assert await second.pending_turns() == [turn]
    assert await second.read_image(thread(), red.sha256) == red
    chat = await second.read_chat(thread())
    assert chat is not None
    assert chat.turns == (turn.view(),)
    assert (datetime.now(UTC) - chat.turns[0].created_at) < timedelta(minutes=5)
    await second.close()


async def test_the_same_message_is_stored_once(store: Store) -> None:
    """Also if the answer to its commit was lost, so that it is stored again."""
    once = await store.add_turn(thread(), "m1", "Once", images=[image()])
    assert await store.add_turn(thread(), "m1", "Once", images=[image()]) == once
    assert await store.add_turn(thread("elsewhere"), "m1", "Twice") == once
    assert await store.read_turns(thread()) == [once]
    assert await store.read_chat(thread("elsewhere")) is None


async def test_an_error_does_not_quote_what_was_written(store: Store) -> None:
    await store.add_turn(thread(), "m1", "Once")
    key = {"platform": "test", "workspace": "workspace", "channel": "channel", "thread": "one"}

    async def store_it_twice() -> None:
        async with store.writing() as session:
            await session.execute(sa.insert(ChatRow).values(**key, title="My private question", updated_at=datetime.now(UTC)))

    with pytest.raises(sa.exc.IntegrityError) as caught:
        await store_it_twice()
    assert "private" not in str(caught.value)  # errors go to the log, message texts do not


async def test_chats_are_listed_newest_first_without_turns(store: Store) -> None:
    for name in ("one", "two", "three"):
        await store.add_turn(thread(name), name, f"Question {name}")
    turn = await store.find_turn("test", "workspace", "one")
    assert turn is not None
    await store.finish_turn(turn.turn_id, AnswerStatus.COMPLETE, answer="x")
    chats = await store.list_chats("test", "workspace")
    assert [chat.title for chat in chats] == ["Question one", "Question three", "Question two"]
    assert all(chat.turns == () for chat in chats)
    assert await store.list_chats("test", "other workspace") == []


async def test_a_picture_goes_with_the_last_chat_that_shows_it(store: Store) -> None:
    red, blue = image("red"), image("blue")
    await store.add_turn(thread("one"), "m1", "?", images=[red], is_start=True)
    await store.add_turn(thread("two"), "m2", "?", images=[red, blue], is_start=True)
    assert await _num_rows(store, "images") == 2
    assert await store.delete_chat(thread("two"))
    assert await _num_rows(store, "images") == 1
    assert await store.read_image(thread("one"), red.sha256) == red
    assert await store.delete_chat(thread("one"))
    assert not await store.delete_chat(thread("one"))
    for table in ("images", "turn_images", "turns", "chats"):
        assert await _num_rows(store, table) == 0


async def test_a_picture_is_read_through_its_own_thread_only(store: Store) -> None:
    red = image()
    await store.add_turn(thread("one"), "m1", "?", images=[red], is_start=True)
    await store.add_turn(thread("two"), "m2", "?")
    assert await store.read_image(thread("two"), red.sha256) is None


async def test_a_dropped_turn_takes_its_empty_chat_and_picture_with_it(store: Store) -> None:
    first = await store.add_turn(thread(), "m1", "?", images=[image("red")], is_start=True)
    second = await store.add_turn(thread(), "m2", "?", images=[image("blue")], is_start=True)
    await store.drop_turn(second.turn_id)
    assert await store.read_turns(thread()) == [first]
    assert await _num_rows(store, "images") == 1
    await store.drop_turn(first.turn_id)
    assert await store.read_chat(thread()) is None
    assert await _num_rows(store, "images") == 0


async def test_purge_spares_what_is_new_or_waits_for_an_answer(store: Store) -> None:
    old = await store.add_turn(thread("old"), "m1", "?", images=[image()], is_start=True)
    await store.finish_turn(old.turn_id, AnswerStatus.COMPLETE, answer="x")
    await store.add_turn(thread("waits"), "m2", "?")
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert await store.purge(datetime.now(UTC) - timedelta(days=1)) == 0
    assert await store.purge(later) == 1
    assert await store.read_chat(thread("old")) is None
    assert await _num_rows(store, "images") == 0
    assert await store.read_chat(thread("waits")) is not None


async def test_a_turn_that_was_deleted_meanwhile_is_not_brought_back(store: Store) -> None:
    turn = await store.add_turn(thread(), "m1", "?")
    await store.delete_chat(thread())
    await store.finish_turn(turn.turn_id, AnswerStatus.COMPLETE, answer="late")
    assert await store.read_chat(thread()) is None


async def test_the_id_of_a_deleted_turn_is_never_given_again(store: Store) -> None:
    """Buttons carry it, and what still shows the deleted turn's answer writes by it."""
    first = await store.add_turn(thread(), "m1", "What is this?", is_start=True)
    await store.delete_chat(thread())
    second = await store.add_turn(thread(), "m2", "What is this?", is_start=True)
    assert second.turn_id > first.turn_id


async def test_many_writers_at_once(store: Store) -> None:
    red = image()
    await asyncio.gather(
        *(store.add_turn(thread(f"t{n % 5}"), f"m{n}", f"q{n}", images=[red], is_start=True) for n in range(30)),
        *(store.list_chats("test", "workspace") for _ in range(10)),
    )
    assert await _num_rows(store, "turns") == 30
    await asyncio.gather(*(store.delete_chat(thread(f"t{n}")) for n in range(5)))
    assert await _num_rows(store, "images") == 0


async def test_migrations_make_what_the_models_say(store: Store) -> None:
    def difference(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Row.metadata))

    async with store._engine.connect() as connection:
        assert await connection.run_sync(difference) == []


async def test_sqlite_is_in_wal_mode_with_foreign_keys(sqlite_store: Store) -> None:
    async with sqlite_store._engine.connect() as connection:
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar() == "wal"
        assert (await connection.exec_driver_sql("PRAGMA foreign_keys")).scalar() == 1


async def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(StoreError, match="newer version"):
        await Store.open(f"sqlite+aiosqlite:///{path}")


async def test_what_is_not_a_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    path.write_bytes(b"this is not a database, however long one looks at it" * 100)
    with pytest.raises(StoreError, match="it is no database"):
        await Store.open(f"sqlite+aiosqlite:///{path}")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        await Store.open(f"sqlite+aiosqlite:///{blocked / 'sub' / 'chats.db'}")


async def test_an_unreachable_server_is_told_without_the_password() -> None:
    with pytest.raises(StoreError) as caught:
        await Store.open("postgresql+asyncpg://me:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)
    assert "cannot be reached" in str(caught.value)


_any_text = st.text(st.characters(exclude_categories=()), max_size=60)


def test_any_text_comes_back(store_url: str) -> None:
    """One event loop for all examples, because a database connection belongs to its loop."""
    runner = asyncio.Runner()
    store = runner.run(Store.open(store_url))
    num_examples = 0

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        question=_any_text,
        answer=_any_text,
        notices=st.lists(_any_text, max_size=3),
        error=st.none() | _any_text,
        token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=20),
    )
    def check(question: str, answer: str, notices: list[str], error: str | None, token_ids: list[int] | None) -> None:
        nonlocal num_examples
        num_examples += 1
        key = ThreadKey("test", "workspace", "channel", f"t{num_examples}")

        async def round_trip() -> None:
            turn = await store.add_turn(key, f"m{num_examples}", question)
            await store.finish_turn(
                turn.turn_id, AnswerStatus.FAILED, answer=answer, token_ids=token_ids, notices=notices, error=error
            )
            [kept] = await store.read_turns(key)
            assert kept.question == clean(question)
            assert kept.answer == clean(answer)
            assert kept.notices == tuple(clean(notice) for notice in notices)
            assert kept.error == (None if error is None else clean(error))
            assert kept.token_ids == (None if token_ids is None else tuple(token_ids))

        runner.run(round_trip())

    try:
        check()
    finally:
        runner.run(store.close())
        runner.close()


@given(st.text())
def test_clean_text_is_what_a_database_can_hold(text: str) -> None:
    cleaned = clean(text)
    assert "\x00" not in cleaned
    cleaned.encode("utf-8")
    assert clean(cleaned) == cleaned


@given(st.text())
def test_titles_are_one_short_line(text: str) -> None:
    title = shorten(text)
    assert len(title) <= 60
    assert "\n" not in title


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_one_program_at_a_time_has_a_database_that_hosts_share(store_url: str) -> None:
    first, second = await Store.open(store_url), await Store.open(store_url)
    try:
        await first.claim()
        with pytest.raises(StoreError, match="Another threadsight is running over the database postgresql"):
            await second.claim()
        await first.close()
        await second.claim()
    finally:
        await first.close()
        await second.close()


async def test_what_the_model_sees_of_a_thread_begins_with_the_newest_start(store: Store) -> None:
    red, blue, green = image("red"), image("blue"), image("green")
    turns = [
        await store.add_turn(thread(), name, name, images=images, is_start=is_start)
        for name, images, is_start in [
            ("before any", [], False),
            ("red", [red], True),
            ("about red", [], False),
            ("blue", [blue], True),
            ("and green", [green], False),
            ("about both", [], False),
        ]
    ]
    await store.add_turn(thread("other"), "elsewhere", "?", images=[red], is_start=True)
    seen = [[other.question for other in await store.turns_since_start(turn)] for turn in turns]
    assert seen == [
        ["before any"],
        ["red"],
        ["red", "about red"],
        ["blue"],
        ["blue", "and green"],
        ["blue", "and green", "about both"],
    ]
    before = [await store.images_in_chat(thread(), turn.turn_id) for turn in turns]
    assert before == [set(), set(), {red.sha256}, {red.sha256}, {blue.sha256}, {blue.sha256, green.sha256}]
    assert await store.images_in_chat(thread()) == {blue.sha256, green.sha256}
    assert await store.images_in_chat(thread("nowhere")) == set()
    assert await store.last_turn(thread()) == turns[-1]
    assert await store.last_turn(thread("nowhere")) is None


async def test_pictures_before_any_start_are_seen_as_well(store: Store) -> None:
    """As when the turn that started the chat was deleted."""
    red = image("red")
    await store.add_turn(thread(), "m1", "?", images=[red])
    last = await store.add_turn(thread(), "m2", "?")
    assert await store.images_in_chat(thread()) == {red.sha256}
    assert len(await store.turns_since_start(last)) == 2
