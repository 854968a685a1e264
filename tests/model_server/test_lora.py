"""LoRA adapters, on both formats: as merging by hand."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_server.checkpoints.loading import check_fit, load_checkpoint
from model_server.errors import ModelLoadError
from model_server.types import Image
from tests.model_server.original_format import Twins, logits, write_json, write_twins

RANK, ALPHA = 4, 8
TARGETS = ("self_attn.q_proj", "mlp.down_proj")
ADAPTER = {
    "base_model_name_or_path": "original",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_alpha": ALPHA,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": RANK,
    "target_modules": ["q_proj", "down_proj"],
    "task_type": "CAUSAL_LM",
}


@pytest.fixture
def twins(tmp_path: Path) -> Twins:
    return write_twins(tmp_path)


def low_rank(twins: Twins) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B by the name of the layer that they adapt, such as `layers.0.mlp.down_proj`."""
    torch.manual_seed(1)
    weights = load_file(twins.transformers / "model.safetensors")
    pairs = {}
    for layer in range(2):
        for target in TARGETS:
            weight = next(tensor for name, tensor in weights.items() if name.endswith(f"layers.{layer}.{target}.weight"))
            out, into = weight.shape
            pairs[f"layers.{layer}.{target}"] = (0.3 * torch.randn(RANK, into), 0.3 * torch.randn(out, RANK))
    return pairs


def adapter_tensors(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], prefix: str) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"base_model.model.{prefix}{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{prefix}{name}.lora_B.weight"] = b
    return tensors


def merge_by_hand(twins: Twins, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Into the checkpoint in transformers' format."""
    file = twins.transformers / "model.safetensors"
    weights = load_file(file)
    num_merged = 0
    for name, weight in weights.items():
        layer = "layers." + name.partition("layers.")[2].removesuffix(".weight")
        if "language_model" in name and layer in pairs:
            a, b = pairs[layer]
            weights[name] = weight + ALPHA / RANK * (b @ a)
            num_merged += 1
    assert num_merged == len(pairs)
    save_file(weights, file, {"format": "pt"})


def loaded_logits(folder: Path, image: Image, quantization: str = "none") -> torch.Tensor:
    return logits(load_checkpoint(str(folder), quantization=quantization), image)


def write_llava_lora(twins: Twins, base: str) -> Path:
    """As LLaVA's train.py saves it: the whole model's config.json, the adapter, and the projector that was trained in full."""
    folder = twins.original.parent / "lora"
    config = json.loads((twins.original / "config.json").read_text("utf-8"))
    write_json(folder / "config.json", config)
    write_json(folder / "adapter_config.json", {**ADAPTER, "base_model_name_or_path": base})
    torch.save(adapter_tensors(low_rank(twins), "model."), folder / "adapter_model.bin")
    projector: dict[str, torch.Tensor] = {}
    for shard in twins.original.glob("pytorch_model-*.bin"):
        projector |= {name: tensor for name, tensor in torch.load(shard).items() if "mm_projector" in name}
    others = {f"base_model.model.{name}": 2 * tensor for name, tensor in projector.items()}
    torch.save(others, folder / "non_lora_trainables.bin")
    return folder


def write_language_model_alone(twins: Twins) -> str:
    """As lmsys/vicuna-7b-v1.5: what LLaVA's own adapters were trained on."""
    folder = twins.original.parent / "vicuna"
    shutil.copytree(twins.original, folder)
    for shard in folder.glob("pytorch_model-*.bin"):
        torch.save({name: tensor for name, tensor in torch.load(shard).items() if "mm_projector" not in name}, shard)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config = {name: value for name, value in config.items() if not name.startswith("mm_")}
    write_json(folder / "config.json", {**config, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    return folder.name


@pytest.mark.parametrize("is_base_a_llava", [True, False])
def test_llava_s_own_adapter(twins: Twins, image: Callable[..., Image], is_base_a_llava: bool) -> None:
    folder = write_llava_lora(twins, "original" if is_base_a_llava else write_language_model_alone(twins))
    ours = loaded_logits(folder, image("red"))
    without = loaded_logits(twins.transformers, image("red"))
    merge_by_hand(twins, low_rank(twins))
    file = twins.transformers / "model.safetensors"
    weights = load_file(file)
    weights |= {name: 2 * tensor for name, tensor in weights.items() if "multi_modal_projector" in name}
    save_file(weights, file, {"format": "pt"})
    torch.testing.assert_close(ours, loaded_logits(twins.transformers, image("red")), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, without, atol=1e-2)


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."], ids=["today", "before 4.52"])
def test_plain_adapter_on_transformers_format(twins: Twins, image: Callable[..., Image], prefix: str) -> None:
    folder = twins.original.parent / "adapter"
    write_json(folder / "adapter_config.json", {**ADAPTER, "base_model_name_or_path": str(twins.transformers)})
    save_file(adapter_tensors(low_rank(twins), prefix), folder / "adapter_model.safetensors")
    ours = loaded_logits(folder, image("red"))
    merge_by_hand(twins, low_rank(twins))
    torch.testing.assert_close(ours, loaded_logits(twins.transformers, image("red")), rtol=1e-4, atol=1e-4)


def test_plain_adapter_on_the_original_format(twins: Twins, image: Callable[..., Image]) -> None:
    folder = twins.original.parent / "adapter"
    write_json(folder / "adapter_config.json", ADAPTER)
    save_file(adapter_tensors(low_rank(twins), "model."), folder / "adapter_model.safetensors")
    ours = loaded_logits(folder, image("red"))
    assert check_fit(str(folder), quantization="none").name == "adapter"
    merge_by_hand(twins, low_rank(twins))
    torch.testing.assert_close(ours, loaded_logits(twins.transformers, image("red")), rtol=1e-4, atol=1e-4)


def test_parts_that_were_saved_whole_replace_the_base_s(twins: Twins, image: Callable[..., Image]) -> None:
    folder = twins.original.parent / "adapter"
    settings = {**ADAPTER, "base_model_name_or_path": "transformers", "modules_to_save": ["lm_head"]}
    write_json(folder / "adapter_config.json", settings)
    head = load_file(twins.transformers / "model.safetensors")["language_model.lm_head.weight"].flip(0)
    tensors = {**adapter_tensors(low_rank(twins), "model.language_model."), "base_model.model.lm_head.weight": head.clone()}
    save_file(tensors, folder / "adapter_model.safetensors")
    ours = loaded_logits(folder, image("red"))
    merge_by_hand(twins, low_rank(twins))
    expected = loaded_logits(twins.transformers, image("red")).flip(-1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_it_is_merged_before_it_is_quantized(twins: Twins, image: Callable[..., Image]) -> None:
    folder = twins.original.parent / "adapter"
    write_json(folder / "adapter_config.json", {**ADAPTER, "base_model_name_or_path": "transformers"})
    save_file(adapter_tensors(low_rank(twins), "model.language_model."), folder / "adapter_model.safetensors")
    ours = loaded_logits(folder, image("red"), "8bit")
    merge_by_hand(twins, low_rank(twins))
    torch.testing.assert_close(ours, loaded_logits(twins.transformers, image("red"), "8bit"), rtol=1e-3, atol=1e-2)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_checkpoint(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_with_an_adapter_is_said(twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"
    settings = {**ADAPTER, "base_model_name_or_path": "transformers"}
    write_json(folder / "adapter_config.json", settings)
    assert "no weights" in refusal(folder)
    file = folder / "adapter_model.safetensors"
    tensors = adapter_tensors(low_rank(twins), "model.language_model.")
    save_file({name.replace("q_proj", "z_proj"): tensor for name, tensor in tensors.items()}, file)
    assert "z_proj" in refusal(folder)
    save_file({name: tensor for name, tensor in tensors.items() if "lora_B" not in name}, file)
    assert "not a complete adapter" in refusal(folder)
    save_file({name: tensor[:2] for name, tensor in tensors.items()}, file)
    assert "cannot be loaded" in refusal(folder)
    save_file(tensors, file)
    write_json(folder / "adapter_config.json", {**settings, "peft_type": "IA3"})
    assert "IA3" in refusal(folder)
    write_json(folder / "adapter_config.json", {**settings, "base_model_name_or_path": None})
    assert "base_model_name_or_path" in refusal(folder)
    write_json(folder / "adapter_config.json", settings)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find_spec(name))
    assert "extra `lora`" in refusal(folder)


def test_code_in_an_adapter_is_refused_without_running_it(twins: Twins, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (marker,)

    folder = tmp_path / "adapter"
    write_json(folder / "adapter_config.json", {**ADAPTER, "base_model_name_or_path": "transformers"})
    torch.save({"base_model.model.x.lora_A.weight": Payload()}, folder / "adapter_model.bin")
    assert "refused" in refusal(folder)
    assert not marker.exists()
