"""How pictures are prepared for a model: as in LLaVA-1.5's training, or by the model's own processor.

A picture's tokens depend only on its size, so that they can be counted without decoding or encoding it.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from PIL import Image as PilImage
from transformers import BatchFeature, PreTrainedModel
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.errors import RequestRefused
from model_server.images import to_pil
from model_server.types import Image
from model_server.vision import HOLE

_MAX_SIDE = 4096  # pixels; a very long, thin picture, padded to a square, must not fill the memory


class SquareForms:
    """LLaVA-1.5: pads to a square with the mean colour, then resizes. Always the same number of tokens."""

    has_two_forms = False

    def __init__(self, image_processor: LlavaImageProcessorPil, num_image_tokens: int) -> None:
        self._image_processor = image_processor
        self._ids = (HOLE,) * num_image_tokens

    def token_ids(self, image: Image, is_one_of_several: bool) -> tuple[int, ...]:
        return self._ids

    @torch.no_grad()
    def features(self, model: PreTrainedModel, image: Image, is_one_of_several: bool) -> torch.Tensor:
        return features_of(model, self._image_processor(_decoded(image), return_tensors="pt"))


class ProcessorForms:
    """The model's own processor: tiles, and tokens between them, depending on the picture's size."""

    def __init__(self, processor: Any, *, has_two_forms: bool = False) -> None:
        self._processor = processor
        self.has_two_forms = has_two_forms
        self._processing = threading.Lock()  # tokenizers are not thread-safe: they set options on themselves
        self._token_ids = lru_cache(maxsize=1024)(self._token_ids_of_size)

    def token_ids(self, image: Image, is_one_of_several: bool) -> tuple[int, ...]:
        return self._token_ids(image.width, image.height, self._num_copies(is_one_of_several))

    @torch.no_grad()
    def features(self, model: PreTrainedModel, image: Image, is_one_of_several: bool) -> torch.Tensor:
        num_copies = self._num_copies(is_one_of_several)
        features = features_of(model, self._process(_decoded(image), num_copies))
        return features[: len(features) // num_copies]

    def _num_copies(self, is_one_of_several: bool) -> int:
        return 2 if self.has_two_forms and is_one_of_several else 1

    def _process(self, pil: PilImage.Image, num_copies: int) -> BatchFeature:
        text = str(self._processor.image_token) * num_copies
        with self._processing:
            inputs = self._processor(text=[text], images=[[pil] * num_copies], add_special_tokens=False, return_tensors="pt")
        assert isinstance(inputs, BatchFeature)
        return inputs

    def _token_ids_of_size(self, width: int, height: int, num_copies: int) -> tuple[int, ...]:
        try:
            inputs = self._process(PilImage.new("RGB", _fitted(width, height)), num_copies)
        except Exception as error:  # processors raise many things for unusual shapes
            raise RequestRefused(
                f"I cannot look at a picture of {width} x {height} pixels with this model. Please cut it to a more usual shape."
            ) from error
        ids = inputs["input_ids"][0].tolist()
        return tuple(HOLE if i == self._processor.image_token_id else i for i in ids[: len(ids) // num_copies])


def features_of(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """(features, embedding size) of all pictures in `inputs`, in order."""
    weight = model.get_input_embeddings().weight
    known = inspect.signature(model.get_image_features).parameters
    arguments = {name: value for name, value in inputs.items() if name in known}
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            arguments[name] = value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
    features = model.get_image_features(**arguments, return_dict=True).pooler_output
    return torch.cat([one.reshape(-1, one.shape[-1]) for one in features])


def _decoded(image: Image) -> PilImage.Image:
    """The picture in the size that its token ids are counted for. What was stored by an earlier version may be decoded smaller."""
    pil = to_pil(image)
    size = _fitted(image.width, image.height)
    return pil if size == pil.size else pil.resize(size, PilImage.Resampling.BICUBIC, reducing_gap=2.0)


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, _MAX_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
