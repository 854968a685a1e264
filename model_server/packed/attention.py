"""Attention over many chats in one batch: their tokens are concatenated, and their keys and values are in a `PackedCache`.

transformers passes a model's keyword arguments down to a registered attention function, and makes no mask for one that it does not
know. On CUDA we use torch's own FlashAttention; elsewhere a loop over the chats, which reads each chat's rows in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from model_server.packed.cache import PackedCache

NAME = "threadsight_packed"


class PackedBatch:
    """The chats of one forward pass.

    Chat i has `num_keys[i]` tokens, of which the last `num_queries[i]` are new, in cache rows
    from `starts[i]` on; `starts` is ascending. `num_layers_run` counts the attention layers that have run. Tensors: `positions` and
    `rows` are (new tokens,), the position in its chat and the cache row of each; `lasts` is (chats,), the index of each chat's last
    new token.
    """

    def __init__(self, cache: PackedCache, starts: Sequence[int], num_queries: Sequence[int], num_keys: Sequence[int]) -> None:
        self.cache = cache
        self.chats = list(zip(starts, num_queries, num_keys, strict=True))
        self.num_layers_run = 0
        device = cache.keys[0].device
        positions = [range(keys - queries, keys) for _, queries, keys in self.chats]
        rows = [start + i for start, new in zip(starts, positions, strict=True) for i in new]
        self.positions, self.rows = torch.tensor([[i for new in positions for i in new], rows], device=device)
        ends = [0]
        for num in num_queries:
            ends.append(ends[-1] + num)
        self.lasts = torch.tensor(ends[1:], device=device) - 1  # each chat's last query
        self.max_queries, self.max_keys = max(num_queries), max(num_keys)
        self.cu_seq_q, self.cu_seq_k, self.seqused_k = (
            torch.tensor(numbers, dtype=torch.int32, device=device) for numbers in (ends, [*starts, cache.num_rows], num_keys)
        )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    packed: PackedBatch,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention. `query`, `key` and `value` are (1, heads, tokens, head size), with the new tokens of all chats
    concatenated.

    Writes the keys and values into the cache. `scaling` None is 1 / sqrt(head size). Returns (1, tokens, heads, head size) and, in
    place of the attention weights, None: the form that transformers' AttentionInterface asks for
    (https://huggingface.co/docs/transformers/attention_interface).
    """
    packed.num_layers_run += 1
    layer: Any = module.layer_idx
    keys, values = packed.cache.keys[layer], packed.cache.values[layer]
    keys[:, packed.rows] = key[0].to(keys.dtype)
    values[:, packed.rows] = value[0].to(values.dtype)
    if _has_flash(query):
        return _flash(query, keys, values, scaling, packed), None
    has_groups = keys.shape[0] != query.shape[1]
    outs = []
    q0 = 0
    for start, num_queries, num_keys in packed.chats:
        q, k, v = query[0, :, q0 : q0 + num_queries], keys[:, start : start + num_keys], values[:, start : start + num_keys]
        q0 += num_queries
        if num_queries == 1:  # heads that share keys become queries of one head, so that no keys are repeated
            out = scaled_dot_product_attention(q.reshape(1, len(k), -1, q.shape[-1]), k[None], v[None], scale=scaling)
            outs.append(out.reshape(1, -1, 1, out.shape[-1]))
            continue
        mask = None
        if num_queries < num_keys:  # the diagonal starts after the cached tokens
            mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device).tril(num_keys - num_queries)
        outs.append(
            scaled_dot_product_attention(
                q[None], k[None], v[None], attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=has_groups
            )
        )
    return torch.cat(outs, 2).transpose(1, 2), None


def _has_flash(query: torch.Tensor) -> bool:
    """FlashAttention needs a 16-bit type and an Ampere or newer GPU."""
    is_short = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and is_short and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _flash(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None, packed: PackedBatch
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query[0].transpose(0, 1),
        keys.transpose(0, 1),
        values.transpose(0, 1),
        packed.cu_seq_q,
        packed.cu_seq_k,
        packed.max_queries,
        packed.max_keys,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=keys.shape[0] != query.shape[1],
        seqused_k=packed.seqused_k,
    )
    assert isinstance(out, torch.Tensor)
    return out.unsqueeze(0)


def use_packed_attention(model: PreTrainedModel) -> None:
    """Switch the language model, and only it, to `packed_attention`. From then on every forward pass needs
    `packed=PackedBatch(...)`."""
    AttentionInterface.register(NAME, packed_attention)
    # Not set_attn_implementation, which would look for a kernel of this name on the hub.
    model.config._attn_implementation = {"": NAME, "text_config": NAME}
