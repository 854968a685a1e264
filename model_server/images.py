"""Pictures, from untrusted bytes to RGB.

A picture is judged by its bytes, never by its name or announced type. Its size is checked before it is decoded, and it is decoded
once in full before it is accepted. Every problem becomes an `ImageError` with the picture's name and the reason. These functions
may compute for seconds: call them off the event loop.
"""

from __future__ import annotations

import hashlib
import io
import unicodedata

import numpy as np
import pillow_heif
from PIL import Image as PilImage
from PIL import ImageOps

from model_server.errors import ImageError
from model_server.types import Image

MAX_PIXELS = 64_000_000  # a 48-megapixel photograph passes; decoded, the limit takes 192 MB
MAX_BYTES = 25 * 1024 * 1024
_MAX_NAME_LENGTH = 60

_MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}
# Only these decoders see the bytes: every decoder is attack surface. (MPO, several JPEGs in one file, is opened as JPEG.)
_DECODERS = tuple(kind for kind in _MEDIA_TYPES if kind != "MPO")
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")

pillow_heif.register_heif_opener()


def clean_name(name: str) -> str:
    """Make a file name safe to show: one line, no control or direction-changing characters, at most 60 characters."""
    visible = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in name)
    short = " ".join(visible.split())
    if len(short) > _MAX_NAME_LENGTH:
        short = f"{short[: _MAX_NAME_LENGTH - 12]}…{short[-11:]}"
    return short or "the picture"


def read_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image:
    """Check an encoded picture by decoding it, and describe it. Blocks for up to seconds.

    `name` is what messages call it. `max_pixels` limits width times height, `max_bytes` the file. Raises `ImageError` for anything
    that is not a usable PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC."""
    name = clean_name(name)
    if not data:
        raise ImageError(name, "the file is empty.")
    if len(data) > max_bytes:
        raise ImageError(name, f"it has {len(data) / 1e6:.0f} MB, and I take up to {max_bytes / 1e6:.0f} MB.")
    pil = _open(data, name)
    if pil.width * pil.height > max_pixels:
        raise ImageError(name, _too_many_pixels(f"{pil.width} x {pil.height}", max_pixels))
    media_type = _MEDIA_TYPES[pil.format or "PNG"]
    try:
        rgb = _to_rgb(pil)
    except Exception as error:  # decoders raise many things, which all mean the same to the sender
        raise ImageError(name, "the file is damaged or cut off.") from error
    return Image(data, media_type, hashlib.sha256(data).hexdigest(), rgb.width, rgb.height)


def to_pil(image: Image) -> PilImage.Image:
    """Decode to RGB: the first frame, rotated by its EXIF orientation, transparency on white. Blocks for up to seconds."""
    return _to_rgb(PilImage.open(io.BytesIO(image.data), formats=_DECODERS))


def _open(data: bytes, name: str) -> PilImage.Image:
    try:
        return PilImage.open(io.BytesIO(data), formats=_DECODERS)
    except (PilImage.DecompressionBombError, PilImage.DecompressionBombWarning) as error:
        raise ImageError(name, _too_many_pixels("far too many", MAX_PIXELS)) from error
    except Exception as error:
        raise ImageError(name, _why_not_a_image(data, name)) from error


def _too_many_pixels(size: str, max_pixels: int) -> str:
    return f"it has {size} pixels, and I take up to {max_pixels / 1e6:.0f} million."


def _why_not_a_image(data: bytes, name: str) -> str:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start or (name.lower().endswith(".svg") and start.startswith(b"<")):
        return "SVG drawings are not supported. Please send it as PNG or JPEG."
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not a picture."
    if start.startswith(b"%pdf"):
        return "it is a PDF document, not a picture."
    if data.startswith(_STARTS) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP") or data[4:8] == b"ftyp":
        return "the file is damaged or cut off."
    return "it is not a picture that I can read. PNG, JPEG, WebP, GIF, HEIC and AVIF work."


def _to_rgb(pil: PilImage.Image) -> PilImage.Image:
    pil.load()
    try:
        pil = ImageOps.exif_transpose(pil)
    except Exception:  # a picture with broken EXIF data is still usable
        pil.getexif().clear()
    if pil.mode.startswith("I;16") or pil.mode in ("I", "F"):
        pil = _to_eight_bit(pil)
    if pil.has_transparency_data:
        rgba = pil.convert("RGBA")
        white = PilImage.new("RGBA", rgba.size, "white")
        return PilImage.alpha_composite(white, rgba).convert("RGB")
    return pil.convert("RGB")


def _to_eight_bit(pil: PilImage.Image) -> PilImage.Image:
    """Scale deep greyscale to 8 bits; Pillow's own conversion clips at 255 instead."""
    values = np.nan_to_num(np.asarray(pil).astype(np.float32))
    top = 1.0 if values.max() <= 1 and pil.mode == "F" else 255.0 if values.max() <= 255 and pil.mode != "I;16" else 65535.0
    return PilImage.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))
