from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_server.checkpoints.loading import Checkpoint, load_checkpoint
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
    assert "4bit or auto" in refusal(str(random_llava), "3bit")
    monkeypatch.setattr("model_server.checkpoints.loading.TINY_PATH", tmp_path / "missing")
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


def test_pickled_weights_hold_nothing_but_weights(random_llava: Path, tmp_path: Path) -> None:
    shutil.copytree(random_llava, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "model" / "pytorch_model.bin")
    assert load_checkpoint(str(tmp_path / "model")).model.dtype is torch.float32
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (marker,)

    torch.save({**weights, "payload": Payload()}, tmp_path / "model" / "pytorch_model.bin")
    assert "refused" in refusal(str(tmp_path / "model"))
    assert not marker.exists()


def test_code_that_a_checkpoint_brings_along_is_never_run(random_llava: Path, tmp_path: Path) -> None:
    shutil.copytree(random_llava, tmp_path / "model")
    marker = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nfrom transformers import LlavaConfig as Own\n"
    (tmp_path / "model" / "own.py").write_text(code, "utf-8")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text("utf-8"))
    auto_map = {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own", "AutoTokenizer": "own.Own"}
    file.write_text(json.dumps({**config, "auto_map": auto_map}), "utf-8")
    assert load_checkpoint(str(tmp_path / "model")).context_length == 512
    file.write_text(json.dumps({**config, "model_type": "own", "auto_map": auto_map}), "utf-8")
    refusal(str(tmp_path / "model"))
    assert not marker.exists()


def test_a_missing_shard_is_named(random_llava: Path, tmp_path: Path) -> None:
    shutil.copytree(random_llava, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    names = sorted(weights)
    save_file({name: weights[name] for name in names[::2]}, tmp_path / first, {"format": "pt"})
    save_file({name: weights[name] for name in names[1::2]}, tmp_path / second, {"format": "pt"})
    weight_map = {name: (first, second)[i % 2] for i, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
    assert load_checkpoint(str(tmp_path)).model.dtype is torch.float32
    (tmp_path / second).unlink()
    assert second in refusal(str(tmp_path))


def test_no_progress_bar_in_a_log(random_llava: Path) -> None:
    code = f"from model_server.checkpoints.loading import load_checkpoint; load_checkpoint({str(random_llava)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "it/s" not in done.stderr


@pytest.mark.parametrize("module", ["model_server", "model_server.types", "model_server.errors", "model_server.loop"])
def test_the_border_is_light(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'PIL', 'aiohttp'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
