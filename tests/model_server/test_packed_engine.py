"""What the engine says of itself, and how it shares out a step; what it generates is tested in test_engine.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_server.checkpoints.loading import Checkpoint, load_checkpoint
from model_server.errors import EngineFailed
from model_server.packed.cache import UNIT, Extent
from model_server.packed.engine import PackedEngine
from model_server.types import Message, ModelCapabilities, Role, SamplingParams
from model_server.vision import BLOCK_ROWS


@pytest.fixture
def engine(random_llava: Path) -> Iterator[PackedEngine]:
    engine = PackedEngine(load_checkpoint(str(random_llava)), cache_tokens=1_000)
    yield engine
    engine.stop()


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "threadsight-engine"]


def start(engine: PackedEngine) -> None:
    engine.start(lambda outputs: None, lambda error: None)


def test_it_says_what_the_checkpoint_can(engine: PackedEngine, random_llava: Path) -> None:
    assert engine.capabilities == ModelCapabilities(
        random_llava.name, context_length=512, num_image_tokens=16, max_images_per_chat=1
    )
    start(engine)
    assert engine.cache_capacity == 1_000 // UNIT
    assert [engine.cache_cost(UNIT, num) for num in (0, 1, UNIT, UNIT + 1)] == [1, 2, 2, 3]


def test_a_program_that_forgets_to_stop_it_can_end(engine: PackedEngine) -> None:
    start(engine)
    assert [thread.daemon for thread in engine_threads()] == [True]
    engine.stop()
    assert engine_threads() == []


def test_an_engine_that_does_not_run_takes_nothing_and_keeps_no_picture(engine: PackedEngine, image: Any) -> None:
    for _ in range(2):
        with pytest.raises(EngineFailed, match="not running"):
            engine.add("a", [Message(Role.USER, "what?", (image("red"),))], SamplingParams())
        assert engine.images._num_pins == {}
        assert engine._requests == {}
        start(engine)
        engine.stop()  # nor one that has stopped
    engine.cancel("a")  # nobody knows it


def image_blocks(checkpoint: Checkpoint, max_running: int) -> int:
    engine: Any = SimpleNamespace(_checkpoint=checkpoint)
    return PackedEngine._image_blocks(engine, max_running)


def test_room_for_pictures(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image_blocks(checkpoint, 1) == 64  # this one's pictures take a block each
    assert image_blocks(checkpoint, 40) == 80
    large = replace(checkpoint, num_image_tokens=2 * BLOCK_ROWS + 1, max_images_per_chat=3)
    assert image_blocks(large, 1) == 3 * 64
    assert image_blocks(large, 16) == 3 * 2 * 16 * 3
    embedding: Any = checkpoint.model.get_input_embeddings()
    monkeypatch.setattr(
        "model_server.packed.engine._MAX_IMAGE_BYTES", 70 * BLOCK_ROWS * embedding.embedding_dim * embedding.weight.element_size()
    )
    assert image_blocks(large, 16) == 70
    monkeypatch.setattr("model_server.packed.engine._MAX_IMAGE_BYTES", 1)
    assert image_blocks(large, 16) == 3 + 512 // BLOCK_ROWS + 3  # one chat that is full of them, in any case


def request(name: str, start: int, num_ids: int, num_known: int, num_new: int = 0) -> Any:
    return SimpleNamespace(request_id=name, ids=[0] * num_ids, extent=Extent(start, 999, [0] * num_known), num_new=num_new)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", [("written", 1), ("second", 156), ("first", 100)]),
        ("cuda", [("written", 1), ("second", 300), ("third", 50), ("first", 100)]),
        ("mps", [("written", 1), ("second", 156), ("first", 100)]),
    ],
)
def test_a_step_takes_a_token_of_every_answer_and_so_many_of_the_prompts_in_order_of_arrival(
    device: str, expected: list[tuple[str, int]]
) -> None:
    engine: Any = SimpleNamespace(_model=SimpleNamespace(device=SimpleNamespace(type=device)))
    requests = [
        request("first", 900, 120, 20),
        request("second", 300, 300, 0),
        request("third", 600, 50, 0),
        request("written", 0, 41, 40, num_new=3),
    ]
    chosen = PackedEngine._chosen(engine, requests)
    assert [(one.request_id, num) for one, _, num in chosen] == expected  # by rows
    assert all(extent is one.extent for one, extent, _ in chosen)
