"""What every `ThreadHandler` promises about questions and answers: the bot's own, and the one in memory of the adapters' tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from adapters.base import (
    AnswerStatus,
    AnswerText,
    Attachment,
    Ended,
    IncomingMessage,
    ThreadHandler,
    ThreadKey,
)
from tests.bot.doubles import BLUE, RED, attachment, collect, end_of, notices_of, text_of
from tests.bot.handler_drivers import (
    ADA,
    KEY,
    OTHER,
    Driver,
    Slow,
    answered,
    answers_in,
    begun,
    question,
    until_written,
    written,
)


async def test_a_question_is_answered_and_kept(driver: Driver, handler: ThreadHandler) -> None:
    turn_id, answer = await begun(driver, question("m"))
    assert answer.key == KEY
    assert handler.running_answer(KEY) is answer
    assert handler.running_turn(turn_id) is answer
    assert await answers_in(handler) == [("What is this?", "", AnswerStatus.PENDING)]
    assert await written(driver, answer, "Red.") == [AnswerText("Red."), Ended(AnswerStatus.COMPLETE)]
    assert handler.running_answer(KEY) is None
    assert handler.running_turn(turn_id) is None
    chat = await handler.read_chat(KEY)
    assert chat is not None
    [turn] = chat.turns
    assert (turn.turn_id, turn.question, turn.answer, turn.status) == (turn_id, "What is this?", "Red.", AnswerStatus.COMPLETE)
    assert (turn.notices, turn.error, turn.image_ids) == ((), None, (sha256(RED).hexdigest(),))
    assert abs((datetime.now(UTC) - turn.created_at).total_seconds()) < 60
    assert (chat.key, chat.title, chat.updated_at >= turn.created_at) == (KEY, "What is this?", True)


async def test_every_listener_gets_all_and_a_late_one_the_text_so_far_joined(driver: Driver, handler: ThreadHandler) -> None:
    _, answer = await begun(driver, question("m"))
    early = asyncio.create_task(collect(answer))
    for piece in ("A", " red", " circle."):
        await driver.write(answer, piece)
    await until_written(answer, "A red circle.")
    late = asyncio.create_task(anext(event async for event in answer.events() if isinstance(event, AnswerText)))
    assert await late == AnswerText("A red circle.")
    await driver.end(answer)
    assert text_of(await early) == "A red circle."


async def test_a_message_is_answered_once(driver: Driver, handler: ThreadHandler) -> None:
    turn_id, answer = await begun(driver, question("m"))
    assert await handler.handle(question("m")) is answer
    events = await written(driver, answer, "Red.")
    again = await handler.handle(question("m", "Something else?"))
    assert (again.turn_id, await collect(again)) == (turn_id, events)
    assert await answers_in(handler) == [("What is this?", "Red.", AnswerStatus.COMPLETE)]


async def test_a_message_that_comes_twice_at_once_is_answered_once(driver: Driver, handler: ThreadHandler) -> None:
    slow = Slow()
    first = asyncio.create_task(handler.handle(question("m", "?", slow.file)))
    await slow.begun.wait()
    second = asyncio.create_task(handler.handle(question("m", "?", slow.file)))
    slow.go.set()
    assert await first is await second
    assert len(await answers_in(handler)) == 1


async def test_whoever_hands_in_a_message_and_leaves_takes_nothing_back(driver: Driver, handler: ThreadHandler) -> None:
    slow = Slow()
    leaving = asyncio.create_task(handler.handle(question("m", "?", slow.file)))
    await slow.begun.wait()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    slow.go.set()
    assert text_of(await written(driver, await handler.handle(question("m", "?")), "Red.")) == "Red."
    assert len(await answers_in(handler)) == 1


@pytest.mark.parametrize("change", [{"platform": "other"}, {"workspace": "other"}])
async def test_the_same_id_on_another_platform_or_workspace_is_another_message(
    driver: Driver, handler: ThreadHandler, change: dict[str, str]
) -> None:
    here, there = await answered(driver, question("m")), await answered(driver, question("m", key=replace(KEY, **change)), "Blue.")
    assert here != there
    for key, turn_id, text in ((KEY, here, "Red."), (replace(KEY, **change), there, "Blue.")):
        assert await handler.find_message(key.platform, key.workspace, "m") == await handler.find_turn(turn_id)
        assert await answers_in(handler, key) == [("What is this?", text, AnswerStatus.COMPLETE)]
    assert await handler.retract(KEY.platform, KEY.workspace, "m") is not None
    assert await handler.find_turn(there) is not None


async def test_a_thread_is_served_in_order_and_others_do_not_wait(driver: Driver, handler: ThreadHandler) -> None:
    slow = Slow()
    first = asyncio.create_task(handler.handle(question("1", "First?", slow.file)))
    await slow.begun.wait()
    second = asyncio.create_task(handler.handle(question("2", "Second?")))
    await answered(driver, question("3", key=OTHER))
    slow.go.set()
    answers = [await first, await second]
    assert [turn[0] for turn in await answers_in(handler)] == ["First?", "Second?"]
    assert handler.running_answer(KEY) is answers[0]
    await written(driver, answers[0], "Red.")
    assert handler.running_answer(KEY) is answers[1]


async def test_what_is_refused_leaves_nothing_and_may_be_asked_again(driver: Driver, handler: ThreadHandler) -> None:
    driver.refuse_next("The queue is full.")
    answer = await handler.handle(question("m"))
    assert end_of(await collect(answer)) == Ended(AnswerStatus.FAILED, "The queue is full.")
    assert answer.turn_id is None
    assert not await handler.has_chat(KEY)
    assert await handler.find_message("test", "workspace", "m") is None
    await answered(driver, question("m"))


async def test_a_picture_that_cannot_be_used_is_told_in_the_answer_and_the_question_is_kept(
    driver: Driver, handler: ThreadHandler
) -> None:
    answer = await handler.handle(question("m", "?", attachment("the download broke off", "a.png")))
    ended = end_of(await collect(answer))
    assert ended.status is AnswerStatus.FAILED
    assert "a.png" in (ended.error or "")
    assert "the download broke off" in (ended.error or "")
    assert answer.turn_id is not None
    assert (await answers_in(handler))[0][2] is AnswerStatus.FAILED
    assert (await handler.quota("test", "workspace", ADA)).num_used == 0
    again = await handler.regenerate_turn(answer.turn_id)  # what was refused is refused again
    assert again is not None
    assert await collect(again) == await collect(answer)


async def test_one_usable_picture_is_enough(driver: Driver, handler: ThreadHandler) -> None:
    turn_id, answer = await begun(driver, question("m", "?", attachment("it is gone", "a.png"), attachment(BLUE, "b.png")))
    events = await written(driver, answer, "Blue.")
    assert "a.png" in notices_of(events)[0]
    assert end_of(events).status is AnswerStatus.COMPLETE
    chat = await handler.read_chat(KEY)
    assert chat is not None
    assert [list(chat.turns[0].notices), chat.turns[0].image_ids] == [notices_of(events), (sha256(BLUE).hexdigest(),)]
    again = await written(driver, await handler.regenerate_turn(turn_id), "Sky blue.")
    assert notices_of(again) == notices_of(events)


async def test_pictures_near_by_are_looked_for_only_where_there_is_none(driver: Driver, handler: ThreadHandler) -> None:
    looked: list[str] = []

    def near(message_id: str, *files: Attachment, key: ThreadKey = KEY) -> IncomingMessage:
        async def look_back() -> Sequence[Attachment]:
            looked.append(message_id)
            return [attachment(RED)]

        return replace(question(message_id, key=key), attachments=files, look_back=look_back)

    await answered(driver, near("1", attachment(BLUE)))
    await answered(driver, near("2"))
    assert looked == []
    await answered(driver, near("3", key=OTHER))
    await answered(driver, near("4", key=OTHER))
    assert looked == ["3"]
    assert await handler.read_image(OTHER, sha256(RED).hexdigest()) == (RED, "image/png")


async def test_a_failure_is_told_and_kept(driver: Driver, handler: ThreadHandler) -> None:
    turn_id, answer = await begun(driver, question("m"))
    await driver.write(answer, "A re")
    await driver.fail(answer)
    assert end_of(await collect(answer)) == Ended(AnswerStatus.FAILED, "The model broke.")
    chat = await handler.read_chat(KEY)
    assert chat is not None
    assert (chat.turns[0].answer, chat.turns[0].status, chat.turns[0].error) == ("", AnswerStatus.FAILED, "The model broke.")
    await written(driver, await handler.regenerate_turn(turn_id), "Red.")
    assert await answers_in(handler) == [("What is this?", "Red.", AnswerStatus.COMPLETE)]


async def test_a_stopped_answer_keeps_what_was_written(driver: Driver, handler: ThreadHandler) -> None:
    _, answer = await begun(driver, question("m"))
    await driver.write(answer, "A re")
    await until_written(answer, "A re")
    answer.stop()
    await driver.stopped(answer)
    answer.stop()  # does nothing any more
    assert await collect(answer) == [AnswerText("A re"), Ended(AnswerStatus.STOPPED)]
    assert await answers_in(handler) == [("What is this?", "A re", AnswerStatus.STOPPED)]
