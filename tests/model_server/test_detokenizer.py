from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from model_server.checkpoints.loading import Checkpoint
from model_server.detokenizer import Detokenizer, decode
from tests.model_server.small_families import byte_level_tokenizer


def pieces(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(i) for i in ids), detokenizer.flush()]


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    return checkpoint.tokenizer


# Bytes stand at 3..258 of this vocabulary; half of the draws are bytes; special tokens and ids beyond the vocabulary occur too.
IDS = st.lists(st.one_of(st.integers(3, 258), st.integers(0, 520)), max_size=40)


@given(IDS)
@example([3, 427, 131])  # between two bytes <image>, which decoding leaves out
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


# --- the same in the manner of GPT-2, where every id is a piece of bytes and any piece may be half a character

BYTES_OF_CHARACTERS = st.lists(st.one_of(st.sampled_from("a \ufffd€中🎈").map(str.encode), st.binary(max_size=3)), max_size=30)


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    return byte_level_tokenizer(["<end>"], "<end>")


def ids_of_bytes(tokenizer: PreTrainedTokenizerFast, data: bytes) -> list[int]:
    """One id for each byte."""
    vocabulary, letters = tokenizer.get_vocab(), byte_letters()
    return [vocabulary[letters[byte]] for byte in data]


def byte_letters() -> dict[int, str]:
    """GPT-2's letter for each byte (https://github.com/openai/gpt-2/blob/master/src/encoder.py)."""
    same = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in same]
    return {byte: chr(byte) for byte in same} | {byte: chr(256 + number) for number, byte in enumerate(others)}


@given(BYTES_OF_CHARACTERS)
def test_the_pieces_are_the_whole_however_the_bytes_are_divided(byte_level: PreTrainedTokenizerFast, parts: list[bytes]) -> None:
    data = b"".join(parts)
    ids = ids_of_bytes(byte_level, data)
    assert decode(byte_level, ids) == data.decode(errors="replace")
    assert "".join(pieces(byte_level, ids)) == decode(byte_level, ids)


@given(st.lists(st.integers(0, 329), max_size=60))
def test_the_pieces_are_the_whole_of_any_pieces_of_bytes(byte_level: PreTrainedTokenizerFast, ids: list[int]) -> None:
    assert "".join(pieces(byte_level, ids)) == decode(byte_level, ids)


@pytest.mark.parametrize("data", ["\ufffd".encode(), b"\xe2", b"\xff", b"\xe2\x82", "\ufffd".encode() + b"\xf0\x9f"])
def test_an_answer_of_replacement_characters_alone_is_work_that_grows_with_it(
    byte_level: PreTrainedTokenizerFast, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_of_bytes(byte_level, data) * 1_000
    expected, num_decoded, decoding = decode(byte_level, ids), 0, type(byte_level).decode

    def counting(tokenizer: Any, token_ids: list[int], **options: Any) -> Any:
        nonlocal num_decoded
        num_decoded += len(token_ids)
        return decoding(tokenizer, token_ids, **options)

    monkeypatch.setattr(type(byte_level), "decode", counting)
    *before, last = pieces(byte_level, ids)
    assert "".join(before) + last == expected
    assert len(last) <= 8
    assert num_decoded <= 50 * len(ids)
