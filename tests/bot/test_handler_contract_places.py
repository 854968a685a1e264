"""What every `ThreadHandler` promises about where answers are shown, and about people and notes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256

from adapters.base import (
    Answer,
    AnswerStatus,
    Author,
    PlatformTurn,
    ThreadHandler,
)
from tests.bot.doubles import BLUE, RED, attachment, collect, end_of, text_of
from tests.bot.handler_drivers import (
    ADA,
    BOB,
    KEY,
    OTHER,
    UNKNOWN,
    Driver,
    answered,
    answers_in,
    begun,
    question,
    written,
)


async def test_a_turn_is_found_by_its_question_or_by_what_shows_its_answer(driver: Driver, handler: ThreadHandler) -> None:
    turn_id = await answered(driver, question("m"))
    assert await handler.find_turn(UNKNOWN) is None
    assert await handler.find_turn(turn_id) == PlatformTurn(turn_id, KEY, "m", ADA.id, "to m")
    for reply_ids in (["b", "a"], ["a", "c", "b"]):
        await handler.set_reply(turn_id, reply_ids, is_delivered=False)
        for message_id in ("m", *reply_ids):
            found = await handler.find_message("test", "workspace", message_id)
            assert found == PlatformTurn(turn_id, KEY, "m", ADA.id, "to m", tuple(reply_ids))
            assert await handler.find_message("test", "other", message_id) is None
            assert await handler.find_message("other", "workspace", message_id) is None
    await handler.set_reply(turn_id, [], is_delivered=False)
    assert await handler.find_message("test", "workspace", "a") is None
    await handler.set_reply(UNKNOWN, ["x"], is_delivered=True)
    assert await handler.find_message("test", "workspace", "x") is None


async def test_of_two_turns_that_a_message_is_said_to_show_the_newest_is_found(driver: Driver, handler: ThreadHandler) -> None:
    first, second = await answered(driver, question("1")), await answered(driver, question("2", key=OTHER))
    for turn_id in (second, first):
        await handler.set_reply(turn_id, ["a", "1"], is_delivered=True)
    found = [await handler.find_message("test", "workspace", message_id) for message_id in ("a", "1")]
    assert [turn.turn_id for turn in found if turn is not None] == [second, first]  # a question is no reply


async def shown_again(handler: ThreadHandler) -> list[int]:
    return [turn.turn_id for turn, _ in await handler.undelivered("test")]


async def test_what_is_not_known_to_be_shown_is_listed_oldest_first(driver: Driver, handler: ThreadHandler) -> None:
    first, second = await answered(driver, question("1")), await answered(driver, question("2", key=OTHER))
    third, running = await begun(driver, question("3"))
    refused = await handler.handle(question("4", "?", attachment("it is gone"), key=OTHER))
    await answered(driver, question("1", key=replace(KEY, platform="other")))
    found = await handler.undelivered("test")
    turn_ids = [first, second, third, refused.turn_id or 0]
    assert [turn for turn, _ in found] == [await handler.find_turn(turn_id) for turn_id in turn_ids]
    assert found[2][1] is running
    assert [text_of(await collect(answer)) for _, answer in found[:2]] == ["Red.", "Red."]
    assert await collect(found[3][1]) == await collect(refused)
    await handler.set_reply(second, ["a"], is_delivered=True)
    await handler.set_reply(first, ["b"], is_delivered=False)
    assert await shown_again(handler) == [first, third, refused.turn_id]
    assert await handler.undelivered("nowhere") == []


async def test_what_is_written_anew_has_to_be_shown_anew(driver: Driver, handler: ThreadHandler) -> None:
    turn_id = await answered(driver, question("m"))

    async def by_button() -> Answer | None:
        return await handler.regenerate_turn(turn_id)

    async def by_edit() -> Answer | None:
        return await handler.ask_again(question("m", "Changed?"))

    ways: list[Callable[[], Awaitable[Answer | None]]] = [by_button, by_edit]
    for again in ways:
        await handler.set_reply(turn_id, ["a"], is_delivered=True)
        assert await shown_again(handler) == []
        answer = await again()
        assert await shown_again(handler) == [turn_id]
        await handler.set_reply(turn_id, ["a"], is_delivered=True)  # of the earlier answer, and late
        assert await shown_again(handler) == [turn_id]
        await written(driver, answer, "Blue.")
        assert await shown_again(handler) == [turn_id]


async def test_of_an_answer_that_nobody_waits_for_any_more_nothing_has_to_be_shown(driver: Driver, handler: ThreadHandler) -> None:
    turn_id, answer = await begun(driver, question("m"))
    answer.stop()
    await handler.set_reply(turn_id, [], is_delivered=True)  # its place is gone
    await driver.stopped(answer)
    assert await shown_again(handler) == []


async def test_the_last_word_about_an_answer_counts(driver: Driver, handler: ThreadHandler) -> None:
    turn_id = await answered(driver, question("m"))
    assert await handler.rate(turn_id, "2", is_helpful=True)
    assert await handler.rate(turn_id, "2", is_helpful=False)
    assert await handler.rate(turn_id, "3", is_helpful=True)
    assert not await handler.rate(UNKNOWN, "2", is_helpful=True)
    assert await driver.ratings() == {(turn_id, "2"): False, (turn_id, "3"): True}
    await handler.retract("test", "workspace", "m")
    assert not await handler.rate(turn_id, "2", is_helpful=True)
    assert await driver.ratings() == {}


async def test_somebody_is_forgotten_everywhere_and_others_are_not(driver: Driver, handler: ThreadHandler) -> None:
    elsewhere, other_platform = replace(KEY, workspace="other"), replace(KEY, platform="other")
    kept = await answered(driver, question("1", author=BOB))
    hers = await answered(driver, question("2", "Hers?", attachment(BLUE)))
    away = await answered(driver, question("3", key=other_platform))
    for turn_id, author in ((kept, ADA), (kept, BOB), (hers, BOB), (away, ADA)):
        await handler.rate(turn_id, author.id, is_helpful=True)
    _, running = await begun(driver, question("4", key=elsewhere))
    assert await handler.forget_author("test", ADA.id) == 2
    assert end_of(await collect(running)).status is AnswerStatus.STOPPED
    assert not await handler.has_chat(elsewhere)
    assert await answers_in(handler) == [("What is this?", "Red.", AnswerStatus.COMPLETE)]
    assert await handler.read_image(KEY, sha256(BLUE).hexdigest()) is None
    assert await driver.ratings() == {(kept, BOB.id): True, (away, ADA.id): True}
    assert await handler.find_turn(away) is not None
    assert await handler.forget_author("test", ADA.id) == 0


async def test_who_has_asked_how_much(driver: Driver, handler: ThreadHandler) -> None:
    async def num_used(author: Author, platform: str = "test") -> int:
        quota = await handler.quota(platform, "workspace", author)
        assert (quota.limit, quota.next_at) == (None, None)
        return quota.num_used

    assert await num_used(ADA) == 0
    await answered(driver, question("1"))
    await begun(driver, question("2", key=replace(KEY, workspace="other")))
    await answered(driver, question("3", author=BOB))
    assert [await num_used(ADA), await num_used(BOB), await num_used(ADA, "other")] == [2, 1, 0]


async def test_notes_are_kept_per_platform_and_replaced(handler: ThreadHandler) -> None:
    assert await handler.read_note("test", "mark") is None
    for text in ("first", "second"):
        await handler.write_note("test", "mark", text)
    await handler.write_note("other", "mark", "third")
    assert [await handler.read_note(name, "mark") for name in ("test", "other", "none")] == ["second", "third", None]
    assert await handler.read_note("test", "other") is None


async def test_a_picture_is_read_in_the_chat_that_shows_it(driver: Driver, handler: ThreadHandler) -> None:
    await answered(driver, question("m"))
    assert await handler.read_image(KEY, sha256(RED).hexdigest()) == (RED, "image/png")
    assert await handler.read_image(OTHER, sha256(RED).hexdigest()) is None
    assert await handler.read_image(KEY, sha256(BLUE).hexdigest()) is None
