from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from model_server.checkpoints.loading import Checkpoint
from model_server.detokenizer import Detokenizer, decode


def pieces(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(i) for i in ids), detokenizer.flush()]


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    return checkpoint.tokenizer


# Bytes stand at 3..258 of this vocabulary; half of the draws are bytes; special tokens and ids beyond the vocabulary occur too.
IDS = st.lists(st.one_of(st.integers(3, 258), st.integers(0, 520)), max_size=40)


@given(IDS)
def test_the_pieces_are_the_whole(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> None:
    assert "".join(pieces(tokenizer, ids)) == decode(tokenizer, ids)


@given(st.text(max_size=30), IDS)
def test_no_piece_ends_in_half_a_character(tokenizer: PreTrainedTokenizerFast, text: str, ids: list[int]) -> None:
    whole = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    *before, last = pieces(tokenizer, [*ids, *whole])
    assert not any(piece.endswith("\ufffd") for piece in before)
    assert "".join([*before, last]) == decode(tokenizer, [*ids, *whole])


def test_an_emoji_of_four_bytes_comes_in_one_piece(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("a 🎈 b", add_special_tokens=False)
    assert len(ids) >= 7
    assert [piece for piece in pieces(tokenizer, ids) if "🎈" in piece]
    assert "".join(pieces(tokenizer, ids)) == "a 🎈 b"


def test_a_cut_off_character_is_flushed(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("🎈", add_special_tokens=False)[:-1]
    assert "".join(pieces(tokenizer, ids)) == decode(tokenizer, ids) != ""


def test_the_end_of_sequence_is_not_shown(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [*tokenizer.encode("red", add_special_tokens=False), tokenizer.eos_token_id]
    assert "".join(pieces(tokenizer, ids)) == "red"
