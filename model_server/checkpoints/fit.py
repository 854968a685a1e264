"""Computes from a model's configuration whether it fits into memory, and with how many chats.

Counted are weights, keys and values of chats of `CHAT_TOKENS` tokens, and an allowance for the rest (the CUDA context, encoded
pictures, activations). Part of the free memory is left unused, as the engine does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from model_server.checkpoints.families import context_length
from model_server.checkpoints.quantization import BEST_FIRST, is_available, is_quantized, weight_dtype
from model_server.engine import Engine
from model_server.errors import ModelLoadError

CHAT_TOKENS = 900  # a picture of LLaVA-1.5 (576), and a few questions with their answers
NUM_CHATS = 8  # that `auto` makes room for
MAX_CPU_CACHE_BYTES = 2 * 1024**3  # other programs need memory too
_MAX_WORKING_BYTES = 2**30  # a small model needs less
_USABLE_SHARE = 0.8  # of the memory that the weights leave free
# Bytes per weight. 4bit: one scale byte per 64 weights, and one float per 256 scales (double quantization, arXiv:2305.14314).
_QUANTIZED_BYTES = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}


@dataclass(frozen=True, slots=True)
class Plan:
    """Memory use, in bytes. `weight_bytes` is the whole model, `step_bytes` what one generation step reads of it; the cache is for
    keys and values."""

    name: str
    quantization: str
    weight_bytes: int
    step_bytes: int
    cache_bytes: int
    cache_bytes_per_token: int
    context_length: int

    @property
    def chat_tokens(self) -> int:
        return min(CHAT_TOKENS, self.context_length)

    @property
    def num_chats(self) -> int:
        """How many chats of `chat_tokens` the cache holds."""
        return max(0, self.cache_bytes) // (self.chat_tokens * self.cache_bytes_per_token)

    @property
    def fits(self) -> bool:
        return self.num_chats > 0

    def __str__(self) -> str:
        bits = "" if self.quantization == "none" else f" in {self.quantization}"
        if not self.fits:
            return f"{self.name}{bits} does not fit: its weights alone take {_size(self.weight_bytes)}."
        chats = f"{self.num_chats} chat{'' if self.num_chats == 1 else 's'}"
        return (
            f"{self.name}{bits}: weights {_size(self.weight_bytes)}; cache {_size(self.cache_bytes)}, "
            f"room for {chats} of {self.chat_tokens} tokens; context {self.context_length} tokens."
        )


def plan(config: Any, quantization: str, free_bytes: int, *, name: str = "The model", dtype: torch.dtype | None = None) -> Plan:
    """Compute the use of `free_bytes` of memory. `quantization` is one of `BEST_FIRST`. Allocates no weights.

    `dtype` is for everything that is not quantized; None is the one used on this machine.
    """
    return _plan(_count(config), config, quantization, free_bytes, name, dtype)


def best_plan(config: Any, free_bytes: int, *, name: str = "The model", num_chats: int = NUM_CHATS) -> Plan:
    """Choose the most bits per weight that leave room for `num_chats` chats, or else the fewest bits. Raises `ModelLoadError` when
    not even one chat fits."""
    weights = _count(config)
    for quantization in BEST_FIRST if is_available() else BEST_FIRST[:1]:
        best = _plan(weights, config, quantization, free_bytes, name)
        if best.num_chats >= num_chats:
            return best
    if best.fits:
        return best
    advice = "" if is_available() else " The extra `quantization` would let it run with fewer bits per weight."
    raise ModelLoadError(f"{name} needs {_size(best.weight_bytes)} for its weights, and {_size(free_bytes)} are free.{advice}")


@dataclass(frozen=True, slots=True)
class _Weights:
    """Numbers of weights: in all, read per step, and in layers that can be quantized (with their number of outputs)."""

    num_in_all: int
    num_in_step: int
    num_quantized: int
    num_quantized_outputs: int


def _count(config: Any) -> _Weights:
    model_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    with torch.device("meta"):
        model = model_class(copy.deepcopy(config))  # a model changes its config
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    is_head_apart = config.tie_word_embeddings and head is not embedding  # only here: after loading the head is the embedding
    parameters = dict(model.named_parameters())
    layers = [
        module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and is_quantized(f"{name}.weight")
    ]
    return _Weights(
        num_in_all=sum(parameter.numel() for parameter in parameters.values()) - (head.numel() if is_head_apart else 0),
        num_in_step=sum(parameter.numel() for name, parameter in parameters.items() if is_quantized(name)) + head.numel(),
        num_quantized=sum(layer.weight.numel() for layer in layers),
        num_quantized_outputs=sum(layer.out_features for layer in layers),
    )


def _plan(weights: _Weights, config: Any, quantization: str, free_bytes: int, name: str, dtype: torch.dtype | None = None) -> Plan:
    dtype = dtype or weight_dtype(quantization)
    layer_bytes = round(weights.num_quantized * _QUANTIZED_BYTES.get(quantization, dtype.itemsize))
    if quantization == "8bit":
        layer_bytes += 4 * weights.num_quantized_outputs  # one scale each
    weight_bytes = (weights.num_in_all - weights.num_quantized) * dtype.itemsize + layer_bytes
    return Plan(
        name=name,
        quantization=quantization,
        weight_bytes=weight_bytes,
        step_bytes=(weights.num_in_step - weights.num_quantized) * dtype.itemsize + layer_bytes,
        cache_bytes=max(0, int(_USABLE_SHARE * (free_bytes - weight_bytes - min(weight_bytes, _MAX_WORKING_BYTES)))),
        cache_bytes_per_token=cache_bytes_per_token(config.text_config, dtype),
        context_length=context_length(config),
    )


def with_cache(planned: Plan, engine: Engine) -> Plan:
    """The plan with the cache that a started engine really has."""
    bytes_per_chat = planned.chat_tokens * planned.cache_bytes_per_token
    return replace(planned, cache_bytes=engine.cache_capacity * bytes_per_chat // engine.cache_cost(planned.chat_tokens, 0))


def cache_bytes_per_token(text_config: Any, dtype: torch.dtype) -> int:
    """Bytes of one token's keys and values in all layers."""
    head_size = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    return int(2 * text_config.num_hidden_layers * text_config.num_key_value_heads * head_size * dtype.itemsize)


def free_memory() -> int:
    """Free memory in bytes: of the GPU, or of this machine if it has none."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
