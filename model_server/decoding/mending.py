"""Copies of picture files without what is not the picture: text, thumbnails, broken EXIF, odd chunks, junk between segments.

Decoders refuse a whole file over its metadata; viewers do not. A copy is made only after a decoder has refused the file as it is.
What decides how the picture looks stays: its colour profile, orientation, gamma and transparency.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

MAX_PROFILE_BYTES = 8 * 1024 * 1024  # profiles for print have up to 3 MB
_MOST_SEGMENTS = 100_000
_PNG_START = b"\x89PNG\r\n\x1a\n"
_STEP_BYTES, _MOST_STEPS = 1 << 20, 600  # more than the largest picture's pixels
_PNG_LOOKS = {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"eXIf"}
_TIFF_METADATA = {330, 700, 33723, 34377, 34665, 34853, 37724, 40965}  # SubIFDs, XMP, IPTC, Photoshop, Exif, GPS, ..., Interop
_EXIF_ITEM = re.compile(rb"(infe.{8}(?:..)?)Exif", re.DOTALL)


def bare(data: bytes, kind: str) -> bytes | None:
    """The same picture with as little metadata as possible; None if nothing can be taken away. `kind` is Pillow's format name."""
    try:
        match kind:
            case "PNG":
                mended: bytes | None = _bare_png(data)
            case "JPEG":
                mended = _bare_jpeg(data)
            case "WEBP":
                mended = _bare_webp(data)
            case "TIFF":
                mended = _bare_tiff(data)
            case "BMP":
                mended = _bare_bmp(data)
            case "AVIF" | "HEIF":
                mended = _EXIF_ITEM.sub(rb"\1skip", data)
            case _:
                mended = None
    except (struct.error, IndexError):
        return None
    return None if mended == data else mended


def profile_of_png(data: bytes) -> bytes | None:
    """A PNG's colour profile, of at most 8 MB; None if it has none, or none that can be unpacked."""
    for name, body, _ in _png_chunks(data):
        if name == b"iCCP":
            packed = body[body.find(b"\0") + 2 :]
            unpacker = zlib.decompressobj()
            try:
                profile = unpacker.decompress(packed, MAX_PROFILE_BYTES)
            except zlib.error:
                return None
            return profile if unpacker.eof else None
        if name == b"IDAT":
            break
    return None


def space_of_png(data: bytes) -> tuple[int, int] | None:
    """The numbers of a PNG's colour space (cICP: primaries and transfer, of RGB in full range); None if it names none."""
    for name, body, is_right in _png_chunks(data):
        if name == b"cICP" and is_right and len(body) == 4 and body[2:] == b"\0\1":
            return body[0], body[1]
        if name == b"IDAT":
            break
    return None


def shown_part_of_png(data: bytes) -> bytes:
    """The PNG with the picture that viewers show first. An animation may hide its still picture, which then has no fcTL before it:
    its first frame becomes the picture. Otherwise, and if that frame does not fill the picture, the file as it is."""
    kept: list[bytes] = []
    frame: list[bytes] = []
    header, is_animated, is_hidden, is_begun = b"", False, False, False
    for name, body, _ in _png_chunks(data):
        if name == b"fcTL":
            if is_begun or not is_hidden or body[4:20] != header[:8] + bytes(8):
                break
            is_begun = True
        elif name == b"fdAT" and is_begun:
            frame.append(body[4:])  # behind the number of the chunk
        elif name == b"IDAT":
            if not is_animated:
                break
            is_hidden = True
        elif name == b"acTL":
            is_animated = True
        elif not is_hidden:
            header = header or body
            kept.append(_png_chunk(name, body))
    if not frame:
        return data
    return b"".join([_PNG_START, *kept, _png_chunk(b"IDAT", b"".join(frame)), _png_chunk(b"IEND", b"")])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, body, whether its checksum is right) of each chunk; the last one may be cut off."""
    at = len(_PNG_START)
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        is_right = data[at + 8 + length : at + 12 + length] == struct.pack(">I", zlib.crc32(name + body))
        yield name, body, is_right
        at += 12 + length


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body))


def _bare_png(data: bytes) -> bytes:
    """Critical chunks as they are, what decides the look if it is undamaged; an animation's first picture only."""
    kept, pixels = [_PNG_START], []
    for name, body, is_right in _png_chunks(data):
        is_critical = not name[0] & 0x20
        if name == b"IDAT":
            pixels.append(body)
        elif name == b"IEND":
            break
        elif is_critical or (is_right and name in _PNG_LOOKS):
            chunk = _png_chunk(name, body)
            kept.append(chunk if is_right else chunk[:-1] + bytes([chunk[-1] ^ 1]))
    return b"".join([*kept, _png_chunk(b"IDAT", _with_checksum(b"".join(pixels))), _png_chunk(b"IEND", b"")])


def _with_checksum(packed: bytes) -> bytes:
    """A zlib stream (RFC 1950) whose checksum is that of its contents, if these are whole."""
    unpacker, checksum = zlib.decompressobj(-zlib.MAX_WBITS), 1
    rest = packed[2:]
    try:
        for _ in range(_MOST_STEPS):
            checksum = zlib.adler32(unpacker.decompress(rest, _STEP_BYTES), checksum)
            rest = unpacker.unconsumed_tail
            if unpacker.eof:
                return packed[: len(packed) - len(unpacker.unused_data)] + struct.pack(">I", checksum)
    except zlib.error:
        pass
    return packed


def _bare_jpeg(data: bytes) -> bytes:
    """Tables, frame and scans; of the application segments only those that decide the look. Ends where a JPEG has to end."""
    kept = [b"\xff\xd8"]
    at = 2
    for _ in range(_MOST_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0:
            break
        marker = data[at + 1]
        if marker in (0x00, 0xFF, 0x01, 0xD8) or 0xD0 <= marker <= 0xD7:  # no segment: stuffing, fill bytes, junk
            at += 1
            continue
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        segment = data[at : at + 2 + length]
        if marker == 0xDA:
            end = b"" if data.rstrip(b"\0").endswith(b"\xff\xd9") else b"\xff\xd9"
            return b"".join([*kept, data[at:], end])
        is_application = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_application or segment[4:9] in (b"JFIF\0", b"Adobe", b"Exif\0", b"ICC_P"):
            kept.append(segment)
        at += 2 + length
    return data


def _bare_webp(data: bytes) -> bytes:
    """The chunks of the picture and its profile. Chunks that break off are left out, unless they are the picture."""
    kept = []
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if name in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF") or (name == b"ICCP" and len(body) == length):
            if name == b"VP8X":
                body = bytes([body[0] & ~0x0C]) + body[1:]  # says that EXIF and XMP follow
            kept.append(struct.pack("<4sI", name, length) + body + b"\0" * (length % 2))
        at += 8 + length + length % 2
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bare_bmp(data: bytes) -> bytes:
    """With no more colours in its palette than its pixels can name."""
    header, bits, num_colours = struct.unpack("<I10xH16xI", data[14:50])
    if header < 40 or bits > 8 or num_colours <= 1 << bits:
        return data
    return data[:46] + struct.pack("<I", 1 << bits) + data[50:]


def _bare_tiff(data: bytes) -> bytes | None:
    """The same file whose first directory points to no metadata, and to no further directory. None for BigTIFF."""
    order = "<" if data.startswith(b"II") else ">"
    version, offset = struct.unpack(order + "HI", data[2:8])
    if version != 42:
        return None
    (count,) = struct.unpack(order + "H", data[offset : offset + 2])
    entries = [data[offset + 2 + 12 * i : offset + 14 + 12 * i] for i in range(count)]
    kept = [entry for entry in entries if struct.unpack(order + "H", entry[:2])[0] not in _TIFF_METADATA]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + b"\0\0\0\0"
    return data[:offset] + directory + data[offset + len(directory) :]
