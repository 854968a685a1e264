"""Loading a LLaVA: the bundled `tiny`, a folder, or a hub id.

Whatever goes wrong becomes a `ModelLoadError` with a plain sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.errors import ModelLoadError
from model_server.prompt import PromptTemplate

TINY = "tiny"
TINY_PATH = Path(__file__).parent / "tiny" / "checkpoint"

# "none", "8bit", "4bit", or keyword arguments of transformers' BitsAndBytesConfig.
Quantization = str | Mapping[str, Any]

_log = logging.getLogger(__name__)
_UNQUANTIZED_PARTS = [r".*vision_tower", r".*multi_modal_projector", "lm_head"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with all that belongs to it."""

    name: str
    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    image_processor: LlavaImageProcessorPil
    template: PromptTemplate
    num_image_tokens: int
    context_length: int
    eos_ids: tuple[int, ...]


def load_checkpoint(
    model: str = TINY, *, quantization: Quantization = "none", device_map: str | Mapping[str, Any] = "auto"
) -> Checkpoint:
    """Load a checkpoint whose model_type is llava; blocks as long as that takes, downloads included. Raises `ModelLoadError`."""
    path = str(TINY_PATH) if model == TINY else model
    if model == TINY and not TINY_PATH.is_dir():
        raise ModelLoadError("The bundled model is missing from this installation. Please install Threadsight again.")
    is_local = Path(path).is_dir()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=is_local)
        _check_type(model, config)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=is_local)
        image_processor = _image_processor(path, config, is_local)
        placement = _placement(_bitsandbytes(quantization), device_map)
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(
            path, config=config, local_files_only=is_local, output_loading_info=True, **placement
        )
    except torch.cuda.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{model} does not fit into this GPU's memory. Quantization (8bit or 4bit) makes it smaller."
        ) from error
    except ImportError as error:
        raise ModelLoadError(f"{model} cannot be loaded, because a package is missing: {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelLoadError(f"{model} cannot be loaded as a model: {first_line}") from error
    weights, info = loaded
    if info["missing_keys"]:  # transformers would fill them with noise, and only warn
        raise ModelLoadError(f"{model} is not complete: weights for {len(info['missing_keys'])} parts of the model are missing.")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelLoadError(f"{model} has no fast tokenizer (tokenizer.json), and I need one.")
    return _checkpoint(Path(model).name if is_local else model, weights.eval(), tokenizer, image_processor)


def _checkpoint(
    name: str, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, image_processor: LlavaImageProcessorPil
) -> Checkpoint:
    config: Any = model.config
    num_patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    eos_ids = {int(tokenizer.eos_token_id), *(eos if isinstance(eos, list) else [eos] if eos is not None else [])}
    return Checkpoint(
        name=name,
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        template=PromptTemplate(tokenizer),
        num_image_tokens=num_patches if config.vision_feature_select_strategy == "default" else num_patches + 1,
        context_length=config.text_config.max_position_embeddings,
        eos_ids=tuple(sorted(eos_ids)),
    )


def _check_type(model: str, config: Any) -> None:
    if not isinstance(config, LlavaConfig):
        raise ModelLoadError(f"{model} is of type {config.model_type}, and this version runs LLaVA-1.5 models (type llava) only.")


def _image_processor(path: str, config: Any, is_local: bool) -> LlavaImageProcessorPil:
    """As LLaVA-1.5 was trained: padded to a square with the mean colour, then resized. The published files say centre crop instead,
    which loses a quarter of a 4:3 picture."""
    side = config.vision_config.image_size
    processor = LlavaImageProcessorPil.from_pretrained(
        path, local_files_only=is_local, do_pad=True, size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    assert isinstance(processor, LlavaImageProcessorPil)
    return processor


def _bitsandbytes(quantization: Quantization) -> BitsAndBytesConfig | None:
    if isinstance(quantization, str):
        known: dict[str, dict[str, Any]] = {
            "none": {},
            "8bit": {"load_in_8bit": True},
            "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        }
        if quantization not in known:
            raise ModelLoadError(f"Quantization can be none, 8bit or 4bit, not {quantization}.")
        quantization = known[quantization]
    if not quantization.get("load_in_8bit") and not quantization.get("load_in_4bit"):
        return None
    if not torch.cuda.is_available():
        _log.warning("There is no CUDA device here: the model is used in full precision instead of %s.", _bits(quantization))
        return None
    defaults = {"llm_int8_skip_modules": _UNQUANTIZED_PARTS, "bnb_4bit_compute_dtype": torch.bfloat16}
    return BitsAndBytesConfig(**{**defaults, **quantization})


def _bits(quantization: Mapping[str, Any]) -> str:
    return "8 bit" if quantization.get("load_in_8bit") else "4 bit"


def _placement(quantization: BitsAndBytesConfig | None, device_map: str | Mapping[str, Any]) -> dict[str, Any]:
    """On one device, always: the engine serves one GPU, and layers that are left on the CPU would make it slower than no GPU."""
    if not torch.cuda.is_available():
        return {"dtype": torch.float32, "attn_implementation": "sdpa"}
    dtype = torch.float16 if quantization is not None and quantization.load_in_8bit else torch.bfloat16
    placement: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    placement["device_map"] = {"": 0} if device_map == "auto" else device_map
    if quantization is not None:
        placement["quantization_config"] = quantization
    return placement
