"""Answers with what models write, while they are written word by word: each state is one that the platform takes, no message that
was shown becomes another one, and the whole answer is there at the end."""

from __future__ import annotations

import re

import pytest

from adapters.base import AnswerText
from adapters.discord.surface import MAX_MESSAGE_CHARS, render
from adapters.slack.blocks import Layout, page_blocks
from adapters.slack.markup import harmless
from adapters.slack.surface import MAX_PAGE_CHARS
from adapters.surface import Page
from adapters.text.markdown import heal, split_pages
from tests.adapters.slack_world import slack_world

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"

WRITTEN = [
    ("> - one\n>   - two\n>     1. three\n>        - four\n>          - five `x`\n>\n> > **b**\n\nafter\n" * 12, "lists in quotes"),
    ('<div align="center">\n<b>bold</b> <!-- x -->\n<details><summary>x</summary>\n\ntext\n\n</details>\n</div>\n' * 20, "HTML"),
    ("Euler: $e^{i\\pi}+1=0$\n\n$$\n\\frac{1}{3} \\\\\n$$\n\n\\[ a_1 * b_2 * c_3 \\]\n" * 30, "LaTeX"),
    ("Text[^1] and more[^note].\n\n[^1]: The note.\n[^note]: Another\n    with more.\n\n" * 25, "footnotes"),
    ("- [ ] todo\n- [x] done\n  - [X] sub\n    - [ ] s3\n      - [ ] s4\n        - [ ] s5\n" * 25, "task lists of five levels"),
    ("a\n\n---\n\nb\n\n***\n\n- - -\n\nTitle\n=====\n\nSub\n---\n\ntext\n" * 40, "rules and underlined headings"),
    ("مرحبا بالعالم هذا نص طويل. שלום עולם. \u202eabc\u202c \u2067x\u2069 :a:b: 10:30 " * 50, "right to left, and shortcodes"),
    ((FAMILY + " ") * 400, "emoji of seven characters"),
    (FAMILY * 400, "without spaces"),
    ("e\u0301\u0327\u0323" * 1_200, "letters of four characters"),
    ("x" * 10_000, "a word of 10,000 letters"),
    ("see [it](https://example.org/" + "a" * 3_000 + ") end", "a link of 3,000"),
    ("a" + "\n" * 2_000 + "b", "2,000 blank lines"),
    ("   \n\t\n  ", "only white space"),
    ("```", "a lone fence"),
    ("text\n```\n", "a lone fence at the end"),
    ("ends in a backslash\\", "a backslash at the end"),
    ("@everyone <@1> <@&5> <#7> `<!here>` <!channel|x> <!subteam^S1>\n```\n<!channel>\n``` <\u200b!channel>\n" * 20, "mentions"),
    ("[https://a.example](https://b.example) [b](<https://x>) ![i](https://x/a.png) [c][1]\n\n[1]: https://y\n" * 25, "links"),
    ("**bold " + "word " * 900, "bold that never ends"),
    ("`code " + "word " * 900, "code that never ends"),
    ("Use this: ```py\nx = 1\n``` and run it.\n" * 60, "blocks that begin and end in a line"),
    ("Use: ```py\nx = 1``` and run.\n\n```\ny = 2```\nThen `z` it, or ```w```.\n" * 40, "blocks that end behind their code"),
    ("> Use: ```py\n> x = 1\n> ``` and\n> run\n\nend\n" * 40, "such blocks in quotes"),
    ("- a ```py\n  x\n  ``` b\n- c\n\n  ~~~\n  d\n  ~~~\n" * 40, "and in lists"),
    ("```inline``` first, `` ` `` then ``` another ``` end. a ``` b\nc ```\n" * 40, "three backticks within lines"),
    ("> ```py\n> a = 1\nb = 2\n> ```\n> text\n\n" * 40, "a quote that forgets its mark"),
    ("````md\n```py\nx\n```\n````\n" * 60, "blocks in blocks"),
    ("```\n" + "x = 1; " * 1_500 + "\n```\nend", "a long line of code"),
    ("```\n" + "\n" * 2_000 + "```\nend", "blank lines in code"),
    ("a\0b\x1b[31mred\x1b[0m \u2028 \x0b \x85 \ud800 \ufeff" * 80, "characters that are none"),
]  # fmt: skip
IDS = [case[1] for case in WRITTEN]


def states(text: str) -> list[str]:
    """What there is of the text after each word; at most some 150 states."""
    ends = [match.end() for match in re.finditer(r"\S+\s*|\s", text)] if " " in text or "\n" in text else range(1, len(text))
    return [text[:end] for end in [*list(ends)[:90], *list(ends)[90 :: max(1, len(ends) // 60)], len(text)]]


@pytest.mark.parametrize(("max_chars", "has_tables"), [(MAX_MESSAGE_CHARS, False), (MAX_PAGE_CHARS, True), (300, True)])
@pytest.mark.parametrize("text", [case[0] for case in WRITTEN], ids=IDS)
def test_what_was_shown_only_grows(text: str, max_chars: int, has_tables: bool) -> None:
    shown: list[str] = []
    for state in states(text):
        pages = split_pages(state, max_chars, has_tables=has_tables)
        assert len(pages) >= len(shown)
        assert pages[: max(0, len(shown) - 1)] == shown[:-1]
        if len(pages) == len(shown) > 0:  # otherwise the end of a page that became full has moved to the next one
            assert pages[-1].startswith(shown[-1].rstrip())
        assert all(0 < len(heal(page).rstrip()) <= max_chars for page in pages)
        shown = pages
    whole = split_pages(text, max_chars, has_tables=has_tables, is_whole=True)
    assert whole[: len(shown) - 1] == shown[:-1]
    said = "".join(re.split(r"[`~>\s]+", "".join(whole)))
    assert said == "".join(re.split(r"[`~>\s]+", text))


@pytest.mark.parametrize("text", [case[0] for case in WRITTEN], ids=IDS)
def test_every_state_is_a_message_that_discord_takes(text: str) -> None:
    for state in states(text):
        pages = split_pages(state, MAX_MESSAGE_CHARS, has_tables=False)
        for number, page in enumerate(pages, 1):
            message = render(Page(page, is_open=number == len(pages)))
            assert 0 < len(message) <= MAX_MESSAGE_CHARS
            assert message.count("```") % 2 == 0, "a block is open at the end"


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("text", [case[0] for case in WRITTEN], ids=IDS)
def test_every_layout_is_one_that_slack_takes_and_mentions_nobody(text: str, layout: Layout) -> None:
    for page in split_pages(text, MAX_PAGE_CHARS, is_whole=True):
        blocks = page_blocks(Page(page), layout)
        assert len(blocks) <= 50
        for block in blocks:
            written = block["text"] if isinstance(block["text"], str) else block["text"]["text"]
            assert 0 < len(written) <= (12_000 if layout is Layout.MARKDOWN else 3_000)
            assert not re.search("<[!@#]", written)
            if isinstance(block["text"], dict) and block["text"]["type"] == "mrkdwn":
                assert block["text"]["verbatim"], "Slack makes mentions of @here and #general otherwise"


@pytest.mark.parametrize("text", [case[0] for case in WRITTEN], ids=IDS)
def test_a_stream_only_grows_when_it_is_made_harmless(text: str) -> None:
    sent = ""
    for state in states(text[:3_000]):
        pages = split_pages(state, MAX_PAGE_CHARS)
        page = harmless(pages[0]) if pages else ""
        assert page.startswith(sent)
        sent = page


@pytest.mark.parametrize("text", ["Use this: ```py\nx = 1\n``` and run it.\nThen go on.", "Look:\n```py\nx = 1```\nThen `y` it."])
async def test_an_answer_with_a_block_in_a_line_stays_one_stream_on_slack(text: str) -> None:
    async with slack_world() as world:
        question, answer = await world.begun(text[:4])
        for at in range(4, len(text), 3):
            await answer.add(AnswerText(text[at : at + 3]))
            expected = split_pages(text[: at + 3], MAX_PAGE_CHARS)
            await world.slack.wait_for(lambda expected=expected: world.texts(question) == expected)  # type: ignore[misc]
        await world.handler.end(answer)
        await world.handler.wait_delivered(answer.turn_id)
        assert not world.slack.called("chat.update")
        assert len(world.slack.answers(world.general, question.ts)) == 1
