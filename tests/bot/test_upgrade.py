"""What an earlier version wrote down is read, shown, answered and forgotten by this one."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from adapters.base import AnswerStatus, Author, Ended, IncomingMessage, PlatformTurn, ThreadKey
from adapters.discord import destination as discord_destination
from adapters.slack import destination as slack_destination
from bot.questions import NEW_CHAT
from bot.store import Store
from bot.thread_chats import ThreadChats
from tests.bot.doubles import BLUE, RED, ScriptedModel, collect, num_rows, png, questions, text_of

OLD = Path(__file__).parent / "data" / "database_of_a088879.sql"
DISCORD = ThreadKey("discord", "1001", "2001", "3001")
DIRECT = ThreadKey("discord", "dm", "2002", "2002")
SLACK = ThreadKey("slack", "T1", "C1", "1700000000.000100")
PAGE = ThreadKey("web", "local", "web", "a" * 20)
COMPLETE, STOPPED, FAILED, PENDING = AnswerStatus.COMPLETE, AnswerStatus.STOPPED, AnswerStatus.FAILED, AnswerStatus.PENDING
IN_THE_THREAD = '["1001","3001","",false,"","",0.0,true,false]'


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[Store]:
    """Over a file of that version, whose answers ended just now: old ones are not shown again."""
    path = tmp_path / "chats.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text("utf-8"))
        now = datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
        connection.execute("UPDATE turns SET finished_at = ? WHERE finished_at IS NOT NULL", [now])
        connection.commit()
    store = await Store.open(f"sqlite+aiosqlite:///{path}")
    yield store
    await store.close()


@pytest.fixture
def chats(new_threads: Callable[..., ThreadChats], model: ScriptedModel) -> ThreadChats:
    return new_threads(model)


async def test_every_chat_and_picture_is_read(chats: ThreadChats) -> None:
    expected = {
        DISCORD: [
            ("What is this?", "A red square.", COMPLETE),
            ("How large is it?", "Eight by eight.", COMPLETE),
            ("And this one?", "A green square.", COMPLETE),
            ("Tell me a story.", "A", STOPPED),
        ],
        DIRECT: [("And here?", "", FAILED)],
        SLACK: [
            ("What is this?", "A blue square.", COMPLETE),
            ("What colour is it?", "Blue.", COMPLETE),
            ("Is it round?", "", PENDING),
        ],
        PAGE: [("What is this, at the page?", "Red.", COMPLETE)],
    }
    seen = {}
    for key in expected:
        chat = await chats.read_chat(key)
        assert chat is not None
        assert chat.title == expected[key][0][0]
        seen[key] = [(turn.question, turn.answer, turn.status) for turn in chat.turns]
        assert key in [listed.key for listed in await chats.list_chats(key.platform, key.workspace)]
    assert seen == expected
    chat, refused = await chats.read_chat(DISCORD), await chats.read_chat(DIRECT)
    assert chat is not None
    assert refused is not None
    assert chat.turns[2].notices == (NEW_CHAT,)
    assert refused.turns[0].error == "I could not use lost.png: the download broke off."
    for key, data in ((DISCORD, RED), (DISCORD, png("green")), (SLACK, BLUE), (PAGE, RED)):
        assert await chats.read_image(key, sha256(data).hexdigest()) == (data, "image/png")


async def test_turns_are_found_and_say_where_they_are_shown(chats: ThreadChats) -> None:
    first = await chats.find_message("discord", "1001", "5002")
    assert first is not None
    assert (first.key, first.message_id, first.author_id, first.reply_ids) == (DISCORD, "3001", "77", ("5001", "5002"))
    assert first == await chats.find_message("discord", "1001", "3001") == await chats.find_turn(first.turn_id)
    assert discord_destination.parse_destination(first.destination) == discord_destination.Destination(
        "1001", "3001", reply_to="3001", has_hint=True
    )
    second = await chats.find_message("discord", "1001", "5003")
    assert second == PlatformTurn(2, DISCORD, "4002", "88", IN_THE_THREAD, ("5003",))
    by_command = await chats.find_message("discord", "dm", "6001")
    assert by_command is not None
    interaction = discord_destination.parse_destination(by_command.destination)
    assert (interaction.channel, interaction.application, interaction.has_token(2.0)) == ("2002", "9001", False)
    for message_id, user in (("1700000001.000200", "U1"), ("1700000003.000400", "U2"), ("1700000004.000500", "U2")):
        found = await chats.find_message("slack", "T1", message_id)
        assert found is not None
        assert slack_destination.parse_destination(found.destination) == slack_destination.Destination(
            "T1", "C1", "1700000000.000100", user
        )
    assert await chats.latest_chat("slack", "T1", "C1") == SLACK
    assert await chats.read_note("discord", "seen_until") == "2026-11-20T12:00:00+00:00"
    assert await chats.read_note("slack", "seen_until") == "2026-11-20T12:00:01+00:00"


async def test_what_was_left_open_is_answered_and_shown(chats: ThreadChats, model: ScriptedModel) -> None:
    model.answer = "It is not."
    assert await chats.resume() == 1
    shown = [(turn.message_id, turn.reply_ids, text_of(await collect(answer))) for turn, answer in await chats.undelivered("slack")]
    assert shown == [
        ("1700000002.000300", ("1700000003.000400",), "Blue."),
        ("1700000004.000500", (), "It is not."),
    ]
    assert questions(model.requests[0]) == ["What is this?", "What colour is it?", "Is it round?"]
    assert [image.data for image in model.requests[0].messages[0].images] == [BLUE]
    assert [message.token_ids for message in model.requests[0].messages] == [None, (1, 2, 3), None, (1,), None]
    assert await chats.undelivered("discord") == []
    await chats.set_reply(9, ["1700000005.000600"], is_delivered=True)
    assert [turn.turn_id for turn, _ in await chats.undelivered("slack")] == [7]


async def test_a_chat_goes_on_where_it_was(chats: ThreadChats, model: ScriptedModel) -> None:
    bob = Author("88", "bob")
    answer = await chats.handle(IncomingMessage(DISCORD, "4005", bob, "And then?", destination=IN_THE_THREAD))
    assert text_of(await collect(answer)) == "Answer to: And then?"
    assert (answer.turn_id or 0) > 9  # no id is given twice
    assert questions(model.requests[-1]) == ["And this one?", "Tell me a story.", "And then?"]
    assert [image.data for image in model.requests[-1].messages[0].images] == [png("green")]
    again = await chats.handle(IncomingMessage(DISCORD, "4002", bob, "How large is it?"))
    assert (again.turn_id, text_of(await collect(again))) == (2, "Eight by eight.")  # answered once
    same = IncomingMessage(DISCORD, "4002", bob, "How large is it?")
    assert await chats.ask_again(same) is None
    rewritten = await chats.regenerate_turn(2)
    assert rewritten is not None
    assert text_of(await collect(rewritten)) == "Answer to: How large is it?"
    refused = await chats.regenerate_turn(5)
    assert refused is not None
    assert await collect(refused) == [Ended(FAILED, "I could not use lost.png: the download broke off.")]


async def test_somebody_is_forgotten(chats: ThreadChats, sqlite_store: Store) -> None:
    assert await num_rows(sqlite_store, "ratings") == 2
    assert await chats.forget_author("discord", "77") == 2
    assert await num_rows(sqlite_store, "ratings") == 0  # both were of her answer
    assert not await chats.has_chat(DIRECT)
    assert await chats.find_message("discord", "1001", "5001") is None
    assert await chats.read_image(DISCORD, sha256(RED).hexdigest()) is None
    assert await chats.read_image(PAGE, sha256(RED).hexdigest()) == (RED, "image/png")
    chat = await chats.read_chat(DISCORD)
    assert chat is not None
    assert [turn.turn_id for turn in chat.turns] == [2, 3, 4]
    assert await chats.retract("slack", "T1", "1700000000.000100") is not None
    assert await num_rows(sqlite_store, "images") == 2
