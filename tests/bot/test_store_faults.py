"""A database that cannot be used for a while: real locks, full disks, servers that are restarted; what is kept, and what people and
the operator are told."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters.base import AnswerStatus, Ended, Notice
from bot.chats import MAX_ATTEMPTS, NO_DATABASE, NOT_KEPT
from bot.database import Database, StoreError
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.thread_store import ThreadStore
from bot.writer import NOT_STORED, STORED, AnswerWriter
from model_server.types import ChatRequest
from tests.bot.conftest import PostgresServer
from tests.bot.doubles import (
    QUEUE_FULL,
    RED,
    ScriptedModel,
    ScriptedStream,
    ask,
    attachment,
    begun,
    collect,
    end_of,
    image,
    message,
    notices_of,
    text_of,
    thread,
)
from tests.bot.faults import FAULTS, SENTENCES, TIMEOUT, faulty, locked, logged, over


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    """One that does not try a second time, so that each fault shows."""
    opened = await Store.open(f"sqlite+aiosqlite:///{path}", patience_seconds=0)
    yield opened
    await opened.close()


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
async def chats(store: Store, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ThreadChats]:
    monkeypatch.setattr("bot.writer._SECONDS_BETWEEN_TRIES", 0.001)
    monkeypatch.setattr("bot.writer._MAX_SECONDS_BETWEEN_STORING", 0.01)
    made = over(store, model)
    yield made
    await made.close(0)


# -- while an answer is to be stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_answer_that_cannot_be_stored_says_so_and_is_stored_when_it_can(
    chats: ThreadChats,
    model: ScriptedModel,
    store: Store,
    path: Path,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model.gate, model.answer = asyncio.Event(), "word " * 2_000  # longer than what is free in the database's pages
    answer = await chats.handle(message("What is this?", attachment(RED)))
    await begun(answer)
    with faulty(fault, store, path):
        model.gate.set()
        async with asyncio.timeout(TIMEOUT):
            events = answer.events()
            async for event in events:
                if event == Notice(NOT_STORED):
                    break
        assert chats.running_answer(thread()) is answer  # the page shows it as not ended, with the notice
        [turn] = await store.read_turns(thread())
        assert (turn.status, turn.answer) == (AnswerStatus.PENDING, "")
        assert any(SENTENCES[fault] in sentence for sentence in logged(caplog))
    all_events = await collect(answer)
    assert end_of(all_events) == Ended(AnswerStatus.COMPLETE)
    assert notices_of(all_events) == [NOT_STORED, STORED]
    [turn] = await store.read_turns(thread())
    assert (turn.status, turn.answer, turn.notices) == (AnswerStatus.COMPLETE, text_of(all_events), ())
    assert len([sentence for sentence in logged(caplog) if SENTENCES[fault] in sentence]) == 1  # however often it was tried
    assert "can be used again" in logged(caplog)[-1]


async def test_a_stop_while_it_cannot_be_stored_leaves_it_for_the_restart(
    chats: ThreadChats, model: ScriptedModel, store: Store, path: Path
) -> None:
    model.gate = asyncio.Event()
    answer = await chats.handle(message("What is this?", attachment(RED)))
    await begun(answer)
    with locked(path):
        model.gate.set()
        async with asyncio.timeout(TIMEOUT):
            async for event in answer.events():
                if event == Notice(NOT_STORED):
                    break
            assert await chats.close(0) == 1
    assert end_of(await collect(answer)) == Ended(AnswerStatus.PENDING)
    restarted = over(store, ScriptedModel())
    assert await restarted.resume() == 1
    running = restarted.running_answer(thread())
    assert running is not None
    assert end_of(await collect(running)) == Ended(AnswerStatus.COMPLETE)
    await restarted.close(0)


async def test_a_failure_and_a_full_queue_are_stored_later_as_well(
    chats: ThreadChats, model: ScriptedModel, store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for refusal in (QUEUE_FULL, RuntimeError("secret")):
        may_ask = asyncio.Event()
        exchanges = AnswerWriter._exchanges

        async def waiting(writer: AnswerWriter, turn: Any, exchanges: Any = exchanges, may_ask: asyncio.Event = may_ask) -> Any:
            found = await exchanges(writer, turn)
            await may_ask.wait()
            return found

        model.refusal = refusal  # type: ignore[assignment]
        with monkeypatch.context() as patch:
            patch.setattr(AnswerWriter, "_exchanges", waiting)
            answer = await chats.handle(message("What is this?", attachment(RED)))
            with locked(path):
                may_ask.set()
                async with asyncio.timeout(TIMEOUT):
                    async for event in answer.events():
                        if event == Notice(NOT_STORED):
                            break
            assert end_of(await collect(answer)).status is AnswerStatus.FAILED
    assert [turn.status for turn in await store.read_turns(thread())] == [AnswerStatus.FAILED]  # the other was taken back


async def test_an_answer_goes_on_being_shown_while_it_cannot_be_stored_where(
    chats: ThreadChats, store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.thread_chats._FIRST_WAIT_SECONDS", 0.01)
    turns = [await store.add_turn(thread(name), name, "?") for name in ("m1", "m2")]
    with locked(path):
        await chats.set_reply(turns[0].turn_id, ["one"], is_delivered=False)
        await chats.set_reply(turns[1].turn_id, ["three"], is_delivered=False)
        await chats.set_reply(turns[0].turn_id, ["one", "two"], is_delivered=True)
    assert chats._storing_replies is not None
    async with asyncio.timeout(TIMEOUT):
        await chats._storing_replies
    kept = [await store.get_turn(turn.turn_id) for turn in turns]
    assert [turn.reply_ids for turn in kept if turn] == [("one", "two"), ("three",)]
    assert [turn.turn_id for turn, _ in await chats.undelivered("test")] == []  # pending ones are answered first
    assert [turn.message_id for turn in await ThreadStore(store).undelivered("test", turns[0].created_at)] == ["m2"]


# -- while a question is to be stored ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_question_that_cannot_be_stored_is_refused_with_the_truth(
    chats: ThreadChats, model: ScriptedModel, store: Store, path: Path, fault: str
) -> None:
    await ask(chats, "What is this?", attachment(RED))
    with faulty(fault, store, path):
        assert end_of(await ask(chats, "x" * 16_000, message_id="m2")) == Ended(AnswerStatus.FAILED, NOT_KEPT)
        if fault in ("locked", "read only"):  # on a full disk so little may still be written
            again = await chats.regenerate(thread())
            assert again is not None
            assert end_of(await collect(again)) == Ended(AnswerStatus.FAILED, NO_DATABASE)
    assert len(model.requests) == 1
    assert end_of(await ask(chats, "x" * 16_000, message_id="m2")) == Ended(AnswerStatus.COMPLETE)
    assert len(await store.read_turns(thread())) == 2


async def test_a_lock_that_is_held_for_a_while_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{path}", patience_seconds=TIMEOUT)
    num_tries, third_try, loop = 0, asyncio.Event(), asyncio.get_running_loop()
    check_file = Database.check_file

    def counting(database: Database) -> None:
        nonlocal num_tries
        num_tries += 1
        if num_tries == 3:
            loop.call_soon_threadsafe(third_try.set)
        check_file(database)

    monkeypatch.setattr(Database, "check_file", counting)
    with locked(path):
        storing = asyncio.create_task(store.add_turn(thread(), "m1", "What is this?"))
        async with asyncio.timeout(TIMEOUT):
            await third_try.wait()
        assert await store.read_turns(thread()) == []  # and reading goes on
    async with asyncio.timeout(TIMEOUT):
        assert (await storing).question == "What is this?"
    await store.close()


async def test_who_writes_has_the_lock_from_the_beginning(store: Store, path: Path) -> None:
    """Otherwise what was read may be changed before it writes, and then it cannot write at all."""
    async with store.writing():
        with contextlib.closing(sqlite3.connect(path, timeout=0)) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO notes VALUES ('test', 'x', 'y')")
    async with store.reading():
        with contextlib.closing(sqlite3.connect(path, timeout=0)) as other, other:
            other.execute("INSERT INTO notes VALUES ('test', 'x', 'y')")


# -- PostgreSQL ---------------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_restarted(own_postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    server = own_postgres_server
    url = f"{server.url}/postgres".replace("postgresql://", "postgresql+asyncpg://")
    store, other = await Store.open(url, patience_seconds=0), await Store.open(url, patience_seconds=TIMEOUT)
    await store.claim()
    model = ScriptedModel()
    model.gate = asyncio.Event()
    chats = over(store, model)
    answer = await chats.handle(message("What is this?", attachment(RED)))
    await begun(answer)
    await asyncio.to_thread(server.stop)
    assert end_of(await ask(chats, "And this?", key=thread("two"))) == Ended(AnswerStatus.FAILED, NOT_KEPT)
    assert any("cannot be reached" in sentence or "is being stopped" in sentence for sentence in logged(caplog))
    model.gate.set()
    async with asyncio.timeout(TIMEOUT):
        async for event in answer.events():
            if event == Notice(NOT_STORED):
                break
    patient = asyncio.create_task(other.add_turn(thread("three"), "m3", "Patiently?"))
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(TIMEOUT):
        assert (await patient).question == "Patiently?"
        assert end_of(await collect(answer)) == Ended(AnswerStatus.COMPLETE)
    [turn] = await store.read_turns(thread())
    assert turn.status is AnswerStatus.COMPLETE
    assert "can be used again" in logged(caplog)[-1]
    # The restart ended the claim on the database, which is taken again, unless another program was quicker.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await store.watch(0.01)
    with pytest.raises(StoreError, match="Another threadsight"):
        await other.claim()
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await other.claim()
    with pytest.raises(StoreError, match="Another threadsight"):
        async with asyncio.timeout(TIMEOUT):
            await store.watch(0.01)
    await chats.close(0)
    for opened in (store, other):
        await opened.close()


# -- a program that ends in the middle, every time ----------------------------------------------------------------------------


class Hanging(ScriptedModel):
    """Never answers; says what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked: asyncio.Queue[str] = asyncio.Queue()

    def submit(self, request: ChatRequest) -> ScriptedStream:
        self.asked.put_nowait(request.messages[-1].text)
        return super().submit(request)


async def test_only_questions_that_were_begun_count_as_tried(store: Store) -> None:
    """What was begun twice in vain is answered with no other such beside it, so that the innocent are not given up as well."""
    turns = [await store.add_turn(thread(n), n, n, images=[image()], is_start=True) for n in "0123456"]
    begun = []
    for num_begun in (4, 4, 4, 4, 1, 1):
        model = Hanging()
        chats = over(store, model)
        await chats.resume()
        async with asyncio.timeout(TIMEOUT):
            begun.append("".join(sorted([await model.asked.get() for _ in range(num_begun)])))
        await chats.close(0)
        assert model.asked.empty()
    assert begun == ["0123", "0123", "0456", "0456", "0", "1"]
    kept = [await store.get_turn(turn.turn_id) for turn in turns]
    assert [turn.num_attempts for turn in kept if turn] == [MAX_ATTEMPTS, 3, 2, 2, 2, 2, 2]
    assert [turn.status for turn in kept if turn] == [AnswerStatus.FAILED] + 6 * [AnswerStatus.PENDING]
