"""The drawn world: what a scene promises, what its labels say, and that an answer says what the scene holds."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from model_server.prompt import SYSTEM
from model_server.tiny.dialogue import EVERYTHING, KINDS, Dialogue, Spec, describe, tell
from model_server.tiny.draw import COLOUR_NAMES, MAX_THINGS, SHAPES, Scene, draw, random_scene
from model_server.tiny.sight import GRID, HEADS, IMAGE_SIZE, padded, patch_labels
from model_server.tiny.strangers import FRAMES, NOUNS, SAYINGS
from model_server.tiny.wording import ASK, HELD_OUT

seeds = st.integers(0, 2**32)
NUMBERS = ("no", "one", "two", "three", "four", "five")


def scene_from(seed: int) -> Scene:
    return random_scene(random.Random(seed))


@given(seeds)
def test_things_lie_apart_inside_the_picture_and_in_reading_order(seed: int) -> None:
    scene = scene_from(seed)
    assert len(scene.things) <= MAX_THINGS
    zones = [thing.zone for thing in scene.things]
    assert zones == sorted(set(zones))
    for thing in scene.things:
        assert thing.radius <= thing.x <= scene.width - thing.radius
        assert thing.radius <= thing.y <= scene.height - thing.radius
        assert thing.zone == 3 * int(3 * thing.y / scene.height) + int(3 * thing.x / scene.width)
    for i, one in enumerate(scene.things):
        assert all(math.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius for other in scene.things[:i])


@given(seeds)
def test_a_thing_has_its_colour_in_the_picture(seed: int) -> None:
    scene = scene_from(seed)
    image = draw(scene, 200)
    for thing in scene.things:
        assert image.getpixel((int(thing.x * 200), int(thing.y * 200))) == thing.rgb


@given(seeds)
def test_the_patch_at_a_things_centre_is_labelled_with_it(seed: int) -> None:
    scene = scene_from(seed)
    labels = patch_labels(scene)
    names = list(HEADS)
    assert (labels[:, names.index("is_centre")] == 1).sum() == len(scene.things)
    assert (labels.max(0) < list(HEADS.values())).all()
    for thing in scene.things:
        x, y = thing.x + (1 - scene.width) / 2, thing.y + (1 - scene.height) / 2
        patch = labels[int(y * GRID) * GRID + int(x * GRID)]
        assert SHAPES[patch[names.index("shape")] - 1] == thing.shape
        assert COLOUR_NAMES[patch[names.index("colour")] - 1] == thing.colour
        assert patch[names.index("zone")] == thing.zone


def test_training_pictures_are_prepared_exactly_as_the_image_processor_does() -> None:
    processor = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_normalize=False
    )
    for size in ((256, 256), (320, 213), (150, 200)):
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        image = PilImage.fromarray(noise)
        pixels = processor(image, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(np.rint(pixels * 255).astype(np.uint8), np.asarray(padded(image)).transpose(2, 0, 1))


@given(seeds, st.sampled_from(SHAPES), st.sampled_from(COLOUR_NAMES))
def test_answers_say_what_the_scene_holds(seed: int, shape: str, colour: str) -> None:
    scene = scene_from(seed)
    of_shape = [thing for thing in scene.things if thing.shape == shape]
    assert tell(scene, EVERYTHING, "count").split()[2] == NUMBERS[len(scene.things)]
    assert tell(scene, Spec(shape), "count").split()[2] == NUMBERS[len(of_shape)]
    assert tell(scene, Spec(shape), "existence").startswith("Yes" if of_shape else "No")
    both = any(thing.colour == colour for thing in of_shape)
    assert tell(scene, Spec(shape, colour), "existence").startswith("Yes" if both else "No")
    colours = tell(scene, Spec(shape), "colour")
    assert all(thing.colour in colours for thing in of_shape)
    description = describe(scene)
    assert all(f"{thing.colour} {thing.shape}" in description for thing in scene.things)


@given(seeds, st.booleans())
def test_dialogues_are_the_same_for_the_same_seed_and_of_the_kinds_that_are_asked_for(seed: int, is_held_out: bool) -> None:
    def talk() -> list[tuple[str, str, str]]:
        dialogue = Dialogue(scene_from(seed), random.Random(seed), is_held_out)
        turns = [dialogue.turn() for _ in range(4)] + [dialogue.turn(kind) for kind in KINDS if kind != "follow_up"]
        assert [turn.kind for turn in turns[4:]] == [kind for kind in KINDS if kind != "follow_up"]
        return [(turn.kind, turn.question, turn.answer) for turn in turns]

    assert talk() == talk()


def test_what_is_held_out_is_never_trained_on() -> None:
    assert set(HELD_OUT) == set(ASK)
    for kind, wordings in HELD_OUT.items():
        assert not set(wordings) & set(ASK[kind])
    for phrases in (NOUNS, FRAMES, SAYINGS):
        assert phrases[True]
        assert not set(phrases[True]) & set(phrases[False])


@pytest.mark.trains
def test_the_whole_training_runs_and_its_result_loads(tmp_path: Path) -> None:
    """A step of every stage, as the one command; what comes out is a model that plain transformers loads."""
    command = [sys.executable, "-W", "ignore", "-m", "model_server.tiny.train", "--work", str(tmp_path / "work"), "--out"]
    options = ["--pictures", "160", "--batch", "2", "--effort", "0.0001", "--workers", "1"]
    done = subprocess.run([*command, str(tmp_path / "out"), *options], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "vision tower" in done.stderr  # the progress bar
    assert "stage2 1:" in done.stdout
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", local_files_only=True)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    processor = AutoProcessor.from_pretrained(tmp_path / "out", local_files_only=True)
    assert SYSTEM in processor.apply_chat_template([{"role": "user", "content": "hello"}])
