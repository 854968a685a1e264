"""A picture is words: each picture owns token ids above the vocabulary.

Picture number `serial` owns the ids V + serial*T up to V + (serial+1)*T - 1 (V = vocabulary size, T = image tokens per picture). A
serial belongs to one picture for as long as the process lives, so equal ids always mean equal pictures, and the prefix cache needs
to know nothing about them. The projected features lie in a buffer with a fixed number of slots; a table says which slot holds which
serial. A picture that a running request needs is pinned; others are pushed out, least recently used first, and encoded again
on demand, under the same serial.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.errors import EngineFailed
from model_server.images import to_pil
from model_server.types import Image

_MAX_SERIALS = 2**22
_MAX_SIDE = 4096  # pixels; padding a very long, thin picture to a square must not fill the memory


class PictureEmbedding(nn.Module):
    """The model's input embedding, extended by the ids of pictures. Slot 0 stays blank: it is what unknown serials point to."""

    def __init__(self, words: nn.Embedding, num_image_tokens: int, num_slots: int) -> None:
        super().__init__()
        self.words = words
        self.vocab_size = words.num_embeddings
        self.num_image_tokens = num_image_tokens
        self.max_serials = min(_MAX_SERIALS, (2**31 - self.vocab_size) // num_image_tokens)
        weight = words.weight
        features = torch.zeros(num_slots + 1, num_image_tokens, words.embedding_dim, dtype=weight.dtype, device=weight.device)
        self.register_buffer("features", features, persistent=False)
        slots = torch.zeros(self.max_serials, dtype=torch.int32, device=weight.device)
        self.register_buffer("slot_of_serial", slots, persistent=False)
        self.features: torch.Tensor
        self.slot_of_serial: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        return self.words.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(…) ids -> (…, embedding size)."""
        is_word = input_ids < self.vocab_size
        words: torch.Tensor = self.words(torch.where(is_word, input_ids, 0))
        above = torch.where(is_word, 0, input_ids - self.vocab_size)
        slots = self.slot_of_serial[above // self.num_image_tokens]
        pictures = self.features[slots, above % self.num_image_tokens]
        return torch.where(is_word.unsqueeze(-1), words, pictures)


class PictureStore:
    """Puts pictures into the model's `PictureEmbedding`. Methods block, and may be called from any thread but the event loop's."""

    def __init__(
        self, model: LlavaForConditionalGeneration, image_processor: LlavaImageProcessorPil, num_image_tokens: int, num_slots: int
    ) -> None:
        words = model.get_input_embeddings()
        assert isinstance(words, nn.Embedding)
        self.embedding = PictureEmbedding(words, num_image_tokens, num_slots)
        model.set_input_embeddings(self.embedding)
        self.num_encoded = 0  # pictures that went through the vision tower
        self._model = model
        self._image_processor = image_processor
        self._encoding = threading.Lock()  # one picture at a time goes through the vision tower
        self._lock = threading.Lock()  # guards the fields below; held for moments only, for the engine's thread takes it to unpin
        self._serials: dict[str, int] = {}  # by SHA-256, for the life of the process: 100 bytes a picture
        self._slots: OrderedDict[str, int] = OrderedDict()  # resident pictures, least recently used first
        self._num_pins: dict[str, int] = {}
        self._free_slots = list(range(num_slots, 0, -1))

    def pin(self, images: Iterable[Image]) -> list[tuple[int, ...]]:
        """Make pictures resident and keep them so until `unpin`; returns each one's token ids. All are pinned, or none."""
        pinned: list[Image] = []
        try:
            for image in images:
                with self._encoding:
                    if not self._pin_resident(image):
                        features = self._encode(image)
                        with self._lock:
                            self._store(image, features)
                        self._pin_resident(image)
                pinned.append(image)
            return [self._ids(image) for image in pinned]
        except BaseException:
            self.unpin(pinned)
            raise

    def unpin(self, images: Iterable[Image]) -> None:
        with self._lock:
            for image in images:
                self._num_pins[image.sha256] -= 1
                if not self._num_pins[image.sha256]:
                    del self._num_pins[image.sha256]

    def _pin_resident(self, image: Image) -> bool:
        with self._lock:
            if image.sha256 not in self._slots:
                return False
            self._slots.move_to_end(image.sha256)
            self._num_pins[image.sha256] = self._num_pins.get(image.sha256, 0) + 1
            return True

    def _ids(self, image: Image) -> tuple[int, ...]:
        first = self.embedding.vocab_size + self._serials[image.sha256] * self.embedding.num_image_tokens
        return tuple(range(first, first + self.embedding.num_image_tokens))

    def _store(self, image: Image, features: torch.Tensor) -> None:
        serial = self._serials.setdefault(image.sha256, len(self._serials))
        if serial >= self.embedding.max_serials:
            del self._serials[image.sha256]
            raise EngineFailed("I have seen as many different pictures as I can number. Restarting me helps.")
        slot = self._free_slots.pop() if self._free_slots else self._evict()
        self.embedding.features[slot].copy_(features)
        self.embedding.slot_of_serial[serial] = slot
        if features.is_cuda:
            torch.cuda.synchronize(features.device)  # the engine runs on another stream
        self._slots[image.sha256] = slot

    def _evict(self) -> int:
        sha256 = next((sha256 for sha256 in self._slots if sha256 not in self._num_pins), None)
        if sha256 is None:
            raise EngineFailed("There is no room for another picture right now. Please try again.")
        self.embedding.slot_of_serial[self._serials[sha256]] = 0
        return self._slots.pop(sha256)

    @torch.no_grad()
    def _encode(self, image: Image) -> torch.Tensor:
        """The projected features, (image tokens, embedding size)."""
        pil = to_pil(image)
        pil.thumbnail((_MAX_SIDE, _MAX_SIDE))
        pixels = self._image_processor(pil, return_tensors="pt")["pixel_values"]
        tower = next(self._model.model.vision_tower.parameters())
        output = self._model.get_image_features(pixel_values=pixels.to(tower.device, tower.dtype), return_dict=True)
        self.num_encoded += 1
        features: torch.Tensor = output.pooler_output[0]
        return features
