"""What every `ThreadHandler` promises when a question is asked again, edited, deleted, or its chat goes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256

from adapters.base import (
    AnswerStatus,
    PlatformTurn,
    ThreadHandler,
    ThreadKey,
)
from tests.bot.doubles import BLUE, RED, attachment, collect, end_of, text_of
from tests.bot.handler_drivers import (
    ADA,
    KEY,
    OTHER,
    UNKNOWN,
    Driver,
    Slow,
    answered,
    answers_in,
    begun,
    question,
    until_written,
    written,
)


async def test_the_last_question_or_any_turn_is_answered_again(driver: Driver, handler: ThreadHandler) -> None:
    assert await handler.regenerate(KEY) is None
    assert await handler.regenerate_turn(UNKNOWN) is None
    first, second = await answered(driver, question("1")), await answered(driver, question("2", "And?"))
    for again, turn_id in ((await handler.regenerate(KEY), second), (await handler.regenerate_turn(first), first)):
        assert again is not None
        assert again.turn_id == turn_id
        assert handler.running_turn(turn_id) is again
        assert (await answers_in(handler))[0 if turn_id == first else 1][1] == "Red."  # until there is another
        assert text_of(await written(driver, again, "Blue.")) == "Blue."
    assert [turn[1] for turn in await answers_in(handler)] == ["Blue.", "Blue."]


async def test_what_is_being_written_is_not_begun_again(driver: Driver, handler: ThreadHandler) -> None:
    turn_id, answer = await begun(driver, question("m"))
    assert await handler.regenerate_turn(turn_id) is answer
    assert await handler.regenerate(KEY) is answer
    await written(driver, answer, "Red.")


async def test_an_earlier_answer_is_kept_when_the_new_one_fails(driver: Driver, handler: ThreadHandler) -> None:
    turn_id = await answered(driver, question("m"))
    again = await handler.regenerate_turn(turn_id)
    assert again is not None
    await driver.fail(again)
    assert end_of(await collect(again)).status is AnswerStatus.FAILED
    assert await answers_in(handler) == [("What is this?", "Red.", AnswerStatus.COMPLETE)]


async def test_an_edited_question_is_asked_again_in_its_place(driver: Driver, handler: ThreadHandler) -> None:
    turn_id = await answered(driver, question("1", "First?"))
    await answered(driver, question("2", "Second?"))
    await handler.set_reply(turn_id, ["a"], is_delivered=True)
    again = await handler.ask_again(question("1", "Changed?"))
    assert again is not None
    assert again.turn_id == turn_id
    assert (await answers_in(handler))[0] == ("Changed?", "", AnswerStatus.PENDING)
    await written(driver, again, "Blue.")
    assert [turn[:2] for turn in await answers_in(handler)] == [("Changed?", "Blue."), ("Second?", "Red.")]
    chat = await handler.read_chat(KEY)
    assert chat is not None
    assert chat.title == "Changed?"
    found = await handler.find_turn(turn_id)
    assert found is not None
    assert (found.reply_ids, found.message_id, found.destination) == (("a",), "1", "to 1")
    assert turn_id in [platform_turn.turn_id for platform_turn, _ in await handler.undelivered("test")]


async def test_an_edit_of_something_unknown_or_that_says_the_same_asks_nothing(driver: Driver, handler: ThreadHandler) -> None:
    assert await handler.ask_again(question("m")) is None
    turn_id = await answered(driver, question("m", "What?", attachment(RED), attachment(BLUE)))
    await handler.set_reply(turn_id, ["a"], is_delivered=True)
    both = question("m", "What?", attachment(RED), attachment(BLUE))
    gone = [attachment("it is gone")] * 2
    for edited in (
        both,
        replace(both, attachments=(attachment(RED), gone[0])),  # cannot be fetched any more
        replace(both, attachments=tuple(gone)),
        question("a", "Changed?"),  # a message of ours
        replace(question("m", "Changed?"), key=replace(KEY, workspace="other")),
        replace(question("m", "Changed?"), key=replace(KEY, platform="other")),
    ):
        assert await handler.ask_again(edited) is None
    assert await answers_in(handler) == [("What?", "Red.", AnswerStatus.COMPLETE)]
    assert await handler.undelivered("test") == []


async def test_an_edit_that_takes_a_picture_away_or_brings_another_asks_anew(driver: Driver, handler: ThreadHandler) -> None:
    await answered(driver, question("m", "What?", attachment(RED), attachment(BLUE)))
    for data in (BLUE, RED):
        await written(driver, await handler.ask_again(question("m", "What?", attachment(data))), "One.")
        chat = await handler.read_chat(KEY)
        assert chat is not None
        assert chat.turns[0].image_ids == (sha256(data).hexdigest(),)
    assert await handler.read_image(KEY, sha256(BLUE).hexdigest()) is None


async def test_an_edit_stops_what_is_being_written(driver: Driver, handler: ThreadHandler) -> None:
    turn_id, answer = await begun(driver, question("m"))
    await driver.write(answer, "A re")
    await until_written(answer, "A re")
    again = await handler.ask_again(question("m", "Changed?"))
    assert again is not None
    assert end_of(await collect(answer)).status is AnswerStatus.STOPPED
    assert handler.running_turn(turn_id) is again
    assert text_of(await written(driver, again, "Blue.")) == "Blue."


async def test_a_deleted_question_is_stopped_and_forgotten(driver: Driver, handler: ThreadHandler) -> None:
    assert await handler.retract("test", "workspace", "m") is None
    turn_id, answer = await begun(driver, question("m"))
    await handler.set_reply(turn_id, ["a", "b"], is_delivered=False)
    await driver.write(answer, "A re")
    for platform, workspace, message_id in (("other", "workspace", "m"), ("test", "other", "m"), ("test", "workspace", "a")):
        assert await handler.retract(platform, workspace, message_id) is None
    expected = PlatformTurn(turn_id, KEY, "m", ADA.id, "to m", ("a", "b"))
    assert await handler.retract("test", "workspace", "m") == expected
    assert end_of(await collect(answer)).status is AnswerStatus.STOPPED
    assert await handler.find_turn(turn_id) is None
    assert await handler.find_message("test", "workspace", "a") is None
    assert handler.running_turn(turn_id) is None
    assert not await handler.has_chat(KEY)
    assert await handler.read_image(KEY, sha256(RED).hexdigest()) is None
    assert await handler.retract("test", "workspace", "m") is None


async def test_a_question_that_is_deleted_while_it_is_being_accepted_is_forgotten(driver: Driver, handler: ThreadHandler) -> None:
    slow = Slow()
    asking = asyncio.create_task(handler.handle(question("m", "?", slow.file)))
    await slow.begun.wait()
    retracting = asyncio.create_task(handler.retract("test", "workspace", "m"))
    slow.go.set()
    assert await retracting is not None
    assert end_of(await collect(await asking)).status is AnswerStatus.STOPPED
    assert not await handler.has_chat(KEY)


async def test_a_chat_is_called_after_its_first_question(driver: Driver, handler: ThreadHandler) -> None:
    for number, text in enumerate(("First?", "Second?")):
        await answered(driver, question(str(number), text))
    await handler.retract("test", "workspace", "0")
    assert [(chat.key, chat.title, chat.turns) for chat in await handler.list_chats("test", "workspace")] == [(KEY, "Second?", ())]


async def test_a_deleted_chat_is_gone_with_all_that_ran(driver: Driver, handler: ThreadHandler) -> None:
    assert not await handler.delete_chat(KEY)
    assert await handler.read_chat(KEY) is None
    turn_id = await answered(driver, question("1"))
    _, running = await begun(driver, question("2"))
    _, waiting = await begun(driver, question("3"))
    await answered(driver, question("4", key=OTHER))
    assert await handler.delete_chat(KEY)
    assert [end_of(await collect(answer)).status for answer in (running, waiting)] == [AnswerStatus.STOPPED] * 2
    assert await handler.read_chat(KEY) is None
    assert not await handler.has_chat(KEY)
    assert await handler.find_turn(turn_id) is None
    assert await handler.read_image(KEY, sha256(RED).hexdigest()) is None
    assert await handler.read_image(OTHER, sha256(RED).hexdigest()) == (RED, "image/png")
    assert not await handler.delete_chat(KEY)


async def test_a_chat_that_is_deleted_while_a_question_is_being_accepted_does_not_come_back(
    driver: Driver, handler: ThreadHandler
) -> None:
    slow = Slow()
    asking = asyncio.create_task(handler.handle(question("m", "?", slow.file)))
    await slow.begun.wait()
    deleting = asyncio.create_task(handler.delete_chat(KEY))
    slow.go.set()
    assert await deleting
    assert end_of(await collect(await asking)).status is AnswerStatus.STOPPED
    assert not await handler.has_chat(KEY)


async def test_a_chat_that_is_reset_stays_in_its_thread(driver: Driver, handler: ThreadHandler) -> None:
    assert not await handler.reset_chat(KEY)
    assert not await handler.has_chat(KEY)
    turn_id = await answered(driver, question("1", "First?"))
    _, running = await begun(driver, question("2"))
    assert await handler.reset_chat(KEY)
    assert end_of(await collect(running)).status is AnswerStatus.STOPPED
    assert await handler.has_chat(KEY)
    assert await handler.find_turn(turn_id) is None
    assert await handler.regenerate(KEY) is None
    chat = await handler.read_chat(KEY)
    assert chat is not None
    assert chat.turns == ()
    assert await handler.latest_chat("test", "workspace", "channel") == KEY
    assert await handler.reset_chat(KEY)
    await answered(driver, question("3", "Anew?"))
    assert [chat.title for chat in await handler.list_chats("test", "workspace")] == ["Anew?"]
    assert await handler.reset_chat(KEY)
    assert await handler.delete_chat(KEY)


async def test_a_room_takes_its_chats_with_it(driver: Driver, handler: ThreadHandler) -> None:
    places = ("c", "1"), ("c", "2"), ("d", "c"), ("d", "3")
    keys = [replace(KEY, channel=channel, thread=name) for channel, name in places]
    for key in keys:
        await answered(driver, question(f"{key.channel}{key.thread}", key=key))
    _, running = await begun(driver, question("m", key=keys[0]))
    assert await handler.delete_room("test", "other", "c") == 0
    assert await handler.delete_room("other", "workspace", "c") == 0
    assert await handler.delete_room("test", "workspace", "3") == 1
    assert await handler.delete_room("test", "workspace", "c") == 3
    assert end_of(await collect(running)).status is AnswerStatus.STOPPED
    assert not any([await handler.has_chat(key) for key in keys])


async def test_the_chat_that_was_touched_last(driver: Driver, handler: ThreadHandler) -> None:
    async def latest() -> ThreadKey | None:
        newest = await handler.latest_chat("test", "workspace", "channel")
        listed = await handler.list_chats("test", "workspace")
        assert [chat.key for chat in listed[:1]] == ([] if newest is None else [newest])
        return newest

    assert await latest() is None
    for number, key in enumerate((KEY, OTHER, KEY)):
        await answered(driver, question(str(number), key=key))
        assert await latest() == key
    _, slow = await begun(driver, question("slow", key=OTHER))
    await answered(driver, question("quick"))
    assert await latest() == KEY
    await driver.end(slow)  # an answer touches its chat too
    assert await latest() == OTHER
    edited = await handler.ask_again(question("0", "Changed?"))
    assert await latest() == KEY
    await written(driver, edited, "Blue.")
    for places in (("test", "workspace", "d"), ("test", "other", "channel"), ("other", "workspace", "channel")):
        assert await handler.latest_chat(*places) is None
    assert [chat.key for chat in await handler.list_chats("test", "workspace")] == [KEY, OTHER]
    assert await handler.list_chats("test", "other") == []
