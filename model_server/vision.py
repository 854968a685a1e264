"""Pictures as tokens: each picture owns token ids above the vocabulary.

A picture's features are rows; their number depends on its size. A picture gets consecutive blocks of 64 ids, and keeps them for the
life of the process: equal ids always mean equal pictures, so the prefix cache needs no knowledge of pictures. The rows are in an
arena of blocks of 64; a table maps each block of ids to a block of the arena. A picture that a running request needs is pinned;
others are evicted, least recently used first, and encoded again on demand, under the same ids.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from model_server.errors import EngineFailed, RequestRefused
from model_server.prompt import Prompt
from model_server.types import Image

BLOCK_ROWS = 64
HOLE = -1  # in a picture's token ids: a feature goes here
_NUM_ID_BLOCKS = 2**24  # the table takes 64 MiB; enough for 1.8 million pictures of 576 tokens, and 2**30 ids fit into 32 bits


class ImageForms(Protocol):
    """How a model's pictures are prepared. `is_one_of_several`: the chat has other pictures too, and each gets fewer tokens; it
    makes a difference only if `has_two_forms`."""

    @property
    def has_two_forms(self) -> bool: ...

    def token_ids(self, image: Image, is_one_of_several: bool) -> tuple[int, ...]:
        """The picture's token ids, with a `HOLE` for each feature. They depend on its size in pixels only. May block.

        Raises `RequestRefused` for a shape that the model cannot take.
        """

    def features(self, model: PreTrainedModel, image: Image, is_one_of_several: bool) -> torch.Tensor:
        """The rows that fill the holes, in order: (features, embedding size). Decodes the picture and runs the vision tower;
        blocks."""


class ImageEmbedding(nn.Module):
    """The model's input embedding, extended by the ids of pictures.

    `rows` is ((num_blocks + 1) * 64, embedding size), the arena. `block_of` is (2**24,) int32, from a block of ids to a block of
    the arena. Block 0 stays blank: ids of pictures that are not resident point to it.
    """

    def __init__(self, words: nn.Embedding, num_blocks: int) -> None:
        super().__init__()
        self.words = words
        self.vocab_size = words.num_embeddings
        self.num_id_blocks = _NUM_ID_BLOCKS
        weight = words.weight
        rows = torch.zeros((num_blocks + 1) * BLOCK_ROWS, words.embedding_dim, dtype=weight.dtype, device=weight.device)
        self.register_buffer("rows", rows, persistent=False)
        table = torch.zeros(self.num_id_blocks, dtype=torch.int32, device=weight.device)
        self.register_buffer("block_of", table, persistent=False)
        self.rows: torch.Tensor
        self.block_of: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        return self.words.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed ids of any shape (...). Returns (..., embedding size)."""
        is_word = input_ids < self.vocab_size
        words: torch.Tensor = self.words(torch.where(is_word, input_ids, 0))
        above = torch.where(is_word, 0, input_ids - self.vocab_size)
        images = self.rows[self.block_of[above // BLOCK_ROWS] * BLOCK_ROWS + above % BLOCK_ROWS]
        return torch.where(is_word.unsqueeze(-1), words, images)


_Key = tuple[str, bool]  # SHA-256, and whether it is one of several in its chat


class ImageStore:
    """Puts pictures into the model's `ImageEmbedding`, `num_blocks` blocks of 64 rows at most.

    Replaces the model's input embedding. Methods block, and may be called from any thread but the event loop's.

    Every call gets all pictures of a chat, in order.
    """

    def __init__(self, model: PreTrainedModel, forms: ImageForms, num_blocks: int) -> None:
        words = model.get_input_embeddings()
        assert isinstance(words, nn.Embedding)
        self.embedding = ImageEmbedding(words, num_blocks)
        model.set_input_embeddings(self.embedding)
        self.num_encoded = 0  # pictures that went through the vision tower
        self.num_blocks = num_blocks
        self._eyes = _eyes(model)
        self._forms = forms
        self._encoding = threading.Lock()  # one picture at a time goes through the vision tower
        self._lock = threading.Lock()  # guards the fields below; held briefly, because the engine's thread takes it to unpin
        self._first_blocks: dict[_Key, int] = {}  # block of ids, for the life of the process: 100 bytes a picture
        self._num_used_id_blocks = 0
        self._blocks: OrderedDict[_Key, list[int]] = OrderedDict()  # of resident pictures, least recently used first
        self._num_pins: dict[_Key, int] = {}
        self._free_blocks = list(range(num_blocks, 0, -1))

    def pin_prompt(self, prompt: Prompt) -> list[int]:
        """Make a prompt's pictures resident until `unpin(prompt.images)`. Returns all its token ids. Raises as `pin`."""
        images = iter(self.pin(prompt.images))
        return [i for part in prompt.parts for i in (next(images) if isinstance(part, Image) else part)]

    def pin(self, images: Sequence[Image]) -> list[tuple[int, ...]]:
        """Make a chat's pictures resident until `unpin`, encoding those that are not. Returns each one's token ids.

        Pins all or none. Raises `RequestRefused` when they can never fit together, `EngineFailed` when there is no room now.
        """
        is_several = self._is_several(images)
        forms = [self._forms.token_ids(image, is_several) for image in images]
        sizes = {image.sha256: _num_blocks(form) for image, form in zip(images, forms, strict=True)}
        if sum(sizes.values()) > self.num_blocks:
            raise RequestRefused("There are more pictures in this chat than I can look at together. Please start a new chat.")
        pinned: list[_Key] = []
        try:
            for image, form in zip(images, forms, strict=True):
                key = (image.sha256, is_several)
                with self._encoding:
                    if not self._pin_resident(key):
                        self._make_room(_num_blocks(form))
                        features = self._encode(image, form, is_several)
                        with self._lock:
                            self._store(key, features)
                        self._pin_resident(key)
                pinned.append(key)
        except BaseException:
            self._unpin(pinned)
            raise
        return [self._ids(key, form) for key, form in zip(pinned, forms, strict=True)]

    def unpin(self, images: Sequence[Image]) -> None:
        """Undo one `pin` of the same pictures. They stay resident until their blocks are needed. Does not block for long."""
        is_several = self._is_several(images)
        self._unpin((image.sha256, is_several) for image in images)

    def _is_several(self, images: Sequence[Image]) -> bool:
        return self._forms.has_two_forms and len(images) > 1

    def _unpin(self, keys: Iterable[_Key]) -> None:
        with self._lock:
            for key in keys:
                self._num_pins[key] -= 1
                if not self._num_pins[key]:
                    del self._num_pins[key]

    def _pin_resident(self, key: _Key) -> bool:
        with self._lock:
            if key not in self._blocks:
                return False
            self._blocks.move_to_end(key)
            self._num_pins[key] = self._num_pins.get(key, 0) + 1
            return True

    def _ids(self, key: _Key, form: tuple[int, ...]) -> tuple[int, ...]:
        ids = itertools.count(self.embedding.vocab_size + self._first_blocks[key] * BLOCK_ROWS)
        return tuple(next(ids) if i == HOLE else i for i in form)

    def _make_room(self, num_blocks: int) -> None:
        """Evict until `num_blocks` are free. They stay free for the caller, because only the holder of `_encoding` takes blocks."""
        with self._lock:
            idle = [key for key in self._blocks if key not in self._num_pins]
            if len(self._free_blocks) + sum(len(self._blocks[key]) for key in idle) < num_blocks:
                raise EngineFailed("There is no room for another picture right now. Please try again.")
            for key in idle:
                if len(self._free_blocks) >= num_blocks:
                    break
                blocks, first = self._blocks.pop(key), self._first_blocks[key]
                self.embedding.block_of[first : first + len(blocks)] = 0
                self._free_blocks += blocks

    def _store(self, key: _Key, features: torch.Tensor) -> None:
        num_blocks = -(-len(features) // BLOCK_ROWS)
        first = self._first_blocks.get(key)
        if first is None:
            first = self._num_used_id_blocks
            if first + num_blocks > self.embedding.num_id_blocks:
                raise EngineFailed("I have seen as many different pictures as I can number. Restarting me helps.")
            self._first_blocks[key] = first
            self._num_used_id_blocks += num_blocks
        blocks = [self._free_blocks.pop() for _ in range(num_blocks)]
        place = torch.tensor(blocks, device=features.device)
        rows = (place[:, None] * BLOCK_ROWS + torch.arange(BLOCK_ROWS, device=features.device)).flatten()[: len(features)]
        self.embedding.rows[rows] = features
        self.embedding.block_of[first : first + num_blocks] = place.to(torch.int32)
        if features.is_cuda:
            torch.cuda.synchronize(features.device)  # the engine runs on another stream
        self._blocks[key] = blocks

    @torch.no_grad()
    def _encode(self, image: Image, form: tuple[int, ...], is_several: bool) -> torch.Tensor:
        weight = self.embedding.weight
        features = self._forms.features(self._eyes, image, is_several).to(weight.device, weight.dtype)
        self.num_encoded += 1
        if len(features) != form.count(HOLE):
            raise EngineFailed("This picture does not become what the model expects. Please try another one.")
        return features


def num_prompt_tokens(forms: ImageForms, prompt: Prompt) -> int:
    """The length of a prompt in tokens, pictures included. Encodes no picture. Raises `RequestRefused`; may block."""
    is_several = forms.has_two_forms and len(prompt.images) > 1
    return prompt.num_text_tokens + sum(len(forms.token_ids(image, is_several)) for image in prompt.images)


def _eyes(model: PreTrainedModel) -> Any:
    """The same modules with their own copy of the configuration. During a forward pass transformers sets "attention is causal" in
    the configuration: a vision tower that runs in another thread at that moment would attend causally to a picture's patches."""
    eyes: Any = copy.copy(model.base_model)
    eyes.config = copy.deepcopy(model.config)
    return eyes


def _num_blocks(form: tuple[int, ...]) -> int:
    return -(-form.count(HOLE) // BLOCK_ROWS)
