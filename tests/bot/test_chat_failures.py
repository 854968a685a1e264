"""A full queue, Stop, a failing model, and a restart in the middle of it all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from adapters.base import AnswerStatus, AnswerText, Ended, Waiting
from bot.chats import MAX_ATTEMPTS, SHUTTING_DOWN, Chats
from bot.store import Store
from bot.writer import NO_IMAGE, RESTART_NOTICE
from model_server.errors import EngineFailed
from model_server.types import ChatRequest, Queued
from tests.bot.doubles import (
    QUEUE_FULL,
    RED,
    SHUT,
    ScriptedModel,
    ScriptedStream,
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

# -- queue, stop, failure ---------------------------------------------------------------------------------------------------


async def test_a_full_queue_is_told_and_nothing_is_kept(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    model.refusal = QUEUE_FULL
    answer = await chats.handle(message("?", attachment(RED), message_id="m"))
    assert end_of(await collect(answer)) == Ended(AnswerStatus.FAILED, str(QUEUE_FULL))
    assert answer.turn_id is None
    assert await sqlite_store.read_chat(thread()) is None
    model.refusal = None
    assert end_of(await ask(chats, "?", attachment(RED), message_id="m")).status is AnswerStatus.COMPLETE  # may be sent again


async def test_a_reply_to_a_question_that_was_taken_back_has_no_picture(chats: Chats, model: ScriptedModel) -> None:
    model.refusal = QUEUE_FULL
    first = await chats.handle(message("First?", attachment(RED)))
    second = await chats.handle(message("Second?"))
    await collect(first)
    model.refusal = None
    assert end_of(await collect(second)).error in (NO_IMAGE, str(QUEUE_FULL))
    assert all(request.messages[0].images for request in model.requests)


async def test_the_place_in_the_queue_is_told(chats: Chats, model: ScriptedModel) -> None:
    model.gate, model.num_free, model.queued = asyncio.Event(), 0, [Queued(3, 4.5)]
    answer = await chats.handle(message("?", attachment(RED)))
    events = answer.events()
    async with asyncio.timeout(20):
        assert await anext(events) == Waiting(3, 4.5)
    model.gate.set()
    await answer.wait_ended()  # type: ignore[attr-defined]


async def test_that_the_model_is_being_loaded_is_told(chats: Chats, model: ScriptedModel) -> None:
    model.gate, model.num_free, model.queued = asyncio.Event(), 0, [Queued(1, None, is_loading=True)]
    answer = await chats.handle(message("?", attachment(RED)))
    events = answer.events()
    async with asyncio.timeout(20):
        assert await anext(events) == Waiting(1, None, is_loading=True)
    model.gate.set()
    await answer.wait_ended()  # type: ignore[attr-defined]


async def test_stop_keeps_what_was_written(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    model.answer, model.gate, model.num_free = "One two three four", asyncio.Event(), 2
    answer = await chats.handle(message("Count!", attachment(RED)))
    written = ""
    async with asyncio.timeout(20):
        async for event in answer.events():
            if isinstance(event, AnswerText):
                written += event.text
            if written == "One two":
                answer.stop()
    assert written == "One two"
    assert model.streams[0].is_cancelled
    [turn] = await sqlite_store.read_turns(thread())
    assert (turn.answer, turn.status, turn.token_ids) == ("One two", AnswerStatus.STOPPED, (1, 2))
    model.gate.set()
    await ask(chats, "Go on!")
    assert model.requests[1].messages[1].text == "One two"  # the chat remembers where it was stopped


async def test_a_listener_that_leaves_or_hangs_changes_nothing(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    model.gate = asyncio.Event()
    answer = await chats.handle(message("What is this?", attachment(RED)))
    hung = answer.events()
    await anext(hung)  # and never again
    leaver = asyncio.create_task(collect(answer))
    await asyncio.sleep(0)
    leaver.cancel()
    model.gate.set()
    assert text_of(await collect(answer)) == "Answer to: What is this?"
    [turn] = await sqlite_store.read_turns(thread())
    assert turn.status is AnswerStatus.COMPLETE


async def test_a_caller_that_leaves_while_a_picture_loads_takes_nothing_back(
    chats: Chats, model: ScriptedModel, sqlite_store: Store
) -> None:
    arrived, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(max_bytes: int) -> bytes:
        arrived.set()
        await may_go_on.wait()
        return RED

    image = attachment(b"")
    object.__setattr__(image, "fetch", slow)
    caller = asyncio.create_task(chats.handle(message("?", image, message_id="m")))
    async with asyncio.timeout(20):
        await arrived.wait()
        caller.cancel()
        may_go_on.set()
        assert end_of(await ask(chats, "?", image, message_id="m")).status is AnswerStatus.COMPLETE
    assert len(model.requests) == 1


async def test_a_failing_model_is_a_sentence_and_the_chat_goes_on(chats: Chats, model: ScriptedModel, sqlite_store: Store) -> None:
    model.failure = EngineFailed("The model broke down. Please try again in a minute.")
    ended = end_of(await ask(chats, "First?", attachment(RED)))
    assert ended == Ended(AnswerStatus.FAILED, "The model broke down. Please try again in a minute.")
    model.failure = None
    await ask(chats, "Second?")
    assert questions(model.requests[1]) == ["Second?"]
    assert model.requests[1].messages[0].images == (image("red"),)  # the failed question's picture


async def test_an_unforeseen_error_is_a_sentence_without_its_text(
    chats: Chats, model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.failure = RuntimeError("secret internals")  # type: ignore[assignment]
    ended = end_of(await ask(chats, "My private question", attachment(RED)))
    assert ended.status is AnswerStatus.FAILED
    assert "secret" not in str(ended.error)
    assert "private" not in caplog.text


# -- restart ----------------------------------------------------------------------------------------------------------------


async def test_what_was_pending_is_answered_after_the_restart_exactly_once(
    chats: Chats, model: ScriptedModel, new_chats: Callable[..., Chats], sqlite_store: Store
) -> None:
    model.gate = asyncio.Event()
    first = await chats.handle(message("First?", attachment(RED)))
    second = await chats.handle(message("Second?"))
    async for event in first.events():
        if isinstance(event, AnswerText):
            break
    assert await chats.close(0) == 2
    for answer in (first, second):
        events = await collect(answer)
        assert end_of(events) == Ended(AnswerStatus.PENDING)
        assert RESTART_NOTICE in notices_of(events)
    assert [turn.answer for turn in await sqlite_store.read_turns(thread())] == ["", ""]  # no half answer

    restarted_model = ScriptedModel()
    restarted = new_chats(restarted_model)
    assert await restarted.resume() == 2
    resumed = restarted.running_answer(thread())
    assert resumed is not None
    await collect(resumed)
    if (last := restarted.running_answer(thread())) is not None:
        await collect(last)
    turns = await sqlite_store.read_turns(thread())
    assert [turn.answer for turn in turns] == ["Answer to: First?", "Answer to: Second?"]
    assert [questions(request)[-1] for request in restarted_model.requests] == ["First?", "Second?"]
    assert not any(RESTART_NOTICE in turn.notices for turn in turns)

    again = ScriptedModel()
    assert await new_chats(again).resume() == 0
    assert again.requests == []


async def test_what_a_model_that_shuts_down_did_not_finish_is_kept_for_the_restart(
    chats: Chats, model: ScriptedModel, sqlite_store: Store
) -> None:
    model.failure = SHUT
    events = await ask(chats, "First?", attachment(RED))
    assert end_of(events) == Ended(AnswerStatus.PENDING)
    assert notices_of(events) == [RESTART_NOTICE]
    [turn] = await sqlite_store.pending_turns()
    assert (turn.question, turn.answer, turn.notices) == ("First?", "", ())
    model.failure = None
    assert await chats.resume() == 1
    answer = chats.running_answer(thread())
    assert answer is not None
    await collect(answer)
    model.failure = SHUT
    again = await chats.regenerate(thread())
    assert again is not None
    ended = end_of(await collect(again))
    assert ended.status is AnswerStatus.FAILED
    assert "kept the earlier answer" in str(ended.error)
    assert [turn.answer for turn in await sqlite_store.read_turns(thread())] == ["Answer to: First?"]


async def test_a_question_that_ends_the_program_every_time_is_given_up(
    new_chats: Callable[..., Chats], sqlite_store: Store
) -> None:
    await sqlite_store.add_turn(thread(), "m", "Poison?", images=[image()], is_start=True, notices=["About a picture."])
    num_asked = 0
    for _ in range(MAX_ATTEMPTS + 2):
        model = ScriptedModel()
        model.gate = asyncio.Event()
        chats = new_chats(model)
        await chats.resume()
        if (answer := chats.running_answer(thread())) is not None:
            async for event in answer.events():
                if isinstance(event, AnswerText):
                    break
        await chats.close(0)
        num_asked += len(model.requests)
    assert num_asked == MAX_ATTEMPTS
    [turn] = await sqlite_store.read_turns(thread())
    assert turn.status is AnswerStatus.FAILED
    assert "interrupted" in str(turn.error)
    assert turn.notices == ("About a picture.",)


async def test_closing_lets_running_answers_finish_and_takes_no_new_ones(chats: Chats, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    answer = await chats.handle(message("?", attachment(RED)))
    closing = asyncio.create_task(chats.close(20))
    await asyncio.sleep(0)
    assert end_of(await ask(chats, "?", attachment(RED), key=thread("two"))) == Ended(AnswerStatus.FAILED, SHUTTING_DOWN)
    model.gate.set()
    async with asyncio.timeout(20):
        assert await closing == 0
    assert end_of(await collect(answer)).status is AnswerStatus.COMPLETE


async def test_hurry_ends_the_grace(chats: Chats, model: ScriptedModel) -> None:
    model.gate = asyncio.Event()
    answer = await chats.handle(message("?", attachment(RED)))
    hurry = asyncio.Event()
    closing = asyncio.create_task(chats.close(3_600, hurry))
    hurry.set()
    async with asyncio.timeout(20):
        assert await closing == 1
    assert end_of(await collect(answer)).status is AnswerStatus.PENDING


async def test_resumed_questions_wait_for_room_in_the_queue(
    new_chats: Callable[..., Chats], sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite_store.add_turn(thread(), "m", "First?", images=[image()], is_start=True)
    monkeypatch.setattr("bot.writer._SECONDS_BETWEEN_TRIES", 0.001)
    model = ScriptedModel()
    model.refusal = QUEUE_FULL
    submit, num_tries = model.submit, 0

    def try_again(request: ChatRequest) -> ScriptedStream:
        nonlocal num_tries
        num_tries += 1
        if num_tries == 3:
            model.refusal = None
        return submit(request)

    monkeypatch.setattr(model, "submit", try_again)
    chats = new_chats(model)
    await chats.resume()
    answer = chats.running_answer(thread())
    assert answer is not None
    assert end_of(await collect(answer)).status is AnswerStatus.COMPLETE
    assert num_tries == 3
