"""Choosing tokens, against transformers' own processors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from model_server.packed.sampling import choose, make_generator
from model_server.types import SamplingParams

SAMPLINGS = st.builds(
    SamplingParams, temperature=st.floats(0.1, 2), top_p=st.floats(0.05, 1), top_k=st.integers(0, 12), max_new_tokens=st.just(1)
)


def allowed(logits: torch.Tensor, sampling: SamplingParams) -> set[int]:
    """What `generate` may choose."""
    scores = TemperatureLogitsWarper(sampling.temperature)(torch.tensor([[0]]), logits[None])
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(torch.tensor([[0]]), scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(torch.tensor([[0]]), scores)
    return set(scores[0].isfinite().nonzero().flatten().tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(SAMPLINGS, min_size=1, max_size=4), st.integers(0, 2**31))
def test_only_what_generate_may_choose_and_each_of_it(samplings: list[SamplingParams], seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(len(samplings), 9)
    chosen = [choose(logits, samplings) for _ in range(30)]
    for row, sampling in enumerate(samplings):
        if sampling.is_greedy:
            assert {ids[row] for ids in chosen} == {int(logits[row].argmax())}
        else:
            assert {ids[row] for ids in chosen} <= allowed(logits[row], sampling)


def test_greedy_and_sampled_answers_side_by_side() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0]] * 3)
    samplings = [SamplingParams(1, 0), SamplingParams(1, 1.0, top_k=1), SamplingParams(1, 1.0, top_p=0.001)]
    assert choose(logits, samplings) == [1, 1, 1]


def test_a_limit_beyond_all_numbers_is_none() -> None:
    """Clients choose it; it once ended the engine for everybody."""
    assert choose(torch.tensor([[0.0, 90.0, 1.0]]), [SamplingParams(1, 1.0, top_k=10**400)]) == [1]


def test_tokens_come_as_often_as_the_model_says() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 4000
    ids = torch.tensor(choose(probabilities.log().expand(rows, 4), [SamplingParams(1, 1.0)] * rows))
    assert torch.allclose(ids.bincount(minlength=4) / rows, probabilities, atol=0.03)


def test_logits_that_are_no_numbers_do_not_break_the_engine() -> None:
    assert len(choose(torch.full((2, 4), torch.nan), [SamplingParams(1, 0), SamplingParams(1, 1.0, top_p=0.5)])) == 2


def drawn(seed: int | None, crowd: int, place: int, num_tokens: int = 20) -> list[int]:
    """The ids of one answer, of whose batch `crowd` other answers are members, in a row of its own at each step."""
    torch.manual_seed(crowd)  # the others' draws, and those without a seed, must not matter
    mine = SamplingParams(1, 1.0, top_p=0.9, seed=seed)
    generator = make_generator(mine, torch.device("cpu"))
    ids = []
    for step in range(num_tokens):
        row = (place + step) % (crowd + 1)
        samplings = [SamplingParams(1, 1.0, seed=7 if i % 2 else None) for i in range(crowd)]
        generators = [make_generator(other, torch.device("cpu")) for other in samplings]
        logits = torch.randn(crowd, 50)
        same = torch.arange(50.0).mul(step + 1).sin()[None]
        samplings.insert(row, mine)
        generators.insert(row, generator)
        ids.append(choose(torch.cat([logits[:row], same, logits[row:]]), samplings, generators)[row])
    return ids


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_a_seed_draws_the_same_whatever_shares_the_batch(seed: int, crowd: int, place: int) -> None:
    assert drawn(seed, crowd, place) == drawn(seed, 0, 0)


def test_another_seed_and_none_draw_something_else() -> None:
    assert drawn(1, 0, 0) != drawn(2, 0, 0)
    assert drawn(None, 0, 0) != drawn(None, 1, 0)


def test_a_seed_out_of_range_is_refused() -> None:
    for seed in (-(2**63) - 1, 2**63):
        with pytest.raises(ValueError, match="seed"):
            SamplingParams(seed=seed)
