"""Fewer bits per weight, with bitsandbytes: `8bit` is LLM.int8 (arXiv:2208.07339), `4bit` is nf4 with double quantization
(arXiv:2305.14314).

Only the language model's layers are quantized. The vision tower, the projector, the embeddings and the head keep their precision:
they are small, and losing bits there is noticeable. All of it also works on a CPU, in float32, but slowly.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from model_server.errors import ModelLoadError

# "none", "8bit", "4bit", "auto" (the best that fits), or keyword arguments of transformers' BitsAndBytesConfig.
Quantization = str | Mapping[str, Any]
BEST_FIRST = ("none", "8bit", "4bit")
AUTO = "auto"

# transformers skips a module if a pattern matches from the start of its name. Plain names ("vision_tower") match nothing here.
_LANGUAGE_LAYERS = r".*\b(language_model|text_model)\.layers\."
_ALL_BUT_LANGUAGE_LAYERS = rf"(?!{_LANGUAGE_LAYERS}).*"
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}


def is_quantized(module_name: str) -> bool:
    """Whether a linear layer of this name gets quantized."""
    return re.match(_LANGUAGE_LAYERS, module_name) is not None


def is_available() -> bool:
    """Whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def bits(quantization: Quantization) -> str:
    """The one of `BEST_FIRST` that it is. Raises `ModelLoadError` for an unknown word."""
    if isinstance(quantization, str):
        if quantization not in _OPTIONS:
            raise ModelLoadError(f"Quantization can be none, 8bit, 4bit or auto, not {quantization}.")
        return quantization
    return "8bit" if quantization.get("load_in_8bit") else "4bit" if quantization.get("load_in_4bit") else "none"


def bitsandbytes_config(quantization: Quantization) -> BitsAndBytesConfig | None:
    """The configuration for `from_pretrained`; None for full precision. Raises `ModelLoadError`."""
    kind = bits(quantization)
    if kind == "none":
        return None
    if not is_available():
        raise ModelLoadError(
            f"Quantization to {kind} needs the package bitsandbytes, which is not installed. "
            "Please install the extra `quantization`, or set the quantization to none."
        )
    # It warns at every layer of every step that it computes in float16, which is intended.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    options = _OPTIONS[quantization] if isinstance(quantization, str) else quantization
    defaults = {"llm_int8_skip_modules": [_ALL_BUT_LANGUAGE_LAYERS], "bnb_4bit_compute_dtype": weight_dtype("4bit")}
    return BitsAndBytesConfig(**{**defaults, **options})


def weight_dtype(kind: str) -> torch.dtype:
    """The dtype of everything that is not quantized. int8 needs float16 on a GPU; on a CPU only float32 is fast everywhere."""
    if not torch.cuda.is_available():
        return torch.float32
    return torch.float16 if kind == "8bit" else torch.bfloat16


def placement(quantization: Quantization, device_map: str | Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `from_pretrained`. Always one device: the engine uses one GPU, and with layers left on the CPU it would
    be slower than without a GPU. Raises `ModelLoadError`."""
    arguments: dict[str, Any] = {"dtype": weight_dtype(bits(quantization)), "attn_implementation": "sdpa"}
    config = bitsandbytes_config(quantization)
    if config is not None:
        arguments["quantization_config"] = config
    if torch.cuda.is_available():
        arguments["device_map"] = {"": 0} if device_map == "auto" else device_map
    elif config is not None:
        arguments["device_map"] = {"": "cpu"}
    return arguments


def use_plain_kernels_for_odd_sizes(model: nn.Module) -> None:
    """Avoid bitsandbytes' packed 4-bit kernels for layers that they cannot take.

    On CPUs with AVX512-BF16 it packs 4-bit weights, and asserts that inputs are multiples of 64 and outputs multiples of 32.
    """
    module: Any
    for module in model.modules():
        is_4bit = hasattr(module, "support_avx512bf16_for_cpu")
        if is_4bit and (module.in_features % 64 or module.out_features % 32):
            module.support_avx512bf16_for_cpu = False
