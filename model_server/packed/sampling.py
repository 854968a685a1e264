"""Sample the next tokens of several answers at once, each with its own settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model_server.types import SamplingParams

_MIN_TEMPERATURE = 1e-3


def make_generator(sampling: SamplingParams, device: torch.device) -> torch.Generator | None:
    """The random numbers of one answer with a seed; None for an answer that draws from torch's global generator."""
    return None if sampling.seed is None or sampling.is_greedy else torch.Generator(device).manual_seed(sampling.seed)


def choose(
    logits: torch.Tensor, samplings: Sequence[SamplingParams], generators: Sequence[torch.Generator | None] | None = None
) -> list[int]:
    """Sample one token id for each row of `logits` (answers, vocabulary), row i with `samplings[i]`.

    Applies temperature, then top_k, then top_p, in the order of transformers' `generate`; temperatures above 0 are at least 0.001.
    Greedy rows take the most likely id. Row i draws from `generators[i]`, or from torch's global generator where that is None: so
    an answer with a generator of its own does not depend on the other rows."""
    ids = logits.argmax(-1)
    rows = [i for i, sampling in enumerate(samplings) if not sampling.is_greedy]
    if rows:
        chosen = [samplings[i] for i in rows]
        scores = logits[rows].float() / _column([max(s.temperature, _MIN_TEMPERATURE) for s in chosen], logits)
        is_cut = [i for i, s in enumerate(chosen) if s.top_k or s.top_p < 1]
        if is_cut:
            scores[is_cut] = _cut(scores[is_cut], [chosen[i] for i in is_cut])
        # argmax(p / e), e exponentially distributed, is id i with probability p[i] (the "exponential race"); no sort, no transfer.
        probabilities = scores.softmax(-1)
        noise = torch.empty_like(probabilities).exponential_()
        for row, i in enumerate(rows):
            if generators is not None and generators[i] is not None:
                noise[row].exponential_(generator=generators[i])
        ids[rows] = (probabilities / noise).argmax(-1)
    chosen_ids: list[int] = ids.tolist()
    return chosen_ids


def _cut(scores: torch.Tensor, samplings: Sequence[SamplingParams]) -> torch.Tensor:
    """Set to -inf all but the `top_k` best ids, and all but the fewest ids whose probabilities add up to `top_p`."""
    num_ids = scores.shape[-1]
    ordered, order = scores.sort(-1, descending=True)
    top_k = _column([min(s.top_k or num_ids, num_ids) for s in samplings], scores)  # a client's number may be larger than a float
    ordered = ordered.masked_fill(torch.arange(num_ids, device=scores.device) >= top_k, -torch.inf)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    is_out = before >= _column([s.top_p if s.top_p < 1 else 2.0 for s in samplings], scores)
    return torch.empty_like(scores).scatter_(-1, order, ordered.masked_fill(is_out, -torch.inf))


def _column(numbers: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=like.device)[:, None]
