"""Pictures, from untrusted bytes to RGB.

A picture is judged by its bytes, never by its name or announced type. Its size is checked before it is decoded, and it is decoded
once in full before it is accepted. Every problem becomes an `ImageError` with the picture's name and the reason. These functions
may compute for seconds: call them off the event loop.
"""

from __future__ import annotations

import hashlib
import unicodedata

from PIL import Image as PilImage

from model_server.decoding.apart import APART, decode_apart
from model_server.decoding.decode import MAX_PIXELS, Refused, decode
from model_server.decoding.kinds import kind_of, why_no_image
from model_server.errors import ImageError
from model_server.types import Image

MAX_BYTES = 25 * 1024 * 1024
_MAX_NAME_LENGTH = 60

_MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}


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
    that is not a usable PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC. Takes at most 600 MB of memory while it decodes."""
    name = clean_name(name)
    if not data:
        raise ImageError(name, "the file is empty.")
    if len(data) > max_bytes:
        raise ImageError(name, f"it has {len(data) / 1e6:.0f} MB, and I take up to {max_bytes / 1e6:.0f} MB.")
    rgb, kind = _decoded(data, name, max_pixels)
    return Image(data, _MEDIA_TYPES[kind], hashlib.sha256(data).hexdigest(), rgb.width, rgb.height)


def to_pil(image: Image) -> PilImage.Image:
    """Decode to RGB as a viewer shows it: the first frame, upright, in sRGB, without transparency, at most 16 million pixels.

    Blocks for up to seconds, and takes as much memory as `read_image`."""
    return _decoded(image.data, "the picture", MAX_PIXELS)[0]


def _decoded(data: bytes, name: str, max_pixels: int) -> tuple[PilImage.Image, str]:
    """The pixels, and Pillow's name of the format."""
    kind = kind_of(data)
    if kind is None:
        raise ImageError(name, why_no_image(data, name))
    try:
        return (decode_apart if kind in APART else decode)(data, kind, max_pixels), kind
    except Refused as refused:
        raise ImageError(name, str(refused)) from refused
