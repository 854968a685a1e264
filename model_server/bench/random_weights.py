"""Models of real shapes with random weights: nothing to download, and as fast as the trained ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.bench.conversation import QUESTIONS
from model_server.checkpoints import families
from model_server.checkpoints.fit import best_plan, free_memory, plan
from model_server.checkpoints.loading import Checkpoint
from model_server.checkpoints.quantization import AUTO, placement, weight_dtype
from model_server.errors import ModelLoadError
from model_server.prompt import SYSTEM, PromptTemplate

_PATCH_SIDE = 14
_MAX_PATIENT_BYTES = 4e9  # of weights that a CPU can run in minutes


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of the language model (Llama) and the vision tower (CLIP; 336 pixels in patches of 14 make 576 image tokens)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vision_hidden_size: int
    vision_num_layers: int
    vision_num_heads: int
    vocab_size: int = 32064
    context_length: int = 4096
    vision_side: int = 336


ARCHITECTURES: Mapping[str, Architecture] = {
    "llava-1.5-7b": Architecture(4096, 11008, 32, 32, 1024, 24, 16),
    "llava-1.5-13b": Architecture(5120, 13824, 40, 40, 1024, 24, 16),
    # 58 million weights in the language model, 3.4 million in the vision tower: a seventeenth, about as in LLaVA-1.5-7B.
    "bench-58m": Architecture(512, 1376, 8, 8, 256, 4, 4, vocab_size=32000, context_length=2048),
    # For tests: a complete run in seconds.
    "bench-tiny": Architecture(64, 128, 2, 4, 32, 2, 2, vocab_size=512, context_length=512, vision_side=56),
}


def random_checkpoint(name: str, *, quantization: str = "none", is_patient: bool = False) -> Checkpoint:
    """Make a checkpoint of one of `ARCHITECTURES`. Blocks.

    Raises `ModelLoadError` when it does not fit, or would take hours on a CPU unless `is_patient`.
    """
    architecture = ARCHITECTURES[name]
    tokenizer = _tokenizer(architecture)
    config = _config(architecture, tokenizer)
    free = free_memory()
    planned = best_plan(config, free, name=name) if quantization == AUTO else plan(config, quantization, free, name=name)
    if not torch.cuda.is_available() and planned.weight_bytes > _MAX_PATIENT_BYTES and not is_patient:
        raise ModelLoadError(
            f"This machine has no GPU, and {name} has {planned.weight_bytes / 1e9:.0f} GB of weights: measuring it would take "
            "hours. Add --yes to do it all the same, or use --random-weights bench-58m."
        )
    if not planned.fits:
        raise ModelLoadError(f"{planned} There are {free / 1e9:.1f} GB free.")
    arguments = placement(planned.quantization, "auto")
    model = _random_model(config, arguments)
    side = architecture.vision_side
    image_processor = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    forms = families.image_forms(config, image_processor, None)
    eos_id: Any = tokenizer.eos_token_id
    return Checkpoint(
        name=f"{name} (random weights)",
        model=model.eval(),
        tokenizer=tokenizer,
        image_processor=image_processor,
        template=PromptTemplate(tokenizer),
        forms=forms,
        num_image_tokens=families.num_image_tokens(forms, is_one_of_several=False),
        max_images_per_chat=1,
        context_length=architecture.context_length,
        eos_ids=(eos_id,),
        plan=planned,
    )


def _random_model(config: LlavaConfig, arguments: Mapping[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    is_quantized = "quantization_config" in arguments
    dtype = weight_dtype("none") if is_quantized else arguments["dtype"]
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # created on the device: much faster on a GPU
        model = LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    if is_quantized:
        model = LlavaForConditionalGeneration.from_pretrained(None, config=config, state_dict=model.state_dict(), **arguments)
    assert isinstance(model, PreTrainedModel)
    return model


def _config(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=architecture.vision_hidden_size,
            intermediate_size=4 * architecture.vision_hidden_size,
            num_hidden_layers=architecture.vision_num_layers,
            num_attention_heads=architecture.vision_num_heads,
            image_size=architecture.vision_side,
            patch_size=_PATCH_SIDE,
            projection_dim=architecture.vision_hidden_size,
        ),
        text_config=LlamaConfig(
            vocab_size=architecture.vocab_size,
            hidden_size=architecture.hidden_size,
            intermediate_size=architecture.intermediate_size,
            num_hidden_layers=architecture.num_layers,
            num_attention_heads=architecture.num_heads,
            num_key_value_heads=architecture.num_heads,
            max_position_embeddings=architecture.context_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.get_vocab()["<image>"],
        vision_feature_layer=-2,
        image_seq_length=(architecture.vision_side // _PATCH_SIDE) ** 2,
    )


def _tokenizer(architecture: Architecture) -> PreTrainedTokenizerFast:
    """One token per word, and as many words as the embedding has rows, so that all output can be encoded again."""
    special = ["<unk>", "<s>", "</s>", "<image>"]
    words = list(dict.fromkeys([*special, *_words([SYSTEM, *QUESTIONS, "USER: ASSISTANT:"])]))
    words += [f"w{number}" for number in range(architecture.vocab_size - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_max_length=architecture.context_length,
    )
    fast.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return fast


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.split()]
