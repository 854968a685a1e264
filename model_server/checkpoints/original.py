"""Converts checkpoints in haotian-liu/LLaVA's format (liuhaotian/llava-v1.5-7b and fine-tunes) into transformers' LLaVA.

They are recognized by `mm_vision_tower` in config.json; their model_type collides with transformers'. The vision tower is a
separate checkpoint; the tensors of the projector and the language model have other names. Source of the names: llava/model of
haotian-liu/LLaVA at c121f04, and transformers' convert_llava_weights_to_hf.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.checkpoints.hub import Source
from model_server.checkpoints.weights import read_checkpoint, read_tensors
from model_server.errors import ModelLoadError

# The prompt of fine-tunes on Mistral, such as LLaVA-Med: `mistral_instruct` in llava/conversation.py.
MISTRAL_INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}[INST] {% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %} [/INST]"
    "{% else %}{% for part in message.content %} {{ part.text }}{% endfor %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
_TEXT_CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig}
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^base_model\.(model\.)?", ""),  # peft's prefix
        (r"^model\.model\.", "model."),  # non_lora_trainables.bin has one more prefix
        # transformers' names before 4.52
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
        # the original's names
        (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
        (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
        (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
        (r"^model\.vision_tower\.(vision_tower\.)?(vision_model\.)?", "model.vision_tower."),
    )
)
_NOT_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$|\.position_ids$|image_newline$")


@dataclass(frozen=True, slots=True)
class Original:
    """Everything of a checkpoint except the loaded model. `chat_template` None is LLaVA-1.5's own prompt."""

    config: LlavaConfig
    state_dict: dict[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerFast
    image_processor: LlavaImageProcessorPil
    generation_config: GenerationConfig | None
    chat_template: str | None


def is_original(settings: Mapping[str, Any]) -> bool:
    """Whether this config.json is of LLaVA's own code, not of transformers."""
    return "mm_vision_tower" in settings


def module_name(name: str) -> str:
    """A tensor's name in transformers' LLaVA, from its name in the original, in an adapter or in an older transformers."""
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def read_config(source: Source, settings: Mapping[str, Any]) -> LlavaConfig:
    """Make the configuration from config.json of the checkpoint and of its vision tower, without weights. Raises
    `ModelLoadError`."""
    _check(source, settings)
    text_config = _TEXT_CONFIGS[_text_type(settings)]
    known = text_config().to_dict().keys() | {"rope_theta", "rope_scaling"}
    text = text_config(**{name: settings[name] for name in known & settings.keys() if name not in ("model_type", "architectures")})
    tower = _tower(source, settings)
    tower_settings = tower.settings(is_needed=True) or {}
    if tower_settings.get("model_type") not in ("clip", "clip_vision_model"):
        raise ModelLoadError(f"{source.path} sees through {tower.path}, and I know only vision towers of the type CLIP.")
    return LlavaConfig(
        text_config=text,
        vision_config=CLIPVisionConfig.from_pretrained(tower.path, **tower.arguments),
        # Above the vocabulary: pictures are inserted before the embedding, so none of the checkpoint's tokens is used for them.
        image_token_index=text.vocab_size,
        vision_feature_layer=settings.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full" if settings.get("mm_vision_select_feature") == "cls_patch" else "default",
        projector_hidden_act="gelu",
        tie_word_embeddings=bool(settings.get("tie_word_embeddings", False)),
    )


def read_original(
    source: Source, settings: Mapping[str, Any], *, base: Source | None = None, others: Path | None = None
) -> Original:
    """Read a checkpoint whose config.json `is_original`. Blocks, downloads included.

    For adapters, the language model's weights come from `base`, and the file `others` has the weights that were trained in full.
    Raises `ModelLoadError`, and the errors that `hub.explained` turns into it.
    """
    config = read_config(source, settings)
    tower = _tower(source, settings)
    weights_from = base or source
    seen = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in read_checkpoint(tower).items()
        if name.startswith(("vision_model.", "embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm."))
    }
    state_dict = {f"model.vision_tower.{name}": tensor for name, tensor in seen.items()}
    state_dict |= _renamed(read_checkpoint(weights_from))  # a fine-tune may include the tower
    if others is not None:
        state_dict |= _renamed(read_tensors(others))
    has_projector = any(name.startswith("model.multi_modal_projector.") for name in state_dict)
    if not has_projector and (file := source.file("mm_projector.bin")) is not None:
        state_dict |= _renamed(read_tensors(file))
    generation = weights_from.file("generation_config.json")
    return Original(
        config=config,
        state_dict={name: tensor for name, tensor in state_dict.items() if not _NOT_WEIGHTS.search(name)},
        tokenizer=_tokenizer(weights_from, config),
        image_processor=_image_processor(tower, config, is_padded=settings.get("image_aspect_ratio") == "pad"),
        generation_config=GenerationConfig.from_pretrained(generation.parent, local_files_only=True) if generation else None,
        chat_template=MISTRAL_INSTRUCT if _text_type(settings) == "mistral" else None,
    )


def _renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {module_name(name): tensor for name, tensor in tensors.items()}


def _check(source: Source, settings: Mapping[str, Any]) -> None:
    """Raise `ModelLoadError` for features of this format that are not supported."""
    projector = settings.get("mm_projector_type", "linear")
    aspect_ratio = str(settings.get("image_aspect_ratio"))
    if _text_type(settings) not in _TEXT_CONFIGS:
        reason = f"its language model is of the type {_text_type(settings)}, and I know Llama and Mistral"
    elif projector != "mlp2x_gelu":
        reason = f"its projector is of the type {projector}, and I know mlp2x_gelu, that of LLaVA-1.5"
    elif "anyres" in aspect_ratio or "crop" in aspect_ratio:
        reason = f"it cuts pictures into tiles ({aspect_ratio}). The same model in the format of llava-hf works"
    elif settings.get("mm_use_im_start_end"):
        reason = "it wants marks around its pictures (mm_use_im_start_end), which LLaVA-1.5 does not have"
    else:
        return
    raise ModelLoadError(f"{source.path} cannot be used: {reason}.")


def _text_type(settings: Mapping[str, Any]) -> str:
    """The language model's type: Llama for `llava` and `llava_llama`; others, such as `llava_mistral`, name theirs."""
    kind = str(settings.get("model_type", "llava")).lower().removeprefix("llava").lstrip("_")
    return kind or "llama"


def _tower(source: Source, settings: Mapping[str, Any]) -> Source:
    return source.beside(str(settings["mm_vision_tower"]))


def _tokenizer(source: Source, config: LlavaConfig) -> PreTrainedTokenizerFast:
    """Most have only a SentencePiece model, which transformers converts into a fast tokenizer (with sentencepiece and protobuf)."""
    tokenizer = AutoTokenizer.from_pretrained(source.path, config=config.text_config, trust_remote_code=False, **source.arguments)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelLoadError(f"{source.path} has no tokenizer that I can use (tokenizer.json or tokenizer.model).")
    return tokenizer


def _image_processor(tower: Source, config: Any, *, is_padded: bool) -> LlavaImageProcessorPil:
    side = config.vision_config.image_size
    sizes: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "do_pad": is_padded}
    if tower.file("preprocessor_config.json") is None:
        return LlavaImageProcessorPil(**sizes)
    processor = LlavaImageProcessorPil.from_pretrained(tower.path, **tower.arguments, **sizes)
    assert isinstance(processor, LlavaImageProcessorPil)
    return processor
