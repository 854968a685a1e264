"""Chats: what is accepted, in which order, what the model is asked, what is kept."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.base import AnswerStatus, AnswerText, Ended
from bot.chats import MAX_QUESTION_CHARS, MAX_UNANSWERED, SHUTTING_DOWN, TOO_LONG, Chats
from bot.images import ImageReader
from bot.questions import DEFAULT_QUESTION, NEW_CHAT
from bot.store import Store
from bot.turns import StoredTurn
from bot.writer import CUT_NOTICE, NO_IMAGE, AnswerWriter
from model_server.errors import EngineFailed
from model_server.types import FinishReason, Role
from tests.bot.doubles import (
    BLUE,
    QUEUE_FULL,
    RED,
    ScriptedModel,
    ask,
    attachment,
    collect,
    end_of,
    image,
    message,
    notices_of,
    png,
    questions,
    text_of,
    thread,
)

# -- starting and continuing ------------------------------------------------------------------------------------------------


async def test_a_picture_starts_a_chat_and_a_reply_continues_it(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    events = await ask(chats, "What is this?", attachment(RED))
    assert text_of(events) == "Answer to: What is this?"
    assert end_of(events) == Ended(AnswerStatus.COMPLETE)
    assert notices_of(events) == []
    await ask(chats, "And what else?")

    first, second = model.requests
    assert [m.images for m in first.messages] == [(image("red"),)]
    assert [(m.role, m.text) for m in second.messages] == [
        (Role.USER, "What is this?"),
        (Role.ASSISTANT, "Answer to: What is this?"),
        (Role.USER, "And what else?"),
    ]
    assert [m.images for m in second.messages] == [(image("red"),), (), ()]
    assert second.messages[1].token_ids == (1, 2, 3, 4, 5)  # kept, not made again
    assert [turn.status for turn in await sqlite_store.read_turns(thread())] == [AnswerStatus.COMPLETE] * 2


async def test_the_question_is_written_down_before_the_model_is_asked(
    chats: Chats, model: ScriptedModel, sqlite_store: Store
) -> None:
    model.gate = asyncio.Event()
    answer = await chats.handle(message("What is this?", attachment(RED)))
    [turn] = await sqlite_store.pending_turns()
    assert (turn.turn_id, turn.question) == (answer.turn_id, "What is this?")
    assert chats.running_answer(thread()) is answer
    model.gate.set()
    await collect(answer)
    assert chats.running_answer(thread()) is None


async def test_a_new_picture_starts_a_new_chat_and_says_so(chats: Chats, model: ScriptedModel) -> None:
    await ask(chats, "First?", attachment(RED))
    events = await ask(chats, "Second?", attachment(BLUE))
    assert notices_of(events) == [NEW_CHAT]
    await ask(chats, "Third?")
    assert questions(model.requests[2]) == ["Second?", "Third?"]
    assert model.requests[2].messages[0].images == (image("blue"),)
    chat = await chats.read_chat(thread())
    assert chat is not None
    assert [turn.question for turn in chat.turns] == ["First?", "Second?", "Third?"]  # the thread keeps them all


async def test_pictures_join_the_chat_of_a_model_that_takes_several(new_chats: Callable[..., Chats]) -> None:
    model = ScriptedModel(max_images_per_chat=2)
    chats = new_chats(model)
    await ask(chats, "First?", attachment(RED))
    assert notices_of(await ask(chats, "Second?", attachment(BLUE))) == []
    assert [m.images for m in model.requests[1].messages] == [(image("red"),), (), (image("blue"),)]
    assert notices_of(await ask(chats, "Third?", attachment(png("green")))) == [NEW_CHAT]
    assert questions(model.requests[2]) == ["Third?"]


async def test_the_same_picture_again_is_not_a_new_one(chats: Chats, model: ScriptedModel) -> None:
    await ask(chats, "First?", attachment(RED))
    assert notices_of(await ask(chats, "Second?", attachment(RED))) == []
    assert [m.images for m in model.requests[1].messages] == [(image("red"),), (), ()]


async def test_an_empty_question_asks_for_a_description(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    await ask(chats, "  ", attachment(RED))
    assert questions(model.requests[0]) == [DEFAULT_QUESTION]
    assert (await sqlite_store.read_turns(thread()))[0].question == DEFAULT_QUESTION


async def test_without_any_picture_it_asks_for_one(chats: Chats, model: ScriptedModel) -> None:
    assert end_of(await ask(chats, "What colour is it?")) == Ended(AnswerStatus.FAILED, NO_IMAGE)
    assert model.requests == []
    await ask(chats, "And now?", attachment(RED))
    assert questions(model.requests[0]) == ["And now?"]


# -- the context window -----------------------------------------------------------------------------------------------------


async def test_older_turns_are_left_out_and_the_answer_says_so(new_chats: Callable[..., Chats]) -> None:
    model = ScriptedModel(context_length=40)
    chats = new_chats(model, max_new_tokens=8)
    for number in range(4):
        events = await ask(chats, f"Question number {number} ?", *([attachment(RED)] if number == 0 else []))
    assert notices_of(events) == [
        "This chat has grown long: its oldest 2 turns no longer fit, so I answer without looking back that far."
    ]
    last = model.requests[-1]
    assert questions(last) == ["Question number 2 ?", "Question number 3 ?"]
    assert last.messages[0].images == (image("red"),)
    assert await model.num_prompt_tokens(last.messages) + last.sampling.max_new_tokens <= 40


async def test_what_the_model_is_told_before_every_chat_takes_room(new_chats: Callable[..., Chats]) -> None:
    for system, num_kept in ((None, 4), ("one two three four five six seven eight nine ten", 3)):
        model = ScriptedModel(context_length=60)
        chats = new_chats(model, max_new_tokens=8, system=system)
        key = thread(system or "none")
        for number in range(4):
            await ask(chats, f"Question number {number} ?", *([attachment(RED)] if number == 0 else []), key=key)
        last = model.requests[-1]
        assert (last.system, len(questions(last))) == (system, num_kept)
        assert await model.num_prompt_tokens(last.messages, system) + last.sampling.max_new_tokens <= 60


async def test_a_question_longer_than_the_context_is_told(new_chats: Callable[..., Chats], sqlite_store: Store) -> None:
    model = ScriptedModel(context_length=40)
    chats = new_chats(model)
    ended = end_of(await ask(chats, "word " * 50, attachment(RED)))
    assert ended.status is AnswerStatus.FAILED
    assert ended.error == "This is too long for me: 60 tokens, and I can take 30. Please ask in fewer words."
    assert [turn.is_refused for turn in await sqlite_store.read_turns(thread())] == [True]
    again = await chats.regenerate(thread())
    assert again is not None
    assert end_of(await collect(again)) == ended  # however often it is asked, it stays too long
    await ask(chats, "Short?")  # the picture is still there
    assert model.requests[0].messages[0].images == (image("red"),)
    assert questions(model.requests[0]) == ["Short?"]


async def test_an_endless_question_is_not_even_kept(chats: Chats, sqlite_store: Store) -> None:
    answer = await chats.handle(message("x" * (MAX_QUESTION_CHARS + 1), attachment(RED)))
    assert (answer.turn_id, answer.key) == (None, thread())
    assert "too long" in str(end_of(await collect(answer)).error)
    assert end_of(await ask(chats, "x" * MAX_QUESTION_CHARS, attachment(RED), key=thread("two"))).error != TOO_LONG
    assert await sqlite_store.read_chat(thread()) is None


async def test_an_answer_that_was_cut_says_so(chats: Chats, model: ScriptedModel) -> None:
    model.reason = FinishReason.LENGTH
    events = await ask(chats, "?", attachment(RED))
    assert notices_of(events) == [CUT_NOTICE]
    model.reason = FinishReason.STOP
    again = await chats.regenerate(thread())
    assert again is not None
    assert notices_of(await collect(again)) == []


# -- order and duplicates ---------------------------------------------------------------------------------------------------


async def test_one_thread_is_served_in_order_and_others_do_not_wait(chats: Chats, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    first = await chats.handle(message("First?", attachment(RED)))
    second = await chats.handle(message("Second?"))
    third = await chats.handle(message("Third?"))
    other = await chats.handle(message("Other?", attachment(BLUE), key=thread("two")))
    async for event in other.events():
        if isinstance(event, AnswerText):
            break
    assert {questions(request)[-1] for request in model.requests} == {"First?", "Other?"}
    model.gate.set()
    for answer in (first, second, third, other):
        assert end_of(await collect(answer)).status is AnswerStatus.COMPLETE
    assert questions(model.requests[-1]) == ["First?", "Second?", "Third?"]


async def test_many_threads_at_once_keep_their_own_words(chats: Chats, model: ScriptedModel) -> None:
    async def talk(name: str) -> None:
        for number in range(3):
            images = [attachment(RED)] if number == 0 else []
            events = await ask(chats, f"{name} {number}", *images, key=thread(name))
            assert text_of(events) == f"Answer to: {name} {number}"

    await asyncio.gather(*(talk(f"t{number}") for number in range(16)))
    for request in model.requests:
        assert len({question.split()[0] for question in questions(request)}) == 1


async def test_a_message_that_is_delivered_twice_is_answered_once(
    chats: Chats, model: ScriptedModel, new_chats: Callable[..., Chats]
) -> None:
    model.gate = asyncio.Event()
    again = message("What?", attachment(RED), message_id="m")
    first, second = await asyncio.gather(chats.handle(again), chats.handle(again))
    third = await chats.handle(again)
    assert first is second is third
    model.gate.set()
    events = await collect(first)
    assert await collect(await chats.handle(again)) == [AnswerText("Answer to: What?"), Ended(AnswerStatus.COMPLETE)]
    restarted = new_chats(ScriptedModel())
    assert text_of(await collect(await restarted.handle(again))) == text_of(events)
    assert len(model.requests) == 1


async def test_a_flood_in_one_thread_is_refused(chats: Chats, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    answers = [await chats.handle(message("?", attachment(RED)))]
    answers += [await chats.handle(message("?")) for _ in range(MAX_UNANSWERED)]
    assert answers[-1].turn_id is None
    assert "still answering" in str(end_of(await collect(answers[-1])).error)
    model.gate.set()
    for answer in answers[:-1]:
        assert end_of(await collect(answer)).status is AnswerStatus.COMPLETE


# -- regenerate and delete --------------------------------------------------------------------------------------------------


async def test_regenerate_replaces_the_last_answer(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    assert await chats.regenerate(thread()) is None
    await ask(chats, "First?", attachment(RED))
    await ask(chats, "Second?")
    model.answer = "Something else"
    answer = await chats.regenerate(thread())
    assert answer is not None
    assert text_of(await collect(answer)) == "Something else"
    assert questions(model.requests[2]) == questions(model.requests[1])
    assert model.requests[2].sampling.temperature > model.requests[1].sampling.temperature
    turns = await sqlite_store.read_turns(thread())
    assert [turn.answer for turn in turns] == ["Answer to: First?", "Something else"]
    assert turns[1].turn_id == answer.turn_id


async def test_a_new_try_that_fails_keeps_the_earlier_answer(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    await ask(chats, "First?", attachment(RED))
    before = await sqlite_store.read_turns(thread())
    for model.refusal, model.failure in ((QUEUE_FULL, None), (None, EngineFailed("Broken."))):
        answer = await chats.regenerate(thread())
        assert answer is not None
        assert end_of(await collect(answer)).status is AnswerStatus.FAILED
        assert await sqlite_store.read_turns(thread()) == before


async def test_regenerate_while_it_writes_shows_what_is_being_written(chats: Chats, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    answer = await chats.handle(message("?", attachment(RED)))
    assert await chats.regenerate(thread()) is answer
    model.gate.set()
    await collect(answer)


async def test_regenerate_answers_a_failed_question(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    model.failure = EngineFailed("Broken.")
    await ask(chats, "First?", attachment(RED))
    model.failure = None
    answer = await chats.regenerate(thread())
    assert answer is not None
    assert end_of(await collect(answer)).status is AnswerStatus.COMPLETE
    [turn] = await sqlite_store.read_turns(thread())
    assert (turn.answer, turn.status, turn.error) == ("Answer to: First?", AnswerStatus.COMPLETE, None)


async def test_a_new_try_while_the_program_ends_keeps_the_earlier_answer(chats: Chats, model: ScriptedModel) -> None:
    await ask(chats, "First?", attachment(RED))
    await chats.close(0)
    answer = await chats.regenerate(thread())
    assert answer is not None
    assert (answer.key, answer.turn_id) == (thread(), 1)
    assert await collect(answer) == [AnswerText("Answer to: First?"), Ended(AnswerStatus.FAILED, SHUTTING_DOWN)]
    assert len(model.requests) == 1


async def test_delete_stops_what_runs_and_forgets_everything(chats: Chats, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    answers = [await chats.handle(message("?", attachment(RED))), await chats.handle(message("More?"))]
    digest = image("red").sha256
    assert await chats.read_image(thread(), digest) == (RED, "image/png")
    async with asyncio.timeout(20):
        assert await chats.delete_chat(thread())
    assert model.streams[0].is_cancelled
    for answer in answers:
        assert end_of(await collect(answer)).status is AnswerStatus.STOPPED
    assert await chats.read_chat(thread()) is None
    assert await chats.read_image(thread(), digest) is None
    assert await chats.list_chats("test", "workspace") == []
    assert not await chats.delete_chat(thread())


# -- order, whatever comes ----------------------------------------------------------------------------------------------------


def holding(read: Callable[..., Awaitable[StoredTurn | None]], begun: asyncio.Event, goes_on: asyncio.Event) -> Any:
    """The same read, whose result comes late."""

    async def held(*args: Any) -> StoredTurn | None:
        found = await read(*args)
        begun.set()
        await goes_on.wait()
        return found

    return held


async def test_a_message_that_is_delivered_again_just_as_its_answer_ends_is_not_answered_again(
    chats: Chats, model: ScriptedModel, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.gate, begun, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    first = await chats.handle(message("What is this?", attachment(RED), message_id="1"))
    monkeypatch.setattr(sqlite_store, "find_turn", holding(sqlite_store.find_turn, begun, goes_on))
    again = asyncio.create_task(chats.handle(message("What is this?", attachment(RED), message_id="1")))
    await begun.wait()  # it was read while the answer was being written
    model.gate.set()
    await collect(first)
    goes_on.set()
    events = await collect(await again)
    assert (text_of(events), end_of(events)) == ("Answer to: What is this?", Ended(AnswerStatus.COMPLETE))
    assert len(model.requests) == 1


async def test_a_message_that_is_delivered_again_just_as_it_is_taken_back_is_a_new_one(
    chats: Chats, model: ScriptedModel, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()
    model.refusal, finding = QUEUE_FULL, sqlite_store.find_turn
    drop, may_drop = sqlite_store.drop_turn, asyncio.Event()

    async def drop_later(turn_id: int) -> None:
        await may_drop.wait()
        await drop(turn_id)

    monkeypatch.setattr(sqlite_store, "drop_turn", drop_later)
    first = await chats.handle(message("What is this?", attachment(RED), message_id="1"))
    monkeypatch.setattr(sqlite_store, "find_turn", holding(finding, begun, goes_on))
    again = asyncio.create_task(chats.handle(message("What is this?", attachment(RED), message_id="1")))
    await begun.wait()
    may_drop.set()
    assert end_of(await collect(first)).status is AnswerStatus.FAILED
    model.refusal = None
    goes_on.set()
    assert text_of(await collect(await again)) == "Answer to: What is this?"


async def test_regenerating_just_as_the_answer_ends_keeps_it_if_the_queue_is_full(
    chats: Chats, model: ScriptedModel, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.gate, begun, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    first = await chats.handle(message("What is this?", attachment(RED), message_id="1"))
    monkeypatch.setattr(sqlite_store, "last_turn", holding(sqlite_store.last_turn, begun, goes_on))
    again = asyncio.create_task(chats.regenerate(thread()))
    await begun.wait()
    model.gate.set()
    await collect(first)
    model.refusal = QUEUE_FULL
    goes_on.set()
    answer = await again
    assert answer is not None
    assert text_of(await collect(answer)) == "Answer to: What is this?"
    [turn] = await sqlite_store.read_turns(thread())
    assert (turn.status, turn.answer) == (AnswerStatus.COMPLETE, "Answer to: What is this?")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_every_thread_is_answered_in_order_and_one_at_a_time(sqlite_store: Store, data: st.DataObject) -> None:
    """Messages of several threads come in any order, and some come twice."""
    model = ScriptedModel()
    chats = Chats(sqlite_store, model, ImageReader(1_000_000), AnswerWriter(sqlite_store, model))
    run = uuid.uuid4().hex
    num_threads = data.draw(st.integers(1, 3))
    sent: dict[str, list[str]] = {f"{run}-{number}": [] for number in range(num_threads)}
    answers = []
    for number in range(data.draw(st.integers(1, 8))):
        name = data.draw(st.sampled_from(sorted(sent)))
        images = [] if sent[name] else [attachment(RED)]
        question = f"{name} {number}"
        sent[name].append(question)
        asked = message(question, *images, key=thread(name), message_id=question)
        answers.append(await chats.handle(asked))
        if data.draw(st.booleans()):
            assert (await chats.handle(asked)).turn_id == answers[-1].turn_id
        for _ in range(data.draw(st.integers(0, 3))):
            await asyncio.sleep(0)
    for answer in answers:
        assert end_of(await collect(answer)).status is AnswerStatus.COMPLETE
    for name, questions_sent in sent.items():
        asked_of_model = [r.messages[-1].text for r in model.requests if r.messages[-1].text.startswith(name)]
        assert asked_of_model == questions_sent
        steps = [step for step in model.steps if step[1].startswith(name)]
        assert steps == [(step, question) for question in questions_sent for step in ("begin", "end")]
        turns = await sqlite_store.read_turns(thread(name))
        assert [(turn.question, turn.answer) for turn in turns] == [(q, f"Answer to: {q}") for q in questions_sent]
    await chats.close(0)


async def test_old_chats_are_purged_again_and_again_even_after_a_failure(
    chats: Chats, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[datetime] = []
    has_gone_on = asyncio.Event()

    async def purge(untouched_since: datetime) -> int:
        limits.append(untouched_since)
        if len(limits) == 1:
            raise ConnectionError("the database is away")
        has_gone_on.set()
        return 0

    monkeypatch.setattr(sqlite_store, "purge", purge)
    task = asyncio.create_task(chats.purge_forever(30, interval_seconds=0))
    async with asyncio.timeout(20):
        await has_gone_on.wait()
    task.cancel()
    assert timedelta(days=29) < datetime.now(UTC) - limits[0] < timedelta(days=31)
