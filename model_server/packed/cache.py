"""Keys and values of all chats in one arena, each chat's in consecutive rows.

A running answer owns an extent: room for its whole prompt and answer, so that it never waits for memory. A finished one keeps its
rows until they are needed (the least recently used is evicted first), and the chat's next turn reuses them: the prefix that it
shares with any earlier extent is not computed again. When the free rows are fragmented, extents are compacted. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from model_server.checkpoints.fit import MAX_CPU_CACHE_BYTES, cache_bytes_per_token

_GPU_MEMORY_SHARE = 0.8
UNIT = 16  # rows; extents and costs are multiples of it, and a shorter shared prefix is not worth a copy

_Move = tuple[int, int, int]  # from row, to row, number of rows


@dataclass(slots=True, eq=False)
class Extent:
    """Rows `start` to `start + num_rows`; the first `len(ids)` of them hold the keys and values of `ids`."""

    start: int
    num_rows: int
    ids: list[int] = field(default_factory=list)
    is_running: bool = True

    @property
    def end(self) -> int:
        return self.start + self.num_rows


def units(num_rows: int) -> int:
    """How many units of `UNIT` rows hold `num_rows` rows."""
    return -(-num_rows // UNIT)


class PackedCache:
    """`keys[layer]` and `values[layer]` are (heads, rows, head size), so that a chat's rows of one head are contiguous, as
    attention reads them. `num_rows` is rounded down to a multiple of `UNIT`. Raises MemoryError or RuntimeError when there is not
    enough memory."""

    def __init__(
        self, *, num_layers: int, num_heads: int, head_size: int, num_rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_rows = num_rows // UNIT * UNIT
        shape = (num_heads, self.num_rows, head_size)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self._extents: list[Extent] = []  # least recently used first

    def take(self, ids: Sequence[int], num_rows: int) -> Extent:
        """Allocate an extent of at least `num_rows` rows for a prompt of `ids`.

        The returned extent's `ids` are the prefix that is cached already: as long as possible, but never the last id, whose logits
        are needed.

        The caller ensures that this extent and all running ones fit together (AssertionError if not).
        """
        num_rows = units(num_rows) * UNIT
        source, num_shared = self._best_source(ids)
        is_idle = source is not None and not source.is_running
        is_taken_over = is_idle and source is not None and num_shared == len(source.ids)
        if not self._evict_until_free(num_rows, source, is_taken_over):
            is_taken_over = is_idle  # no room for a copy: the source loses what is not shared
        others = [extent for extent in self._extents if not (extent is source and is_taken_over)]
        extent = Extent(0, num_rows, list(ids[:num_shared]))
        shared_start = source.start if source is not None else 0
        moves = self._place(extent, others, source if is_taken_over else None)
        moves.append((shared_start, extent.start, num_shared))
        if source is not None and not is_taken_over:
            others.remove(source)
            others.append(source)  # it has just been used
        self._move(moves)
        self._extents = [*others, extent]
        return extent

    def give_back(self, extent: Extent) -> None:
        """Mark the extent as idle. Its keys and values stay until the rows are needed; rows behind them are freed."""
        extent.is_running = False
        extent.num_rows = units(len(extent.ids)) * UNIT
        self._extents.remove(extent)
        if extent.ids:
            self._extents.append(extent)

    def _best_source(self, ids: Sequence[int]) -> tuple[Extent | None, int]:
        """The extent with the longest shared prefix, and that prefix's length. Prefers an idle one at equal length: it can be taken
        over."""
        best, best_rank = None, (UNIT - 1, False)
        for extent in self._extents:
            rank = (_num_shared(extent.ids, ids, len(ids) - 1), not extent.is_running)
            if rank[0] >= UNIT and rank > best_rank:
                best, best_rank = extent, rank
        return best, best_rank[0] if best is not None else 0

    def _evict_until_free(self, num_rows: int, source: Extent | None, is_taken_over: bool) -> bool:
        """Evict idle chats, except the source. Returns whether `num_rows` rows are free."""
        while self._num_free(source if is_taken_over else None) < num_rows:
            idle = next((extent for extent in self._extents if not extent.is_running and extent is not source), None)
            if idle is None:
                return False
            self._extents.remove(idle)
        return True

    def _num_free(self, without: Extent | None) -> int:
        return self.num_rows - sum(extent.num_rows for extent in self._extents if extent is not without)

    def _place(self, extent: Extent, others: Iterable[Extent], predecessor: Extent | None) -> list[_Move]:
        """Find rows for `extent`: where its predecessor is, in any gap, or after all others once these are compacted. Returns the
        moves."""
        ordered = sorted(others, key=lambda other: other.start)
        ends = [0, *(other.end for other in ordered)]
        starts = [*(other.start for other in ordered), self.num_rows]
        gaps = [(start, end) for start, end in zip(ends, starts, strict=True) if end - start >= extent.num_rows]
        if predecessor is not None and any(
            start <= predecessor.start and predecessor.start + extent.num_rows <= end for start, end in gaps
        ):
            extent.start = predecessor.start
            return []
        if gaps:
            extent.start = gaps[0][0]
            return []
        moves: list[_Move] = []
        row = 0
        for other in ordered:
            moves.append((other.start, row, len(other.ids)))
            other.start = row
            row += other.num_rows
        extent.start = row
        assert extent.end <= self.num_rows, "more runs at once than fits"
        return moves

    def _move(self, moves: Iterable[_Move]) -> None:
        """Move rows, layer by layer. All rows of a layer are copied out first, because a target may overlap another move's
        source."""
        needed = [move for move in moves if move[0] != move[1] and move[2]]
        if not needed:
            return
        for tensor in (*self.keys, *self.values):
            pieces = [tensor[:, source : source + length].clone() for source, _, length in needed]
            for (_, target, length), piece in zip(needed, pieces, strict=True):
                tensor[:, target : target + length] = piece


def _num_shared(stored: Sequence[int], wanted: Sequence[int], at_most: int) -> int:
    num = 0
    for one, other in zip(stored, wanted[:at_most], strict=False):
        if one != other:
            break
        num += 1
    return num


def make_cache(model: PreTrainedModel, num_tokens: int | None, *, max_running: int, context_length: int) -> PackedCache:
    """Make a cache for `num_tokens` tokens (one row each). None takes 80 % of a GPU's free memory, or up to 2 GiB on a CPU.

    `context_length` is in tokens. Raises as `PackedCache`.
    """
    text: Any = model.config.text_config
    embedding: Any = model.get_input_embeddings()
    dtype: torch.dtype = embedding.weight.dtype
    if num_tokens is None:
        bytes_per_token = cache_bytes_per_token(text, dtype)
        if model.device.type == "cuda":
            num_tokens = int(torch.cuda.mem_get_info(model.device)[0] * _GPU_MEMORY_SHARE) // bytes_per_token
        else:
            num_tokens = max(context_length + UNIT, min(2 * max_running * context_length, MAX_CPU_CACHE_BYTES // bytes_per_token))
    return PackedCache(
        num_layers=text.num_hidden_layers,
        num_heads=text.num_key_value_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        num_rows=max(UNIT, num_tokens),
        dtype=dtype,
        device=model.device,
    )
