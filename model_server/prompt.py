"""The prompt that LLaVA-1.5 was trained with (conv_vicuna_v1; haotian-liu/LLaVA c121f04).

    <s>SYSTEM USER: <image>\\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:

Each segment is encoded by itself and its ids are appended, so that a longer chat's prompt starts with the very ids of the shorter
one's. An answer's ids are those that the model generated: they are kept, never re-made. What people write never becomes a special
token: a question that contains "</s>" or "<image>" is ordinary text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerFast

from model_server.detokenizer import decode
from model_server.types import Image, Message, Role

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IMAGE_PLACEHOLDER = "<image>"
_MAX_KEPT_LENGTH = 8192  # characters; a few huge questions must not fill the memory


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with pictures between them, in order."""

    parts: tuple[tuple[int, ...] | Image, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))

    def num_tokens(self, num_image_tokens: int) -> int:
        return sum(num_image_tokens if isinstance(part, Image) else len(part) for part in self.parts)


class PromptTemplate:
    """conv_vicuna_v1 for one tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no beginning-of-sequence or no end-of-sequence token")
        self._tokenizer = tokenizer
        self._bos_id = int(tokenizer.bos_token_id)
        self._eos_id = int(tokenizer.eos_token_id)
        self._eos = str(tokenizer.eos_token)
        # Every turn repeats all earlier segments: only the new ones are encoded.
        self._encode_short = lru_cache(maxsize=2048)(self._encode_text)
        self._encode_answer = lru_cache(maxsize=512)(self._answer_ids)

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt as text, `<image>` standing for a picture; for people to read, not for the model."""
        return SYSTEM + " " + "".join(self._segment(message) for message in messages)

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """The prompt of a chat that the model is to continue. Raises ValueError unless user and assistant alternate, user last."""
        _check_order(messages)
        ids: list[int] = [self._bos_id]
        parts: list[tuple[int, ...] | Image] = []
        before = SYSTEM + " "
        for message in messages:
            if message.role is Role.ASSISTANT:
                ids += self._encode_answer(message.text.strip(), message.token_ids)
                continue
            head = before + "USER: "
            before = ""
            for image in message.images:
                ids += self._encode(head)
                parts += [tuple(ids), image]
                ids, head = [], "\n"
            ids += self._encode(f"{head}{message.text.strip()} ASSISTANT:")
        return Prompt((*parts, tuple(ids)))

    def _segment(self, message: Message) -> str:
        if message.role is Role.USER:
            pictures = f"{IMAGE_PLACEHOLDER}\n" * len(message.images)
            return f"USER: {pictures}{message.text.strip()} ASSISTANT:"
        return f" {message.text.strip()}{self._eos}"

    def _encode(self, text: str) -> tuple[int, ...]:
        return self._encode_short(text) if len(text) <= _MAX_KEPT_LENGTH else self._encode_text(text)

    def _encode_text(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def _answer_ids(self, text: str, token_ids: tuple[int, ...] | None) -> tuple[int, ...]:
        # Ids that do not spell the text came from another tokenizer, or would even stand for somebody's picture.
        if token_ids is None or not self._spells(token_ids, text):
            before = self._encode("ASSISTANT:")
            both = self._encode(f"ASSISTANT: {text}") if text else before
            token_ids = both[len(before) :] if both[: len(before)] == before else self._encode(text)
        return token_ids if token_ids[-1:] == (self._eos_id,) else (*token_ids, self._eos_id)

    def _spells(self, token_ids: Iterable[int], text: str) -> bool:
        ids = list(token_ids)
        if self._eos_id in ids[:-1] or not all(0 <= i < len(self._tokenizer) for i in ids):
            return False
        return decode(self._tokenizer, ids).strip() == text


def _check_order(messages: Sequence[Message]) -> None:
    expected = (Role.USER, Role.ASSISTANT)
    if len(messages) % 2 != 1 or any(message.role is not expected[i % 2] for i, message in enumerate(messages)):
        raise ValueError("a chat alternates between user and assistant, and its last message is the user's")
