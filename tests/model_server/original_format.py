"""A small LLaVA with random weights, written twice: as haotian-liu/LLaVA writes its checkpoints, and as transformers does.

The original's names stand here as its own code has them (llava/model/llava_arch.py, multimodal_projector/builder.py and
multimodal_encoder/clip_encoder.py at c121f04), not derived from ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.checkpoints.loading import Checkpoint
from model_server.prompt import SYSTEM
from model_server.types import Image, Message, Role

VOCAB_SIZE = 330
SIDE = 32  # pixels
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True, slots=True)
class Twins:
    """The same model in both formats; `original` has its vision tower in the folder `tower` beside it."""

    original: Path
    tower: Path
    transformers: Path


def write_twins(folder: Path) -> Twins:
    twins = Twins(folder / "original", folder / "tower", folder / "transformers")
    model = _random_llava()
    write_tokenizer(twins.original)
    tokenizer = AutoTokenizer.from_pretrained(twins.original, config=model.config.text_config)
    model.save_pretrained(twins.transformers)
    processor = LlavaProcessor(LlavaImageProcessorPil(), tokenizer, patch_size=8, vision_feature_select_strategy="default")
    processor.save_pretrained(twins.transformers)
    write_tower(twins.tower, model)
    write_json(twins.original / "config.json", original_config(model))
    language, projector = original_weights(model)
    weights = {**language, **projector}
    names = sorted(weights)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for shard, held in shards.items():
        torch.save({name: weights[name] for name in held}, twins.original / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    write_json(twins.original / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    write_json(twins.original / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    return twins


@torch.no_grad()
def logits(checkpoint: Checkpoint, image: Image) -> torch.Tensor:
    """(positions, vocabulary) for a question about a picture, which goes in as embeddings."""
    model: Any = checkpoint.model
    prompt = checkpoint.template.encode([Message(Role.USER, "What colour is the circle?", (image,))])
    embed = model.get_input_embeddings()
    pieces = [
        checkpoint.forms.features(model, part, False) if isinstance(part, Image) else embed(torch.tensor(part))
        for part in prompt.parts
    ]
    output: torch.Tensor = model(inputs_embeds=torch.cat(pieces)[None]).logits[0]
    return output


def original_weights(model: LlavaForConditionalGeneration) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The language model's tensors, and the projector's, by the original's names."""
    ours = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    language = {
        "lm_head.weight": ours["lm_head.weight"],
        "model.embed_tokens.weight": ours["model.language_model.embed_tokens.weight"],
    }
    language["model.norm.weight"] = ours["model.language_model.norm.weight"]
    layer_parts = ["input_layernorm", "post_attention_layernorm"]
    layer_parts += [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    for layer in range(2):
        for part in layer_parts:
            language[f"model.layers.{layer}.{part}.weight"] = ours[f"model.language_model.layers.{layer}.{part}.weight"]
        language[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # as transformers 4.31 saved them
    projector = {
        f"model.mm_projector.{theirs}.{kind}": ours[f"model.multi_modal_projector.{part}.{kind}"]
        for theirs, part in ((0, "linear_1"), (2, "linear_2"))
        for kind in ("weight", "bias")
    }
    return language, projector


def original_config(model: LlavaForConditionalGeneration) -> dict[str, Any]:
    """config.json of liuhaotian/llava-v1.5-7b, with this model's sizes."""
    text: Any = model.config.text_config
    return {
        "_name_or_path": "llava-v1.5-7b",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "freeze_mm_vision_resampler": False,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_length": 4096,
        "max_position_embeddings": text.max_position_embeddings,
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "tower",
        "model_type": "llava",
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": text.vocab_size,
    }


def write_tower(folder: Path, model: LlavaForConditionalGeneration) -> None:
    """As openai/clip-vit-large-patch14-336: a whole CLIP, with a text side that LLaVA has no use for."""
    folder.mkdir(parents=True)
    vision: Any = model.config.vision_config
    prefix = "model.vision_tower."
    tensors = {
        f"vision_model.{name.removeprefix(prefix)}": tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith(prefix)
    }
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    tensors |= {"logit_scale": torch.ones(1), "visual_projection.weight": torch.ones(4, 32)}
    tensors["text_model.embeddings.token_embedding.weight"] = torch.ones(4, 4)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    vision_config = {"model_type": "clip_vision_model", **{name: getattr(vision, name) for name in names}}
    write_json(folder / "config.json", {"model_type": "clip", "projection_dim": 4, "vision_config": vision_config})
    preprocessor = {
        "crop_size": SIDE,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": MEAN,
        "image_std": STD,
        "resample": 3,
        "size": SIDE,
    }
    write_json(folder / "preprocessor_config.json", preprocessor)


def write_tokenizer(folder: Path) -> None:
    """A SentencePiece model and nothing else that could be read without it, as Llama 2 had it."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [SYSTEM, "USER: What colour is the circle? ASSISTANT: The circle is red."] * 20
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCAB_SIZE,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": False,
            "model_max_length": 2048,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        },
    )


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), "utf-8")


def _random_llava() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=8,
            projection_dim=4,
        ),
        text_config=LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            initializer_range=0.3,  # far-apart logits, so that rounding does not decide
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=VOCAB_SIZE,
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration(config)
    model.eval()
    return model
