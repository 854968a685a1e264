"""The filter of a model's thinking: however the text is split, the same is shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model_server.remote.thinking import ThinkingFilter, without_thinking

MARKS = [
    "<think>",
    "</think>",
    "<thinking>",
    "</thinking>",
    "[THINK]",
    "[/THINK]",
    "<|channel>thought",
    "<channel|>",
    "\n",
    " ",
    "a",
    "<",
]
TEXTS = st.lists(st.sampled_from(MARKS), max_size=12).map("".join)


def shown(pieces: list[str], *, starts_open: bool, is_cut: bool) -> tuple[str, bool, bool]:
    thinking = ThinkingFilter(starts_open=starts_open)
    text = "".join(map(thinking.feed, pieces)) + thinking.end(is_cut=is_cut)
    return text, thinking.has_thinking, thinking.is_unopened


@given(TEXTS, st.lists(st.integers(0, 80), max_size=8), st.booleans(), st.booleans())
def test_where_the_text_is_split_makes_no_difference(text: str, cuts: list[int], starts_open: bool, is_cut: bool) -> None:
    ends = sorted({min(cut, len(text)) for cut in cuts})
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    expected = shown([text], starts_open=starts_open, is_cut=is_cut)
    assert shown(pieces, starts_open=starts_open, is_cut=is_cut) == expected
    assert text.endswith(expected[0])  # only the beginning is ever taken away


@given(TEXTS)
def test_a_text_that_does_not_begin_with_a_mark_is_shown_as_it_is(text: str) -> None:
    assert shown(["A" + text], starts_open=False, is_cut=False)[0] == "A" + text


def test_what_is_shown_is_shown_at_once() -> None:
    thinking = ThinkingFilter()
    assert [thinking.feed(piece) for piece in ("<th", "ink>x</think>", "\n", "Red", ". <", "think>")] == [
        "",
        "",
        "",
        "Red",
        ". <",
        "think>",
    ]


def test_a_whole_text_that_is_nothing_but_thinking_stays() -> None:
    assert without_thinking("<think>x</think>\nRed.") == "Red."
    assert without_thinking("<think>x") == "<think>x"
    assert without_thinking("") == ""
