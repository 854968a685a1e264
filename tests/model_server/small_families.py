"""Small checkpoints with random weights, one of each family, with tokenizer, processor and chat template as the family has them;
and what transformers itself answers with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from model_server.checkpoints.families import load_processor, without_video
from model_server.checkpoints.loading import Checkpoint, load_checkpoint
from model_server.images import to_pil
from model_server.prompt import Prompt
from model_server.tiny.language import llama_tokenizer
from model_server.types import Image, Message
from model_server.vision import HOLE

CONTEXT_LENGTH = 1024
TEXTS = [
    "User: What colour is the circle? Assistant: The circle is red. größer als 中\n",
    "<|im_start|>user\nassistant\n how many?",
]
GRID = [[32, 64], [64, 32], [64, 64]]
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]

# As the families' published checkpoints have them.
MISTRAL_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}{% endfor %}"
    "{{ '[/INST]' }}{% else %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}{% endif %}{% endfor %}"
)
ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level_tokenizer(specials: list[str], eos: str, **options: Any) -> PreTrainedTokenizerFast:
    """In the manner of GPT-2, as Qwen, Llama 3 and SmolLM have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=eos, **options)
    fast.add_tokens([AddedToken(text, special=True, normalized=False) for text in specials], special_tokens=True)
    return fast


def language(config_class: Any, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Any:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT_LENGTH}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return config_class(vocab_size=len(tokenizer), initializer_range=0.3, **sizes, **heads, **ends, **options)


def vision(config_class: Any, **options: Any) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    return config_class(**{**sizes, "image_size": 32, "initializer_range": 0.3, **options})


def llava_next(folder: Path) -> None:
    tokenizer = llama_tokenizer(TEXTS * 4, 501, CONTEXT_LENGTH)
    bos = [("<s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=bos)
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=GRID
    )
    processor = LlavaNextProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=MISTRAL_TEMPLATE,
    )
    config = LlavaNextConfig(
        vision_config=vision(CLIPVisionConfig),
        text_config=language(LlamaConfig, tokenizer),
        image_grid_pinpoints=GRID,
        image_token_index=processor.image_token_id,
    )
    _save(folder, LlavaNextForConditionalGeneration(config), processor)


def llava_onevision(folder: Path) -> None:
    tokenizer = byte_level_tokenizer(["<|im_start|>", "<image>", "<video>"], "<|im_end|>")
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    processor = without_video(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=GRID),
        tokenizer,
        None,
        **settings,
        chat_template=ONEVISION_TEMPLATE,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision(SiglipVisionConfig, vision_use_head=False),
        text_config=language(Qwen2Config, tokenizer),
        image_grid_pinpoints=GRID,
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
    )
    _save(folder, LlavaOnevisionForConditionalGeneration(config), processor, settings)


def _idefics(folder: Path, image_processor_class: Any, config_class: Any, model_class: Any) -> None:
    specials = ["<|im_start|>", "<fake_token_around_image>", "<image>", "<global-img>", *TILES]
    tokenizer = byte_level_tokenizer(specials, "<end_of_utterance>", bos_token="<|im_start|>")
    image_processor = image_processor_class(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = Idefics3Processor(image_processor, tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE)
    config = config_class(
        vision_config=vision(config_class().vision_config.__class__).to_dict(),
        text_config=language(LlamaConfig, tokenizer),
        scale_factor=2,
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    _save(folder, model_class(config), processor)


def idefics3(folder: Path) -> None:
    _idefics(folder, Idefics3ImageProcessorPil, Idefics3Config, Idefics3ForConditionalGeneration)


def smolvlm(folder: Path) -> None:
    _idefics(folder, SmolVLMImageProcessorPil, SmolVLMConfig, SmolVLMForConditionalGeneration)


def internvl(folder: Path) -> None:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    names["video_token"] = "<video>"
    tokenizer = byte_level_tokenizer(["<|im_start|>", *names.values()], "<|im_end|>", extra_special_tokens=names)
    image_processor = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    settings = {"image_seq_length": 4}
    processor = without_video(InternVLProcessor)(image_processor, tokenizer, None, **settings, chat_template=INTERNVL_TEMPLATE)
    config = InternVLConfig(
        vision_config=vision(InternVLVisionConfig, image_size=[32, 32], patch_size=[8, 8]),
        text_config=language(Qwen2Config, tokenizer),
        image_token_id=processor.image_token_id,
        image_seq_length=4,
    )
    _save(folder, InternVLForConditionalGeneration(config), processor, settings)


def vipllava(folder: Path) -> None:
    """A family that nobody named."""
    tokenizer = byte_level_tokenizer(["<|im_start|>", "<image>"], "<|im_end|>")
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=INTERNVL_TEMPLATE.replace("<IMG_CONTEXT>", "<image>"),
    )
    config = VipLlavaConfig(
        vision_config=vision(CLIPVisionConfig),
        text_config=language(LlamaConfig, tokenizer),
        image_token_index=processor.image_token_id,
        vision_feature_layer=[-2, -1],
    )
    _save(folder, VipLlavaForConditionalGeneration(config), processor)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "vipllava": vipllava,
}


def write_checkpoint(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    FAMILIES[name](folder)


def _save(folder: Path, model: Any, processor: Any, settings: dict[str, Any] | None = None) -> None:
    """`settings` are those of a processor that cannot save itself, because it has no video processor."""
    with torch.no_grad():  # random answers that neither end by chance nor name a picture
        model.get_output_embeddings().weight[sorted(processor.tokenizer.added_tokens_decoder)] = 0
        if hasattr(model.model, "image_newline"):
            model.model.image_newline.normal_()
    model.save_pretrained(folder)
    if settings is None:
        processor.save_pretrained(folder)
        return
    processor.image_processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(processor.chat_template)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": type(processor).__name__, **settings}))


@dataclass(frozen=True)
class Reference:
    """The stock model and its own processor, one chat at a time."""

    checkpoint: Checkpoint
    processor: Any

    @classmethod
    def of(cls, folder: Path) -> Reference:
        checkpoint = load_checkpoint(str(folder))
        config = checkpoint.model.config
        return cls(checkpoint, load_processor(str(folder), config, checkpoint.tokenizer, local_files_only=True))

    def inputs(self, messages: Sequence[Message]) -> dict[str, torch.Tensor]:
        inputs = self.processor.apply_chat_template(
            conversation(messages), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        return {name: value for name, value in inputs.items() if name not in ("rows", "cols")}

    def flat(self, prompt: Prompt) -> list[int]:
        """Our prompt with the processor's image token where features stand."""
        ids: list[int] = []
        for part in prompt.parts:
            form = self.checkpoint.forms.token_ids(part, len(prompt.images) > 1) if isinstance(part, Image) else part
            ids += [self.processor.image_token_id if i == HOLE else i for i in form]
        return ids

    def answer(self, messages: Sequence[Message], max_new_tokens: int) -> tuple[int, ...]:
        ids = torch.tensor([self.flat(self.checkpoint.template.encode(messages))])
        inputs = self.inputs(messages)
        if len(messages) == 1:
            assert inputs["input_ids"].tolist() == ids.tolist()
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        output = self.checkpoint.model.generate(  # type: ignore[operator]
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(self.checkpoint.eos_ids),
            pad_token_id=self.checkpoint.eos_ids[0],
        )
        return tuple(output[0, ids.shape[1] :].tolist())


def conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {
            "role": str(message.role),
            "content": [
                *({"type": "image", "image": to_pil(image)} for image in message.images),
                {"type": "text", "text": message.text.strip()},
            ],
        }
        for message in messages
    ]
