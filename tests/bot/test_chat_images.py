"""Pictures and links in messages: which is used, and what is said about the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adapters.base import AnswerStatus
from bot.chats import Chats
from bot.images import ImageReader
from bot.questions import DEFAULT_QUESTION
from bot.store import Store
from bot.writer import AnswerWriter
from tests.bot.doubles import (
    BLUE,
    RED,
    Links,
    ScriptedModel,
    ask,
    attachment,
    collect,
    end_of,
    image,
    notices_of,
    questions,
    text_of,
    thread,
)

# -- pictures that cannot be used -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (attachment(b"", "empty.png"), "I could not use empty.png: the file is empty."),
        (attachment("the download broke off", "gone.png"), "I could not use gone.png: the download broke off."),
        (attachment(RED, "huge.png", size=104_000_000), "I could not use huge.png: it has 104 MB, and I take at most 1 MB."),
        (attachment(RED * 20_000, "lies.png", size=5), "I could not use lies.png: it is too large."),
        (attachment(b"hello", "a\x1b[31m\nb.txt"), "I could not use a [31m b.txt: it is not a picture that I can read."),
        (attachment(RED[:40], "half.png"), "I could not use half.png: the file is damaged or cut off."),
    ],
)
async def test_the_model_is_not_asked_about_a_picture_that_did_not_arrive(
    chats: Chats, model: ScriptedModel, bad: Any, reason: str
) -> None:
    await ask(chats, "First?", attachment(BLUE))  # there is an older picture that it must not be answered about
    events = await ask(chats, "What is this?", bad)
    ended = end_of(events)
    assert ended.status is AnswerStatus.FAILED
    assert ended.error is not None
    assert ended.error.startswith(reason)
    assert text_of(events) == ""
    assert len(model.requests) == 1
    chat = await chats.read_chat(thread())
    assert chat is not None
    assert chat.turns[1].error == ended.error
    again = await chats.regenerate(thread())  # nothing to ask again: the reason has not changed
    assert again is not None
    assert end_of(await collect(again)) == ended
    assert len(model.requests) == 1


async def test_a_fetch_that_crashes_is_a_sentence(chats: Chats, model: ScriptedModel) -> None:
    async def crash(max_bytes: int) -> bytes:
        raise RuntimeError("token=hunter2")

    broken = attachment(b"")
    object.__setattr__(broken, "fetch", crash)
    assert end_of(await ask(chats, "?", broken)).error == "I could not use picture.png: it could not be downloaded."
    assert model.requests == []


async def test_the_first_usable_picture_is_used_and_the_answer_says_which(chats: Chats, model: ScriptedModel) -> None:
    events = await ask(chats, "?", attachment(b"", "empty.png"), attachment(RED, "red.png"), attachment(BLUE, "blue.png"))
    assert notices_of(events) == [
        "I could not use empty.png: the file is empty.",
        "I look at one picture at a time here: this is about red.png, and I did not look at blue.png.",
    ]
    assert model.requests[0].messages[0].images == (image("red"),)
    assert end_of(events).status is AnswerStatus.COMPLETE


async def test_more_pictures_than_a_chat_may_have_are_named(new_chats: Callable[..., Chats]) -> None:
    model = ScriptedModel(max_images_per_chat=2)
    files = [attachment(RED, "red.png"), attachment(RED, "again.png"), attachment(BLUE, "blue.png"), attachment(BLUE, "last.png")]
    events = await ask(new_chats(model), "?", *files)
    assert notices_of(events) == [
        "I look at up to 2 pictures in a chat: this is about red.png and again.png, and I did not look at blue.png and last.png."
    ]
    assert model.requests[0].messages[0].images == (image("red"), image("red"))


# -- links ------------------------------------------------------------------------------------------------------------------


async def test_a_link_to_a_picture_is_fetched_and_leaves_the_question(chats: Chats, model: ScriptedModel, links: Links) -> None:
    links.contents["https://example.org/a(1).png?x=1"] = RED
    await ask(chats, "What is (see https://example.org/a(1).png?x=1)?")
    assert questions(model.requests[0]) == ["What is (see )?"]
    assert model.requests[0].messages[0].images == (image("red"),)


async def test_a_link_alone_asks_for_a_description(chats: Chats, model: ScriptedModel, links: Links) -> None:
    links.contents["https://example.org/picture"] = RED
    await ask(chats, "https://example.org/picture")
    assert questions(model.requests[0]) == [DEFAULT_QUESTION]


async def test_other_links_are_just_words_once_there_is_a_picture(chats: Chats, model: ScriptedModel, links: Links) -> None:
    await ask(chats, "First?", attachment(RED))
    await ask(chats, "Is it like https://example.org/wiki/Circle ?")
    assert links.asked == []
    assert questions(model.requests[1])[-1] == "Is it like https://example.org/wiki/Circle ?"


async def test_a_link_that_fails_is_named(chats: Chats, model: ScriptedModel) -> None:
    ended = end_of(await ask(chats, "What is https://example.org/gone.png?"))
    assert ended.error == "I could not use example.org/gone.png: the server answered with status 404."
    assert model.requests == []


async def test_a_link_to_this_machine_is_refused(sqlite_store: Store, model: ScriptedModel) -> None:
    chats = Chats(sqlite_store, model, ImageReader(1_000_000), AnswerWriter(sqlite_store, model))  # the real way to the web
    ended = end_of(await ask(chats, "What is http://127.0.0.1:1/a.png"))
    assert ended.error is not None
    assert "private or local address" in ended.error
    assert model.requests == []
