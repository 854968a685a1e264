"""The configuration of LLaVA-1.5-7B, without weights."""

from __future__ import annotations

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig


def llava_7b_config() -> LlavaConfig:
    """As llava-hf/llava-1.5-7b-hf, whose config.json has only values that differ from the language model's defaults."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ),
        text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5),
    )
