"""Choosing tokens, against transformers' own processors."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from model_server.packed.sampling import choose
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


def test_tokens_come_as_often_as_the_model_says() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 4000
    ids = torch.tensor(choose(probabilities.log().expand(rows, 4), [SamplingParams(1, 1.0)] * rows))
    assert torch.allclose(ids.bincount(minlength=4) / rows, probabilities, atol=0.03)


def test_logits_that_are_no_numbers_do_not_break_the_engine() -> None:
    assert len(choose(torch.full((2, 4), torch.nan), [SamplingParams(1, 0), SamplingParams(1, 1.0, top_p=0.5)])) == 2
