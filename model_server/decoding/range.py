"""Deep greyscale (16 and 32 bits, floating point) scaled to 8 bits. Pillow's own conversion clips at 255 instead.

Which value is black and which is white follows what viewers of such pictures do: what the file says of its range; otherwise for
whole numbers the fewest bits that hold its brightest point (a camera's 12 bits in a 16-bit file), and for floating point 0 to 1,
unless its values go beyond that: then their own range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image as PilImage

if TYPE_CHECKING:
    import numpy as np

_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_MIN_TAGS, _MAX_TAGS = (340, 280), (341, 281)  # TIFF: SMinSampleValue, MinSampleValue; SMaxSampleValue, MaxSampleValue
_BITS, _SAMPLE_FORMAT = 258, 339
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_MOST_SAMPLED = 1 << 20
_OVERSHOT = 1.1  # resampling overshoots: such values were meant to be 0 to 1


@dataclass(frozen=True, slots=True)
class Range:
    """`black` and `white` are the values shown so. `transparent` is the value that is not shown at all, if there is one.
    `is_unsigned`: its 32 bits have no sign, as Pillow has it."""

    black: float
    white: float
    transparent: int | None = None
    is_unsigned: bool = False

    def to_eight_bits(self, pil: PilImage.Image) -> PilImage.Image:
        """A deep greyscale picture as L, or as LA if one value is transparent. Values that are no numbers are black."""
        import numpy as np

        values = _values(pil, is_unsigned=self.is_unsigned).astype(np.float32)
        scaled = (values - self.black) * (255.0 / (self.white - self.black))
        grey = PilImage.fromarray(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255).astype(np.uint8))
        if self.transparent is not None:
            grey.putalpha(PilImage.fromarray(np.where(values == self.transparent, 0, 255).astype(np.uint8)))
        return grey


def range_of(pil: PilImage.Image) -> Range | None:
    """The range of a loaded deep greyscale picture; None for pictures of 8 bits."""
    if pil.mode not in _MODES:
        return None
    tags: Any = getattr(pil, "tag_v2", {})
    is_unsigned = pil.mode == "I" and _only(tags.get(_BITS)) == 32 and _only(tags.get(_SAMPLE_FORMAT, 1)) == 1
    found = _of_floats(pil) if pil.mode == "F" else _of_whole_numbers(pil, is_unsigned=is_unsigned)
    black, white = _told(tags) or found
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        black, white = white, black
    transparent = pil.info.get("transparency")
    return Range(black, white, transparent if isinstance(transparent, int) else None, is_unsigned)


def _values(pil: PilImage.Image, *, is_unsigned: bool) -> np.ndarray:
    import numpy as np

    values = np.asarray(pil)
    return values.view(np.uint32) if is_unsigned else values


def _told(tags: Any) -> tuple[float, float] | None:
    """What a TIFF says of its own range, if it makes sense."""
    try:
        low, high = (next((float(_first(tags[tag])) for tag in names if tag in tags), None) for names in (_MIN_TAGS, _MAX_TAGS))
    except (TypeError, ValueError, IndexError):
        return None
    return (low or 0.0, high) if high is not None and 0 < high - (low or 0.0) < 1e30 else None


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _of_whole_numbers(pil: PilImage.Image, *, is_unsigned: bool) -> tuple[float, float]:
    low, high = 0, 0
    for top in range(0, pil.height, 256):
        band = _values(pil.crop((0, top, pil.width, min(top + 256, pil.height))), is_unsigned=is_unsigned)
        low, high = min(low, int(band.min())), max(high, int(band.max()))
    if low < -0.1 * max(high, 1):
        return low, max(high, 0)
    return 0, 2 ** next((bits for bits in (8, 10, 12, 14, 16, 20, 24) if high < 2**bits), 32) - 1


def _of_floats(pil: PilImage.Image) -> tuple[float, float]:
    """One value in a thousand may be off at either end, one in a hundred above 1: a pixel of a camera, a light."""
    import numpy as np

    step = max(1, int((pil.width * pil.height / _MOST_SAMPLED) ** 0.5))
    small = pil.resize((-(-pil.width // step), -(-pil.height // step)), PilImage.Resampling.NEAREST) if step > 1 else pil
    values = np.asarray(small)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low = float(np.quantile(values, 0.001, method="lower"))
    high = 1.0 if np.quantile(values, 0.99) <= _OVERSHOT else float(np.quantile(values, 0.999, method="higher"))
    return (low if low < -0.1 * high else 0.0), high
