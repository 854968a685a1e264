"""LoRA adapters, LLaVA's own and plain peft ones. peft merges them into the base's weights before anything is quantized.

Merged weights give exactly the adapted model; an adapter on top of quantized layers would cost time at every token.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from model_server.checkpoints.hub import Source
from model_server.checkpoints.original import module_name
from model_server.checkpoints.weights import read_tensors
from model_server.errors import ModelLoadError

_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def base_of(adapter: Source, settings: dict[str, Any]) -> Source:
    """The checkpoint that an adapter was trained on, as its adapter_config.json says. Raises `ModelLoadError`."""
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ModelLoadError(f"{adapter.path} is an adapter, and does not say on which model (base_model_name_or_path).")
    return adapter.beside(str(base))


def merge(model: PreTrainedModel, adapter: Source, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Merge the adapter into the weights of `model`, which cannot be used afterwards. Returns the weights by name. Raises
    `ModelLoadError`."""
    if importlib.util.find_spec("peft") is None:
        raise ModelLoadError(
            f"{adapter.path} is a LoRA adapter, and the package peft is not installed. Please install the extra `lora`."
        )
    from peft import LoraConfig, LoraModel, set_peft_model_state_dict

    if settings.get("peft_type") != "LORA":
        raise ModelLoadError(f"{adapter.path} is an adapter of the type {settings.get('peft_type')}, and I know LoRA only.")
    modules, parameters = dict(model.named_modules()), model.state_dict()

    def place(name: str) -> str:
        name = name.removeprefix("base_model.model.")
        return name if name in parameters or name.partition(".lora_")[0] in modules else module_name(name)

    tensors = {place(name): tensor for name, tensor in read_tensors(_file(adapter)).items()}
    low_rank = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    whole = {name: tensor for name, tensor in tensors.items() if name not in low_rank}
    targets = {name.partition(".lora_")[0] for name in low_rank}
    strangers = sorted((targets - modules.keys()) | (whole.keys() - parameters.keys()))
    if strangers or not tensors:
        part = strangers[0] if strangers else "the language model"
        raise ModelLoadError(f"{adapter.path} does not fit {model.name_or_path or 'its base'}: there is no {part} to adapt.")
    if whole:
        model.load_state_dict(whole, strict=False)
    if not low_rank:
        return dict(model.state_dict())
    known = {name: value for name, value in settings.items() if name in LoraConfig.__dataclass_fields__}
    # Exactly the layers that the adapter has weights for: "q_proj" alone would match in the vision tower too.
    config = LoraConfig(**{**known, "target_modules": targets, "exclude_modules": None, "modules_to_save": None, "task_type": None})
    adapted = LoraModel(model, config, "default")
    outcome: Any = set_peft_model_state_dict(adapted, {f"model.{name}": tensor for name, tensor in low_rank.items()})
    missing = [name for name in getattr(outcome, "missing_keys", ()) if ".lora_" in name]
    if missing or outcome.unexpected_keys:
        raise ModelLoadError(f"{adapter.path} is not a complete adapter: some of its weights are missing or of another kind.")
    return dict(adapted.merge_and_unload().state_dict())


def _file(adapter: Source) -> Path:
    for name in _FILES:
        file = adapter.file(name)
        if file is not None:
            return file
    raise ModelLoadError(f"{adapter.path} is not a complete adapter: there are no weights in it.")
