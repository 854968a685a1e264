"""Attention over a ragged batch, for transformers' continuous batching.

An attention function whose name contains "flash" is given the boundaries of the requests in the batch and no mask. On CUDA it is
FlashAttention as it comes with torch; elsewhere a loop over the requests, which beats one dense mask over the whole batch. The name
carries no version digit, because transformers would look for a flash-attn package of that version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.generation.continuous_batching import PagedAttentionCache

NAME = "threadsight_varlen_flash"


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    cache: PagedAttentionCache,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention; `query`, `key`, `value` are (1, heads, tokens, head size) of all requests one after another.

    Returns (1, tokens, heads, head size). Request i owns the queries `cu_seq_lens_q[i]` up to `cu_seq_lens_q[i + 1]`, which are the
    last ones of its keys.
    """
    key, value = cache.update(key, value, module.layer_idx, kwargs)
    cu_seq_lens_k: torch.Tensor = kwargs["cu_seq_lens_k"]
    has_groups = key.shape[1] != query.shape[1]
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        max_k: int = kwargs["max_length_k"]
        out = varlen_attn(
            q, k, v, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_k, scale=scaling, window_size=(-1, 0), enable_gqa=has_groups
        )
        assert isinstance(out, torch.Tensor)
        return out.unsqueeze(0), None

    out = torch.empty_like(query)
    ends_q, ends_k = cu_seq_lens_q.tolist(), cu_seq_lens_k.tolist()
    for q0, q1, k0, k1 in zip(ends_q, ends_q[1:], ends_k, ends_k[1:], strict=False):
        num_queries, num_keys = q1 - q0, k1 - k0
        if num_queries == 0:
            continue
        mask = None
        if 1 < num_queries < num_keys:  # new tokens behind cached ones: the diagonal starts at the end of the cached ones
            mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device).tril(num_keys - num_queries)
        out[:, :, q0:q1] = scaled_dot_product_attention(
            query[:, :, q0:q1],
            key[:, :, k0:k1],
            value[:, :, k0:k1],
            attn_mask=mask,
            is_causal=num_queries == num_keys and num_queries > 1,
            scale=scaling,
            enable_gqa=has_groups,
        )
    return out.transpose(1, 2), None


def use_varlen_attention(model: PreTrainedModel) -> None:
    """Switch the language model, and only it, to `varlen_attention`. Afterwards it runs inside continuous batching only."""
    AttentionInterface.register(NAME, varlen_attention)
    # Not set_attn_implementation, which would look for a kernel of this name on the hub.
    model.config._attn_implementation = {"": NAME, "text_config": NAME}
