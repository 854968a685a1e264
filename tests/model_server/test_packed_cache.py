"""The arena of keys and values, against what must hold whatever chats come and go."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
