"""Checkpoints in the original format: the same model as in transformers' own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PilImage
from sentencepiece import SentencePieceProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from model_server.chatbot import LLaVAChatBot
from model_server.checkpoints.loading import load_checkpoint
from model_server.errors import ModelLoadError
from model_server.types import Image, Message, Role
from tests.model_server.original_format import MEAN, SIDE, STD, Twins, logits, write_json, write_twins


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return write_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture
def copy(twins: Twins, tmp_path: Path) -> Path:
    """The original-format checkpoint, to be changed."""
    shutil.copytree(twins.tower, tmp_path / "tower")
    shutil.copytree(twins.original, tmp_path / "original")
    return tmp_path / "original"


def change(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    write_json(file, {**json.loads(file.read_text("utf-8")), **settings})


def refusal(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_checkpoint(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_same_logits_as_in_transformers_format(twins: Twins, image: Callable[..., Image], quantization: str) -> None:
    original = load_checkpoint(str(twins.original), quantization=quantization)
    converted = load_checkpoint(str(twins.transformers), quantization=quantization)
    ours, theirs = logits(original, image("red")), logits(converted, image("red"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, logits(original, image("blue")), atol=1e-2)
    assert (original.context_length, original.num_image_tokens, original.eos_ids) == (512, 16, (2,))


def test_answers_through_the_engine(twins: Twins, tmp_path: Path, image: Callable[..., Image]) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(image("red").data)
    answers = []
    for folder in (twins.original, twins.transformers):
        with LLaVAChatBot(str(folder), load_in_8_bit=False) as bot:
            first = bot.start_new_chat(file, "What colour is the circle?", do_sample=False, max_new_tokens=12)
            answers.append((first, bot.continue_chat("And now?", do_sample=False, max_new_tokens=12)))
    assert answers[0] == answers[1]
    assert answers[0][0]


def test_the_tokenizer_is_that_of_sentencepiece(twins: Twins) -> None:
    tokenizer = load_checkpoint(str(twins.original)).tokenizer
    theirs = SentencePieceProcessor(model_file=str(twins.original / "tokenizer.model"))
    for text in ("USER: ", "\nWhat colour is the circle? ASSISTANT:", "größer als 中", "two  spaces", "</s><image>"):
        assert tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) == theirs.encode(text)


def expand2square(pil: PilImage.Image, background: tuple[int, ...]) -> PilImage.Image:
    """llava/mm_utils.py of haotian-liu/LLaVA at c121f04, as it stands there."""
    width, height = pil.size
    if width == height:
        return pil
    if width > height:
        result = PilImage.new(pil.mode, (width, width), background)
        result.paste(pil, (0, (width - height) // 2))
        return result
    result = PilImage.new(pil.mode, (height, height), background)
    result.paste(pil, ((height - width) // 2, 0))
    return result


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (31, 77), (640, 479), (5, 300), (1, 1)])
def test_pictures_are_padded_bit_for_bit_as_by_the_original(twins: Twins, size: tuple[int, int]) -> None:
    torch.manual_seed(sum(size))
    pil = PilImage.fromarray(torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8).numpy())
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )
    expected = clip(expand2square(pil, tuple(int(x * 255) for x in MEAN)), return_tensors="pt")["pixel_values"]
    processor: Any = load_checkpoint(str(twins.original)).image_processor
    assert torch.equal(processor(pil, return_tensors="pt")["pixel_values"], expected)


def test_without_pad_in_the_configuration_pictures_are_cropped_as_clip_does(copy: Path) -> None:
    change(copy, image_aspect_ratio="square")
    pil = PilImage.effect_noise((64, 40), 90).convert("RGB")
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )
    processor: Any = load_checkpoint(str(copy)).image_processor
    ours = processor(pil, return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, clip(pil, return_tensors="pt")["pixel_values"])


def test_a_tower_that_was_trained_along_wins(copy: Path, twins: Twins, image: Callable[..., Image]) -> None:
    before = logits(load_checkpoint(str(copy)), image("red"))
    shard = copy / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(shard)
    name = "embeddings.class_embedding"
    tensors[f"model.vision_tower.vision_tower.vision_model.{name}"] = torch.full((32,), 3.0)
    torch.save(tensors, shard)
    index = copy / "pytorch_model.bin.index.json"
    weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
    write_json(index, {"weight_map": {**weight_map, f"model.vision_tower.vision_tower.vision_model.{name}": shard.name}})
    changed = load_checkpoint(str(copy))
    model: Any = changed.model
    assert torch.equal(model.model.vision_tower.embeddings.class_embedding, torch.full((32,), 3.0))
    assert not torch.equal(logits(changed, image("red")), before)


def test_on_mistral_the_prompt_is_mistral_s(copy: Path, image: Callable[..., Image]) -> None:
    change(copy, model_type="llava_mistral", architectures=["LlavaMistralForCausalLM"], sliding_window=None)
    checkpoint = load_checkpoint(str(copy))
    assert checkpoint.model.config.get_text_config().model_type == "mistral"
    chat = [Message(Role.USER, "Q1", (image("red"),)), Message(Role.ASSISTANT, "A1"), Message(Role.USER, "Q2")]
    assert checkpoint.template.text(chat) == "<s>[INST] <image>\nQ1 [/INST] A1</s>[INST] Q2 [/INST]"
    assert logits(checkpoint, image("red")).isfinite().all()


def test_what_this_program_cannot_is_said(copy: Path) -> None:
    for settings, word in (
        ({"mm_projector_type": "linear"}, "linear"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"image_aspect_ratio": "anyres"}, "llava-hf"),
        ({"model_type": "llava_mpt"}, "mpt"),
        ({"mm_vision_tower": "nobody/nowhere"}, "HF_HUB_OFFLINE"),
    ):
        shutil.copyfile(copy / "config.json", copy / "kept")
        change(copy, **settings)
        assert word in refusal(copy)
        shutil.move(copy / "kept", copy / "config.json")


def test_what_is_missing_is_said(copy: Path) -> None:
    shard = copy / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(shard)
    torch.save(dict(list(tensors.items())[1:]), shard)
    assert "not complete" in refusal(copy)
    shard.unlink()
    assert shard.name in refusal(copy)
    (copy / "pytorch_model.bin.index.json").unlink()
    assert "no weights" in refusal(copy)


def test_shards_outside_of_the_folder_are_not_read(copy: Path) -> None:
    shutil.move(copy / "pytorch_model-00002-of-00002.bin", copy.parent / "elsewhere.bin")
    write_json(copy / "pytorch_model.bin.index.json", {"weight_map": {"a": "../elsewhere.bin"}})
    assert "outside" in refusal(copy)


class Payload:
    """Pickled, it runs code when it is read carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "mm_projector.bin"])
def test_code_in_pickles_is_refused_without_running_it(copy: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    if name == "mm_projector.bin":  # read only when the projector is not among the weights
        for shard in copy.glob("pytorch_model-*.bin"):
            torch.save({key: tensor for key, tensor in torch.load(shard).items() if "mm_projector" not in key}, shard)
    torch.save({"lm_head.weight": Payload(marker)}, copy / name)
    assert "refused" in refusal(copy)
    assert not marker.exists()
    torch.load(copy / name, weights_only=False)  # the payload is a real one
    assert marker.exists()


def test_a_projector_in_a_file_of_its_own(copy: Path, twins: Twins, image: Callable[..., Image]) -> None:
    projector: dict[str, torch.Tensor] = {}
    for shard in copy.glob("pytorch_model-*.bin"):
        tensors = torch.load(shard)
        projector |= {key: tensor for key, tensor in tensors.items() if "mm_projector" in key}
        torch.save({key: tensor for key, tensor in tensors.items() if key not in projector}, shard)
    assert len(projector) == 4
    torch.save(projector, copy / "mm_projector.bin")
    expected = logits(load_checkpoint(str(twins.original)), image("red"))
    assert torch.equal(logits(load_checkpoint(str(copy)), image("red")), expected)
