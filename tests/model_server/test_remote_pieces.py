"""Reading an answer: whatever its optional fields hold, and whatever bytes come."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.remote.events import ErrorInAnswer
from model_server.remote.pieces import Piece, read_pieces
from model_server.types import FinishReason
from tests.model_server.scripted_server import chunk

NUMBERS = st.integers() | st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
COUNTS = st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens"]), JSON)
OPTIONAL = st.dictionaries(
    st.sampled_from(["usage", "logprobs", "id", "created", "model", "system_fingerprint", "timings", "service_tier"]), JSON | COUNTS
)


def read(lines: Sequence[bytes]) -> list[Piece]:
    async def come() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    async def pieces() -> list[Piece]:
        return [piece async for piece in read_pieces(come())]

    return asyncio.run(pieces())


@given(OPTIONAL, OPTIONAL, st.sampled_from([None, [], [None]]))
def test_no_optional_field_costs_an_answer(first: dict[str, object], last: dict[str, object], no_choices: object) -> None:
    pieces = read(
        [
            chunk("Good", None, **first).encode(),
            chunk(" day", "stop", **last).encode(),
            b"data: " + json.dumps({**last, "choices": no_choices}).encode(),
        ]
    )
    assert "".join(piece.text for piece in pieces) == "Good day"
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [FinishReason.STOP]


@given(st.lists(st.binary(max_size=30) | JSON.map(lambda value: b"data: " + json.dumps(value).encode()), max_size=6))
def test_whatever_comes_is_an_answer_or_an_error_that_has_a_sentence(lines: list[bytes]) -> None:
    with contextlib.suppress(ErrorInAnswer):
        read([line + b"\n" for line in lines])


@given(st.data(), st.sampled_from([b"\n", b"\r", b"\r\n"]), st.booleans())
def test_where_the_bytes_are_cut_makes_no_difference(data: st.DataObject, end: bytes, is_spread: bool) -> None:
    event = json.dumps(json.loads(chunk("Grün", "stop", usage=None).removeprefix("data: ")), indent=1 if is_spread else None)
    sent = "".join(f"data: {line}\n" for line in event.splitlines()).encode().replace(b"\n", end) + end
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)))))
    pieces = read([sent[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True)])
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("Grün", FinishReason.STOP)]


DEEP = b"[" * 100_000


@pytest.mark.parametrize("line", [b"data: " + DEEP, b'{"a":' + DEEP + b"}", DEEP, b"data: " + b"9" * 5000])
def test_what_python_cannot_parse_is_no_answer(line: bytes) -> None:
    with pytest.raises(ErrorInAnswer):
        read([line])
