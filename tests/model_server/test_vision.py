from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from model_server.checkpoints import Checkpoint
from model_server.errors import EngineFailed
from model_server.images import to_pil
from model_server.types import Image
from model_server.vision import PictureEmbedding, PictureStore

MakePicture = Callable[..., Image]


@pytest.fixture
def store(checkpoint: Checkpoint) -> Iterator[PictureStore]:
    words = checkpoint.model.get_input_embeddings()
    yield PictureStore(checkpoint.model, checkpoint.image_processor, checkpoint.num_image_tokens, 2)
    checkpoint.model.set_input_embeddings(words)


def features(checkpoint: Checkpoint, image: Image) -> torch.Tensor:
    pixels = checkpoint.image_processor(to_pil(image), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output: torch.Tensor = checkpoint.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output[0]
    return output


def looked_up(embedding: PictureEmbedding, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = embedding(torch.tensor([ids], dtype=torch.int32))[0]
    return found


def test_a_pictures_ids_stand_for_its_features_and_words_stay_words(
    store: PictureStore, checkpoint: Checkpoint, picture: MakePicture
) -> None:
    red, blue = picture("red"), picture("blue")
    red_ids, blue_ids = store.pin([red, blue])
    assert torch.equal(looked_up(store.embedding, red_ids), features(checkpoint, red))
    mixed = looked_up(store.embedding, (5, *blue_ids, 6))
    assert torch.equal(mixed[1:-1], features(checkpoint, blue))
    assert torch.equal(mixed[[0, -1]], store.embedding.words.weight[[5, 6]])
    assert not torch.equal(mixed[1:-1], looked_up(store.embedding, red_ids))
    assert min(red_ids + blue_ids) >= store.embedding.vocab_size


def test_a_picture_is_encoded_once(store: PictureStore, picture: MakePicture) -> None:
    first = store.pin([picture("red")])
    assert store.pin([picture("red")]) == first
    assert store.num_encoded == 1


def test_an_evicted_picture_comes_back_under_its_own_ids(store: PictureStore, checkpoint: Checkpoint, picture: MakePicture) -> None:
    colours = ("red", "green", "blue")
    ids = {}
    for colour in colours:
        (ids[colour],) = store.pin([picture(colour)])
        store.unpin([picture(colour)])
    assert torch.count_nonzero(looked_up(store.embedding, ids["red"])) == 0  # evicted: nobody else's features
    assert store.pin([picture("red")]) == [ids["red"]]
    assert torch.equal(looked_up(store.embedding, ids["red"]), features(checkpoint, picture("red")))
    assert store.num_encoded == 4
    assert len({i for one in ids.values() for i in one}) == 3 * checkpoint.num_image_tokens


def test_pinned_pictures_stay(store: PictureStore, checkpoint: Checkpoint, picture: MakePicture) -> None:
    red, green = picture("red"), picture("green")
    (red_ids, _) = store.pin([red, green])
    with pytest.raises(EngineFailed):
        store.pin([picture("blue")])
    store.unpin([green])
    store.pin([picture("blue")])
    assert torch.equal(looked_up(store.embedding, red_ids), features(checkpoint, red))


def test_pins_count(store: PictureStore, picture: MakePicture) -> None:
    red = picture("red")
    store.pin([red, red])
    store.unpin([red])
    store.pin([picture("green")])
    with pytest.raises(EngineFailed):
        store.pin([picture("blue")])


def test_many_threads_at_once_encode_once(store: PictureStore, picture: MakePicture) -> None:
    red = picture("red")
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: store.pin([red]), range(8)))
    assert all(one == ids[0] for one in ids)
    assert store.num_encoded == 1


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (50, 49), (32, 32), (300, 1)])
def test_pictures_are_padded_to_a_square_and_not_cropped(
    checkpoint: Checkpoint, picture: MakePicture, size: tuple[int, int]
) -> None:
    """Compared with LLaVA's own expand2square (haotian-liu/LLaVA c121f04, mm_utils.py)."""
    processor = checkpoint.image_processor
    pil = to_pil(picture("red", size))
    side = max(size)
    square = PilImage.new("RGB", (side, side), tuple(int(mean * 255) for mean in processor.image_mean))
    square.paste(pil, ((side - size[0]) // 2, (side - size[1]) // 2))
    resized = np.asarray(square.resize((32, 32), PilImage.Resampling.BICUBIC), dtype=np.float32) / 255
    expected = ((resized - np.array(processor.image_mean)) / np.array(processor.image_std)).transpose(2, 0, 1)
    pixels = processor(pil, return_tensors="pt")["pixel_values"][0].numpy()
    assert pixels.shape == (3, 32, 32)
    np.testing.assert_allclose(pixels, expected, atol=1e-4)


def test_a_very_long_picture_does_not_fill_the_memory(store: PictureStore, picture: MakePicture) -> None:
    store.pin([picture("red", (50_000, 2))])
    assert store.num_encoded == 1
