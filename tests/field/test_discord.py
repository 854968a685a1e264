"""What Discord sends and shows: cases from the field. Each has what came, what is right, and why."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.base import AnswerText, Attachment, AttachmentError
from adapters.discord.surface import MAX_MESSAGE_CHARS, NOT_ALLOWED_HERE, NOT_TAKEN, render
from adapters.surface import Page
from adapters.text.markdown import heal, split_pages
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


# -- code blocks -----------------------------------------------------------------------------------------------------------

LINES = [f"value_{number} = {number}" for number in range(200)]


def shown(text: str, max_chars: int = MAX_MESSAGE_CHARS) -> list[str]:
    """The messages that people see of an answer."""
    pages = split_pages(text, max_chars, has_tables=False, is_whole=True)
    return [render(Page(page)) for page in [*pages[:-1], heal(pages[-1])]]


def code_on_discord(message: str) -> list[str]:
    """The code blocks that Discord shows in a message: three backticks open one anywhere, and the next three close it."""
    pieces = message.split("```")
    assert len(pieces) % 2 == 1, "a block is open at the end, so Discord shows its marks and no block"
    return pieces[1::2]


def block(lead: str, rest: str = "", *, marker: str = "```", end: str | None = None) -> str:
    closing = f"{rest}{marker}" if end is None else end
    return "\n".join([f"{lead}{marker}py", *(rest + line for line in LINES), closing, "That is all."])


BLOCKS = [
    (block(""), "at the left"),
    (block("- One\n  - Two:\n    ", "    "), "inside a nested list"),
    (block("1. One\n   1. Two\n      - Three\n\n        ", "        "), "deeper"),
    (block("- ", "  "), "right behind a bullet"),
    (block("> Look:\n> ", "> "), "in a quote"),
    (block("Use this: "), "in the middle of a line"),
    (block("Use this: ", end="``` and run it."), "closed in the middle of a line"),
    (block("", end="last = 1```"), "closed behind the last line of code"),
    (block("", marker="````"), "a longer fence"),
    (block("", marker="~~~"), "tildes"),
    (block("- One\n\n    ", "    ", marker="~~~~"), "longer tildes in a list"),
    (block("", end=""), "never closed"),
    (block("").replace("py", "c++ title=x", 1), "more than a language behind the fence"),
]


@pytest.mark.parametrize("text", [case[0] for case in BLOCKS], ids=[case[1] for case in BLOCKS])
def test_a_code_block_stays_one_in_every_message(text: str) -> None:
    messages = shown(text)
    assert len(messages) > 1
    code = [piece for message in messages for piece in code_on_discord(message)]
    assert all(piece.split("\n", 1)[0] in ("py", "c++") for piece in code), "its language"
    lines = [line.lstrip("> ").strip() for piece in code for line in piece.split("\n")[1:]]
    assert [line for line in lines if line.startswith("value_")] == LINES
    if "That is all." not in code[-1]:
        assert messages[-1].rstrip().endswith("That is all.")


def test_indentation_is_kept_from_message_to_message() -> None:
    code = "\n".join(f"    if x == {number}:\n        return {number}" for number in range(100))
    nested = "- Do:\n\n    ```py\n" + "\n".join(f"    {line}" for line in code.split("\n")) + "\n    ```"
    messages = shown(nested)
    assert len(messages) > 1
    for message in messages[1:]:
        [piece] = code_on_discord(message)
        assert {line[: len(line) - len(line.lstrip())] for line in piece.split("\n")[1:-1]} == {" " * 4, " " * 8}


def test_a_fence_inside_a_code_block_does_not_end_it() -> None:
    [message] = shown("````md\nWrite:\n```py\nx = 1\n```\n````\nDone.")
    [piece] = code_on_discord(message)
    assert piece.startswith("md\nWrite:\n")
    assert "x = 1" in piece


@pytest.mark.parametrize("mark", ["`", "``", "**", "__", "||", "~~"])
def test_no_message_is_cut_inside_a_span(mark: str) -> None:
    sentence = f"One word here. {mark}these five. words stay together{mark} and more. "
    for message in shown(sentence * 60, 500):
        assert message.count(mark) % 2 == 0


def test_no_message_is_cut_inside_a_link() -> None:
    for message in shown("See this. [the long. label of it](https://example.org/a) then go on. " * 60, 500):
        assert message.count("[") == message.count("](https://example.org/a)")


# -- tables ----------------------------------------------------------------------------------------------------------------

TABLES = [
    (
        "| Name | Age |\n|---|--:|\n| Anna | 3 |\n| Bo | 12 |",
        ["Name | Age", "-----+----", "Anna |   3", "Bo   |  12"],
        "to the right",
    ),
    ("| A | B |\n|:-:|---|\n| xyz | 1 |", [" A  | B", "----+--", "xyz | 1"], "in the middle"),
    ("A | B\n---|---\nx | y", ["A | B", "--+--", "x | y"], "without pipes at the ends"),
    ("| A | B |\n|---|---|\n| x |\n| y | z | w |", ["A | B", "--+------", "x |", "y | z | w"], "missing cells, and too many"),
    ("| A | B |\n|---|---|\n| a\\|b | `x|y` |", ["A   | B", "----+----", "a|b | x|y"], "pipes in cells"),
    ("| A | B |\n|---|---|\n| **x** | ~~y~~ z |", ["A | B", "--+----", "x | y z"], "marks, which a code block would show"),
    (
        "| 名前 | B |\n|---|---|\n| 日本語 | 1 |\n| ab | 2 |",
        ["名前   | B", "-------+--", "日本語 | 1", "ab     | 2"],
        "wide characters",
    ),
    (
        "| A | B |\n|---|---|\n| 🙂 | 1 |\n| 👩‍💻 | 2 |\n| abc | 3 |",
        ["A   | B", "----+--", "🙂  | 1", "👩‍💻  | 2", "abc | 3"],
        "emoji",
    ),
    ("| A | B |\n|---|---|\n| one<br>two | 1 |", ["A         | B", "----------+--", "one / two | 1"], "a line end in a cell"),
]


@pytest.mark.parametrize(("table", "right"), [case[:2] for case in TABLES], ids=[case[2] for case in TABLES])
def test_a_table_is_aligned_in_a_code_block(table: str, right: list[str]) -> None:
    [message] = shown(f"Look:\n\n{table}\n\nDone.")
    [piece] = code_on_discord(message)
    assert [line.rstrip() for line in piece.strip("\n").split("\n")] == [line.rstrip() for line in right]
    assert message.startswith("Look:\n")
    assert message.endswith("Done.")


def test_a_table_that_is_cut_has_its_header_again() -> None:
    rows = "".join(f"| row {number} | {'x' * (number % 20)} |\n" for number in range(120))
    messages = shown(f"Look:\n\n| Name | What |\n|---|---|\n{rows}\nDone.")
    assert len(messages) > 1
    assert all(len(message) <= MAX_MESSAGE_CHARS for message in messages)
    code = [piece.strip("\n").split("\n") for message in messages for piece in code_on_discord(message)]
    assert all(lines[0].startswith("Name") and lines[1].startswith("---") for lines in code)
    names = [line.partition("|")[0].strip() for lines in code for line in lines[2:]]
    assert names == [f"row {number}" for number in range(120)]


def test_a_table_that_is_too_wide_becomes_records() -> None:
    [message] = shown(f"| Name | What | Where |\n|---|---|---|\n| Anna | {'long words ' * 8}| home |\n| Bo | | away |")
    [piece] = code_on_discord(message)
    assert piece.strip("\n").split("\n") == [
        "Name: Anna",
        f"What: {'long words ' * 8}".strip(),
        "Where: home",
        "",
        "Name: Bo",
        "Where: away",
    ]


@pytest.mark.parametrize(
    "text", ["a | b", "| a |\nno table", "```\n| a | b |\n|---|---|\n| c | d |\n```", "x\n---\ny", "|---|---|"]
)
def test_what_is_no_table_stays_as_it_is(text: str) -> None:
    assert shown(text) == [text]


def test_a_table_grows_row_by_row_while_it_is_written() -> None:
    text = "| A | B |\n|---|---|\n| x | one |\n| y | two |\n"
    states = [
        render(Page(page, is_open=True))
        for end in range(30, len(text))
        for page in split_pages(text[:end], 2_000, has_tables=False)
    ]
    assert not any("|---" in state for state in states)
    assert all(len(code_on_discord(state)) == 1 for state in states)


# -- an answer ends whole and with its buttons -----------------------------------------------------------------------------


def labels(message: Payload) -> list[str]:
    return [button.get("label") or button["emoji"]["name"] for row in message["components"] for button in row["components"]]


@pytest.mark.parametrize("num_pieces", [1, 20], ids=["at once", "streamed"])
async def test_an_answer_that_discord_finds_too_long_is_cut_into_more_messages(num_pieces: int) -> None:
    async with world() as w:
        w.discord.limits.seconds = 0.05
        w.discord.max_message_chars = 700  # stricter than it says, or counted in another way
        asked = await w.ask()
        text = "".join(f"Sentence number {number} is here. " for number in range(150))
        answer = await w.handler.next_answer()
        size = len(text) // num_pieces + 1
        for start in range(0, len(text), size):
            await answer.add(AnswerText(text[start : start + size]))
        await w.handler.end(answer)
        await w.handler.wait_delivered(answer.turn_id)
        messages = w.discord.bots(int(asked["id"]))
        assert len(messages) > 4
        assert " ".join(message["content"] for message in messages).split() == text.split()
        assert [bool(labels(message)) for message in messages] == [False] * (len(messages) - 1) + [True]


@pytest.mark.parametrize(
    ("faults", "right"),
    [([(400, 50035)], NOT_TAKEN), ([(400, 200000)], NOT_ALLOWED_HERE), ([(400, 50006)], NOT_TAKEN)],
    ids=["an invalid form", "moderation", "empty"],
)
async def test_an_answer_that_discord_does_not_take_ends_with_a_sentence_and_buttons(faults: list[Any], right: str) -> None:
    async with world() as w:
        asked = await w.ask()
        w.discord.fail("POST", f"/channels/{asked['id']}/messages", *faults)
        await w.answered("A circle.")
        [message] = w.discord.bots(int(asked["id"]))
        assert message["content"] == f"-# {right}"
        assert labels(message)


async def test_an_answer_of_nothing_that_is_seen_has_a_sentence() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.answered("\u200b")
        [message] = w.discord.bots(int(asked["id"]))
        assert message["content"] == f"-# {NOT_TAKEN}"
        assert labels(message)


async def test_an_answer_whose_question_is_gone_is_still_shown() -> None:
    async with world() as w:
        direct = w.discord.add_direct()
        asked = await w.ask("What is this?", direct)
        del w.discord.messages[direct][int(asked["id"])]
        await w.answered("A circle.")
        assert w.texts(direct) == ["A circle."]
