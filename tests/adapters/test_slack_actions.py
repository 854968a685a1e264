"""The shortcut, /threadsight, words in threads and the home, over the wire."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import pytest

from adapters.access import Access, parse_entries
from adapters.commands import COMMANDS, CommandName
from adapters.slack.actions import HELP
from tests.adapters.slack_world import IMAGE, SlackWorld, running, slack_world
from tests.loopbacks.slack.state import Message

SHORTCUT, COMMAND, FORGET = "threadsight_ask_about_image", "/threadsight", "threadsight_forget"


@pytest.fixture
async def world() -> AsyncIterator[SlackWorld]:
    async with slack_world() as world:
        yield world


# -- words in threads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("!help", "mention me in the same message"),
        ("!quota", "You have asked 1 question"),
        ("!reset", "I have forgotten this chat"),
        ("!Forget ", "I would delete all that I have stored about you"),
    ],
)
async def test_words_in_a_thread_are_for_one_person_and_no_question(world: SlackWorld, word: str, says: str) -> None:
    question, _, _ = await world.answered()
    await world.slack.post(world.general, world.ann, word, thread_ts=question.ts, how="doubled")  # done once
    (told,) = await world.slack.wait_for(lambda: world.slack.ephemeral)
    await world.slack.settle()
    assert says in told.text
    assert (told.only_for, told.thread_ts) == (world.ann, question.ts)
    assert len(world.handler.messages) == 1
    assert world.slack.ephemeral == [told]


async def test_words_elsewhere_are_nobodys_business(world: SlackWorld) -> None:
    await world.slack.post(world.general, world.ann, "!forget")
    await world.answered()
    assert world.slack.ephemeral == []


async def test_words_in_a_direct_message_are_answered_there(world: SlackWorld) -> None:
    direct = world.slack.direct(world.ann)
    await world.slack.post(direct, world.ann, "!help")
    (told,) = await world.slack.wait_for(lambda: world.slack.answers(direct))
    assert "mention me" in told.text


async def test_the_answer_to_a_command_is_in_no_log(world: SlackWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Nor the address to which whoever has it can post."""
    caplog.set_level(logging.DEBUG)
    await world.slack.slash(world.ann, world.general, COMMAND, "quota")
    (told,) = await world.slack.wait_for(lambda: world.slack.ephemeral)
    assert "You have asked" in told.text
    assert "You have asked" not in caplog.text
    assert "/response/" not in caplog.text


# -- deleting, which is asked about first ----------------------------------------------------------------------------------


async def the_question(world: SlackWorld, how: str) -> Message:
    """What Ann is asked before anything is deleted, wherever she wants it."""
    slack = world.slack
    question, _, _ = await world.answered()
    if how == "command":
        await slack.slash(world.ann, world.general, COMMAND, "forget")
        (asking,) = await slack.wait_for(lambda: slack.ephemeral)
    elif how == "word":
        await slack.post(world.general, world.ann, "!forget", thread_ts=question.ts)
        (asking,) = await slack.wait_for(lambda: slack.ephemeral)
    else:
        direct = slack.direct(world.ann)
        await slack.post(direct, world.ann, "!forget")
        (asking,) = await slack.wait_for(lambda: slack.answers(direct))
    return asking


@pytest.mark.parametrize("how", ["command", "word", "direct"])
async def test_forgetting_waits_for_the_button_which_outlives_a_restart(world: SlackWorld, how: str) -> None:
    slack, bob = world.slack, world.slack.add_user("bob")
    asking = await the_question(world, how)
    confirmation = next(command.confirmation for command in COMMANDS if command.name is CommandName.FORGET)
    assert confirmation is not None
    assert asking.shown == confirmation.question
    assert asking.buttons == [(FORGET, confirmation.button, "")]  # who presses it is all that it needs to know
    assert asking.blocks[-1]["elements"][0]["style"] == "danger"
    assert world.handler.platform_turns
    if how != "direct":
        with pytest.raises(LookupError):
            await slack.click(bob, asking, FORGET)
    await world.stop()
    async with running(slack, world.handler):
        await slack.click(world.ann, asking, FORGET)
        await slack.wait_for(lambda: "I have deleted your question" in asking.shown)
    assert world.handler.platform_turns == {}
    assert asking.buttons == []
    assert [(call.method, call.error) for call in slack.calls if call.error] == []


async def test_it_is_told_another_way_when_slack_does_not_take_the_answer(world: SlackWorld) -> None:
    slack = world.slack
    asking = await the_question(world, "command")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.loopbacks.slack.people.MAX_RESPONSES", 0)
        await slack.click(world.ann, asking, FORGET)
        _, told = await slack.wait_for(lambda: slack.ephemeral if len(slack.ephemeral) == 2 else [])
    assert "I have deleted your question" in told.text
    assert told.only_for is world.ann


# -- the command -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [("", HELP[:30]), ("help", HELP[:30]), ("quota", "You have asked 0 questions"), ("forget", "I would delete all")],
)
async def test_the_command_answers_one_person(world: SlackWorld, text: str, says: str) -> None:
    await world.slack.slash(world.ann, world.general, COMMAND, text)
    (told,) = await world.slack.wait_for(lambda: world.slack.ephemeral)
    assert says in told.text
    assert told.only_for is world.ann


def test_the_help_has_every_command_with_what_is_typed_for_it() -> None:
    lines = [line for line in HELP.splitlines() if line.startswith("•")]
    assert lines == [
        "• `/threadsight ask`: Ask about a picture",
        "• `!reset`: Forget the chat in this thread or direct message",
        "• `!quota` or `/threadsight quota`: See how much you have asked, and what is left",
        "• `!forget` or `/threadsight forget`: Delete everything that I have stored about you",
        "• `!help` or `/threadsight help`: What I can do",
    ]
    assert len(HELP) <= 3_000  # what a section of the home takes


async def test_a_question_by_command_gets_a_thread_of_its_own(world: SlackWorld) -> None:
    slack = world.slack
    await slack.slash(world.ann, world.general, COMMAND, "ask")
    (view,) = await slack.wait_for(lambda: slack.views)
    assert [block["element"]["type"] for block in view.view["blocks"]] == ["file_input", "plain_text_input"]
    file = slack.add_file(world.ann, *IMAGE)
    await slack.submit_view(world.ann, view, {"pictures": [file], "question": "What <!here> is it?"})
    answer = await world.handler.answer_next("A circle.")
    await world.handler.wait_delivered(answer.turn_id)
    (root,) = slack.messages(world.general)
    assert root.text == f"<@{world.ann.id}> asks: What &lt;!here&gt; is it?"
    assert [broadcast.what for broadcast in slack.broadcasts] == [f"<@{world.ann.id}>"]  # who asked, and nobody else
    assert "A circle." in slack.messages(world.general, root.ts)[1].shown
    (asked,) = world.handler.messages
    assert (asked.text, asked.key.thread) == ("What <!here> is it?", root.ts)
    assert await asked.attachments[0].fetch(10**6) == IMAGE[1]


async def test_the_command_says_where_it_cannot_write(world: SlackWorld) -> None:
    elsewhere = world.slack.add_channel("elsewhere", is_bot_member=False)
    await world.slack.slash(world.ann, elsewhere, COMMAND, "ask")
    (told,) = await world.slack.wait_for(lambda: world.slack.ephemeral)
    assert "I am not a member of this channel" in told.text
    assert world.slack.views == []


# -- the shortcut ----------------------------------------------------------------------------------------------------------


async def test_the_shortcut_asks_about_a_message_in_its_thread(world: SlackWorld) -> None:
    slack = world.slack
    post = await slack.post(world.general, world.ann, "my cat", [("cat.png", IMAGE[1])])
    await slack.shortcut(world.ann, SHORTCUT, post)
    (view,) = await slack.wait_for(lambda: slack.views)
    assert json.loads(view.view["private_metadata"])["files"] == [post.files[0].id]
    await slack.submit_view(world.ann, view, {"question": "Who is it?"})
    answer = await world.handler.answer_next("A cat.")
    await world.handler.wait_delivered(answer.turn_id)
    (asked,) = world.handler.messages
    assert (asked.text, asked.key.thread, asked.attachments[0].name) == ("Who is it?", post.ts, "cat.png")
    assert world.texts(post) == ["A cat."]


async def test_the_shortcut_says_when_there_is_no_picture(world: SlackWorld) -> None:
    post = await world.slack.post(world.general, world.ann, "no cat")
    await world.slack.shortcut(world.ann, SHORTCUT, post)
    (view,) = await world.slack.wait_for(lambda: world.slack.views)
    assert "I see no picture" in str(view.view["blocks"])
    assert view.view["submit"] is None


# -- the home, and who is not allowed --------------------------------------------------------------------------------------


async def test_the_home_tells_how_to_and_the_quota(world: SlackWorld) -> None:
    await world.slack.open_home(world.ann, "messages")
    await world.slack.open_home(world.ann)
    (home,) = await world.slack.wait_for(lambda: world.slack.views)
    assert "mention me" in str(home.view)
    assert "You have asked 0 questions" in str(home.view)


async def test_windows_home_and_command_pass_slacks_rules(world: SlackWorld) -> None:
    slack = world.slack
    post = await slack.post(world.general, world.ann, "my cat", [IMAGE])
    await slack.shortcut(world.ann, SHORTCUT, post)
    await slack.wait_for(lambda: len(slack.views) == 1)
    await slack.slash(world.ann, world.general, COMMAND, "ask")
    await slack.wait_for(lambda: len(slack.views) == 2)
    await slack.open_home(world.ann)
    await slack.wait_for(lambda: len(slack.views) == 3)
    assert [(call.method, call.error) for call in slack.calls if call.error] == []


async def test_who_is_not_allowed_is_told_so_where_they_press() -> None:
    async with slack_world() as world:
        allowed = world.ann.id
    async with slack_world(access=Access(deny=parse_entries(f"user:{allowed}"))) as world:
        assert world.ann.id == allowed  # ids are counted
        await world.ask()
        await world.slack.slash(world.ann, world.general, COMMAND, "quota")
        (told,) = await world.slack.wait_for(lambda: world.slack.ephemeral)
        assert told.text == "I am not set up to answer here."
        assert world.handler.messages == []
