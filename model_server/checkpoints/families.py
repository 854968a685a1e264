"""Which models can be served, and how each one's pictures are prepared.

A model can be served if a picture only means embeddings in place of some tokens, with ordinary causal attention and positions:
LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, SmolVLM, Idefics3, InternVL. Others are refused by their configuration; an unknown one with
no obstacle is tested once after loading: embeddings must give the same logits as pixels. LLaVA-1.5 is prepared as it was trained;
every other model by its own processor.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from PIL import Image as PilImage
from transformers import AutoImageProcessor, PreTrainedTokenizerFast, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]

from model_server.checkpoints.forms import ProcessorForms, SquareForms, features_of
from model_server.errors import ModelLoadError
from model_server.prompt import IMAGE_PLACEHOLDER, PromptTemplate
from model_server.types import Image
from model_server.vision import ImageForms

_TYPICAL_SIZES = ((2048, 2048), (2048, 1536), (1536, 2048), (2048, 1024), (1024, 2048), (512, 512))
_REMOTE = "A server that runs it, such as vLLM or SGLang, can be used instead: set THREADSIGHT_ENGINE_URL to that server's address."


_WITH_SINKS = frozenset({"gpt_oss"})
_MOVING_ROPE = frozenset({"dynamic", "longrope"})  # the cache of a short prompt would be wrong in a long one


@dataclass(frozen=True, slots=True)
class Family:
    """`max_images_per_chat`: what the models were trained with. `has_two_forms`: a picture gets fewer tokens if the chat has
    several."""

    max_images_per_chat: int = 1
    has_two_forms: bool = False


_KNOWN = {
    "llava": Family(),
    "llava_next": Family(),
    "llava_onevision": Family(8, has_two_forms=True),
    "smolvlm": Family(8),
    "idefics3": Family(8),
    "internvl": Family(8),
}


def _family(config: Any) -> Family:
    return _KNOWN.get(config.model_type, Family())


def check_servable(model: str, config: Any) -> None:
    """Raise `ModelLoadError` for a model that cannot be served. Needs only its configuration, before the weights are loaded."""
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelLoadError(f"{model} is of type {config.model_type}, which is not a model that talks about pictures.")
    reason = _obstacle(config)
    if reason is not None:
        raise ModelLoadError(f"{model} (type {config.model_type}) cannot be run here, because {reason}. {_REMOTE}")


def _obstacle(config: Any) -> str | None:
    text = getattr(config, "text_config", None)
    settings = dict(_settings(config.to_dict()))
    model_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    arguments = inspect.signature(model_class.forward).parameters
    if "mrope_section" in settings or "mm_token_type_ids" in arguments:
        return "its pictures have two-dimensional positions (mrope)"
    if "token_type_ids" in arguments or settings.get("use_bidirectional_attention"):
        return "it looks at a picture in both directions (bidirectional attention)"
    if settings.get("cross_attention_layers") or "cross_attention_mask" in arguments:
        return "it sees pictures through cross-attention"
    if any("deepstack" in name and value for name, value in settings.items()):
        return "it feeds pictures into several of its layers (deepstack)"
    if text is None or config.is_encoder_decoder or not hasattr(model_class, "get_image_features"):
        return "it takes pictures in a way that I do not know"
    if set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        return "its language model has layers without ordinary attention"
    if settings.get("attn_logit_softcapping"):
        return "its attention is of a kind that I do not have (softcapping)"
    if getattr(text, "model_type", None) in _WITH_SINKS:
        return "its attention is of a kind that I do not have (attention sinks)"
    if rope := {value for name, value in _settings(config.to_dict()) if name == "rope_type"} & _MOVING_ROPE:
        return f"its positions depend on the length of the whole prompt (rope of type {min(rope)})"
    return None


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        yield str(name), value
        if isinstance(value, Mapping):
            yield from _settings(value)


def context_length(config: Any) -> int:
    """The longest context in tokens. At most the sliding window, if there is one: within it, attention is ordinary."""
    text = config.text_config
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    return int(min(text.max_position_embeddings, window or text.max_position_embeddings))


def load_processor(path: str, config: Any, tokenizer: PreTrainedTokenizerFast, **where: Any) -> ProcessorMixin | None:
    """Load the model's own processor, without video; None for LLaVA-1.5. `where` is passed to `from_pretrained`. Raises as that
    does."""
    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if name is None:
        raise ValueError(f"there is no processor for the type {config.model_type}")
    # SmolVLM's own processor differs from Idefics3's only for videos, and needs a package for these.
    processor_class = getattr(transformers, "Idefics3Processor" if name == "SmolVLMProcessor" else name)
    settings, _ = processor_class.get_processor_dict(path, **where)
    template = settings.get("chat_template") or tokenizer.chat_template
    if config.model_type == "llava" and (not template or _is_vicuna(tokenizer, template)):
        return None
    if not template:
        raise ValueError("it has no chat template")
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "image_processor": AutoImageProcessor.from_pretrained(path, backend="pil", **where),
        "video_processor": None,
    }
    missing = [part for part in processor_class.get_attributes() if part not in parts]
    if missing:
        raise ValueError(f"its processor needs a {missing[0]}")
    arguments = [parts[part] for part in processor_class.get_attributes()]
    processor = without_video(processor_class).from_args_and_dict(arguments, settings)
    assert isinstance(processor, ProcessorMixin)
    processor.chat_template = template
    return processor


def without_video(processor_class: Any) -> Any:
    """A subclass that accepts None as its video processor, which would need torchvision and is not used for pictures."""
    if "video_processor" not in processor_class.get_attributes():
        return processor_class
    no_check = {"check_argument_for_proper_class": lambda self, name, argument: type(argument)}
    return type(processor_class.__name__, (processor_class,), no_check)


def _is_vicuna(tokenizer: PreTrainedTokenizerFast, template: str | Mapping[str, str]) -> bool:
    """Whether a chat template is LLaVA-1.5's, or llava-hf's shorter form of it."""
    chat: list[Any] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    rendered = tokenizer.apply_chat_template(chat, chat_template=_default(template), tokenize=False, add_generation_prompt=True)
    return f"USER: {IMAGE_PLACEHOLDER}\n?" in str(rendered) and str(rendered).rstrip().endswith("ASSISTANT:")


def _default(template: str | Mapping[str, str]) -> str:
    return template if isinstance(template, str) else template.get("default", "")


def prompt_template(
    name: str, tokenizer: PreTrainedTokenizerFast, processor: Any, eos_ids: Iterable[int], chat_template: str | None = None
) -> PromptTemplate:
    """Make the model's prompt template. `chat_template` is for a LLaVA-1.5 that was trained with another prompt. Raises
    `ModelLoadError`."""
    try:
        if processor is None:
            return PromptTemplate(tokenizer, chat_template, eos_ids=eos_ids)
        return PromptTemplate(tokenizer, _default(processor.chat_template), image_token=processor.image_token, eos_ids=eos_ids)
    except (ValueError, TypeError, TemplateError) as error:
        raise ModelLoadError(f"I cannot use the chat template of {name}: {error}. {_REMOTE}") from error


def image_forms(config: Any, image_processor: Any, processor: ProcessorMixin | None) -> ImageForms:
    """How this checkpoint turns pictures into tokens. `processor` None: a LLaVA-1.5 with square pictures of one size."""
    if processor is not None:
        return ProcessorForms(processor, has_two_forms=_family(config).has_two_forms)
    num_patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    return SquareForms(image_processor, num_patches + (config.vision_feature_select_strategy != "default"))


def num_image_tokens(forms: ImageForms, is_one_of_several: bool) -> int:
    """The most tokens that a picture of an ordinary shape takes."""
    images = [Image(b"", "image/png", "", width, height) for width, height in _TYPICAL_SIZES]
    return max(len(forms.token_ids(image, is_one_of_several)) for image in images)


def max_images_per_chat(config: Any, forms: ImageForms, context_length: int) -> int:
    """The family's own limit, or less, so that a quarter of the context is left for text."""
    max_images = _family(config).max_images_per_chat
    if max_images == 1:
        return 1
    return min(max_images, max(1, context_length * 3 // 4 // num_image_tokens(forms, is_one_of_several=True)))


def check_images_as_embeddings(name: str, model: Any, processor: Any) -> None:
    """For an unknown family: raise `ModelLoadError` unless features as embeddings give the same logits as pixels."""
    if model.config.model_type in _KNOWN:
        return
    pil = PilImage.effect_noise((96, 64), 80).convert("RGB")
    inputs = processor(text=[f"{processor.image_token} a b c"], images=[[pil]], return_tensors="pt").to(model.device)
    ids = inputs["input_ids"]
    with torch.no_grad():
        expected = model(**inputs).logits
        embeddings = model.get_input_embeddings()(ids).clone()
        try:
            embeddings[ids == processor.image_token_id] = features_of(model, inputs).to(embeddings)
            logits = model(inputs_embeds=embeddings).logits
            is_same = torch.allclose(logits, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            is_same = False
    if not is_same:
        raise ModelLoadError(f"{name} (type {model.config.model_type}) takes pictures in a way that I do not know. {_REMOTE}")
