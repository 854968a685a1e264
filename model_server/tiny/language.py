"""The language side: a tokenizer made from the dialogues, a small Llama, and dialogues packed into training rows.

A row is one picture with many dialogues about it: they share the prefix (system text and picture) and do not attend to each other.
So each is a first conversation about the picture, and the prefix is computed once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from model_server.prompt import SYSTEM, PromptTemplate
from model_server.types import Image, Message, Role

from .dialogue import KINDS, Dialogue, full_name
from .draw import ZONES, Scene
from .sight import scene_of

VOCABULARY_SIZE = 1536
CONTEXT_LENGTH = 1024
ROW_LENGTH = 256  # text tokens after the prefix
_PLACEHOLDER = Image(b"", "image/png", "", 1, 1)


def train_tokenizer(num_scenes: int = 6000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on dialogues about so many scenes."""
    return llama_tokenizer(_texts(num_scenes), VOCABULARY_SIZE, CONTEXT_LENGTH)


def llama_tokenizer(texts: Iterable[str], vocabulary_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Train byte-pair encoding as in Llama ("▁" for a space, bytes for unknown letters), with words and punctuation separate."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words = Regex(r"▁?[A-Za-z]+|▁?[0-9]|▁?[^A-Za-z0-9▁]|▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size - 1, special_tokens=[*special, *bytes_], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # The trainer makes the byte tokens special; they must be ordinary.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_max_length=context_length,
    )
    fast.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return fast


def _texts(num_scenes: int) -> Iterator[str]:
    for seed in range(num_scenes):
        rng = random.Random(seed)
        dialogue = Dialogue(scene_of(seed), rng)
        yield f"{SYSTEM} USER: ASSISTANT:" if seed % 20 == 0 else ""
        for _ in range(6):
            turn = dialogue.turn()
            yield f"USER: {turn.question} ASSISTANT: {turn.answer}"


def llama_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The shape of the language model: 4 layers, 192 wide."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One picture's dialogues; all arrays have ROW_LENGTH entries.

    `dialogue` is -1 after the end, `is_answer` marks what the model writes, `kind` indexes KINDS, `position` counts from the end of
    the prefix. `notes` is the scene in words, for the text-only stage.
    """

    seed: int
    notes: tuple[int, ...]
    tokens: NDArray[np.int64]
    dialogue: NDArray[np.int64]
    position: NDArray[np.int64]
    is_answer: NDArray[np.bool_]
    kind: NDArray[np.int64]


class RowMaker:
    """Makes rows from seeds. `head` holds the ids before the picture."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._template = PromptTemplate(tokenizer)
        self._tokenizer = tokenizer
        self._eos_id = int(tokenizer.eos_token_id)
        prompt = self._template.encode([Message(Role.USER, "", (_PLACEHOLDER,))])
        head, _, _ = prompt.parts
        assert not isinstance(head, Image)
        self.head = head
        self._opening = tuple(tokenizer.encode("ASSISTANT:", add_special_tokens=False))

    def row(self, seed: int, attempt: int = 0, kind: str | None = None) -> Row:
        """Dialogues of all kinds about the scene of `seed`, or single turns of one kind."""
        rng = random.Random(seed * 31 + attempt * 7_919 + 5)
        scene = scene_of(seed)
        tokens: list[int] = []
        is_answer: list[bool] = []
        dialogue: list[int] = []
        position: list[int] = []
        kinds: list[int] = []
        for number in range(64):
            room = ROW_LENGTH - len(tokens)
            num_turns = 1 if kind else rng.choices((1, 2, 3, 4, 6, 8), (34, 24, 18, 10, 8, 6))[0]
            ids, kinds_here = self._dialogue(scene, rng, num_turns, room, kind)
            if not ids:
                break
            # A gap before the dialogue simulates earlier turns, so that late positions are trained too.
            gap = rng.randrange(CONTEXT_LENGTH - 400) if rng.random() < 0.35 else 0
            tokens += ids
            kinds += kinds_here
            is_answer += self._answers(ids)
            dialogue += [number] * len(ids)
            position += range(gap, gap + len(ids))
            if ROW_LENGTH - len(tokens) < 16:
                break
        fill = ROW_LENGTH - len(tokens)
        return Row(
            seed,
            self._notes(scene),
            np.array(tokens + [0] * fill),
            np.array(dialogue + [-1] * fill),
            np.array(position + [0] * fill),
            np.array(is_answer + [False] * fill),
            np.array(kinds + [0] * fill),
        )

    def _dialogue(
        self, scene: Scene, rng: random.Random, num_turns: int, room: int, kind: str | None
    ) -> tuple[list[int], list[int]]:
        """A dialogue's ids and each id's kind of turn; as many whole turns as fit."""
        talk = Dialogue(scene, rng)
        messages: list[Message] = []
        turn_kinds: list[int] = []
        for number in range(num_turns):
            turn = talk.turn(kind)
            turn_kinds.append(KINDS.index(turn.kind))
            images = (_PLACEHOLDER,) if number == 0 else ()
            messages += [Message(Role.USER, turn.question, images), Message(Role.ASSISTANT, turn.answer)]
        last = self._template.encode([*messages, Message(Role.USER, "")]).parts[-1]
        assert not isinstance(last, Image)
        ends = [i + 1 for i, token in enumerate(last) if token == self._eos_id and i < room]
        if not ends:
            return [], []
        return list(last[: ends[-1]]), np.repeat(turn_kinds[: len(ends)], np.diff([0, *ends])).tolist()

    def _answers(self, ids: list[int]) -> list[bool]:
        """Which ids the model writes: after "ASSISTANT:" up to the end of the sequence."""
        size, marks, inside = len(self._opening), [False] * len(ids), False
        for i in range(len(ids)):
            if inside:
                marks[i] = True
                inside = ids[i] != self._eos_id
            elif tuple(ids[max(0, i - size + 1) : i + 1]) == self._opening:
                inside = True
        return marks

    def _notes(self, scene: Scene) -> tuple[int, ...]:
        text = ", ".join(f"{thing.size} {full_name(thing).noun()} {ZONES[thing.zone]}" for thing in scene.things)
        return tuple(self._tokenizer.encode(text or "nothing", add_special_tokens=False))


def attention_mask(dialogue: Tensor, prefix_mask: Tensor) -> Tensor:
    """The attention mask, bool [B, 1, P + T, P + T]: each token attends causally to the prefix and to its own dialogue.

    `dialogue` is [B, T], `prefix_mask` bool [B, P] (False where a prefix is padded).
    """
    num_prefix = prefix_mask.shape[1]
    group = torch.cat([torch.full(prefix_mask.shape, -2), dialogue], 1)
    same = group[:, :, None] == group[:, None, :]
    same[:, :, :num_prefix] = prefix_mask[:, None, :]
    causal = torch.ones(same.shape[1:], dtype=torch.bool).tril()
    itself = torch.eye(same.shape[1], dtype=torch.bool)  # a padded row must attend to something
    return ((same & causal) | itself)[:, None]
