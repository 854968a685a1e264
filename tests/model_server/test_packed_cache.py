"""The arena of keys and values, against what must hold whatever chats come and go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from model_server.packed import cache as packed_cache
from model_server.packed.cache import UNIT, Extent, PackedCache, units

NUM_ROWS = 12 * UNIT
NUM_LAYERS = 2


def make_cache() -> PackedCache:
    return PackedCache(
        num_layers=NUM_LAYERS, num_heads=1, head_size=1, num_rows=NUM_ROWS, dtype=torch.float64, device=torch.device("cpu")
    )


def value(ids: list[int], layer: int) -> float:
    """Like keys and values, it depends on all ids up to here."""
    return float(hash((layer, *ids)) % 2**40)


def compute(cache: PackedCache, extent: Extent, ids: list[int]) -> None:
    """What a step does: fill the rows of ids that are not known yet."""
    for position in range(len(extent.ids), len(ids)):
        for layer in range(NUM_LAYERS):
            cache.keys[layer][0, extent.start + position, 0] = value(ids[: position + 1], layer)
            cache.values[layer][0, extent.start + position, 0] = -value(ids[: position + 1], layer)
    extent.ids = list(ids)


def check(cache: PackedCache) -> None:
    ordered = sorted(cache._extents, key=lambda extent: extent.start)
    for extent, following in zip(ordered, [*ordered[1:], None], strict=True):
        assert extent.start >= 0
        assert extent.start % UNIT == 0
        assert len(extent.ids) <= extent.num_rows
        assert extent.end <= (following.start if following else NUM_ROWS)
        for layer in range(NUM_LAYERS):
            expected = [value(extent.ids[: i + 1], layer) for i in range(len(extent.ids))]
            rows = slice(extent.start, extent.start + len(expected))
            assert cache.keys[layer][0, rows, 0].tolist() == expected
            assert cache.values[layer][0, rows, 0].tolist() == [-number for number in expected]


def prompt(image: int, num_turns: int) -> list[int]:
    return [1, 2, 3, *([100 + image] * 20), *(200 + i % 7 for i in range(15 * num_turns))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 40), st.integers(0, 5)), max_size=25))
def test_whatever_chats_come_and_go_every_row_is_the_right_one(steps: list[tuple[int, int, int, int]]) -> None:
    cache = make_cache()
    running: list[tuple[Extent, int]] = []
    for image, num_turns, num_new, num_leaving in steps:
        ids = prompt(image, num_turns)
        cost = units(len(ids) + num_new)
        while running and (len(running) >= num_leaving or sum(cost for _, cost in running) + cost > NUM_ROWS // UNIT):
            cache.give_back(running.pop(num_leaving % len(running))[0])
            check(cache)
        if cost > NUM_ROWS // UNIT:
            continue
        extent = cache.take(ids, len(ids) + num_new)
        assert len(extent.ids) < len(ids)
        assert extent.ids == ids[: len(extent.ids)]
        assert extent.num_rows >= len(ids) + num_new
        check(cache)
        compute(cache, extent, ids + list(range(num_new)))
        running.append((extent, cost))
        check(cache)
        assert all(extent in cache._extents for extent, _ in running)


def test_the_next_turn_goes_on_where_the_last_one_ended() -> None:
    cache = make_cache()
    first = cache.take(prompt(0, 1), 50)
    compute(cache, first, [*prompt(0, 1), 7, 8])
    cache.give_back(first)
    again = cache.take([*prompt(0, 1), 7, 8, 9], 60)
    assert again.ids == [*prompt(0, 1), 7, 8]
    assert again.start == first.start
    check(cache)


def test_two_chats_about_one_picture_at_the_same_time_share_what_is_known() -> None:
    cache = make_cache()
    first = cache.take(prompt(0, 1), 50)
    compute(cache, first, prompt(0, 1))
    second = cache.take(prompt(0, 2), 60)
    assert second.ids == prompt(0, 1)
    assert first in cache._extents
    check(cache)


def test_the_chat_that_was_quiet_longest_is_forgotten_first() -> None:
    cache = make_cache()
    for image in range(4):
        extent = cache.take(prompt(image, 1), 38)
        compute(cache, extent, prompt(image, 1))
        cache.give_back(extent)
    again = cache.take([*prompt(0, 1), 9], 40)  # now chat 1 is the oldest
    cache.give_back(again)
    cache.take([9] * 20, 3 * UNIT)
    check(cache)
    assert [cache._best_source(prompt(image, 1))[1] > 0 for image in range(4)] == [True, False, True, True]


def test_a_chat_that_another_one_took_a_copy_of_was_of_use_and_stays() -> None:
    cache = make_cache()
    for image in range(2):
        extent = cache.take(prompt(image, 1), 38)
        compute(cache, extent, prompt(image, 1))
        cache.give_back(extent)
    copy = cache.take([*prompt(0, 0), 9, 9], 2 * UNIT)  # the same picture, another question: chat 1 is the oldest now
    assert copy.ids == prompt(0, 0)
    cache.take([9] * 20, 6 * UNIT)
    check(cache)
    assert [cache._best_source(prompt(image, 1))[1] for image in range(2)] == [37, 0]


def test_a_chat_that_goes_on_in_its_own_rows_pushes_nobody_out() -> None:
    cache = make_cache()
    for image in range(2):
        extent = cache.take(prompt(image, 1), 3 * UNIT)
        compute(cache, extent, prompt(image, 1))
        cache.give_back(extent)
    cache.take([9] * 20, 6 * UNIT)  # now all rows are taken
    again = cache.take([*prompt(0, 1), 9], 3 * UNIT)
    assert again.ids == prompt(0, 1)
    assert cache._best_source(prompt(1, 1))[1] == 37


def test_chats_that_move_together_take_all_they_hold_along() -> None:
    cache = make_cache()
    gap = cache.take([], 2 * UNIT)
    moving = cache.take([5] * 20, 2 * UNIT)
    compute(cache, moving, [5] * 2 * UNIT)  # as many as the row that it begins at
    assert moving.start == 2 * UNIT
    cache.take([], 6 * UNIT)
    cache.give_back(gap)
    assert cache.take([], 4 * UNIT).num_rows == 4 * UNIT  # two before, two behind
    assert moving.start == 0
    check(cache)


def rows_for(monkeypatch: pytest.MonkeyPatch, device: str, num_tokens: int | None, **options: int) -> int:
    """How many rows the cache gets of a model with 512 bytes of keys and values a token."""
    text = LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=64)
    weight = torch.zeros(1, dtype=torch.float32)
    model: Any = SimpleNamespace(
        config=SimpleNamespace(text_config=text),
        device=torch.device(device),
        get_input_embeddings=lambda: SimpleNamespace(weight=weight),
    )
    made: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(packed_cache, "PackedCache", lambda **given: made.update(given))
        packed_cache.make_cache(model, num_tokens, **options)
    num_rows: int = made.pop("num_rows")
    assert made == {"num_layers": 2, "num_heads": 2, "head_size": 16, "dtype": torch.float32, "device": torch.device(device)}
    return num_rows


def test_on_a_gpu_the_cache_takes_most_of_what_is_free_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def mem_get_info(device: object) -> tuple[int, int]:
        assert device == torch.device("cuda:1")
        return 512_000_999, 10**12

    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    assert rows_for(monkeypatch, "cuda:1", None, max_running=2, context_length=100) == 800_001


def test_on_a_cpu_the_cache_has_room_for_all_who_run_but_not_for_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_for(monkeypatch, "cpu", None, max_running=3, context_length=100) == 600
    assert rows_for(monkeypatch, "cpu", None, max_running=1_000, context_length=10_000) == 2 * 1024**3 // 512
    assert rows_for(monkeypatch, "cpu", None, max_running=1, context_length=2**23) == 2**23 + UNIT  # one chat fits in any case
    assert rows_for(monkeypatch, "cpu", 77, max_running=3, context_length=100) == 77
    assert rows_for(monkeypatch, "cpu", 1, max_running=3, context_length=100) == UNIT
