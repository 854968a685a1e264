"""A picture is words: each picture owns token ids above the vocabulary.

The features of a picture are rows, as many as its size asks for. Ids are handed out to pictures in blocks of 64 that follow each
other, and belong to one picture for as long as the process lives: equal ids always mean equal pictures, and the prefix cache needs
to know nothing about them. The rows themselves lie in an arena of blocks of 64; a table says which block of the arena holds which
block of ids. A picture that a running request needs is pinned; others are pushed out, least recently used first, and encoded again
on demand, under the same ids.
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
HOLE = -1  # in a picture's token ids: here stands a feature
_NUM_ID_BLOCKS = 2**24  # the table takes 64 MiB; enough for 1.8 million pictures of 576 tokens, and 2**30 ids fit into 32 bits


class ImageForms(Protocol):
    """How a model's pictures are prepared. `is_one_of_several` matters where `has_two_forms`: with other pictures in the chat, each
    gets less room."""

    @property
    def has_two_forms(self) -> bool: ...

    def token_ids(self, image: Image, is_one_of_several: bool) -> tuple[int, ...]:
        """The picture's tokens with a `HOLE` for each feature; depends on its size only. Raises `RequestRefused`. May block."""

    def features(self, model: PreTrainedModel, image: Image, is_one_of_several: bool) -> torch.Tensor:
        """What fills the holes, in order: (features, embedding size). Decodes the picture and runs the vision tower."""


class ImageEmbedding(nn.Module):
    """The model's input embedding, extended by the ids of pictures. Block 0 stays blank: it is what unknown ids point to."""

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
        """(…) ids -> (…, embedding size)."""
        is_word = input_ids < self.vocab_size
        words: torch.Tensor = self.words(torch.where(is_word, input_ids, 0))
        above = torch.where(is_word, 0, input_ids - self.vocab_size)
        images = self.rows[self.block_of[above // BLOCK_ROWS] * BLOCK_ROWS + above % BLOCK_ROWS]
        return torch.where(is_word.unsqueeze(-1), words, images)


_Key = tuple[str, bool]  # SHA-256, and whether in the form of one of several


class ImageStore:
    """Puts pictures into the model's `PictureEmbedding`. Methods block, and may be called from any thread but the event loop's.

    Pictures are always named together with all others of their chat, in order.
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
        self._lock = threading.Lock()  # guards the fields below; held for moments only, for the engine's thread takes it to unpin
        self._first_blocks: dict[_Key, int] = {}  # of ids, for the life of the process: 100 bytes a picture
        self._num_used_id_blocks = 0
        self._blocks: OrderedDict[_Key, list[int]] = OrderedDict()  # of resident pictures, least recently used first
        self._num_pins: dict[_Key, int] = {}
        self._free_blocks = list(range(num_blocks, 0, -1))

    def pin_prompt(self, prompt: Prompt) -> list[int]:
        """Make a prompt's pictures resident until `unpin(prompt.images)`; returns its ids. Raises as `pin`."""
        images = iter(self.pin(prompt.images))
        return [i for part in prompt.parts for i in (next(images) if isinstance(part, Image) else part)]

    def pin(self, images: Sequence[Image]) -> list[tuple[int, ...]]:
        """Make a chat's pictures resident and keep them so until `unpin`; returns each one's token ids. All are pinned, or none.

        Raises `RequestRefused` when there can never be room for them together, `EngineFailed` when there is none now.
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
        """Only the holder of `_encoding` takes blocks, so that what is free stays free for it."""
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
    """The length of a prompt, pictures included, without encoding any."""
    is_several = forms.has_two_forms and len(prompt.images) > 1
    return prompt.num_text_tokens + sum(len(forms.token_ids(image, is_several)) for image in prompt.images)


def _eyes(model: PreTrainedModel) -> Any:
    """The same modules with a configuration of their own. During a forward pass transformers writes into the configuration that
    attention is causal: a vision tower that runs at that moment in another thread would see pictures from left to right."""
    eyes: Any = copy.copy(model.base_model)
    eyes.config = copy.deepcopy(model.config)
    return eyes


def _num_blocks(form: tuple[int, ...]) -> int:
    return -(-form.count(HOLE) // BLOCK_ROWS)
