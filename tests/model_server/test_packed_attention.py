"""Attention over many chats at once, against what attention is: one query after another, each over all keys up to its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from model_server.packed import attention
from model_server.packed.attention import PackedBatch, packed_attention, use_packed_attention
from model_server.packed.cache import UNIT, PackedCache

HEAD_SIZE = 4
LAYER = 1


def make_cache(num_heads: int, num_rows: int) -> PackedCache:
    """Full of numbers from earlier chats, which must not matter."""
    cache = PackedCache(
        num_layers=2, num_heads=num_heads, head_size=HEAD_SIZE, num_rows=num_rows, dtype=torch.float64, device=torch.device("cpu")
    )
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    return cache


def by_definition(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """One query's attention: (heads, head size) over (key heads, keys, head size)."""
    num_sharing = len(query) // len(keys)
    keys, values = keys.repeat_interleave(num_sharing, 0), values.repeat_interleave(num_sharing, 0)
    weights = ((query[:, None] * keys).sum(-1) * scale).softmax(-1)
    return (weights[:, :, None] * values).sum(1)


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor,
) -> torch.Tensor:
    """What the documentation of torch.nn.attention.varlen.varlen_attn (2.13) says, which itself runs on CUDA only."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == torch.int32
    assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] == len(key) == len(value)
    assert window_size == (-1, 0), "causal: the last query sees all keys"
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert max_q == int(cu_seq_q.diff().max())
    assert max_k == int(seqused_k.max())
    outs = []
    for number, num_keys in enumerate(seqused_k.tolist()):
        first_key = int(cu_seq_k[number])
        keys, values = (tensor[first_key : first_key + num_keys].transpose(0, 1) for tensor in (key, value))
        queries = query[int(cu_seq_q[number]) : int(cu_seq_q[number + 1])]
        for i, one in enumerate(queries):
            num_seen = num_keys - len(queries) + 1 + i
            outs.append(by_definition(one, keys[:, :num_seen], values[:, :num_seen], scale or HEAD_SIZE**-0.5))
    return torch.stack(outs)


CHATS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=5)


@pytest.mark.parametrize("has_flash", [False, True])
@given(CHATS, st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]), st.sampled_from([None, 0.3]), st.integers(0, 2**31))
def test_every_query_sees_its_own_chat_up_to_itself(
    has_flash: bool, chats: list[tuple[int, int, int]], heads: tuple[int, int], scale: float | None, seed: int
) -> None:
    """`chats`: how many tokens are known, how many are new, and how many unused rows come before the next chat."""
    torch.manual_seed(seed)
    starts = []
    row = 0
    for num_known, num_new, gap in chats:
        starts.append(row)
        row += num_known + num_new + gap
    num_heads, num_key_heads = heads
    cache = make_cache(num_key_heads, row + UNIT)
    before = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    batch = PackedBatch(cache, starts, [new for _, new, _ in chats], [known + new for known, new, _ in chats])
    num_tokens = sum(new for _, new, _ in chats)
    query = torch.randn(1, num_heads, num_tokens, HEAD_SIZE, dtype=torch.float64)
    key, value = (torch.randn(1, num_key_heads, num_tokens, HEAD_SIZE, dtype=torch.float64) for _ in range(2))
    module: Any = SimpleNamespace(layer_idx=LAYER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_has_flash", lambda query: has_flash)
        patch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
        out, _ = packed_attention(module, query, key, value, None, scale, packed=batch)

    expected = []
    token = 0
    for start, (num_known, num_new, _) in zip(starts, chats, strict=True):
        for i in range(num_new):
            position = num_known + i
            assert batch.positions[token] == position
            assert torch.equal(cache.keys[LAYER][:, start + position], key[0, :, token])
            assert torch.equal(cache.values[LAYER][:, start + position], value[0, :, token])
            before[LAYER][:, start + position] = key[0, :, token]
            before[2 + LAYER][:, start + position] = value[0, :, token]
            keys, values = (tensor[LAYER][:, start : start + position + 1] for tensor in (cache.keys, cache.values))
            expected.append(by_definition(query[0, :, token], keys, values, scale or HEAD_SIZE**-0.5))
            token += 1
        assert batch.lasts[starts.index(start)] == token - 1
    torch.testing.assert_close(out, torch.stack(expected)[None])
    assert all(torch.equal(one, other) for one, other in zip((*cache.keys, *cache.values), before, strict=True))  # and no other row
    assert batch.num_layers_run == 1


@pytest.mark.parametrize(
    ("dtype", "is_cuda", "capability", "has_flash"),
    [
        (torch.float16, True, (8, 0), True),
        (torch.bfloat16, True, (9, 0), True),
        (torch.bfloat16, True, (7, 5), False),
        (torch.float32, True, (9, 0), False),
        (torch.bfloat16, False, (9, 0), False),
    ],
)
def test_flash_attention_is_used_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, is_cuda: bool, capability: tuple[int, int], has_flash: bool
) -> None:
    asked = []

    def get_device_capability(device: object) -> tuple[int, int]:
        asked.append(device)
        return capability

    monkeypatch.setattr(torch.cuda, "get_device_capability", get_device_capability)
    query: Any = SimpleNamespace(dtype=dtype, is_cuda=is_cuda, device="cuda:1")
    assert attention._has_flash(query) is has_flash
    assert set(asked) <= {"cuda:1"}


def test_only_the_language_model_is_switched() -> None:
    """What sees keeps the attention that it had."""
    config: Any = LlavaConfig(vision_config=CLIPVisionConfig(), text_config=LlamaConfig())
    config._attn_implementation = "sdpa"
    model: Any = SimpleNamespace(config=config)
    use_packed_attention(model)
    assert config.text_config._attn_implementation == attention.NAME
    assert config.vision_config._attn_implementation == "sdpa"
