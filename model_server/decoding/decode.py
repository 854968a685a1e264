"""Opens, checks and decodes a picture of a known kind, within bounds that hold whatever the file claims.

A file is decoded as it is; if that fails, once more without its metadata. What fails then is refused for the reason that the
decoder gives: damaged, a variant that it lacks, or too large.
"""

from __future__ import annotations

import io
import logging
import re
import warnings

import pillow_heif
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from model_server.decoding import spaces
from model_server.decoding.budget import DECODING
from model_server.decoding.colour import plain, to_srgb
from model_server.decoding.kinds import is_foreign_heif, is_foreign_jpeg
from model_server.decoding.mending import bare, profile_of_png, shown_part_of_png, space_of_png
from model_server.decoding.pixels import first_frame_alone, orientation, reduction, to_rgb

MAX_PIXELS = 64_000_000  # a 48-megapixel photograph passes

# Bytes of memory for each pixel at a decoder's peak, measured; where it matters.
_MOST_OTHERWISE = 8
_BYTES_PER_PIXEL = {("WEBP", "RGB"): 17, ("WEBP", "RGBA"): 17, ("AVIF", "RGB"): 9, ("AVIF", "RGBA"): 11, ("JPEG", "CMYK"): 10}
_SHOWN_KINDS = {"WEBP": "WebP", "HEIF": "HEIC"}
MAX_MEMORY_BYTES = 560_000_000
_MOST_MISSING = 0.02  # of a JPEG's area
_DAMAGED = "the file is damaged or cut off."
_IS_VARIANT = re.compile(
    r"unsupported|not supported|not yet supported|not implemented|unknown|no codec|no decod|plugin|KeyError", re.IGNORECASE
)
_IS_MEMORY = re.compile(r"memory|decoder error -9\b", re.IGNORECASE)
_DNG_VERSION, _SUBFILE_TYPE, _SUB_DIRECTORIES, _COMPRESSION = 50706, 254, 330, 259
_RARE_COMPRESSIONS = {34661, 34712, 34887, 50001, 50002, 52546}  # JBIG, JPEG 2000, LERC, WebP, JPEG XL: libtiff comes without

# Without threads of its own libde265 gets a camera's 33 million pixels of 10 bits into the bound; with two, not into 640 MB.
pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=0)
# glibc keeps freed memory of up to 32 MB apiece for the thread that had it; larger pieces go back to the system at once.
PilImage.core.set_block_size(64 << 20)  # type: ignore[attr-defined]
logging.getLogger("PIL").setLevel(logging.INFO)  # at debug level it writes down what a file says of its owner
warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken metadata, printed once: nobody could act on it


class Refused(Exception):
    """A picture that cannot be used. The message is the rest of a sentence, with its full stop."""


def too_many_pixels(size: str, max_pixels: int, kind: str = "") -> Refused:
    """`size`: as it is shown. `kind`, if the limit is its decoder's alone."""
    limit = f"I take up to {max_pixels / 1e6:.0f} million{f' as {kind}' if kind else ''}"
    return Refused(f"it has {size} pixels, and {limit}.{' Please send it smaller, or as an ordinary JPEG.' if kind else ''}")


def decode(data: bytes, kind: str, max_pixels: int = MAX_PIXELS) -> PilImage.Image:
    """The first frame as a viewer shows it: RGB, upright, at most 16 million pixels (larger ones are made smaller).

    `kind` is what `kind_of` says; `max_pixels` limits what the file has. Blocks for up to seconds, and while others decode.
    Raises `Refused`."""
    if kind == "PNG":
        data = shown_part_of_png(data)
    try:
        return _decode(data, kind, max_pixels)
    except Refused:
        raise
    except (PilImage.DecompressionBombError, PilImage.DecompressionBombWarning) as error:
        raise too_many_pixels("far too many", max_pixels) from error
    except Exception as error:  # decoders raise many things; not kept, because it holds the pixels
        reason = _reason(error, data, kind)
    mended = bare(data, kind)
    if mended is not None:
        try:
            return _decode(mended, kind, max_pixels, original=data)
        except Refused:
            raise
        except Exception:  # the reason is the first one
            pass
    raise Refused(reason)


def is_plain(data: bytes, kind: str) -> bool:
    """Whether every decoder makes of these bytes what we do: undamaged RGB or grey of 8 bits in sRGB, upright, at most 16 million
    pixels, without transparency or a hidden picture. `kind` is Pillow's format name. Blocks as `decode`."""
    try:
        with PilImage.open(io.BytesIO(data), formats=[kind]) as pil:
            if pil.mode not in ("RGB", "L") or reduction(*pil.size) > 1 or getattr(pil, "default_image", False):
                return False
            if pil.has_transparency_data or orientation(pil) != 1:
                return False
            gamma = None if "srgb" in pil.info else pil.info.get("gamma")
            if to_srgb(pil.mode, _profile(pil, data, kind), gamma) is not plain:
                return False
            with DECODING.room(pil.width * pil.height * _MOST_OTHERWISE):
                pil.load()
            return True
    except Exception:  # decoders raise many things
        return False


def _decode(data: bytes, kind: str, max_pixels: int, *, original: bytes | None = None) -> PilImage.Image:
    """`original`: the file as it was sent, if `data` is a copy without metadata."""
    pil = PilImage.open(io.BytesIO(data), formats=[kind])
    width, height = pil.size
    if width * height > max_pixels:
        raise too_many_pixels(f"{width} x {height}", max_pixels)
    bytes_per_pixel = _BYTES_PER_PIXEL.get((kind, pil.mode))
    most = MAX_MEMORY_BYTES // (bytes_per_pixel or 1)
    if width * height > most:
        raise too_many_pixels(f"{width} x {height}", most, _SHOWN_KINDS.get(kind, "JPEG in CMYK" if kind == "JPEG" else kind))
    with DECODING.room(width * height * (bytes_per_pixel or _MOST_OTHERWISE)):
        return _pixels(pil, data, kind, original)


def _pixels(pil: PilImage.Image, data: bytes, kind: str, original: bytes | None) -> PilImage.Image:
    width, height = pil.size
    if kind == "TIFF":
        _check_tiff(pil)
    factor = reduction(width, height)
    if kind == "JPEG" and factor > 1:
        pil.draft(None, (width // factor, height // factor))
        factor = factor if pil.size == (width, height) else 1
    alone = first_frame_alone(pil, data)
    pil.load()
    if original and kind == "JPEG" and _is_much_missing(pil):
        raise Refused(_DAMAGED)
    if kind == "PNG":
        _narrow_transparency(pil, data)
    return to_rgb(alone(pil), factor, _profile(pil, original or data, kind))


def _profile(pil: PilImage.Image, data: bytes, kind: str) -> bytes | None:
    """What says which colours are meant, in the order in which viewers believe it."""
    if kind == "PNG" and (numbers := space_of_png(data)) and (named := spaces.of_numbers(*numbers)):
        return named
    if profile := pil.info.get("icc_profile") or (profile_of_png(data) if kind == "PNG" else None):
        return bytes(profile)
    if kind in ("AVIF", "HEIF"):
        return spaces.of_heif(data)
    if kind == "PNG" and "srgb" not in pil.info and "gamma" in pil.info and (points := pil.info.get("chromaticity")):
        wx, wy, rx, ry, gx, gy, bx, by = points
        return spaces.of_chromaticities(((wx, wy), (rx, ry), (gx, gy), (bx, by)), pil.info["gamma"])
    return None


def _check_tiff(pil: PilImage.Image) -> None:
    """Refuse a camera's RAW file, whose first directory is a thumbnail or the sensor's data (DNG specification), and what libtiff
    would call damaged."""
    tags = pil.tag_v2  # type: ignore[attr-defined]
    if _DNG_VERSION in tags or (tags.get(_SUBFILE_TYPE) == 1 and _SUB_DIRECTORIES in tags):
        raise Refused("it is a camera's RAW file, which I cannot develop. Please export it as JPEG and send that.")
    if tags.get(_COMPRESSION) in _RARE_COMPRESSIONS:
        raise Refused(_variant("TIFF"))


def _variant(kind: str) -> str:
    return f"it is a variant of {_SHOWN_KINDS.get(kind, kind)} that I cannot read. Please save it as PNG or JPEG and send that."


def _is_much_missing(pil: PilImage.Image) -> bool:
    """Whether a cut off JPEG lacks more than a viewer's user would notice. libjpeg makes grey (128) of what is not there; of a
    progressive one that breaks off, the whole is there but blurred, and nothing tells how much."""
    import numpy as np

    if pil.info.get("progressive"):
        return True
    grey = np.abs(np.asarray(pil).astype(np.int16).reshape(pil.height * pil.width, -1) - 128).max(axis=1) <= 1
    return bool(grey.mean() > _MOST_MISSING)


def _narrow_transparency(pil: PilImage.Image, data: bytes) -> None:
    """The transparent colour of a PNG of 16 bits, in the 8 bits to which Pillow narrows its colours."""
    transparent = pil.info.get("transparency")
    if data[24] == 16 and isinstance(transparent, tuple):
        pil.info["transparency"] = tuple(value >> 8 for value in transparent)


def _reason(error: BaseException, data: bytes, kind: str) -> str:
    """Why a file cannot be decoded, in the decoder's own words made plain."""
    text = f"{error!r}"
    if isinstance(error, UnidentifiedImageError):
        try:  # Pillow swallows the reason
            PilImage.OPEN[kind][0](io.BytesIO(data), "")
        except Exception as reason:
            text = f"{reason!r}"
    if isinstance(error, MemoryError) or _IS_MEMORY.search(text):
        return "it needs more memory than I give to one picture. Please send it smaller, or as JPEG."
    is_foreign = (kind == "JPEG" and is_foreign_jpeg(data)) or (kind in ("AVIF", "HEIF") and is_foreign_heif(data))
    if is_foreign or _IS_VARIANT.search(text):
        return _variant(kind)
    return _DAMAGED
