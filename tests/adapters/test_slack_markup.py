"""What people write is read without Slack's marks; what a model writes makes none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.slack.blocks import page_blocks, read_value, value_of
from adapters.slack.markup import fallback, harmless, has_mention, to_plain
from adapters.surface import Control, Page

MARKS = re.compile(r"<[@#!]")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<@UBOT> what is this?", "what is this?"),
        ("hey <@UBOT|threadsight>  look", "hey look"),
        ("<@U2|ann> and <@U3> say", "@ann and @U3 say"),
        ("in <#C1|general> <!here> <!subteam^S1|@team>", "in #general @here @team"),
        ("<!date^1392734382^{date}|yesterday>", "yesterday"),
        ("see <https://a.b/c.png>", "see https://a.b/c.png"),
        ("see <https://a.b/c.png|the cat>", "see the cat (https://a.b/c.png)"),
        ("<http://a.b|a.b>", "http://a.b"),
        ("is 1 &lt; 2 &amp; 3?", "is 1 < 2 & 3?"),
        ("<@UBOT>", ""),
        ("<@UBOT>\nfirst\nsecond", "first\nsecond"),
        ("", ""),
    ],
)
def test_peoples_words_are_read(written: str, read: str) -> None:
    assert to_plain(written, "UBOT") == read


def test_a_mention_is_seen_in_the_text() -> None:
    assert has_mention("hi <@UBOT>", "UBOT")
    assert has_mention("hi <@UBOT|bot>", "UBOT")
    assert not has_mention("hi <@UBOTTOM>", "UBOT")


pieces = st.sampled_from([*"<>!@#a |&;\n`", "channel", "<!", "<@U1>", "&lt;!here>"])
model_text = st.lists(pieces, max_size=40).map("".join)


@given(model_text)
def test_a_model_mentions_nobody(text: str) -> None:
    assert not MARKS.search(harmless(text))
    assert not MARKS.search(fallback(text))
    assert "<" not in fallback(text)
    assert harmless(text).replace("\u200b", "") == text.replace("\u200b", "")
    assert len(harmless(text)) <= 1.5 * len(text)


@given(model_text, model_text)
def test_a_text_that_grew_was_made_harmless_in_the_same_way(text: str, more: str) -> None:
    assert harmless(text + more).startswith(harmless(text))


@pytest.mark.parametrize("text", ["<!channel> <!here> <!everyone>", "<@U1> `<@U2>`", "```\n<!channel>\n```", "<<!channel>"])
def test_a_page_mentions_nobody(text: str) -> None:
    assert not MARKS.search(str(page_blocks(Page(text, notices=(text,), status=text))))


def test_a_page_has_text_sentences_and_buttons() -> None:
    after = (Control.REGENERATE, Control.HELPFUL, Control.NOT_HELPFUL)
    blocks = page_blocks(Page("**Hi**", notices=("one", "two"), controls=after, turn_id=7))
    assert [block["type"] for block in blocks] == ["markdown", "context", "context", "context_actions", "actions"]
    feedback = blocks[3]["elements"][0]
    assert [feedback[name]["value"] for name in ("positive_button", "negative_button")] == ["helpful:7", "not_helpful:7"]
    assert [button["value"] for button in blocks[4]["elements"]] == ["regenerate:7"]


@pytest.mark.parametrize("control", list(Control))
def test_a_button_carries_its_turn(control: Control) -> None:
    assert read_value(value_of(control, 12)) == (control, 12)


@pytest.mark.parametrize("value", ["", "stop", "stop:", "stop:x", "stop:-1", "boom:1", "stop:1:2", "stop:²", "stop:" + "9" * 40])
def test_a_foreign_value_is_none_of_ours(value: str) -> None:
    assert read_value(value) is None
