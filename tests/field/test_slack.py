"""What Slack sends and takes: cases from the field. Each has what came, what is right, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters.base import AnswerText, Attachment, AttachmentError
from adapters.slack.earlier import MAX_DIRECT_PAGES, MAX_THREAD_PAGES, MESSAGES_PER_PAGE
from adapters.slack.mrkdwn import sections_of
from adapters.slack.rich_text import text_of
from adapters.slack.surface import NOT_TAKEN
from tests.adapters.slack_world import IMAGE, SlackWorld, block_types, labels, slack_world
from tests.loopbacks.slack.state import Channel

BOT = "UBOT"
CODE = "def f(x):\n    if x:\n        return 1\n\n    return 0"


def section(*elements: Any) -> dict[str, Any]:
    return {"type": "rich_text_section", "elements": [words(each) if isinstance(each, str) else each for each in elements]}


def words(text: str, **style: bool) -> dict[str, Any]:
    return {"type": "text", "text": text} | ({"style": style} if style else {})


def preformatted(code: str, **more: Any) -> dict[str, Any]:
    return {"type": "rich_text_preformatted", "border": 0, "elements": [words(code)]} | more


def bullets(*items: Any, style: str = "bullet", **more: Any) -> dict[str, Any]:
    return {"type": "rich_text_list", "style": style, "elements": [section(item) for item in items]} | more


ME = {"type": "user", "user_id": BOT}

RICH_TEXT = [
    ([section(ME, " What does it do?\n"), preformatted(CODE)], f"What does it do?\n```\n{CODE}\n```", "a block behind a line"),
    ([section(ME, " Why?"), preformatted(CODE)], f"Why?\n```\n{CODE}\n```", "Slack does not always end the line before a block"),
    ([preformatted(CODE), section("\nWhy?")], f"```\n{CODE}\n```\n\nWhy?", "a blank line behind a block"),
    ([section(ME, "\n"), preformatted("    indented\n  less\n")], "```\n    indented\n  less\n```", "the first line's indentation"),
    ([preformatted(CODE, language="python")], f"```python\n{CODE}\n```", "the language of a block"),
    ([preformatted("a\n```\nb")], "````\na\n```\nb\n````", "a fence inside a block"),
    ([preformatted("if a < b && c > d:\n\tx")], "```\nif a < b && c > d:\n\tx\n```", "rich text has no entities; tabs stay"),
    ([section("is ", words("a  b", code=True), " right?")], "is `a  b` right?", "spaces in code in a line"),
    ([section(words("a`b", code=True), " ", words("`c", code=True))], "``a`b`` `` `c ``", "code with a backtick"),
    ([section("one  two\n   three")], "one  two\n   three", "spaces between words"),
    ([section(words("bold", bold=True), " ", words("it ", italic=True), "x")], "*bold* _it_ x", "styles as `text` has them"),
    ([bullets("a", "b"), bullets("c", indent=1), bullets("d", style="ordered", offset=2)], "- a\n- b\n    - c\n3. d", "lists"),
    ([{"type": "rich_text_quote", "elements": [words("one\n  two")]}], "> one\n>   two", "a quote of two lines"),
    ([section("hi ", ME, " there")], "hi there", "the mention of us in a line"),
    ([section("look ", ME)], "look", "the mention of us at the end"),
    ([section(ME, "\n\nfirst\n\nsecond")], "first\n\nsecond", "paragraphs"),
    ([section({"type": "user", "user_id": "U2"}, " says")], "@ann says", "the name is in `text` alone"),
    ([section({"type": "user", "user_id": "U9"}, " says")], "@U9 says", "somebody without a name"),
    ([section({"type": "channel", "channel_id": "C1"}, {"type": "broadcast", "range": "here"})], "#general@here", "a channel, all"),
    ([section({"type": "usergroup", "usergroup_id": "S1"})], "@team", "a group"),
    ([section({"type": "link", "url": "https://a.b/?x=1&y=2"})], "https://a.b/?x=1&y=2", "a link"),
    ([section({"type": "link", "url": "https://a.b/c.png", "text": "the cat"})], "the cat (https://a.b/c.png)", "with a label"),
    (
        [section({"type": "emoji", "name": "wave", "unicode": "1f44b-1f3fb"}, {"type": "emoji", "name": "own"})],
        "👋🏻:own:",
        "emoji",
    ),
    ([section({"type": "date", "timestamp": 1, "format": "{date}", "fallback": "May 1"})], "May 1", "a date"),
    ([section("it is ", {"type": "color", "value": "#ff0000"})], "it is #ff0000", "a colour"),
]


@pytest.mark.parametrize(("elements", "right"), [case[:2] for case in RICH_TEXT], ids=[case[2] for case in RICH_TEXT])
def test_rich_text_is_read_as_it_was_written(elements: list[Any], right: str) -> None:
    text = "<@UBOT> <@U2|ann> <#C1|general> <!subteam^S1|@team> as Slack writes it"
    assert text_of({"text": text, "blocks": [{"type": "rich_text", "elements": elements}]}, BOT) == right


TEXT = [
    (f"<@UBOT> What?\n```{CODE}```", f"What?\n```\n{CODE}\n```", "Slack's marks stick to the code"),
    (f"<@UBOT> ```{CODE}``` why?", f"```\n{CODE}\n```\n why?", "a block with words behind it"),
    (f"```\n{CODE}\n```", f"```\n{CODE}\n```", "a block that was typed with line ends"),
    ("```a &lt; b &amp;&amp; c```", "```\na < b && c\n```", "Slack's three entities"),
    ("is &amp;lt; an entity, and &copy; none of Slack's?", "is &lt; an entity, and &copy; none of Slack's?", "unescaped once"),
    ("one  two\n   three", "one  two\n   three", "white space without code"),
]


@pytest.mark.parametrize(("written", "right"), [case[:2] for case in TEXT], ids=[case[2] for case in TEXT])
def test_text_without_rich_text_keeps_its_code(written: str, right: str) -> None:
    assert text_of({"text": written}, BOT) == right


STRANGE: list[Any] = [
    None,
    "x",
    [None],
    [{"type": "section"}],
    [{"type": "rich_text"}],
    [{"type": "rich_text", "elements": [7, {"type": "rich_text_list", "indent": -3, "elements": [None]}]}],
    [{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [{"type": "emoji", "name": 3}]}]}],
]


UNKNOWN: list[Any] = [
    [section({"type": "team", "team_id": "T1"}, " won")],
    [section("What", {"type": "workflow_variable", "id": "x"})],
    [section({"type": "user", "user_id": 7}, " What")],
    [{"type": "rich_text_diagram", "elements": [words("What")]}],
    [bullets({"type": "canvas", "file_id": "F1"})],
    [section("What"), {"type": "rich_text_quote", "elements": [section("inner")]}],
]


@pytest.mark.parametrize("elements", UNKNOWN)
def test_where_rich_text_has_a_kind_that_is_not_known_its_words_are_read(elements: list[Any]) -> None:
    """Slack writes `text` of all kinds, also of those that come one day."""
    message = {"text": "<@UBOT> *What* is this?", "blocks": [{"type": "rich_text", "elements": elements}]}
    assert text_of(message, BOT) == "*What* is this?"


@pytest.mark.parametrize("blocks", STRANGE)
def test_what_is_not_rich_text_leaves_the_text(blocks: Any) -> None:
    assert text_of({"text": "<@UBOT> What is this?", "blocks": blocks}, BOT) == "What is this?"


@pytest.fixture
async def world() -> AsyncIterator[SlackWorld]:
    async with slack_world() as world:
        yield world


async def test_a_question_with_a_code_block_is_asked_as_it_was_written(world: SlackWorld) -> None:
    question = await world.ask(f"What does it do?\n```{CODE}```")
    answer = await world.handler.answer_next("It decides.")
    await world.handler.wait_delivered(answer.turn_id)
    changed = CODE.replace("return 1", "return 2")
    await world.slack.edit(question, f"{world.slack.mention} What does it do?\n```{changed}```")
    await world.handler.answer_next("It decides.")
    texts = [message.text for message in world.handler.messages]
    assert texts == [f"What does it do?\n```\n{code}\n```" for code in (CODE, changed)]


# -- the newest picture of a thread ----------------------------------------------------------------------------------------


async def talk(world: SlackWorld, channel: Channel, thread_ts: str | None, num_messages: int) -> None:
    """So many messages of people, of which the bot is told nothing."""
    for number in range(num_messages):
        await world.slack.post(channel, world.ann, f"message {number}", thread_ts=thread_ts, how="held")


async def show(world: SlackWorld, name: str, thread_ts: str | None = None, channel: Channel | None = None) -> str:
    """A message with a picture, of which the bot is told nothing. Returns its ts."""
    place = channel or world.general
    return (await world.slack.post(place, world.ann, "look", [(name, IMAGE[1])], thread_ts=thread_ts, how="held")).ts


async def looked_back(world: SlackWorld) -> list[str]:
    """The names of the pictures that the one question found, or why it found none."""
    await world.handler.answer_next("A circle.")
    (asked,) = world.handler.messages
    assert asked.look_back is not None
    return [await named(attachment) for attachment in await asked.look_back()]


async def named(attachment: Attachment) -> str:
    try:
        assert await attachment.fetch(10**7)
    except AttachmentError as error:
        return f"{attachment.name}: {error}"
    return attachment.name


@pytest.mark.parametrize("num_between", [0, 10, 130, 450])
async def test_the_newest_picture_before_the_mention_counts_in_a_thread_of_any_length(world: SlackWorld, num_between: int) -> None:
    root = await show(world, "a.png")
    await talk(world, world.general, root, num_between)
    await show(world, "b.png", root)
    await talk(world, world.general, root, 5)
    question = await world.ask("What is this?", [], thread_ts=root, how="held")
    await show(world, "later.png", root)
    await world.slack.tell(question)
    assert await looked_back(world) == ["b.png"]


async def test_of_a_thread_that_is_too_long_no_older_picture_is_used(world: SlackWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.slack.earlier.MESSAGES_PER_PAGE", 15)  # as Slack does with apps that are sold outside its shop
    root = await show(world, "a.png")
    await talk(world, world.general, root, 15 * MAX_THREAD_PAGES)
    await show(world, "b.png", root)
    question = await world.ask("What is this?", [], thread_ts=root)
    (shown,) = await world.slack.wait_for(lambda: world.slack.answers(world.general, question.thread_ts or ""))
    assert "I could not use an earlier picture: there are more messages here than I can read back" in shown.shown
    assert len(world.slack.called("conversations.replies")) == MAX_THREAD_PAGES


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"error": "internal_error"}, "Slack did not show me all of the messages before yours"),
        ({"is_reset": True, "times": 9}, "Slack did not show me all of the messages before yours"),
        ({"error": "missing_scope"}, "Slack does not let me read the messages before yours"),
    ],
)
async def test_what_of_a_thread_could_not_be_read_is_told(world: SlackWorld, fault: dict[str, Any], why: str) -> None:
    root = await show(world, "a.png")
    await talk(world, world.general, root, MESSAGES_PER_PAGE)
    hold = world.slack.faults.hold_next("conversations.replies")
    question = await world.ask("What is this?", [], thread_ts=root)
    await hold.arrived.wait()
    world.slack.faults.fail_next("conversations.replies", **fault)
    hold.release()
    (shown,) = await world.slack.wait_for(lambda: world.slack.answers(world.general, question.thread_ts or ""))
    assert f"I could not use an earlier picture: {why}" in shown.shown


async def test_a_file_that_is_no_picture_does_not_hide_one(world: SlackWorld) -> None:
    root = await show(world, "a.png")
    await world.slack.post(world.general, world.ann, "notes", [("notes.txt", b"text")], thread_ts=root, how="held")
    await world.ask("What is this?", [], thread_ts=root)
    assert await looked_back(world) == ["a.png"]


async def test_a_newer_picture_that_was_deleted_is_not_replaced_by_an_older(world: SlackWorld) -> None:
    root = await show(world, "a.png")
    file = world.slack.add_file(world.ann, *IMAGE, mode="tombstone")
    await world.slack.post(world.general, world.ann, "look", [file], thread_ts=root, how="held")
    await world.ask("What is this?", [], thread_ts=root)
    (shown,) = await world.slack.wait_for(lambda: world.slack.answers(world.general, root))
    assert "I could not use the file: it was deleted." in shown.shown


@pytest.mark.parametrize(("num_between", "found"), [(3, "b.png"), (MESSAGES_PER_PAGE + 9, "b.png")])
async def test_the_newest_picture_counts_in_direct_messages(world: SlackWorld, num_between: int, found: str) -> None:
    direct = world.slack.direct(world.ann)
    await show(world, "a.png", channel=direct)
    await show(world, "b.png", channel=direct)
    await talk(world, direct, None, num_between)
    await world.slack.post(direct, world.ann, "What is this?")
    assert await looked_back(world) == [found]


async def test_direct_messages_are_read_back_as_far_as_is_bearable(world: SlackWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.slack.earlier.MESSAGES_PER_PAGE", 10)
    direct = world.slack.direct(world.ann)
    await show(world, "a.png", channel=direct)
    await talk(world, direct, None, 10 * MAX_DIRECT_PAGES)
    await world.slack.post(direct, world.ann, "What is this?")
    await world.slack.wait_for(lambda: any("more messages here than I can read back" in m.shown for m in direct.messages.values()))


# -- an answer ends whole and with its buttons -----------------------------------------------------------------------------

HEADINGS = "".join(f"## Part {number}\n\nSome words, {number}.\n\n" for number in range(60))
TABLES = "".join(f"| a | b |\n|---|---|\n| {number} | x |\n\nNext:\n\n" for number in range(30))
BLOCKS = "".join(f"```py\nx = {number}\n```\nThen\n" for number in range(40))
AFTER = {"Helpful", "Not helpful", "Regenerate"}


@pytest.mark.parametrize("text", [HEADINGS, TABLES, BLOCKS], ids=["headings", "tables", "code blocks"])
@pytest.mark.parametrize("num_pieces", [1, 30], ids=["at once", "streamed"])
@pytest.mark.parametrize("can_stream", [True, False])
async def test_an_answer_of_which_slack_makes_too_many_blocks_is_shown_whole_with_its_buttons(
    world: SlackWorld, text: str, num_pieces: int, can_stream: bool
) -> None:
    if not can_stream:
        world.slack.faults.fail_next("chat.startStream", error="unknown_method")
    question = await world.ask()
    answer = await world.handler.next_answer()
    size = len(text) // num_pieces + 1
    for start in range(0, len(text), size):
        await answer.add(AnswerText(text[start : start + size]))
        if start == 0:
            await world.slack.wait_for(lambda: any(world.texts(question)))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    (shown,) = world.slack.answers(world.general, question.ts)
    assert [word for word in text.split() if word.isalnum()] == [
        word for word in shown.shown.replace("*", " ").split() if word.isalnum()
    ]
    assert labels(shown) == AFTER
    await world.slack.click(world.ann, shown, "threadsight_rate_helpful")
    await world.slack.wait_for(lambda: world.handler.ratings)


REFUSALS = [
    "invalid_blocks",
    "invalid_blocks_format",
    "msg_blocks_too_long",
    "msg_too_long",
    "block_mismatch",
    "invalid_attachments",
    "invalid_arguments",
    "invalid_arg_name",
    "markdown_text_conflict",
    "only_one_table_allowed",
    "something_new",
]


@pytest.mark.parametrize("word", REFUSALS)
@pytest.mark.parametrize("num_times", [1, 2])
async def test_whatever_slack_says_against_a_layout_a_plainer_one_is_taken(world: SlackWorld, word: str, num_times: int) -> None:
    world.slack.faults.fail_next("chat.postMessage", error=word, times=num_times)
    question = await world.ask()
    answer = await world.handler.answer_next("## It is\n**a circle.**")
    await world.handler.wait_delivered(answer.turn_id)
    (shown,) = world.slack.answers(world.general, question.ts)
    assert world.texts(question) == [["*It is*\n*a circle.*", "## It is\n**a circle.**"][num_times - 1]]
    assert block_types(shown) == ["section", "actions"]
    assert labels(shown) == AFTER


async def test_an_answer_that_slack_finds_too_long_in_any_layout_is_cut_into_more_messages(world: SlackWorld) -> None:
    world.slack.faults.fail_next("chat.postMessage", error="msg_too_long", times=3)
    question = await world.ask()
    text = "".join(f"Sentence number {number} is here. " for number in range(150))
    answer = await world.handler.answer_next(text)
    await world.handler.wait_delivered(answer.turn_id)
    shown = world.slack.answers(world.general, question.ts)
    assert len(shown) > 1
    assert "".join(world.texts(question)).split() == text.split()
    assert [labels(each) for each in shown] == [*([set()] * (len(shown) - 1)), AFTER]


async def test_an_answer_that_slack_takes_in_no_form_ends_with_a_sentence_and_buttons(world: SlackWorld) -> None:
    world.slack.faults.fail_next("chat.postMessage", error="invalid_blocks", times=3)
    question = await world.ask()
    answer = await world.handler.answer_next("A circle.")
    await world.handler.wait_delivered(answer.turn_id)
    (shown,) = world.slack.answers(world.general, question.ts)
    assert NOT_TAKEN in shown.shown
    assert labels(shown) == AFTER


async def test_a_right_that_is_missing_is_not_tried_around(world: SlackWorld) -> None:
    world.slack.faults.fail_next("chat.postMessage", error="missing_scope")
    await world.ask()
    answer = await world.handler.answer_next("A circle.")
    await world.handler.wait_delivered(answer.turn_id)
    assert len(world.slack.called("chat.postMessage")) == 1


async def test_an_answer_of_characters_that_are_escaped_fits_into_an_update(world: SlackWorld) -> None:
    world.slack.faults.fail_next("chat.startStream", error="unknown_method")
    question, answer = await world.begun("&" * 1_000)
    await answer.add(AnswerText("<>&" * 1_000))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    assert world.texts(question) == ["&" * 1_000 + "<>&" * 1_000]


TABLE = "| Name | Size |\n|:--|--:|\n| **Anna** | 3 |\n| 日本 | 12 |\n"
SECTIONS = [
    ("# Title #\ntext", ["*Title*\ntext"], "a heading"),
    ("**bold** *it* __bold__ ~~no~~ `a*b*`", ["*bold* _it_ *bold* ~no~ `a*b*`"], "styles, and none in code"),
    ("2 * 3 * 4 and snake_case_name", ["2 * 3 * 4 and snake_case_name"], "no styles"),
    ("- a\n  * b\n1. c", ["• a\n  • b\n1. c"], "lists"),
    ("see [the <b>](https://a.b/?x=1&y=2)", ["see <https://a.b/?x=1&amp;y=2|the &lt;b&gt;>"], "a link"),
    ("[x](javascript:alert) <!channel> <@U1>", ["[x](javascript:alert) &lt;!channel&gt; &lt;@U1&gt;"], "no links or mentions else"),
    ("```py\nif a < b:\n    **x**\n```\nok", ["```\nif a &lt; b:\n    **x**\n```\nok"], "code"),
    ("- x\n  ```py\n  y = 1\n  ```", ["• x\n```\n  y = 1\n```"], "code in a list"),
    (TABLE, ["```\nName | Size\n-----+-----\nAnna |    3\n日本 |   12\n```"], "a table"),
]


@pytest.mark.parametrize(("text", "right"), [case[:2] for case in SECTIONS], ids=[case[2] for case in SECTIONS])
def test_the_plainer_form_is_slacks_own_markup(text: str, right: list[str]) -> None:
    assert sections_of(text) == right


@pytest.mark.parametrize("text", ["&" * 8_000, "```\n" + "<&>\n" * 2_000 + "```", "word " * 1_600, TABLE * 40])
def test_no_section_is_too_long(text: str) -> None:
    pieces = sections_of(text)
    assert all(0 < len(piece) <= 3_000 for piece in pieces)
    assert all(piece.count("```") % 2 == 0 for piece in pieces)
    assert len(pieces) <= 48
