"""Fitting a chat into the context window: what always holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.history import Exchange, fit_history, to_messages
from model_server.errors import PromptTooLong
from model_server.types import Image, Message, Role

IMAGE_TOKENS = 7


def _image(number: int) -> Image:
    return Image(data=b"", media_type="image/png", sha256=str(number), width=1, height=1)


def _num_tokens(messages: Sequence[Message]) -> int:
    return 3 + sum(1 + len(message.text) + IMAGE_TOKENS * len(message.images) for message in messages)


async def _count(messages: Sequence[Message]) -> int:
    return _num_tokens(messages)


@st.composite
def _chats(draw: st.DrawFn) -> list[Exchange]:
    num_turns = draw(st.integers(1, 12))
    exchanges = []
    num_images = 0
    for index in range(num_turns):
        has_image = index == 0 or draw(st.booleans())
        images = (_image(num_images),) if has_image else ()
        num_images += has_image
        answer = None if index == num_turns - 1 else "a" * draw(st.integers(0, 20))
        exchanges.append(Exchange("q" * draw(st.integers(1, 20)), images, answer, None if answer is None else (index,)))
    return exchanges


@given(_chats(), st.integers(0, 400))
async def test_fitting(exchanges: list[Exchange], max_tokens: int) -> None:
    fits = [n for n in range(len(exchanges)) if _num_tokens(to_messages(exchanges, n)) <= max_tokens]
    if not fits:
        with pytest.raises(PromptTooLong):
            await fit_history(exchanges, max_tokens, _count)
        return
    fitted = await fit_history(exchanges, max_tokens, _count)
    assert fitted.num_tokens == _num_tokens(fitted.messages) <= max_tokens
    assert fitted.num_dropped == fits[0]  # no more than must be
    # The newest turns, whole and in order:
    asked = [message.text for message in fitted.messages if message.role is Role.USER]
    answered = [(message.text, message.token_ids) for message in fitted.messages if message.role is Role.ASSISTANT]
    kept = exchanges[fitted.num_dropped :]
    assert asked == [exchange.question for exchange in kept]
    assert answered == [(exchange.answer, exchange.token_ids) for exchange in kept[:-1]]
    assert [message.role for message in fitted.messages] == [Role.USER, Role.ASSISTANT] * (len(kept) - 1) + [Role.USER]
    # Every picture, once and in order, even of turns that were left out:
    assert [image for message in fitted.messages for image in message.images] == [i for e in exchanges for i in e.images]


@pytest.mark.parametrize("num_kept", range(1, 7))
async def test_what_fits_exactly_stays(num_kept: int) -> None:
    exchanges = [Exchange("q", answer="a") for _ in range(5)] + [Exchange("q")]
    num_dropped = len(exchanges) - num_kept
    fitted = await fit_history(exchanges, _num_tokens(to_messages(exchanges, num_dropped)), _count)
    assert fitted.num_dropped == num_dropped


async def test_a_question_that_is_too_long_by_itself_is_told_by_how_much() -> None:
    with pytest.raises(PromptTooLong) as caught:
        await fit_history([Exchange("q", answer="a"), Exchange("q" * 40)], 43, _count)
    assert (caught.value.num_tokens, caught.value.max_tokens) == (44, 43)


async def test_a_chat_that_fits_is_counted_once() -> None:
    calls = 0

    async def count(messages: Sequence[Message]) -> int:
        nonlocal calls
        calls += 1
        return _num_tokens(messages)

    await fit_history([Exchange("q", (_image(0),))], 1_000, count)
    assert calls == 1


async def test_counts_few_times_however_long_the_chat_is() -> None:
    calls = 0

    async def count(messages: Sequence[Message]) -> int:
        nonlocal calls
        calls += 1
        return _num_tokens(messages)

    exchanges = [Exchange("q", (_image(0),) if n == 0 else (), "a", ()) for n in range(1_000)] + [Exchange("q")]
    fitted = await fit_history(exchanges, 200, count)
    assert 0 < fitted.num_dropped < 1_000
    assert calls <= 13


@pytest.mark.parametrize("has_limit", [True, False])
async def test_the_work_grows_with_what_fits_and_with_one_look_at_the_chat(has_limit: bool) -> None:
    """Not with the chat's length for each count; nor at all, where the model refuses to count what is far too long."""
    counted: list[int] = []

    async def count(messages: Sequence[Message]) -> int:
        if has_limit and len(messages) > 1_000:
            raise PromptTooLong
        counted.append(len(messages))
        return _num_tokens(messages)

    exchanges = [Exchange("q" * 5, (_image(0),) if n == 0 else (), "a" * 5, ()) for n in range(100_000)] + [Exchange("q")]
    fitted = await fit_history(exchanges, 1_200, count)
    assert len(fitted.messages) in range(190, 202)
    whole = [] if has_limit else [len(to_messages(exchanges, 0))]
    assert counted[: len(whole)] == whole
    assert sum(counted[len(whole) :]) <= 16 * len(fitted.messages)


async def test_a_question_that_the_model_does_not_even_count_is_too_long() -> None:
    async def count(messages: Sequence[Message]) -> int:
        raise PromptTooLong

    with pytest.raises(PromptTooLong):
        await fit_history([Exchange("q", answer="a"), Exchange("q")], 100, count)
