"""Quantization on a CPU, which is the same code as on a GPU: what is quantized, and that it still answers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import nn

from model_server.chatbot import LLaVAChatBot
from model_server.checkpoints.loading import load_checkpoint
from model_server.checkpoints.quantization import bits, bitsandbytes_config, is_quantized, use_plain_kernels_for_odd_sizes
from model_server.errors import ModelLoadError
from model_server.types import Image

LANGUAGE_LAYER_PARTS = {
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
}


def linear_layers(model: Any) -> dict[str, type[nn.Module]]:
    return {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize(("quantization", "expected"), [("8bit", Linear8bitLt), ("4bit", Linear4bit)])
def test_the_language_model_s_layers_are_quantized_and_nothing_else(
    random_llava: Path, quantization: str, expected: type[nn.Module]
) -> None:
    model: Any = load_checkpoint(str(random_llava), quantization=quantization).model
    layers = linear_layers(model)
    quantized = {name for name, kind in layers.items() if kind is not nn.Linear}
    assert quantized == {f"model.language_model.layers.{i}.{part}" for i in range(2) for part in LANGUAGE_LAYER_PARTS}
    assert {layers[name] for name in quantized} == {expected}
    whole = layers.keys() - quantized
    assert {"lm_head", "model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"} <= whole
    assert sum(name.startswith("model.vision_tower.") for name in whole) == 12
    assert type(model.get_input_embeddings()) is nn.Embedding
    assert {model.get_parameter(f"{name}.weight").dtype for name in whole} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.language_model.layers.31.mlp.up_proj", True),
        ("model.text_model.layers.0.self_attn.q_proj", True),
        ("model.vision_tower.encoder.layers.0.self_attn.q_proj", False),
        ("model.vision_model.encoder.layers.0.mlp.fc1", False),
        ("model.connector.modality_projection.proj", False),
        ("model.multi_modal_projector.linear_1", False),
        ("model.language_model.embed_tokens", False),
        ("lm_head", False),
    ],
)
def test_which_layers_lose_bits(name: str, expected: bool) -> None:
    assert is_quantized(name) is expected


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@torch.no_grad()
def test_numbers_stay_near_those_of_full_precision(random_llava: Path, quantization: str) -> None:
    ids = torch.arange(5, 45)[None]
    whole: Any = load_checkpoint(str(random_llava)).model
    few: Any = load_checkpoint(str(random_llava), quantization=quantization).model
    expected, ours = whole(input_ids=ids).logits, few(input_ids=ids).logits
    similarity = torch.nn.functional.cosine_similarity(expected, ours, dim=-1).mean()
    assert similarity > (0.99 if quantization == "8bit" else 0.8)
    assert not torch.equal(expected, ours)
    assert few.get_memory_footprint() < whole.get_memory_footprint()


@pytest.mark.parametrize("options", [{"load_in_8_bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}])
def test_it_answers_through_the_engine(
    random_llava: Path, tmp_path: Path, image: Callable[..., Image], options: dict[str, Any]
) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(image("red").data)
    with LLaVAChatBot(str(random_llava), **options) as bot:
        first = bot.start_new_chat(file, "What colour is the circle?", do_sample=False, max_new_tokens=8)
        assert first == bot.start_new_chat(file, "What colour is the circle?", do_sample=False, max_new_tokens=8)


@torch.no_grad()
def test_layers_of_odd_sizes_take_the_plain_kernels() -> None:
    """On a CPU with AVX512-BF16, which a flag stands for, bitsandbytes would stop at an assertion."""
    make: Any = Linear4bit
    odd, even = make(48, 40, bias=False, quant_type="nf4"), make(64, 32, bias=False, quant_type="nf4")
    layers = nn.ModuleList([odd, even, nn.Linear(3, 3)]).eval().to("cpu")
    assert odd.weight.quant_state is not None
    odd.support_avx512bf16_for_cpu = even.support_avx512bf16_for_cpu = True
    with pytest.raises(AssertionError):
        odd(torch.ones(1, 48))
    use_plain_kernels_for_odd_sizes(layers)
    assert odd(torch.ones(1, 48)).isfinite().all()
    assert even.support_avx512bf16_for_cpu


def test_what_is_asked_for_is_understood_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bitsandbytes_config("none") is None
    assert bitsandbytes_config({"load_in_8bit": False}) is None
    four: Any = bitsandbytes_config("4bit")
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == ("nf4", True)
    assert bits({"load_in_4bit": True}) == "4bit"
    with pytest.raises(ModelLoadError, match="not 3bit"):
        bitsandbytes_config("3bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match="extra `quantization`"):
        bitsandbytes_config("8bit")
