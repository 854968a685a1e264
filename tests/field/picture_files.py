"""Picture files as the field has them, made by hand: what no encoder here writes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image as PilImage
from PIL import ImageCms

RED = (255, 0, 0)
# XYZ of red, green and blue, adapted to D50, as the ICC specification wants them.
COLORANTS = {
    "sRGB": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    "P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    "Adobe": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
}
# A greyscale picture of 64 x 32: for `tiff`.
RED_TIFF = {256: (3, 64), 257: (3, 32), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (3, 32)}


def encoded(pil: PilImage.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pil.save(buffer, kind, **options)
    return buffer.getvalue()


def red(kind: str = "PNG", **options: object) -> bytes:
    """A plain red picture of 64 x 32."""
    return encoded(PilImage.new("RGB", (64, 32), RED), kind, **options)


def jpeg_with(marker: int, body: bytes) -> bytes:
    """A red JPEG with this segment before all others."""
    return JPEG[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + JPEG[2:]


def chunk(name: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body) if crc is None else crc)


def png_with(*chunks: bytes) -> bytes:
    """A red PNG with these chunks before its pixels."""
    plain = red()
    return plain[:33] + b"".join(chunks) + plain[33:]


def png(header: tuple[int, int, int, int, int], pixels: bytes, *chunks: bytes) -> bytes:
    """(width, height, bits, colour type, interlace) and the unpacked, filtered pixels."""
    width, height, bits, colour, interlace = header
    ihdr = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + b"".join(chunks)
    return start + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, int]], pixels: bytes) -> bytes:
    """Little-endian, with one strip or tile. Tags are (type, value): 3 is short, 4 long. Where the pixels are is filled in."""
    entries = {**tags, 273: (4, 8), 279: (4, len(pixels))} if 322 not in tags else {**tags, 324: (4, 8), 325: (4, len(pixels))}
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(entries.items()))
    body = pixels + b"\0" * (len(pixels) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + struct.pack("<H", len(entries)) + directory + bytes(4)


def grey_tiff(values: np.ndarray, **more: tuple[int, int]) -> bytes:
    """A greyscale TIFF of the array's own depth. `more`: tags by `t` and their number."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: (4, values.shape[1]),
        257: (4, values.shape[0]),
        258: (3, values.dtype.itemsize * 8),
        259: (3, 1),
        262: (3, 1),
        277: (3, 1),
        278: (4, values.shape[0]),
        339: (3, kind),
    }
    return tiff({**tags, **{int(name[1:]): value for name, value in more.items()}}, values.tobytes())


def ramp(dtype: type[np.generic], top: float) -> np.ndarray:
    """64 x 16, from 0 at the left to `top` at the right."""
    return np.tile(np.linspace(0, top, 64), (16, 1)).astype(dtype)


def profile(space: str, gamma: float = 2.2) -> bytes:
    """An ICC profile (version 2): RGB with the primaries of "P3" or "Adobe", or "grey"."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    name = f"{space} of a test\0".encode()
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78), b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if space == "grey":
        tags[b"kTRC"] = curve
    else:
        for letter, values in zip(b"rgb", COLORANTS[space], strict=True):
            tags[bytes([letter]) + b"XYZ"] = xyz(*values)
            tags[bytes([letter]) + b"TRC"] = curve
    directory, body = b"", b""
    for signature, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        directory += signature + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += padded
    rest = struct.pack(">I", len(tags)) + directory + body
    header = struct.pack(">I4sI4s4s4s12s4s", 128 + len(rest), b"", 0x02100000, b"mntr", b"GRAY" if space == "grey" else b"RGB ",
                         b"XYZ ", bytes(12), b"acsp")  # fmt: skip
    return header + bytes(28) + struct.pack(">iii", 63190, 65536, 54061) + bytes(48) + rest


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def box(name: bytes, body: bytes) -> bytes:
    """A box of an ISO base media file."""
    return struct.pack(">I4s", 8 + len(body), name) + body


JPEG = red("JPEG", quality=95)
