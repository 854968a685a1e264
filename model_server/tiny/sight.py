"""Stage 0, sight: the vision tower learns to tell for every patch what is there.

Dense labels rather than captions: each patch predicts the thing that covers it (shape, colour, position, size, its rank in reading
order, how many are like it) and the number of things in the picture. One linear map predicts all of this from the tower's last
layer, so that the projector finds it there. The loss is averaged over object patches and background patches separately: otherwise
the background, nine patches in ten, would outweigh the things.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel

from .draw import COLOUR_NAMES, SHAPES, SIZES, ZONES, Scene, outline, random_image, random_scene

IMAGE_SIZE = 64
PATCH_SIZE = 8
HELD_OUT = 2**40  # scenes with seeds from here on are never used for training
GRID = IMAGE_SIZE // PATCH_SIZE
NUM_PATCHES = GRID * GRID
# The padding colour of LLaVA: int(255 * mean) of CLIP's normalisation.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PADDING = tuple(int(255 * channel) for channel in MEAN)

# Name and number of classes of each patch label, in the order of the label array's last axis.
HEADS = {
    "shape": len(SHAPES) + 1,
    "colour": len(COLOUR_NAMES) + 1,
    "zone": len(ZONES),
    "size": len(SIZES),
    "rank": 5,
    "num_same_shape": 5,
    "num_same_colour": 5,
    "num_same_both": 5,
    "is_centre": 2,
    "num_things": 6,
}
_DENSE = ("shape", "colour")  # predicted at object and background patches
_GLOBAL = "num_things"  # predicted at every patch


def padded(image: Image.Image) -> Image.Image:
    """The picture as the tower gets it: padded to a square with the mean colour, then resized, as the image processor does."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), PADDING)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def patch_labels(scene: Scene) -> NDArray[np.uint8]:
    """Labels of the padded picture's patches, uint8 [64, len(HEADS)]. Background patches are all zeros: class 0 of "shape" and
    "colour" is "nothing"."""
    shift_x, shift_y = (1 - scene.width) / 2, (1 - scene.height) / 2
    cover = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE), 0)
    pen = ImageDraw.Draw(cover)
    for index, thing in enumerate(scene.things):
        polygon = [((thing.x + shift_x + dx) * IMAGE_SIZE, (thing.y + shift_y + dy) * IMAGE_SIZE) for dx, dy in outline(thing)]
        pen.polygon(polygon, fill=index + 1)
    patches = np.asarray(cover).reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).transpose(0, 2, 1, 3).reshape(NUM_PATCHES, -1)
    labels = np.zeros((NUM_PATCHES, len(HEADS)), np.uint8)
    labels[:, -1] = len(scene.things)
    counts = np.stack([(patches == index + 1).sum(1) for index in range(len(scene.things))] or [np.zeros(NUM_PATCHES, np.int64)])
    for index, thing in enumerate(scene.things):
        centre = int((thing.y + shift_y) * GRID) * GRID + int((thing.x + shift_x) * GRID)
        counts[index, centre] = PATCH_SIZE * PATCH_SIZE + 1  # the centre patch always belongs to its thing
        row = (
            SHAPES.index(thing.shape) + 1,
            COLOUR_NAMES.index(thing.colour) + 1,
            thing.zone,
            SIZES.index(thing.size),
            index,
            sum(other.shape == thing.shape for other in scene.things) - 1,
            sum(other.colour == thing.colour for other in scene.things) - 1,
            sum((other.shape, other.colour) == (thing.shape, thing.colour) for other in scene.things) - 1,
        )
        covered = (counts[index] >= 16) & (counts.argmax(0) == index)
        labels[covered, : len(row)] = row
        labels[centre, : len(row)] = row
        labels[centre, len(row)] = 1
    return labels


def scene_of(seed: int) -> Scene:
    """The scene of this seed, always the same."""
    return random_scene(random.Random(seed))


def _draw_block(seeds: range) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = np.empty((len(seeds), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    labels = np.empty((len(seeds), NUM_PATCHES, len(HEADS)), np.uint8)
    for i, seed in enumerate(seeds):
        scene = scene_of(seed)
        images[i] = np.asarray(padded(random_image(scene, random.Random(seed + 1_000_003))))
        labels[i] = patch_labels(scene)
    return images, labels


def drawn_images(seeds: range, cache: Path, num_workers: int = 2) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 64, 64, 3] and labels uint8 [N, 64, heads] of the scenes with these seeds. Drawn once, then read from
    `cache`."""
    path = cache / f"pictures-{seeds.start}-{seeds.stop}.pt"
    if not path.exists():
        blocks = [seeds[i : i + 500] for i in range(0, len(seeds), 500)]
        with ProcessPoolExecutor(num_workers) if len(blocks) > 4 else contextlib.nullcontext() as pool:
            work = pool.map(_draw_block, blocks) if pool else map(_draw_block, blocks)
            drawn = list(tqdm(work, "drawing", len(blocks), unit="x500"))
        images, labels = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*drawn, strict=True))
        cache.mkdir(parents=True, exist_ok=True)
        torch.save((images, labels), path)
    loaded: tuple[Tensor, Tensor] = torch.load(path, weights_only=True)
    return loaded


def normalised(images: Tensor) -> Tensor:
    """uint8 [B, 64, 64, 3] -> float32 [B, 3, 64, 64] in CLIP's normalisation."""
    return ((images.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


def vision_config() -> CLIPVisionConfig:
    """The shape of the vision tower: 4 layers, 128 wide."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
    )


def patch_features(tower: CLIPVisionModel, images: Tensor) -> Tensor:
    """The projector's input: the last layer's patch states without the class token, float [B, 64, 128]."""
    hidden: Tensor = tower(pixel_values=normalised(images), output_hidden_states=True).hidden_states[-1]
    return hidden[:, 1:]


def _losses(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    labels = labels.long()
    is_object = labels[..., 0] > 0
    for index, (name, part) in enumerate(zip(HEADS, logits.split(list(HEADS.values()), dim=-1), strict=True)):
        loss = F.cross_entropy(part.flatten(0, 1), labels[..., index].flatten(), reduction="none").view_as(is_object)
        if name == _GLOBAL:
            yield loss.mean()
            continue
        yield loss[is_object].mean()
        if name in _DENSE:
            yield loss[~is_object].mean()


def optimizers(modules: list[nn.Module], learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices (about half the steps of AdamW here), AdamW for embeddings, heads, norms and biases."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                is_hidden = parameter.ndim == 2 and "layers" in name
                (hidden if is_hidden else rest).append(parameter)
    chosen: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)]
    if hidden:
        chosen.append(torch.optim.Muon(hidden, lr=learning_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"))
    return chosen


def scheduled(step: int, num_steps: int, warmup: int = 100) -> float:
    """The factor for the learning rate: linear warm-up, constant, then down to zero over the last 40 %."""
    return min(1.0, (step + 1) / warmup, max(0.0, (num_steps - step) / (0.4 * num_steps)))


def held_out_seeds(num_images: int) -> range:
    """Of the pictures by which a training on so many is judged: 2000, or no more than it trains on."""
    return range(HELD_OUT, HELD_OUT + min(2000, num_images))


def train_tower(
    cache: Path, num_images: int, num_steps: int, learning_rate: float = 2e-3, batch_size: int = 128
) -> CLIPVisionModel:
    """Train a new vision tower. Prints accuracy on held-out pictures, and continues from the last saved checkpoint."""
    torch.manual_seed(0)
    images, labels = drawn_images(range(num_images), cache)
    held_out = drawn_images(held_out_seeds(num_images), cache)
    tower, heads = CLIPVisionModel(vision_config()), nn.Linear(128, sum(HEADS.values()))
    chosen = optimizers([tower, heads], learning_rate)
    path, first_step = cache / "tower.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        tower.load_state_dict(saved["tower"])
        heads.load_state_dict(saved["heads"])
        for optimizer, state in zip(chosen, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first_step = saved["step"]
    bar = tqdm(range(first_step, num_steps), "vision tower", num_steps, initial=first_step, unit="step")
    order = torch.randperm(num_images)
    for step in bar:
        start = step * batch_size % (num_images - batch_size)
        rows = order[start : start + batch_size]
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * scheduled(step, num_steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits = heads(patch_features(tower, images[rows]))
        losses = list(_losses(logits.float(), labels[rows]))
        torch.stack(losses).sum().backward()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {sum(loss.item() for loss in losses):.3f}")
        if step % 200 == 199 or step == num_steps - 1:
            tqdm.write(f"step {step + 1}: " + describe_accuracy(tower, heads, *held_out))
            states = [optimizer.state_dict() for optimizer in chosen]
            torch.save({"tower": tower.state_dict(), "heads": heads.state_dict(), "optimizers": states, "step": step + 1}, path)
    return tower


@torch.no_grad()
def describe_accuracy(tower: CLIPVisionModel, heads: nn.Linear, images: Tensor, labels: Tensor) -> str:
    """Accuracy of each label at the things' centres (and of the count at every patch), as one line."""
    logits = torch.cat([heads(patch_features(tower, block)) for block in images.split(250)])
    at_centre = labels[..., list(HEADS).index("is_centre")] == 1
    parts = []
    for index, (name, part) in enumerate(zip(HEADS, logits.split(list(HEADS.values()), dim=-1), strict=True)):
        right = part.argmax(-1) == labels[..., index]
        parts.append(f"{name} {(right if name == _GLOBAL else right[at_centre]).float().mean():.4f}")
    return ", ".join(parts)
