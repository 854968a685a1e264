"""Scenes of the drawn world, and their pictures.

Lengths are fractions of the picture's longer side, so that a thing's size does not depend on the canvas shape: the model sees every
picture padded to a square. Positions ("top left") are thirds of the picture itself, as a person would describe it.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Rgb = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond")
# Several tones per colour, including the CSS one, so that a name is a region of the colour space, not a point.
COLOURS: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (225, 40, 40), (230, 57, 70)),
    "orange": ((255, 165, 0), (245, 140, 30), (255, 127, 14)),
    "yellow": ((255, 255, 0), (245, 220, 50), (255, 215, 0)),
    "green": ((0, 128, 0), (50, 160, 70), (0, 200, 0), (34, 139, 34)),
    "blue": ((0, 0, 255), (45, 90, 215), (30, 60, 180), (65, 105, 225)),
    "purple": ((128, 0, 128), (130, 60, 170), (106, 50, 160)),
    "pink": ((255, 192, 203), (255, 105, 180), (245, 130, 185)),
    "brown": ((139, 69, 19), (150, 75, 35), (120, 72, 40)),
    "black": ((0, 0, 0), (25, 25, 25)),
    "white": ((255, 255, 255), (246, 246, 246)),
}
COLOUR_NAMES = tuple(COLOURS)
# In reading order; index = 3 * row + column.
ZONES = (
    "at the top left",
    "at the top",
    "at the top right",
    "on the left",
    "in the middle",
    "on the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
SIZES = ("small", "big")
MAX_THINGS = 5
SMALL_RADII = (0.075, 0.10)
BIG_RADII = {1: (0.14, 0.42), 2: (0.14, 0.24)}  # by number of things; 0.14 to 0.18 for more than two
_MIN_CONTRAST = 85.0  # Euclidean distance in RGB; below it, people would not see the thing either
_ZONE_MARGIN = 0.035  # least distance of a centre from the border of its third, so that its position is unambiguous
_COLOUR_JITTER = 11


@dataclass(frozen=True, slots=True)
class Thing:
    """`x`, `y` (centre) and `radius` in units of the longer side, `angle` in radians; `zone` indexes ZONES."""

    shape: str
    colour: str
    rgb: Rgb
    x: float
    y: float
    radius: float
    angle: float
    zone: int

    @property
    def size(self) -> str:
        return "small" if self.radius < 0.12 else "big"


@dataclass(frozen=True, slots=True)
class Background:
    """How a scene's ground is painted: its kind, its colours, and the seed of its pattern."""

    kind: str
    tones: tuple[Rgb, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """`things` are in reading order. `width` and `height` are in units of the longer side: one of them is 1."""

    width: float
    height: float
    background: Background
    things: tuple[Thing, ...]


def _jittered(rgb: Rgb, amount: int, rng: random.Random) -> Rgb:
    r, g, b = (min(255, max(0, channel + rng.randint(-amount, amount))) for channel in rgb)
    return r, g, b


def _contrast(a: Rgb, b: Rgb) -> float:
    return math.dist(a, b)


def random_background(rng: random.Random) -> Background:
    """A ground as people might have it: mostly white or light, some dark, gradients and noise."""
    pick = rng.random()
    if pick < 0.35:
        base: Rgb = (255, 255, 255)
    elif pick < 0.65:
        base = (rng.randint(200, 252), rng.randint(200, 252), rng.randint(200, 252))
    elif pick < 0.80:
        grey = rng.randint(90, 190)
        base = _jittered((grey, grey, grey), 18, rng)
    elif pick < 0.95:
        base = (rng.randint(0, 60), rng.randint(0, 60), rng.randint(0, 60))
    else:
        base = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
    kind = rng.choices(("plain", "gradient", "stripes", "checks", "blobs", "noise"), (50, 14, 10, 6, 10, 10))[0]
    tones = (base,) if kind == "plain" else (base, _jittered(base, 34, rng))
    return Background(kind, tones, rng.getrandbits(32))


def random_scene(rng: random.Random) -> Scene:
    """A scene of 0 to 5 things that do not touch, each in its own zone."""
    aspect = 1.0 if rng.random() < 0.4 else rng.uniform(0.64, 1.0)
    width, height = (1.0, aspect) if rng.random() < 0.6 else (aspect, 1.0)
    background = random_background(rng)
    num_things = rng.choices(range(6), (2, 20, 22, 20, 18, 18))[0]
    # Small palettes repeat shapes and colours, which makes counting and "the other one" useful questions.
    shapes = rng.sample(SHAPES, rng.choice((1, 2, 3, len(SHAPES), len(SHAPES))))
    colours = rng.sample(COLOUR_NAMES, rng.choice((1, 2, 3, len(COLOUR_NAMES), len(COLOUR_NAMES))))
    things: list[Thing] = []
    for _ in range(40):
        if len(things) == num_things:
            break
        colour = rng.choice(colours)
        rgb = _jittered(rng.choice(COLOURS[colour]), _COLOUR_JITTER, rng)
        if min(_contrast(rgb, tone) for tone in background.tones) < _MIN_CONTRAST:
            colours = [*colours, rng.choice(COLOUR_NAMES)]
            continue
        placed = _place(things, num_things, width, height, rng)
        if placed is None:
            continue
        x, y, radius, zone = placed
        shape = rng.choice(shapes)
        things.append(Thing(shape, colour, rgb, x, y, radius, _random_angle(shape, rng), zone))
    return Scene(width, height, background, tuple(sorted(things, key=lambda thing: thing.zone)))


def _place(
    things: list[Thing], num_things: int, width: float, height: float, rng: random.Random
) -> tuple[float, float, float, int] | None:
    radius = rng.uniform(*(SMALL_RADII if rng.random() < 0.45 else BIG_RADII.get(num_things, (0.14, 0.18))))
    zone = rng.choice([zone for zone in range(9) if all(zone != thing.zone for thing in things)])
    row, column = divmod(zone, 3)
    edge = radius + 0.01
    low_x, high_x = max(column * width / 3 + _ZONE_MARGIN, edge), min((column + 1) * width / 3 - _ZONE_MARGIN, width - edge)
    low_y, high_y = max(row * height / 3 + _ZONE_MARGIN, edge), min((row + 1) * height / 3 - _ZONE_MARGIN, height - edge)
    if low_x > high_x or low_y > high_y:
        return None
    x, y = rng.uniform(low_x, high_x), rng.uniform(low_y, high_y)
    if any(math.hypot(x - thing.x, y - thing.y) < radius + thing.radius + 0.02 for thing in things):
        return None
    return x, y, radius, zone


def _random_angle(shape: str, rng: random.Random) -> float:
    # A square on its corner is a diamond: shapes with two names are not drawn.
    limit = {"square": 12, "diamond": 8, "cross": 12, "triangle": 20, "heart": 15, "star": 36, "circle": 0}[shape]
    return math.radians(rng.uniform(-limit, limit))


def outline(thing: Thing) -> list[tuple[float, float]]:
    """The thing's outline as a polygon around its centre, in units of the longer side, y downwards."""
    points: list[tuple[float, float]]
    match thing.shape:
        case "circle":
            points = [(math.cos(a), math.sin(a)) for a in (math.tau * i / 40 for i in range(40))]
        case "square":
            points = [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
        case "triangle":
            points = [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)]
        case "star":
            radii = (1.0, 0.42)
            points = [(radii[i % 2] * math.sin(math.pi * i / 5), -radii[i % 2] * math.cos(math.pi * i / 5)) for i in range(10)]
        case "heart":
            steps = (math.tau * i / 40 for i in range(40))
            points = [
                (
                    math.sin(t) ** 3,
                    -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
                )
                for t in steps
            ]
        case "cross":
            w = 0.34
            points = [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]
        case "diamond":
            points = [(0.0, -1.0), (0.7, 0.0), (0.0, 1.0), (-0.7, 0.0)]
        case _:
            raise ValueError(f"unknown shape: {thing.shape}")
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    return [(thing.radius * (cos * x - sin * y), thing.radius * (sin * x + cos * y)) for x, y in points]


def draw(scene: Scene, side: int) -> Image.Image:
    """The scene as an RGB picture whose longer side is `side` pixels."""
    size = max(1, round(scene.width * side)), max(1, round(scene.height * side))
    image = _draw_background(scene.background, size)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        polygon = [((thing.x + dx) * side, (thing.y + dy) * side) for dx, dy in outline(thing)]
        pen.polygon(polygon, fill=thing.rgb)
    return image


def _draw_background(background: Background, size: tuple[int, int]) -> Image.Image:
    base = background.tones[0]
    image = Image.new("RGB", size, base)
    if background.kind == "plain":
        return image
    rng = random.Random(background.seed)
    other = background.tones[1]
    width, height = size
    pen = ImageDraw.Draw(image)
    match background.kind:
        case "gradient":
            mask = Image.linear_gradient("L")
            if rng.random() < 0.5:
                mask = mask.transpose(Image.Transpose.ROTATE_90)
            image.paste(Image.new("RGB", size, other), mask=mask.resize(size))
        case "stripes":
            step = rng.uniform(0.03, 0.12) * max(size)
            slant = rng.choice((0.0, 0.0, 1.0))
            for i in range(-int(height / step) - 1, int(width / step) + 2, 2):
                x = i * step
                pen.polygon([(x, 0), (x + step, 0), (x + step + slant * height, height), (x + slant * height, height)], fill=other)
            if rng.random() < 0.4:
                image = image.transpose(Image.Transpose.ROTATE_90).resize(size)
        case "checks":
            step = rng.uniform(0.05, 0.14) * max(size)
            for row in range(int(height / step) + 1):
                for column in range(row % 2, int(width / step) + 1, 2):
                    pen.rectangle((column * step, row * step, (column + 1) * step, (row + 1) * step), fill=other)
        case "blobs":
            for _ in range(rng.randint(3, 7)):
                x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.1, 0.3) * max(size)
                pen.ellipse((x - r, y - r, x + r, y + r), fill=other)
            image = image.filter(ImageFilter.BoxBlur(0.06 * max(size)))
        case "noise":
            noise = np.random.default_rng(background.seed).integers(-16, 17, (height, width, 3), dtype=np.int16)
            image = Image.fromarray((np.asarray(image, np.int16) + noise).clip(0, 255).astype(np.uint8))
    return image


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG compression. `quality`: 1 to 95."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def random_image(scene: Scene, rng: random.Random) -> Image.Image:
    """The scene as people might send it: at some size, perhaps as JPEG, perhaps resized once."""
    image = draw(scene, rng.choice((96, 128, 160, 200, 256, 320)))
    if rng.random() < 0.2:
        scale = rng.uniform(0.5, 1.5)
        image = image.resize((max(48, round(image.width * scale)), max(48, round(image.height * scale))))
    if rng.random() < 0.4:
        image = as_jpeg(image, rng.randint(25, 90))
    return image
