"""Every family on small random weights: what the engine says is what transformers' `generate` says, picture by picture."""

from __future__ import annotations

import asyncio
import io
import json
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PilImage
from transformers import (
    Gemma3Config,
    GptOssConfig,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    MistralConfig,
    MllamaConfig,
    PaliGemmaConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen3VLConfig,
    T5Config,
    VipLlavaForConditionalGeneration,
)

from model_server.checkpoints.families import context_length, max_images_per_chat
from model_server.checkpoints.forms import ProcessorForms, SquareForms
from model_server.checkpoints.loading import load_checkpoint
from model_server.detokenizer import decode
from model_server.errors import EngineFailed, ModelLoadError, PromptTooLong, RequestRefused
from model_server.images import read_image
from model_server.loop import InferenceLoop
from model_server.packed.engine import PackedEngine
from model_server.prompt import SYSTEM
from model_server.types import ChatRequest, Delta, Finished, Image, Message, Role, SamplingParams
from model_server.vision import HOLE
from tests.model_server.small_families import FAMILIES, INTERNVL_TEMPLATE, Reference, conversation, write_checkpoint

MakeImage = Callable[..., Image]
TIMEOUT = 60
SEVERAL = ["llava_onevision", "smolvlm", "idefics3", "internvl"]


@pytest.fixture(scope="session")
def image() -> MakeImage:
    """Noise over a colour: no two parts of a picture are alike."""

    def make(colour: str, size: tuple[int, int] = (48, 32)) -> Image:
        noise = PilImage.frombytes("RGB", size, random.Random(f"{colour} {size}").randbytes(3 * size[0] * size[1]))
        buffer = io.BytesIO()
        PilImage.blend(PilImage.new("RGB", size, colour), noise, 0.5).save(buffer, "PNG")
        return read_image(buffer.getvalue(), f"{colour}.png")

    return make


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            write_checkpoint(name, made[name])
        return made[name]

    return folder


@pytest.fixture(scope="session")
def references(folders: Callable[[str], Path]) -> Callable[[str], Reference]:
    made: dict[str, Reference] = {}

    def reference(name: str) -> Reference:
        if name not in made:
            made[name] = Reference.of(folders(name))
        return made[name]

    return reference


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[tuple[InferenceLoop, PackedEngine]]:
    engine = PackedEngine(load_checkpoint(str(folder)), **options)
    loop = InferenceLoop(engine)
    await loop.start()
    try:
        yield loop, engine
    finally:
        await loop.close()


@dataclass
class Chat:
    """Turns with the pictures that each brings; `first_word` is set when the first answer has begun."""

    turns: list[tuple[str, tuple[Image, ...], int]]
    messages: list[Message] = field(default_factory=list)
    asked: list[tuple[tuple[Message, ...], int, Finished]] = field(default_factory=list)
    first_word: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, loop: InferenceLoop) -> None:
        for question, images, length in self.turns:
            self.messages.append(Message(Role.USER, question, images))
            finished = await self._ask(loop, ChatRequest("chat", tuple(self.messages), SamplingParams(length, temperature=0)))
            self.asked.append((tuple(self.messages), length, finished))
            self.messages.append(Message(Role.ASSISTANT, finished.text, token_ids=finished.token_ids))

    async def _ask(self, loop: InferenceLoop, request: ChatRequest) -> Finished:
        async with asyncio.timeout(TIMEOUT):
            async for event in loop.submit(request):
                if isinstance(event, Delta):
                    self.first_word.set()
                if isinstance(event, Finished):
                    return event
        raise AssertionError("no end")


async def ask(loop: InferenceLoop, *messages: Message, max_new_tokens: int = 6) -> Finished:
    chat = Chat([(messages[-1].text, messages[-1].images, max_new_tokens)], list(messages[:-1]))
    await chat.run(loop)
    return chat.asked[0][2]


def crowd(image: MakeImage, max_images: int) -> list[Chat]:
    """Pictures of many shapes; where the model takes several they also come together, and in later turns, and again."""
    sizes = {"red": (64, 64), "green": (90, 30), "blue": (20, 70), "yellow": (33, 47), "pink": (200, 100)}
    red, green, blue, yellow, pink = (image(colour, size) for colour, size in sizes.items())
    chats = [
        Chat([("describe the picture", (red,), 9), ("how many?", (), 5), ("größer als 中 🎈?", (), 7)]),
        Chat([("What colour is the circle?", (green,), 14), ("", (), 4)]),
        Chat([("how many?", (blue,), 6), ("is it red?", (), 11), ("why?", (), 3)]),
        Chat([("how many?", (pink,), 8)]),
    ]
    if max_images > 1:
        chats += [
            Chat([("which one is red?", (red, yellow), 8), ("how many?", (), 9)]),
            Chat([("describe the picture", (yellow,), 12), ("and this?", (green, red), 6), ("and this?", (yellow,), 5)]),
        ]
    return chats


@pytest.mark.parametrize("name", FAMILIES)
async def test_every_token_is_that_of_generate(
    folders: Callable[[str], Path], references: Callable[[str], Reference], image: MakeImage, name: str
) -> None:
    """Each chat joins when the one before it has begun to be answered; few run at a time, and few pictures fit."""
    reference = references(name)
    chats = crowd(image, reference.checkpoint.max_images_per_chat)
    async with running(folders(name), max_running=4) as (loop, _), asyncio.TaskGroup() as tasks:
        for number, chat in enumerate(chats):
            if number:
                async with asyncio.timeout(TIMEOUT):
                    await chats[number - 1].first_word.wait()
            tasks.create_task(chat.run(loop))
    for chat in chats:
        assert len(chat.asked) == len(chat.turns)
        for messages, length, finished in chat.asked:
            assert (messages[-1].text, finished.token_ids) == (messages[-1].text, reference.answer(messages, length))
            assert finished.usage.num_prompt_tokens == len(reference.flat(reference.checkpoint.template.encode(messages)))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_chat_reads_as_the_models_own_template_writes_it(
    references: Callable[[str], Reference], image: MakeImage, name: str
) -> None:
    reference = references(name)
    images = (image("red"), image("green", (90, 30)))
    chat = [
        Message(Role.USER, "What colour is the circle?", images[:1]),
        Message(Role.ASSISTANT, "The circle is red."),
        Message(Role.USER, "how many?", images[1 : reference.checkpoint.max_images_per_chat]),
        Message(Role.ASSISTANT, "größer als 中"),
        Message(Role.USER, "how many?"),
    ]
    ours = reference.checkpoint.template.text(chat)
    theirs = reference.processor.apply_chat_template(conversation(chat), add_generation_prompt=True)
    assert "".join(ours.split()) == "".join(theirs.split())
    ids = reference.flat(reference.checkpoint.template.encode(chat))
    if name != "llava_onevision":  # its template puts a space more before an answer than the answer was generated behind
        assert ids == reference.inputs(chat)["input_ids"][0].tolist()
    longer = reference.checkpoint.template.encode(chat).parts
    for num_messages in (1, 3):
        *whole, last = reference.checkpoint.template.encode(chat[:num_messages]).parts
        assert list(longer[: len(whole)]) == whole
        next_part = longer[len(whole)]
        assert not isinstance(last, Image)
        assert not isinstance(next_part, Image)
        assert next_part[: len(last)] == last


@pytest.mark.parametrize("name", FAMILIES)
def test_generated_ids_are_kept_and_the_end_of_a_turn_stands_once(references: Callable[[str], Reference], name: str) -> None:
    checkpoint = references(name).checkpoint
    letters = tuple(checkpoint.tokenizer.encode("r", add_special_tokens=False) + checkpoint.tokenizer.encode("red")[-1:])
    text = decode(checkpoint.tokenizer, letters).strip()
    end = (checkpoint.eos_ids[0],)
    question = Message(Role.USER, "how many?")
    first = checkpoint.template.encode([question]).parts[0]
    assert not isinstance(first, Image)
    for ids in (letters, letters + end):
        prompt = checkpoint.template.encode([question, Message(Role.ASSISTANT, text, token_ids=ids), question])
        (longer,) = prompt.parts
        assert not isinstance(longer, Image)
        assert longer[: len(first) + len(letters) + 1] == first + letters + end


@pytest.mark.parametrize("name", FAMILIES)
def test_people_cannot_write_special_tokens(references: Callable[[str], Reference], name: str) -> None:
    checkpoint = references(name).checkpoint
    added = checkpoint.tokenizer.added_tokens_decoder
    written = " ".join(token.content for token in added.values()) + "<image></s>"

    def specials(text: str) -> list[int]:
        (ids,) = checkpoint.template.encode([Message(Role.USER, text)]).parts
        assert not isinstance(ids, Image)
        return [i for i in ids if i in added]

    assert specials(written) == specials("hello")
    (ids,) = checkpoint.template.encode([Message(Role.USER, written)]).parts
    assert not isinstance(ids, Image)
    assert written in checkpoint.tokenizer.decode(list(ids))


@pytest.mark.parametrize("name", ["llava_next", *SEVERAL])
def test_pictures_of_different_sizes_have_different_ids_and_counts(
    references: Callable[[str], Reference], image: MakeImage, name: str
) -> None:
    forms = references(name).checkpoint.forms
    counts = {forms.token_ids(image("red", size), False).count(HOLE) for size in [(64, 64), (200, 20), (30, 40), (40, 90)]}
    assert len(counts) > 1
    assert forms.token_ids(image("red", (60, 30)), False) == forms.token_ids(image("blue", (60, 30)), False)


@pytest.mark.parametrize(("width", "height"), [(45, 121), (45, 155)])
@pytest.mark.parametrize("name", ["llava_next", *SEVERAL])
def test_a_picture_that_was_stored_in_another_size_than_it_is_decoded_in_becomes_what_is_counted(
    references: Callable[[str], Reference], image: MakeImage, name: str, width: int, height: int
) -> None:
    """Pictures of over 16 million pixels are made smaller since they were stored."""
    checkpoint = references(name).checkpoint
    stored = replace(image("red", (-(-width // 2), -(-height // 2))), width=width, height=height)
    with torch.no_grad():
        features = checkpoint.forms.features(checkpoint.model, stored, False)
    assert len(features) == checkpoint.forms.token_ids(stored, False).count(HOLE)


def test_a_sliding_window_bounds_the_context() -> None:
    assert context_length(LlavaNextConfig(text_config=MistralConfig(sliding_window=100, max_position_embeddings=500))) == 100
    assert context_length(LlavaNextConfig(text_config=MistralConfig(sliding_window=None, max_position_embeddings=500))) == 500
    qwen = Qwen2Config(sliding_window=100, use_sliding_window=False, max_position_embeddings=500)
    assert context_length(LlavaOnevisionConfig(text_config=qwen)) == 500


@pytest.mark.parametrize(
    ("template", "is_vicuna"),
    [
        (
            "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for content in message['content'] %}"
            "{{ '<image>\n' if content['type'] == 'image' else content['text'] + ' ' }}{% endfor %}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
            True,
        ),
        (INTERNVL_TEMPLATE.replace("<IMG_CONTEXT>", "<image>"), False),
    ],
    ids=["llava-hf", "another"],
)
def test_llava_gets_the_prompt_of_its_training(random_llava: Path, tmp_path: Path, template: str, is_vicuna: bool) -> None:
    """llava-hf's template leaves out what LLaVA-1.5 was trained with; other models of the same type have prompts of their own."""
    shutil.copytree(random_llava, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(template)
    checkpoint = load_checkpoint(str(tmp_path))
    text = checkpoint.template.text([Message(Role.USER, "why?")])
    assert text == (f"{SYSTEM} USER: why? ASSISTANT:" if is_vicuna else "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n")
    assert isinstance(checkpoint.forms, SquareForms if is_vicuna else ProcessorForms)


def test_the_most_pictures_leave_room_for_words(references: Callable[[str], Reference]) -> None:
    assert references("llava_next").checkpoint.max_images_per_chat == 1
    assert references("vipllava").checkpoint.max_images_per_chat == 1
    for name in SEVERAL:
        checkpoint = references(name).checkpoint
        assert checkpoint.max_images_per_chat == 8
        assert max_images_per_chat(checkpoint.model.config, checkpoint.forms, 100) in range(2, 8)
        assert max_images_per_chat(checkpoint.model.config, checkpoint.forms, 20) == 1


@pytest.mark.parametrize("name", SEVERAL)
async def test_a_picture_that_joins_leaves_the_cache_of_the_first(
    folders: Callable[[str], Path], image: MakeImage, name: str
) -> None:
    async with running(folders(name)) as (loop, engine):
        question = Message(Role.USER, "describe the picture", (image("red", (64, 64)),))
        first = await ask(loop, question, max_new_tokens=20)
        answer = Message(Role.ASSISTANT, first.text, token_ids=first.token_ids)
        second = await ask(loop, question, answer, Message(Role.USER, "and this?", (image("blue", (20, 70)),)))
        if name == "llava_onevision":  # each of several pictures gets less room: the first is seen again, in its smaller form
            assert engine.images.num_encoded == 3
            assert second.usage.num_cached_tokens < 16
        else:
            assert engine.images.num_encoded == 2
            assert second.usage.num_cached_tokens == first.usage.num_prompt_tokens + 19


def write_config(folder: Path, config: Any) -> str:
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    return str(folder)


@pytest.mark.parametrize(
    ("config_class", "reason"),
    [
        (Qwen2VLConfig, "mrope"),
        (Qwen2_5_VLConfig, "mrope"),
        (Qwen3VLConfig, "mrope"),
        (Gemma3Config, "bidirectional"),
        (PaliGemmaConfig, "bidirectional"),
        (MllamaConfig, "cross-attention"),
    ],
)
def test_refusals_name_the_way_out(tmp_path: Path, config_class: Any, reason: str) -> None:
    with pytest.raises(ModelLoadError, match=reason) as caught:
        load_checkpoint(write_config(tmp_path, config_class()))
    assert "THREADSIGHT_ENGINE_URL" in str(caught.value)
    assert "vLLM" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            LlavaConfig(text_config=LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})),
            "rope of type dynamic",
        ),
        (InternVLConfig(text_config=GptOssConfig()), "attention sinks"),
    ],
    ids=["dynamic rope", "sinks"],
)
def test_language_models_that_would_be_computed_wrongly_are_refused(tmp_path: Path, config: Any, reason: str) -> None:
    with pytest.raises(ModelLoadError, match=reason):
        load_checkpoint(write_config(tmp_path, config))


def test_a_model_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="type t5, which is not a model that talks about pictures"):
        load_checkpoint(write_config(tmp_path, T5Config()))


def test_an_unknown_family_is_tried_before_it_is_trusted(folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stock = VipLlavaForConditionalGeneration.get_image_features

    def scaled(self: Any, *args: Any, **options: Any) -> Any:
        output = stock(self, *args, **options)
        output.pooler_output = [2 * one for one in output.pooler_output]
        return output

    monkeypatch.setattr(VipLlavaForConditionalGeneration, "get_image_features", scaled)
    with pytest.raises(ModelLoadError, match=r"in a way that I do not know.*THREADSIGHT_ENGINE_URL"):
        load_checkpoint(str(folders("vipllava")))


def test_a_checkpoint_without_a_usable_chat_template(folders: Callable[[str], Path], tmp_path: Path) -> None:
    for file in folders("internvl").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{% for message in messages %}{{ message['role'] }}{% endfor %}")
    with pytest.raises(ModelLoadError, match="chat template"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ModelLoadError, match="no chat template"):
        load_checkpoint(str(tmp_path))


async def test_a_shape_that_a_processor_cannot_take_is_said(
    folders: Callable[[str], Path], image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: ProcessorForms, *args: Any) -> None:
        raise ZeroDivisionError

    async with running(folders("smolvlm")) as (loop, _):
        monkeypatch.setattr(ProcessorForms, "_process", breaks)
        with pytest.raises(RequestRefused, match="4000 x 2 pixels"):
            await ask(loop, Message(Role.USER, "what?", (image("red", (4000, 2)),)))


async def test_more_than_the_cache_or_the_arena_holds_fails_that_request_alone(
    folders: Callable[[str], Path], references: Callable[[str], Reference], image: MakeImage
) -> None:
    """Pictures of 20 features, one block each: two blocks are taken by a long answer, the third is left for the others."""
    reference = references("idefics3")
    sizes = {"red": (64, 64), "green": (60, 60), "blue": (62, 62), "pink": (61, 61), "brown": (59, 59)}
    red, green, blue, pink, brown = (image(colour, size) for colour, size in sizes.items())
    async with running(folders("idefics3"), cache_tokens=800, image_blocks=3, max_running=4) as (loop, _):
        long = Chat([("describe the picture", (red, green), 400)])
        running_long = asyncio.create_task(long.run(loop))
        async with asyncio.timeout(TIMEOUT):
            await long.first_word.wait()
        with pytest.raises(RequestRefused, match="more pictures"):  # never fits
            await ask(loop, Message(Role.USER, "which?", (red, green, blue, pink)))
        with pytest.raises(EngineFailed, match="no room for another picture"):  # does not fit now
            await ask(loop, Message(Role.USER, "which?", (pink, brown)))
        with pytest.raises(PromptTooLong):
            await ask(loop, Message(Role.USER, "Ω" * 450))
        assert not running_long.done()
        other = Message(Role.USER, "how many?", (blue,))
        assert (await ask(loop, other)).token_ids == reference.answer([other], 6)
        async with asyncio.timeout(TIMEOUT):
            await running_long
        messages, length, finished = long.asked[0]
        assert finished.token_ids == reference.answer(messages, length)
        both = Message(Role.USER, "which?", (pink, brown))  # there is room again
        assert (await ask(loop, both)).token_ids == reference.answer([both], 6)
