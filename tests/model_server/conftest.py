"""A small LLaVA with random weights in the format of the bundled model, loaded once for all tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image as PilImage
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.checkpoints.loading import Checkpoint, load_checkpoint
from model_server.images import read_image
from model_server.prompt import SYSTEM
from model_server.tiny.language import llama_tokenizer
from model_server.types import Image

torch.set_num_threads(1)

NUM_IMAGE_TOKENS = 16
CONTEXT_LENGTH = 512


def make_tokenizer() -> PreTrainedTokenizerFast:
    texts = [SYSTEM, "USER: What colour is the circle? ASSISTANT: The circle is red.", "describe the picture, größer als 中"] * 4
    return llama_tokenizer(texts, 501, CONTEXT_LENGTH)


@pytest.fixture(scope="session")
def random_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT_LENGTH,
            initializer_range=0.3,  # far-apart logits, so that rounding does not decide
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.get_vocab()["<image>"],
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # random answers that neither end by chance nor name a picture
        model.lm_head.weight[sorted(tokenizer.added_tokens_decoder)] = 0
    model.save_pretrained(folder)
    processor = LlavaProcessor(LlavaImageProcessorPil(), tokenizer, patch_size=8, vision_feature_select_strategy="default")
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(random_llava: Path) -> Checkpoint:
    """Without an engine: its attention is transformers' own, so that it can be asked for the right answer by `generate`."""
    return load_checkpoint(str(random_llava))


@pytest.fixture(scope="session")
def image() -> Callable[..., Image]:
    """A plain picture of one colour."""

    def make(colour: str, size: tuple[int, int] = (48, 32)) -> Image:
        buffer = io.BytesIO()
        PilImage.new("RGB", size, colour).save(buffer, "PNG")
        return read_image(buffer.getvalue(), f"{colour}.png")

    return make
