"""Fitting a chat into the context window.

Rules: the oldest turns are left out first, as a whole; the newest question and every picture always stay (a picture of a turn that
is left out moves to the oldest question that stays); no more turns are left out than necessary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from model_server.errors import PromptTooLong
from model_server.types import Image, Message, Role


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with its pictures, and its answer; the newest question has none yet."""

    question: str
    images: tuple[Image, ...] = ()
    answer: str | None = None
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class FittedHistory:
    """The messages that fit into the model's context, how many older ones were left out, and their size in tokens."""

    messages: tuple[Message, ...]
    num_dropped: int
    num_tokens: int


CountTokens = Callable[[Sequence[Message]], Awaitable[int]]


async def fit_history(exchanges: Sequence[Exchange], max_tokens: int, num_prompt_tokens: CountTokens) -> FittedHistory:
    """Keep as many of the newest exchanges as fit into a prompt of `max_tokens` tokens.

    The last exchange is the open question. `num_prompt_tokens` may raise PromptTooLong instead of counting. Raises PromptTooLong if
    not even the open question fits.

    A chat that does not fit is looked at from its end: twice as many exchanges each time, until they do not fit; then between the
    last two. So what is counted is at most a few times what fits, however long the chat is.
    """

    async def keep(num_kept: int) -> FittedHistory:
        messages = to_messages(exchanges, len(exchanges) - num_kept)
        num_tokens = await num_prompt_tokens(messages)
        if num_tokens > max_tokens:
            raise PromptTooLong(num_tokens, max_tokens)
        return FittedHistory(messages, len(exchanges) - num_kept, num_tokens)

    with contextlib.suppress(PromptTooLong):
        return await keep(len(exchanges))
    best = await keep(1)
    low, high, step = 1, len(exchanges), 1  # keeping `low` fits, keeping `high` does not
    while high - low > 1:
        middle = min(low + step, high - 1) if step else (low + high) // 2
        try:
            best, low, step = await keep(middle), middle, 2 * step
        except PromptTooLong:
            high, step = middle, 0  # from now on halving
    return best


def to_messages(exchanges: Sequence[Exchange], num_dropped: int) -> tuple[Message, ...]:
    """Alternating messages without the oldest `num_dropped` exchanges, whose pictures move to the first remaining question."""
    images = tuple(image for exchange in exchanges[:num_dropped] for image in exchange.images)
    messages = []
    for exchange in exchanges[num_dropped:]:
        messages.append(Message(Role.USER, exchange.question, images + exchange.images))
        images = ()
        if exchange.answer is not None:
            messages.append(Message(Role.ASSISTANT, exchange.answer, token_ids=exchange.token_ids))
    return tuple(messages)
