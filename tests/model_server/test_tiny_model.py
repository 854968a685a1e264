"""The bundled model is what it says: a plain LLaVA checkpoint that sees."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPVisionModel, LlamaModel, LlavaForConditionalGeneration

from model_server import LLaVAChatBot
from model_server.checkpoints.loading import TINY_PATH, load_checkpoint
from model_server.images import read_image, to_pil
from model_server.prompt import SYSTEM
from model_server.tiny.dialogue import KINDS
from model_server.tiny.draw import COLOURS, Background, Scene, Thing, draw
from model_server.tiny.evaluate import CONDITIONS, PASS_MARK, as_markdown, evaluate
from model_server.types import Image, Message, Role

MAX_BYTES = 16_000_000


def image_of_a_red_circle_and_a_blue_star() -> bytes:
    circle = Thing("circle", "red", COLOURS["red"][0], 1 / 6, 1 / 6, 0.14, 0.0, 0)
    star = Thing("star", "blue", COLOURS["blue"][0], 0.5, 0.5, 0.15, 0.0, 4)
    file = io.BytesIO()
    draw(Scene(1.0, 1.0, Background("plain", ((255, 255, 255),), 0), (circle, star)), 300).save(file, "PNG")
    return file.getvalue()


def test_it_is_small_enough_to_ship() -> None:
    files = [file for file in TINY_PATH.rglob("*") if file.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= MAX_BYTES


def test_plain_transformers_load_it_and_it_sees() -> None:
    model: Any = AutoModelForImageTextToText.from_pretrained(TINY_PATH, local_files_only=True)
    processor: Any = AutoProcessor.from_pretrained(TINY_PATH, local_files_only=True)
    parts = (model, model.model.vision_tower, model.model.language_model)
    assert [type(part) for part in parts] == [LlavaForConditionalGeneration, CLIPVisionModel, LlamaModel]
    image = read_image(image_of_a_red_circle_and_a_blue_star(), "drawing.png")
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour is the star?"}]}]
    prompt = processor.apply_chat_template(talk)
    inputs = processor(images=to_pil(image), text=prompt, return_tensors="pt", add_special_tokens=False)
    # The same prompt as ours, token for token: there is one path.
    assert inputs["input_ids"][0].tolist() == ours(image, "What colour is the star?")
    generated = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    answer = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == ["The star is blue."]


def ours(image: Image, question: str) -> list[int]:
    checkpoint = load_checkpoint("tiny")
    prompt = checkpoint.template.encode([Message(Role.USER, question, (image,))])
    image_id = checkpoint.model.config.image_token_index
    return [
        token for part in prompt.parts for token in ([image_id] * checkpoint.num_image_tokens if isinstance(part, Image) else part)
    ]


def test_a_chat_as_in_the_article(tmp_path: Any) -> None:
    path = tmp_path / "drawing.png"
    path.write_bytes(image_of_a_red_circle_and_a_blue_star())
    with LLaVAChatBot("tiny") as bot:
        assert bot.start_new_chat(str(path), "What do you see?", do_sample=False) == (
            "I see a red circle at the top left and a blue star in the middle."
        )
        assert bot.continue_chat("whats the color of the circle", do_sample=False) == "The circle is red."
        assert bot.continue_chat("and the other one?", do_sample=False) == "The other one is blue."
        text = bot.get_conv_text()
    assert text.count(SYSTEM) == 1
    assert text.count("</s>") == 3


@pytest.mark.parametrize(
    "question",
    ["Who is the president of the zoo?", "whats 2+2", "asdkjh", "is there a zebra?", "what colour is the spaceship"],
)
def test_what_it_was_not_trained_on_it_says(question: str, tmp_path: Any) -> None:
    path = tmp_path / "drawing.png"
    path.write_bytes(image_of_a_red_circle_and_a_blue_star())
    with LLaVAChatBot("tiny") as bot:
        assert "trained on drawings" in bot.start_new_chat(str(path), question, do_sample=False)


async def test_it_sees_and_understands() -> None:
    """A short examination; `make evaluate-tiny` is the long one, with the same bar in every cell."""
    torch.set_num_threads(1)
    table, _ = await evaluate(num_questions=8, first_seed=7_000_000)
    assert set(table) == set(KINDS)
    for condition, *_ in CONDITIONS:
        assert sum(row[condition] for row in table.values()) / len(table) >= PASS_MARK, condition
    for kind, row in table.items():
        assert sum(row.values()) / len(row) >= PASS_MARK, kind
    assert as_markdown(table).count("\n") == len(KINDS) + 1
