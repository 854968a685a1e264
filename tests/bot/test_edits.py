"""Questions that are edited or deleted on their platform after they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from adapters.base import AnswerStatus, Author, Ended
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.writer import NO_IMAGE
from tests.bot.doubles import (
    BLUE,
    QUEUE_FULL,
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
    assert await collect(refused) == [Ended(AnswerStatus.FAILED, NO_IMAGE)]
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
    assert end_of(await collect(without)) == Ended(AnswerStatus.FAILED, NO_IMAGE)
    assert end_of(await ask(chats, "And this?")) == Ended(AnswerStatus.FAILED, NO_IMAGE)
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
    question = replace(message("?", attachment(RED), message_id="m"), destination="there")
    answer = await chats.handle(question)
    await begun(answer)
    assert answer.turn_id is not None
    await chats.set_reply(answer.turn_id, ["a", "b"], is_delivered=False)
    async with asyncio.timeout(20):
        platform_turn = await chats.retract("test", "workspace", "m")
    assert platform_turn is not None
    assert (platform_turn.turn_id, platform_turn.key, platform_turn.message_id) == (answer.turn_id, thread(), "m")
    assert (platform_turn.author_id, platform_turn.destination, platform_turn.reply_ids) == ("1", "there", ("a", "b"))
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
    assert end_of(await ask(chats, "And what else?")) == Ended(AnswerStatus.FAILED, NO_IMAGE)
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
    assert end_of(await collect(following)) == Ended(AnswerStatus.FAILED, NO_IMAGE)
