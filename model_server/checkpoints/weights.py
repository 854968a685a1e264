"""The tensors of checkpoint files. safetensors is preferred; of a pickle only plain tensors are read, and its code never runs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from model_server.checkpoints.hub import Source
from model_server.errors import ModelLoadError

_SINGLE_AND_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def read_checkpoint(source: Source) -> dict[str, torch.Tensor]:
    """All tensors by their names in the files, sharded or not. They are on the CPU, and read from disk when they are used."""
    for single, index in _SINGLE_AND_INDEX:
        if (file := source.file(single)) is not None:
            return read_tensors(file)
        if (file := source.file(index)) is not None:
            return _read_shards(source, file)
    raise ModelLoadError(f"{source.path} is not a complete checkpoint: there are no weights in it.")


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file by name. Raises pickle.UnpicklingError for a pickle with anything but tensors."""
    if file.suffix == ".safetensors":
        return load_file(file)
    # Files in torch's format from before 2020 cannot be memory-mapped.
    tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"the file {file.name} does not hold weights")
    return {str(name): tensor for name, tensor in tensors.items()}


def _read_shards(source: Source, index: Path) -> dict[str, torch.Tensor]:
    names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    if any(Path(name).name != name for name in names):
        raise ValueError(f"{index.name} names files outside of the checkpoint")
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        file = source.file(name, is_needed=True)
        assert file is not None
        tensors.update(read_tensors(file))
    return tensors
