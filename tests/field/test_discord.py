"""What Discord sends and shows: cases from the field. Each has what came, what is right, and why."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.base import Attachment, AttachmentError
from tests.adapters.discord_world import ME, World, world
from tests.loopbacks.discord.payloads import ANN, GUILD, Payload, user_payload

CODE = "def f(x):\n    if x:\n        return 1\n\n    return 0"
BOB = user_payload(5, "bob")

QUESTIONS = [
    (f"{ME} What?\n```py\n{CODE}\n```", f"What?\n```py\n{CODE}\n```", "a block behind a line"),
    (f"```py\n{CODE}\n``` {ME} why?", f"```py\n{CODE}\n``` why?", "words behind a block"),
    (f"{ME}\n\n    indented\n\tless", "    indented\n\tless", "indented code without a fence"),
    (f"{ME} is `a  b` right?", "is `a  b` right?", "spaces in code in a line"),
    (f"{ME} one  two\n   three", "one  two\n   three", "spaces between words"),
    (f"{ME} `<@5>` is <@5>", "`<@5>` is @bob", "what looks like a mention in code is none"),
    (f"{ME} ```\n<@5> <:wave:7>\n``` <:wave:7>", "```\n<@5> <:wave:7>\n``` :wave:", "nor in a block"),
    (f"{ME} ``a ` <@5>`` <@5>", "``a ` <@5>`` @bob", "nor in code with a backtick"),
    (f"{ME} \\`<@5>\\`", "\\`@bob\\`", "an escaped backtick begins no code"),
    (f"hey  {ME}  look", "hey look", "the mention of us in a line"),
    (f"look {ME}", "look", "the mention of us at the end"),
]


@pytest.mark.parametrize(("written", "right"), [case[:2] for case in QUESTIONS], ids=[case[2] for case in QUESTIONS])
async def test_a_question_is_read_as_it_was_written(written: str, right: str) -> None:
    async with world() as w:
        await w.ask(written, mentions=[BOB])
        await w.answered()
        assert [message.text for message in w.handler.messages] == [right]


# -- the newest picture of a thread ----------------------------------------------------------------------------------------


async def thread_below(w: World, starter: Payload) -> int:
    thread = w.discord.add_thread(w.channel, ANN, id=starter["id"])
    await w.discord.dispatch("THREAD_CREATE", w.discord.channels[thread])
    return thread


def show(w: World, channel: int, name: str, **more: Any) -> Payload:
    """A message with a picture, of which the bot is told nothing."""
    return w.discord.people_say(channel, "look", BOB, attachments=[w.image(name)], **more)


def talk(w: World, channel: int, num_messages: int) -> None:
    for number in range(num_messages):
        w.discord.people_say(channel, f"message {number}", BOB)


async def looked_back(w: World) -> list[str]:
    """The names of the pictures that the one question found, or why it found none."""
    await w.handler.answer_next("A circle.")
    [asked] = w.handler.messages
    assert asked.look_back is not None
    return [await named(each) for each in asked.attachments or await asked.look_back()]


async def told(w: World, thread: int) -> str:
    """What the person reads instead of an answer."""
    [text] = await w.discord.wait_for(lambda: w.texts(thread))
    assert isinstance(text, str)
    return text


async def named(attachment: Attachment) -> str:
    try:
        assert await attachment.fetch(10**7)
    except AttachmentError as error:
        return f"{attachment.name}: {error}"
    return attachment.name


@pytest.mark.parametrize("num_after", [0, 19, 25, 130])
async def test_the_newest_picture_before_the_mention_counts_in_a_thread(num_after: int) -> None:
    async with world() as w:
        thread = await thread_below(w, show(w, w.channel, "a.png"))
        show(w, thread, "b.png")
        talk(w, thread, num_after)
        await w.ask(channel=thread, attachments=[])
        assert await looked_back(w) == ["b.png"]


async def test_the_picture_at_the_root_counts_when_none_is_newer() -> None:
    async with world() as w:
        thread = await thread_below(w, show(w, w.channel, "a.png"))
        talk(w, thread, 130)
        await w.ask(channel=thread, attachments=[])
        assert await looked_back(w) == ["a.png"]


async def test_of_a_thread_that_is_too_long_no_older_picture_is_used() -> None:
    async with world() as w:
        thread = await thread_below(w, show(w, w.channel, "a.png"))
        show(w, thread, "b.png")
        talk(w, thread, 500)
        await w.ask(channel=thread, attachments=[])
        assert (await told(w, thread)).startswith(
            "I could not use an earlier picture: I looked at the last 500 messages here and found none. Please post the picture"
        )


@pytest.mark.parametrize(
    ("fault", "why"),
    [((403, 50001), "I may not read the messages before yours"), (503, "Discord did not show me all of the messages before yours")],
)
async def test_what_of_a_thread_could_not_be_read_is_told(fault: Any, why: str) -> None:
    async with world() as w:
        thread = await thread_below(w, show(w, w.channel, "a.png"))
        talk(w, thread, 5)
        w.discord.fail("GET", f"/channels/{thread}/messages", fault)
        await w.ask(channel=thread, attachments=[])
        assert (await told(w, thread)).startswith(f"I could not use an earlier picture: {why}")


async def test_a_root_that_could_not_be_read_is_told() -> None:
    async with world() as w:
        thread = await thread_below(w, show(w, w.channel, "a.png"))
        w.discord.fail("GET", f"/channels/{w.channel}/messages/{thread}", 503)
        await w.ask(channel=thread, attachments=[])
        assert "Discord did not show me all of the messages before yours" in await told(w, thread)


async def test_a_message_whose_content_discord_hides_may_have_had_the_newest_picture() -> None:
    async with world(flags=0) as w:
        thread = await thread_below(w, show(w, w.channel, "a.png"))
        w.discord.people_say(thread, "", BOB)
        await w.ask(channel=thread, attachments=[])
        assert (await told(w, thread)).startswith(
            "I could not use an earlier picture: Discord does not show me all that people write"
        )


async def test_a_file_that_is_no_picture_does_not_hide_one() -> None:
    async with world() as w:
        thread = await thread_below(w, show(w, w.channel, "a.png"))
        w.discord.people_say(thread, "", BOB, attachments=[{**w.image("notes.txt"), "content_type": "text/plain; charset=utf-8"}])
        await w.ask(channel=thread, attachments=[])
        assert await looked_back(w) == ["a.png"]


async def test_the_picture_at_the_beginning_of_a_chain_of_replies() -> None:
    async with world() as w:
        shown = show(w, w.channel, "bobs.png")
        for text in ("nice", "is it?"):
            shown = w.discord.people_say(w.channel, text, BOB, message_reference=reference(shown), type=19)
        talk(w, w.channel, 30)
        await w.ask(attachments=[], message_reference=reference(shown), type=19)
        assert await looked_back(w) == ["bobs.png"]


def reference(message: Payload) -> Payload:
    return {"type": 0, "message_id": message["id"], "channel_id": message["channel_id"], "guild_id": str(GUILD)}
