"""The parts of the Discord adapter that only turn words into other words."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.discord.api_errors import QuietLog
from adapters.discord.destination import Destination, parse_destination
from adapters.discord.setup import PERMISSIONS, invite_link, missing_permissions, setup_steps, user_install_link
from adapters.discord.surface import MAX_ALT_TEXT_CHARS, MAX_MESSAGE_CHARS, cut_at_sentence, render
from adapters.discord.threads import MAX_NAME_CHARS, thread_name
from adapters.surface import DestinationGone, Page

WANTED = (1 << 10) | (1 << 11) | (1 << 16) | (1 << 35) | (1 << 38)


def test_a_page_has_its_status_and_notices_in_small_print() -> None:
    page = Page("A cat.", notices=("I did not look at b.png.", "(stopped)"))
    assert render(page) == "A cat.\n-# I did not look at b.png.\n-# (stopped)"
    assert render(Page("", status="You are next.", is_open=True)) == "-# You are next."


def test_an_open_code_block_is_closed_for_the_moment() -> None:
    assert render(Page("```py\nx = 1", is_open=True)) == "```py\nx = 1\n```"


def test_a_file_name_in_a_notice_makes_no_link() -> None:
    assert "](" not in render(Page("", notices=("I could not use [free](http://evil.example): it is not a picture.",)))


@given(st.text(max_size=1_800), st.lists(st.text(max_size=60), max_size=3))
def test_no_page_is_too_long_or_empty(text: str, notices: list[str]) -> None:
    content = render(Page(text, notices=tuple(notices)))
    assert content.strip()
    assert len(content) <= MAX_MESSAGE_CHARS


@given(st.text(alphabet="ab .!?…\n", max_size=3_000))
def test_alt_text_is_cut_at_a_sentence(text: str) -> None:
    cut = cut_at_sentence(text, MAX_ALT_TEXT_CHARS)
    assert len(cut) <= MAX_ALT_TEXT_CHARS
    if len(text.strip()) <= MAX_ALT_TEXT_CHARS:
        assert cut == text.strip()
    else:
        assert cut[-1] in ".!?…"
        assert text.strip().startswith(cut.removesuffix(" …"))


def test_alt_text_keeps_whole_sentences() -> None:
    assert cut_at_sentence("One cat. Two dogs sit. Three birds sing.", 25) == "One cat. Two dogs sit."
    assert cut_at_sentence("a " * 20, 10) == "a a a a …"


@given(st.text(max_size=300))
def test_a_thread_always_has_a_name(question: str) -> None:
    assert 1 <= len(thread_name(question)) <= MAX_NAME_CHARS


def test_a_thread_is_named_after_its_question() -> None:
    assert thread_name("What is **this**?\n\nhttps://example.org/a.png") == "What is this ?"
    assert thread_name("https://example.org/a.png") == "Picture"
    assert thread_name("word " * 40).endswith("word…")


@given(st.builds(Destination, guild=st.text(), channel=st.from_regex(r"[0-9]{1,19}", fullmatch=True), token=st.text()))
def test_a_place_survives_being_written_down(destination: Destination) -> None:
    assert parse_destination(str(destination)) == destination


@pytest.mark.parametrize("text", ["", "{}", "[]", '["1","x"]', "[1,2,3,4,5,6,7,8,9,10]", "C1/123.4"])
def test_anything_else_is_no_place(text: str) -> None:
    with pytest.raises(DestinationGone):
        parse_destination(text)


def test_a_places_token_is_not_shown() -> None:
    assert "secret" not in repr(Destination("1", "2", token="secret"))


def test_an_interactions_token_does_not_get_into_the_log() -> None:
    record = logging.LogRecord(
        "discord.http", logging.WARNING, "x.py", 1, "%s %s", ("POST", "https://d.example/api/v10/webhooks/12/SECRET?wait=1"), None
    )
    assert QuietLog().filter(record)
    assert record.getMessage() == "POST https://d.example/api/v10/webhooks/12/…?wait=1"


def test_the_invite_link_asks_for_exactly_what_is_needed() -> None:
    assert sum(permission.bit for permission in PERMISSIONS) == WANTED
    assert invite_link("42") == (
        f"https://discord.com/oauth2/authorize?client_id=42&permissions={WANTED}&integration_type=0&scope=bot+applications.commands"
    )


def test_missing_permissions_have_names() -> None:
    assert [permission.name for permission in missing_permissions(WANTED & ~(1 << 35))] == ["Create Public Threads"]
    assert missing_permissions(1 << 3) == ()  # an administrator has all


def test_the_steps_hold_all_that_has_to_be_switched() -> None:
    steps = setup_steps("42")
    for word in ("Message Content Intent", "DISCORD_TOKEN", "User Install", invite_link("42"), user_install_link("42")):
        assert word in steps
    assert "APPLICATION_ID" not in steps
    assert "APPLICATION_ID" in setup_steps(None)
