"""Loading a model: the bundled `tiny`, a folder, or a hub id; in transformers' format or the original LLaVA's, or an adapter.

Every error becomes a `ModelLoadError` with a plain sentence.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BaseImageProcessor,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.checkpoints import families, lora
from model_server.checkpoints.fit import MAX_CPU_CACHE_BYTES, Plan, best_plan, free_memory, plan
from model_server.checkpoints.hub import Source, explained
from model_server.checkpoints.original import is_original, read_config, read_original
from model_server.checkpoints.quantization import (
    AUTO,
    Quantization,
    bits,
    bitsandbytes_config,
    placement,
    use_plain_kernels_for_odd_sizes,
)
from model_server.errors import ModelLoadError
from model_server.prompt import PromptTemplate
from model_server.vision import ImageForms

TINY = "tiny"
TINY_PATH = Path(__file__).parents[1] / "tiny" / "checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model and everything that is needed to run it. Lengths are in tokens."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    image_processor: BaseImageProcessor
    template: PromptTemplate
    forms: ImageForms
    num_image_tokens: int  # the most that one picture takes
    max_images_per_chat: int
    context_length: int
    eos_ids: tuple[int, ...]
    plan: Plan  # computed before loading


def load_checkpoint(
    model: str = TINY,
    *,
    revision: str | None = None,
    quantization: Quantization = "none",
    device_map: str | Mapping[str, Any] = "auto",
) -> Checkpoint:
    """Load a checkpoint; blocks as long as that takes, downloads included. Raises `ModelLoadError`.

    `model` is `tiny`, a folder or a hub id, and `revision` a branch, tag or commit on the hub.
    """
    source = source_of(model, revision)
    name = TINY if model == TINY else source.name
    with explained(model):
        parts = _read(source)
        planned = _plan(parts.config, quantization, free_memory(), name)
        arguments = placement(planned.quantization if quantization == AUTO else quantization, device_map)
        if parts.adapter is not None:
            whole = _load(parts, {"dtype": arguments["dtype"], "attn_implementation": "sdpa"})
            parts = replace(parts, state_dict=lora.merge(whole, source, parts.adapter))
        weights = _load(parts, arguments)
        use_plain_kernels_for_odd_sizes(weights)
        return _checkpoint(name, weights.eval(), parts, planned)


def check_fit(
    model: str = TINY, *, revision: str | None = None, quantization: Quantization = AUTO, free_bytes: int | None = None
) -> Plan:
    """Compute the memory that loading would need, from the configuration: nothing else is downloaded. See `Plan.fits`.

    `free_bytes` None is the memory that is free now. Raises `ModelLoadError`, for `auto` also when nothing fits.
    """
    source = source_of(model, revision)
    if quantization != AUTO:
        bitsandbytes_config(quantization)  # its package may be missing
    with explained(model):
        config_source, settings, base, _ = _settings(source)
        if is_original(settings):
            config: Any = read_config(config_source, settings)
        else:
            config = AutoConfig.from_pretrained(base.path, trust_remote_code=False, **base.arguments)
            families.check_servable(base.path, config)
        name = TINY if model == TINY else source.name
        return _plan(config, quantization, free_memory() if free_bytes is None else free_bytes, name)


def _plan(config: Any, quantization: Quantization, free_bytes: int, name: str) -> Plan:
    if quantization == AUTO:
        planned = best_plan(config, free_bytes, name=name)
    else:
        planned = plan(config, bits(quantization), free_bytes, name=name)
    if torch.cuda.is_available():
        return planned
    return replace(planned, cache_bytes=min(planned.cache_bytes, MAX_CPU_CACHE_BYTES))


def source_of(model: str, revision: str | None = None) -> Source:
    """The checkpoint that `model` names. Raises `ModelLoadError` when the bundled model is not installed."""
    if model == TINY and not TINY_PATH.is_dir():
        raise ModelLoadError("The bundled model is missing from this installation. Please install Threadsight again.")
    return Source(str(TINY_PATH)) if model == TINY else Source(model, revision)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A checkpoint before its weights are loaded, which come from `state_dict` or from the files of `base`."""

    base: Source
    config: Any
    tokenizer: PreTrainedTokenizerFast
    processor: ProcessorMixin | None  # None for LLaVA-1.5
    image_processor: BaseImageProcessor
    state_dict: dict[str, torch.Tensor] | None = None
    adapter: dict[str, Any] | None = None  # the content of adapter_config.json
    generation_config: GenerationConfig | None = None
    chat_template: str | None = None


def _settings(source: Source) -> tuple[Source, dict[str, Any], Source, dict[str, Any] | None]:
    """The source of config.json, its content, the source of the weights, and adapter_config.json's content if `source` is an
    adapter."""
    adapter = source.settings("adapter_config.json")
    settings = source.settings(is_needed=adapter is None)
    if adapter is None:
        return source, settings or {}, source, None
    base = lora.base_of(source, adapter)
    if settings is not None and is_original(settings):  # LLaVA's own adapters include the whole model's config.json
        return source, settings, base, adapter
    return base, base.settings(is_needed=True) or {}, base, adapter


def _read(source: Source) -> _Parts:
    config_source, settings, base, adapter = _settings(source)
    if not is_original(settings):
        return _read_as_is(base, adapter)
    others = None if adapter is None else source.file("non_lora_trainables.bin")
    parts = read_original(config_source, settings, base=base, others=others)
    return _Parts(
        base,
        parts.config,
        parts.tokenizer,
        None,
        parts.image_processor,
        state_dict=parts.state_dict,
        adapter=adapter,
        generation_config=parts.generation_config,
        chat_template=parts.chat_template,
    )


def _read_as_is(source: Source, adapter: dict[str, Any] | None) -> _Parts:
    """A checkpoint in transformers' own format."""
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=False, **source.arguments)
    families.check_servable(source.path, config)
    tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False, **source.arguments)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelLoadError(f"{source.path} has no fast tokenizer (tokenizer.json), and I need one.")
    processor = families.load_processor(source.path, config, tokenizer, **source.arguments)
    image_processor = _image_processor(source, config) if processor is None else processor.image_processor
    return _Parts(source, config, tokenizer, processor, image_processor, adapter=adapter)


def _load(parts: _Parts, arguments: Mapping[str, Any]) -> PreTrainedModel:
    model_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(parts.config)]
    weights: PreTrainedModel
    weights, info = model_class.from_pretrained(
        None if parts.state_dict is not None else parts.base.path,
        config=copy.deepcopy(parts.config),  # a model changes its config
        state_dict=parts.state_dict,
        output_loading_info=True,
        **parts.base.arguments,
        **arguments,
    )
    if info["missing_keys"]:  # transformers would fill them with random numbers, and only warn
        raise ModelLoadError(
            f"{parts.base.path} is not complete: weights for {len(info['missing_keys'])} parts of the model are missing."
        )
    if parts.generation_config is not None:
        weights.generation_config = parts.generation_config
    return weights


def _checkpoint(name: str, model: PreTrainedModel, parts: _Parts, planned: Plan) -> Checkpoint:
    tokenizer, processor, image_processor = parts.tokenizer, parts.processor, parts.image_processor
    config: Any = model.config
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    eos_ids = {int(tokenizer.eos_token_id), *(eos if isinstance(eos, list) else [eos] if eos is not None else [])}
    forms = families.image_forms(config, image_processor, processor)
    context_length = families.context_length(config)
    families.check_images_as_embeddings(name, model, processor)
    return Checkpoint(
        name=name,
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        template=families.prompt_template(name, tokenizer, processor, eos_ids, parts.chat_template),
        forms=forms,
        num_image_tokens=families.num_image_tokens(forms, is_one_of_several=False),
        max_images_per_chat=families.max_images_per_chat(config, forms, context_length),
        context_length=context_length,
        eos_ids=tuple(sorted(eos_ids)),
        plan=planned,
    )


def _image_processor(source: Source, config: Any) -> LlavaImageProcessorPil:
    """As in LLaVA-1.5's training: pad to a square with the mean colour, then resize. The published files say centre crop instead,
    which loses a quarter of a 4:3 picture."""
    side = config.vision_config.image_size
    processor = LlavaImageProcessorPil.from_pretrained(
        source.path, do_pad=True, size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **source.arguments
    )
    assert isinstance(processor, LlavaImageProcessorPil)
    return processor
