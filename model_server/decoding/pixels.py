"""From a decoder's pixels to the RGB that a viewer shows, in bands, so that no second copy of full size is made.

Pictures of more than 16 million pixels are made smaller by a whole factor: no model looks closer than that. Deep greyscale is
scaled to 8 bits by its range, and transparency is put on a ground that leaves the drawing visible.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image as PilImage
from PIL import ImageChops

from model_server.decoding.colour import Convert, to_srgb
from model_server.decoding.range import Range, range_of

Box = tuple[int, int, int, int]
"""Left, top, and right and bottom, which are outside."""

MAX_RESULT_PIXELS = 16_000_000
_BAND_PIXELS = 1 << 20
_HEAD_BYTES = 1 << 20  # where an animation's first frame begins
_ORIENTATION = 0x0112  # EXIF
_TURNS = dict(
    enumerate(
        (
            PilImage.Transpose.FLIP_LEFT_RIGHT,
            PilImage.Transpose.ROTATE_180,
            PilImage.Transpose.FLIP_TOP_BOTTOM,
            PilImage.Transpose.TRANSPOSE,
            PilImage.Transpose.ROTATE_270,
            PilImage.Transpose.TRANSVERSE,
            PilImage.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
_IS_LIGHT, _IS_DARK = 224, 32  # of 255: lighter is lost on white, darker on black
_MOST_LOST = 0.2  # of the visible pixels; a photograph cut out of its background has some white everywhere


def reduction(width: int, height: int) -> int:
    """By how much a picture is made smaller in each direction: 1, 2, 3, ..."""
    return max(1, math.ceil(math.sqrt(width * height / MAX_RESULT_PIXELS)))


def to_rgb(pil: PilImage.Image, factor: int, profile: bytes | None) -> PilImage.Image:
    """What a viewer shows of a loaded picture: RGB, upright, made smaller by `factor`. `profile` is its ICC profile.

    Takes a quarter of the picture's own memory, or as much for small ones."""
    result = _converted(pil, factor, profile)
    if result.mode == "RGBA":
        result = _on_ground(result)
    turn = _TURNS.get(orientation(pil))
    return result if turn is None else result.transpose(turn)


def first_frame_alone(pil: PilImage.Image, data: bytes) -> Callable[[PilImage.Image], PilImage.Image]:
    """What makes of the picture, once it is loaded, one that is transparent where its first frame is not. A GIF's or a WebP's frame
    may be smaller than the picture, and around it decoders paint a colour that viewers do not show."""
    box: Box | None = None
    if pil.format == "GIF" and pil.tile:  # type: ignore[attr-defined]
        box = pil.tile[0].extents  # type: ignore[attr-defined]
    elif pil.format == "WEBP" and pil.mode == "RGB":
        box = _first_box_of_webp(data, pil.size)
    if box is None or box == (0, 0, *pil.size):
        return lambda loaded: loaded

    def alone(loaded: PilImage.Image) -> PilImage.Image:
        shown = PilImage.new("RGBA", loaded.size, (255, 255, 255, 0))
        shown.paste(loaded.crop(box).convert("RGBA"), (box[0], box[1]))
        shown.info = loaded.info
        return shown

    return alone


def _first_box_of_webp(data: bytes, size: tuple[int, int]) -> Box | None:
    """Where an animation's first frame is (https://developers.google.com/speed/webp/docs/riff_container#animation); None for a
    picture that stands still."""
    at = data.find(b"ANMF", 12, _HEAD_BYTES)
    if at < 0 or data[12:16] != b"VP8X" or not data[20] & 2:
        return None
    left, top, width, height = (int.from_bytes(data[at + 8 + 3 * i : at + 11 + 3 * i], "little") for i in range(4))
    right, bottom = min(2 * left + width + 1, size[0]), min(2 * top + height + 1, size[1])
    return (2 * left, 2 * top, right, bottom) if 2 * left < right and 2 * top < bottom else None


def _converted(pil: PilImage.Image, factor: int, profile: bytes | None) -> PilImage.Image:
    """RGB or RGBA, made smaller by `factor`."""
    levels = range_of(pil)
    gamma = None if "srgb" in pil.info else pil.info.get("gamma")
    if pil.mode == "RGB" and factor == 1 and not pil.has_transparency_data and not profile and not gamma:
        plain = pil.copy()
        plain.info.clear()  # who saves it must not save its orientation too
        return plain
    width, height = pil.size
    result: PilImage.Image | None = None
    convert: Convert | None = None
    rows = max(1, _BAND_PIXELS // width // factor) * factor
    for top in range(0, height, rows):
        band = _standard(pil.crop((0, top, width, min(top + rows, height))), levels)
        if factor > 1:
            band = band.reduce(factor)
        convert = convert or to_srgb(band.mode, profile, gamma)
        band = convert(band)
        if result is None:
            result = PilImage.new(band.mode, (-(-width // factor), -(-height // factor)))
        result.paste(band, (0, top // factor))
    assert result is not None
    return result


def _standard(band: PilImage.Image, levels: Range | None) -> PilImage.Image:
    """In one of the modes L, LA, RGB, RGBA, CMYK, LAB."""
    if levels:
        return levels.to_eight_bits(band)
    if band.mode in ("1", "L", "RGB") and band.has_transparency_data:  # one colour means transparent
        return band.convert("RGBA")
    if band.mode in ("1", "La"):
        return band.convert("L" if band.mode == "1" else "LA")
    if band.mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB"):
        return band
    return band.convert("RGBA" if band.has_transparency_data else "RGB")


def _on_ground(rgba: PilImage.Image) -> PilImage.Image:
    alpha = rgba.getchannel("A")
    rgb = PilImage.new("RGB", rgba.size, _ground(rgba, alpha))
    rows = max(1, _BAND_PIXELS // rgba.width)
    for top in range(0, rgba.height, rows):
        box = (0, top, rgba.width, min(top + rows, rgba.height))
        rgb.paste(rgba.crop(box).convert("RGB"), box[:2], alpha.crop(box))
    return rgb


def _ground(rgba: PilImage.Image, alpha: PilImage.Image) -> str:
    """White if that leaves what is drawn visible, otherwise black or grey, whichever does."""
    if alpha.getextrema() == (255, 255):
        return "white"
    step = reduction(rgba.width, rgba.height * 16)
    small = rgba.resize((-(-rgba.width // step), -(-rgba.height // step)), PilImage.Resampling.NEAREST) if step > 1 else rgba
    visible = small.getchannel("A").point([0] * 32 + [255] * 224)
    red, green, blue = (small.getchannel(channel) for channel in "RGB")
    lightest = ImageChops.lighter(red, ImageChops.lighter(green, blue)).histogram(visible)
    darkest = ImageChops.darker(red, ImageChops.darker(green, blue)).histogram(visible)
    num_visible = sum(lightest) or 1
    lost = {
        "white": sum(darkest[_IS_LIGHT:]) / num_visible,
        "black": sum(lightest[:_IS_DARK]) / num_visible,
        "gray": sum(small.convert("L").histogram(visible)[96:160]) / num_visible,
    }
    return next((ground for ground in lost if lost[ground] <= _MOST_LOST), min(lost, key=lost.__getitem__))


def orientation(pil: PilImage.Image) -> int:
    """As EXIF has it, 1 to 8 if it is right; 1 if it is missing or broken."""
    for name in ("xmp", "XML:com.adobe.xmp"):  # viewers do not turn a picture because of what is written there
        pil.info.pop(name, None)
    try:
        return int(pil.getexif().get(_ORIENTATION, 1))
    except Exception:  # a picture with broken EXIF data is still usable
        return 1
