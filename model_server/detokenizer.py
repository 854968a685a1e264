"""From token ids to text, piece by piece.

Invariant: the pieces, joined, are exactly `decode(all ids)`. A piece is held back while its last character may be incomplete:
during a run of byte tokens (one invalid byte changes how the whole run is decoded), or while the text ends in U+FFFD. A
model may write U+FFFD for ever, so only a few ids are held because of it: no more can be part of an incomplete character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_REPLACEMENT = "\ufffd"
_MAX_UNDECIDED = 4  # ids: a character has at most four bytes, and an id at least one


def decode(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """Decode an answer's ids: without special tokens such as `</s>`, with spaces as the model wrote them."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


class Detokenizer:
    """Decodes one answer incrementally. `add` returns the text that became complete (may be ""), `flush` the rest at the end."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        # A token such as <image> may be special without being one of the tokenizer's own special tokens.
        added = tokenizer.added_tokens_decoder.items()
        self._special_ids = {*tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)}
        self._context: list[int] = []  # the last id whose text was returned: decoders treat the first token differently
        self._held: list[int] = []

    def add(self, token_id: int) -> str:
        token = self._tokenizer.convert_ids_to_tokens(token_id) if token_id < len(self._tokenizer) else None
        if token is None or token_id in self._special_ids:
            return ""  # decode() leaves these out before it joins bytes
        self._held.append(token_id)
        if _BYTE_TOKEN.fullmatch(str(token)):
            return ""
        text = self._text_of_held()
        if text.endswith(_REPLACEMENT):
            return self._take_decided(text) if len(self._held) >= 2 * _MAX_UNDECIDED else ""
        self._context, self._held = [token_id], []
        return text

    def flush(self) -> str:
        text = self._text_of_held() if self._held else ""
        self._context, self._held = self._held[-1:] or self._context, []
        return text

    def _take_decided(self, text: str) -> str:
        """Take what is certain of the held ids' text, unless it would divide a character."""
        decided, undecided = self._held[:-_MAX_UNDECIDED], self._held[-_MAX_UNDECIDED:]
        taken = self._text_after(self._context, decided)
        if taken + self._text_after(decided[-1:], undecided) != text:
            return ""
        self._context, self._held = decided[-1:], undecided
        return taken

    def _text_of_held(self) -> str:
        return self._text_after(self._context, self._held)

    def _text_after(self, context: list[int], ids: list[int]) -> str:
        before = decode(self._tokenizer, context) if context else ""
        return decode(self._tokenizer, context + ids)[len(before) :]
