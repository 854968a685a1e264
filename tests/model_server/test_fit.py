"""The memory plan: against LLaVA-1.5's known numbers, and against what a loaded model really takes."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from model_server.checkpoints.fit import Plan, best_plan, plan
from model_server.checkpoints.loading import check_fit, load_checkpoint
from model_server.errors import ModelLoadError
from model_server.local import open_local
from tests.llava_7b import llava_7b_config

GB = 10**9


@pytest.fixture(scope="module")
def llava_7b() -> LlavaConfig:
    return llava_7b_config()


@pytest.mark.parametrize(("quantization", "weights", "step"), [("none", 14.13, 13.2), ("8bit", 7.66, 6.7), ("4bit", 4.52, 3.6)])
def test_the_numbers_of_llava_7b(llava_7b: LlavaConfig, quantization: str, weights: float, step: float) -> None:
    planned = plan(llava_7b, quantization, 25 * GB, dtype=torch.bfloat16)
    assert planned.cache_bytes_per_token == 2**19
    assert planned.weight_bytes / GB == pytest.approx(weights, abs=0.01)
    assert planned.step_bytes / GB == pytest.approx(step, abs=0.05)
    expected = 0.8 * (25 * GB - planned.weight_bytes - 2**30) / (900 * 2**19)
    assert planned.num_chats == int(expected)
    assert planned.context_length == 4096


def test_the_plan_in_words(llava_7b: LlavaConfig) -> None:
    fits = plan(llava_7b, "4bit", 24 * GB, name="llava", dtype=torch.bfloat16)
    assert str(fits) == ("llava in 4bit: weights 4.5 GB; cache 14.7 GB, room for 31 chats of 900 tokens; context 4096 tokens.")
    too_big = plan(llava_7b, "none", 12 * GB, name="llava", dtype=torch.bfloat16)
    assert not too_big.fits
    assert str(too_big) == "llava does not fit: its weights alone take 14.1 GB."


def test_auto_takes_the_most_bits_that_leave_room(llava_7b: LlavaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.checkpoints.fit.weight_dtype", lambda kind: torch.bfloat16)
    free_and_chosen = {80: "none", 24: "none", 16: "8bit", 12: "4bit", 8: "4bit"}
    assert {free: best_plan(llava_7b, free * GB).quantization for free in free_and_chosen} == free_and_chosen
    assert best_plan(llava_7b, 8 * GB).num_chats < 8  # some room is better than none
    assert best_plan(llava_7b, 24 * GB, num_chats=20).quantization == "8bit"
    with pytest.raises(ModelLoadError, match=r"4\.5 GB .* 5\.0 GB are free"):
        best_plan(llava_7b, 5 * GB)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match="extra `quantization`"):
        best_plan(llava_7b, 8 * GB)


@settings(max_examples=20)
@given(st.integers(0, 10**8), st.integers(0, 10**8))
def test_more_memory_is_never_room_for_fewer(free: int, more: int) -> None:
    def planned(free_bytes: int) -> Plan:
        return plan(SMALL, "none", free_bytes)

    assert 0 <= planned(free).num_chats <= planned(free + more).num_chats
    assert planned(free).fits == (planned(free).num_chats > 0)


SMALL = LlavaConfig(
    vision_config=CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=8
    ),
    text_config=LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=64
    ),
)


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_a_loaded_model_takes_what_was_planned(random_llava: Path, quantization: str) -> None:
    checkpoint = load_checkpoint(str(random_llava), quantization=quantization)
    model: Any = checkpoint.model
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    for module in model.modules():
        if quantization == "8bit" and hasattr(module.weight if hasattr(module, "weight") else None, "SCB"):
            num_bytes += module.weight.SCB.numel() * 4
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            num_bytes += state.absmax.numel() * state.absmax.element_size()
            num_bytes += state.state2.absmax.numel() * state.state2.absmax.element_size()
    assert checkpoint.plan.weight_bytes == pytest.approx(num_bytes, rel=0.005)


def test_fit_is_told_from_the_configuration_alone(random_llava: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((random_llava / "config.json").read_bytes())
    fits = check_fit(str(tmp_path), quantization="8bit", free_bytes=GB)
    assert fits.fits
    assert fits.quantization == "8bit"
    assert check_fit(str(tmp_path), free_bytes=GB).quantization == "none"
    assert not check_fit(str(tmp_path), quantization="none", free_bytes=10**5).fits
    with pytest.raises(ModelLoadError, match="are free"):
        check_fit(str(tmp_path), free_bytes=10**5)
    with pytest.raises(ModelLoadError, match="not 3bit"):
        check_fit(str(tmp_path), quantization="3bit")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf-8")
    with pytest.raises(ModelLoadError, match="bert"):
        check_fit(str(tmp_path))


async def test_at_start_the_plan_is_told_with_the_cache_that_there_is(
    random_llava: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = 1_800_000  # too little for full precision
    monkeypatch.setattr("model_server.checkpoints.loading.free_memory", lambda: free_bytes)
    with caplog.at_level(logging.INFO, logger="model_server.local"):
        loop = await open_local(str(random_llava), quantization="auto", cache_tokens=2100)
    await loop.close()
    (told,) = [record.getMessage() for record in caplog.records if record.name == "model_server.local"]
    assert told.startswith(f"{random_llava.name} in ")
    assert "room for 4 chats of 512 tokens; context 512 tokens." in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_on_a_cpu_the_cache_is_bounded_however_much_memory_there_is(random_llava: Path) -> None:
    assert check_fit(str(random_llava), quantization="none", free_bytes=10**13).cache_bytes == 2 * 2**30
