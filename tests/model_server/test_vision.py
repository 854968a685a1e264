from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from torch import nn
from transformers import PreTrainedModel

from model_server.checkpoints.loading import Checkpoint
from model_server.errors import EngineFailed, RequestRefused
from model_server.images import to_pil
from model_server.prompt import Prompt
from model_server.types import Image
from model_server.vision import HOLE, ImageEmbedding, ImageStore, num_prompt_tokens

MakeImage = Callable[..., Image]


@pytest.fixture
def store(checkpoint: Checkpoint) -> Iterator[ImageStore]:
    words = checkpoint.model.get_input_embeddings()
    yield ImageStore(checkpoint.model, checkpoint.forms, 2)
    checkpoint.model.set_input_embeddings(words)


def features(checkpoint: Checkpoint, image: Image) -> torch.Tensor:
    model: Any = checkpoint.model
    pixels = checkpoint.image_processor(to_pil(image), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output: torch.Tensor = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output[0]
    return output


def looked_up(embedding: ImageEmbedding, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = embedding(torch.tensor([ids], dtype=torch.int32))[0]
    return found


def test_a_pictures_ids_stand_for_its_features_and_words_stay_words(
    store: ImageStore, checkpoint: Checkpoint, image: MakeImage
) -> None:
    red, blue = image("red"), image("blue")
    red_ids, blue_ids = store.pin([red, blue])
    assert torch.equal(looked_up(store.embedding, red_ids), features(checkpoint, red))
    mixed = looked_up(store.embedding, (5, *blue_ids, 6))
    assert torch.equal(mixed[1:-1], features(checkpoint, blue))
    assert torch.equal(mixed[[0, -1]], store.embedding.words.weight[[5, 6]])
    assert not torch.equal(mixed[1:-1], looked_up(store.embedding, red_ids))
    assert min(red_ids + blue_ids) >= store.embedding.vocab_size


def test_a_prompts_pictures_are_in_their_places_among_its_words(store: ImageStore, image: MakeImage) -> None:
    red, blue = image("red"), image("blue")
    ids = store.pin_prompt(Prompt(((1, 2), red, (3,), blue, (4,))))
    red_ids, blue_ids = store.pin([red, blue])
    assert ids == [1, 2, *red_ids, 3, *blue_ids, 4]


def test_pictures_are_no_part_of_what_a_model_is_saved_as(store: ImageStore) -> None:
    assert list(store.embedding.state_dict()) == ["words.weight"]


def test_a_picture_is_encoded_once(store: ImageStore, image: MakeImage) -> None:
    first = store.pin([image("red")])
    assert store.pin([image("red")]) == first
    assert store.num_encoded == 1


def test_an_evicted_picture_comes_back_under_its_own_ids(store: ImageStore, checkpoint: Checkpoint, image: MakeImage) -> None:
    colours = ("red", "green", "blue")
    ids = {}
    for colour in colours:
        (ids[colour],) = store.pin([image(colour)])
        store.unpin([image(colour)])
    assert torch.count_nonzero(looked_up(store.embedding, ids["red"])) == 0  # evicted: nobody else's features
    assert store.pin([image("red")]) == [ids["red"]]
    assert torch.equal(looked_up(store.embedding, ids["red"]), features(checkpoint, image("red")))
    assert store.num_encoded == 4
    assert len({i for one in ids.values() for i in one}) == 3 * checkpoint.num_image_tokens


def test_the_picture_that_was_not_looked_at_for_longest_goes_first(store: ImageStore, image: MakeImage) -> None:
    for colour in ("red", "green", "red", "blue"):  # room for two: red was used again, so green has to go
        store.pin([image(colour)])
        store.unpin([image(colour)])
    assert store.num_encoded == 3
    store.pin([image("red")])
    assert store.num_encoded == 3
    store.unpin([image("red")])
    store.pin([image("green")])
    assert store.num_encoded == 4


def test_pinned_pictures_stay(store: ImageStore, checkpoint: Checkpoint, image: MakeImage) -> None:
    red, green = image("red"), image("green")
    (red_ids, _) = store.pin([red, green])
    with pytest.raises(EngineFailed, match="no room for another picture right now"):
        store.pin([image("blue")])
    store.unpin([green])
    store.pin([image("blue")])
    assert torch.equal(looked_up(store.embedding, red_ids), features(checkpoint, red))


def test_pins_count(store: ImageStore, image: MakeImage) -> None:
    red = image("red")
    store.pin([red, red])
    store.unpin([red])
    store.pin([image("green")])
    with pytest.raises(EngineFailed):
        store.pin([image("blue")])


def test_many_threads_at_once_encode_once(store: ImageStore, image: MakeImage) -> None:
    red = image("red")
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: store.pin([red]), range(8)))
    assert all(one == ids[0] for one in ids)
    assert store.num_encoded == 1


class FewWords:
    """As much of a model as the store needs."""

    config = None

    def __init__(self) -> None:
        self.words: nn.Module = nn.Embedding(10, 4)
        self.base_model = self

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def set_input_embeddings(self, words: nn.Module) -> None:
        self.words = words


class RaggedForms:
    """As many features as a picture is wide, a fifth of them when it is one of several; a word before and behind."""

    has_two_forms = True

    def num_features(self, image: Image, is_one_of_several: bool) -> int:
        return -(-image.width // 5) if is_one_of_several else image.width

    def token_ids(self, image: Image, is_one_of_several: bool) -> tuple[int, ...]:
        return (7, *(HOLE,) * self.num_features(image, is_one_of_several), 8)

    def features(self, model: object, image: Image, is_one_of_several: bool) -> torch.Tensor:
        generator = torch.Generator().manual_seed(2 * image.width + is_one_of_several)
        return torch.randn(self.num_features(image, is_one_of_several), 4, generator=generator)


SIZES = (1, 63, 64, 65, 200, 320)
RAGGED = [Image(b"", "image/png", f"{size}", size, 1) for size in SIZES]


@given(st.lists(st.tuples(st.lists(st.sampled_from(RAGGED), min_size=1, max_size=4), st.integers(0, 3)), max_size=25))
def test_ids_are_never_shared_nor_reused_and_pinned_pictures_stay(steps: list[tuple[list[Image], int]]) -> None:
    """Chats come, as many as there is room for, and go; at each step all that are there are looked up."""
    store = ImageStore(cast(PreTrainedModel, FewWords()), RaggedForms(), num_blocks=7)
    owner: dict[int, tuple[str, bool, int]] = {}
    chats: list[tuple[list[Image], list[tuple[int, ...]]]] = []
    for images, num_to_leave in steps:
        before = dict(store._num_pins)
        try:
            chats.append((images, store.pin(images)))
        except EngineFailed:
            assert store._num_pins == before
        for chat in chats[:num_to_leave]:
            store.unpin(chat[0])
        del chats[:num_to_leave]
        for chat_images, all_ids in chats:
            is_several = len(chat_images) > 1
            for image, ids in zip(chat_images, all_ids, strict=True):
                assert (ids[0], ids[-1]) == (7, 8)
                expected = RaggedForms().features(None, image, is_several)
                assert torch.equal(looked_up(store.embedding, ids[1:-1]), expected)
                for number, token_id in enumerate(ids[1:-1]):
                    assert token_id >= store.embedding.vocab_size
                    assert owner.setdefault(token_id, (image.sha256, is_several, number)) == (image.sha256, is_several, number)
        used = [block for blocks in store._blocks.values() for block in blocks]
        assert sorted(used + store._free_blocks) == list(range(1, 8))
    for chat_images, _ in chats:
        store.unpin(chat_images)
    assert store._num_pins == {}


def test_pictures_that_can_never_fit_together_are_refused() -> None:
    store = ImageStore(cast(PreTrainedModel, FewWords()), RaggedForms(), num_blocks=4)
    with pytest.raises(RequestRefused, match="more pictures"):
        store.pin([RAGGED[5]])
    assert len(store.pin([RAGGED[5], RAGGED[4]])[0]) == 66  # smaller, as they are several
    assert num_prompt_tokens(RaggedForms(), Prompt(((1, 2), RAGGED[0], (3,)))) == 6


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (50, 49), (32, 32), (300, 1)])
def test_pictures_are_padded_to_a_square_and_not_cropped(checkpoint: Checkpoint, image: MakeImage, size: tuple[int, int]) -> None:
    """Compared with LLaVA's own expand2square (haotian-liu/LLaVA c121f04, mm_utils.py)."""
    processor: Any = checkpoint.image_processor
    pil = to_pil(image("red", size))
    side = max(size)
    square = PilImage.new("RGB", (side, side), tuple(int(mean * 255) for mean in processor.image_mean))
    square.paste(pil, ((side - size[0]) // 2, (side - size[1]) // 2))
    resized = np.asarray(square.resize((32, 32), PilImage.Resampling.BICUBIC), dtype=np.float32) / 255
    expected = ((resized - np.array(processor.image_mean)) / np.array(processor.image_std)).transpose(2, 0, 1)
    pixels = processor(pil, return_tensors="pt")["pixel_values"][0].numpy()
    assert pixels.shape == (3, 32, 32)
    np.testing.assert_allclose(pixels, expected, atol=1e-4)


def test_a_very_long_picture_does_not_fill_the_memory(store: ImageStore, image: MakeImage) -> None:
    store.pin([image("red", (50_000, 2))])
    assert store.num_encoded == 1
