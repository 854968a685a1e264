from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_server import checkpoints
from model_server.checkpoints import Checkpoint, load_checkpoint
from model_server.errors import ModelLoadError


def test_what_a_checkpoint_says_of_itself(checkpoint: Checkpoint) -> None:
    assert checkpoint.num_image_tokens == 16
    assert checkpoint.context_length == 512
    assert checkpoint.eos_ids == (checkpoint.tokenizer.eos_token_id,)
    assert not checkpoint.model.training


def refusal(model: str, quantization: str = "none") -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_checkpoint(model, quantization=quantization)
    message = str(caught.value)
    assert "Traceback" not in message
    assert "\n" not in message
    return message


def test_reasons(tmp_path: Path, random_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(tmp_path) in refusal(str(tmp_path))
    assert "nowhere" in refusal("/nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "type bert" in refusal(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert str(tmp_path) in refusal(str(tmp_path))
    assert "8bit or 4bit" in refusal(str(random_llava), "3bit")
    monkeypatch.setattr(checkpoints, "TINY_PATH", tmp_path / "missing")
    assert "install" in refusal("tiny")


def test_damaged_and_missing_weights_are_not_replaced_by_noise(random_llava: Path, tmp_path: Path) -> None:
    shutil.copytree(random_llava, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    partial = {name: tensor for name, tensor in weights.items() if "lm_head" not in name}
    save_file(partial, tmp_path / "model.safetensors", {"format": "pt"})
    assert "not complete" in refusal(str(tmp_path))
    data = (random_llava / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert str(tmp_path) in refusal(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_without_cuda_quantization_falls_back_and_says_so_once(
    random_llava: Path, caplog: pytest.LogCaptureFixture, quantization: str
) -> None:
    with caplog.at_level(logging.WARNING, logger="model_server"):
        loaded = load_checkpoint(str(random_llava), quantization=quantization)
    assert [record.getMessage().count("full precision") for record in caplog.records] == [1]
    assert loaded.model.dtype is torch.float32


@pytest.mark.parametrize("module", ["model_server", "model_server.types", "model_server.errors", "model_server.loop"])
def test_the_border_is_light(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'PIL', 'aiohttp'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
