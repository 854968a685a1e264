"""What is no picture for us is refused for its true reason, with what to send instead: by content, whatever its name says.

And nothing is written about a picture anywhere.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
from PIL import Image as PilImage

from model_server.errors import ImageError
from model_server.images import read_image
from tests.field.picture_files import RED_TIFF, box, chunk, encoded, jpeg_with, png_with, red, tiff

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # as the program has it
GREEN = PilImage.new("RGB", (64, 32), (0, 200, 0))


def refusal(data: bytes, name: str = "photo.jpg") -> str:
    with pytest.raises(ImageError) as caught:
        read_image(data, name)
    return caught.value.reason


VIDEO = "it is a video, not a picture. Please send a still picture, such as a screenshot of it, as PNG or JPEG."


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41") + bytes(100), VIDEO),
        (box(b"ftyp", b"qt  \0\0\2\0qt  ") + bytes(100), VIDEO),
        (box(b"wide", b"") + box(b"mdat", bytes(99)), VIDEO),
        (b"\x1aE\xdf\xa3" + bytes(100), VIDEO),
        (b"RIFF\0\0\0\0AVI LIST", VIDEO),
        (b"\x47" + bytes(187) + b"\x47" + bytes(187) + b"\x47" + bytes(187), VIDEO),
        (box(b"ftyp", b"M4A \0\0\2\0M4A mp42isom") + bytes(100), "it is a sound recording, not a picture."),
        (b"RIFF\0\0\0\0WAVEfmt ", "it is a sound recording, not a picture."),
        (b"ID3\4" + bytes(100), "it is a sound recording, not a picture."),
        (b"\xff\xfb\x90\x64" + bytes(100), "it is a sound recording, not a picture."),
        (b"OggS" + bytes(24) + b"\1vorbis", "it is a sound recording, not a picture."),
        (b"%PDF-1.7\n%\xe2\xe3", "it is a PDF document"),
        (b"\n\n%PDF-1.7", "it is a PDF document"),
        (b"<?xml version='1.0'?>\n<!-- a drawing -->\n<svg xmlns='x'/>", "SVG drawings are not supported"),
        (b"<!DOCTYPE html><html><head><title>Log in</title>", "it is a web page, not a picture. If it is behind a login"),
        (b"\xef\xbb\xbf \r\n<!-- saved --><HTML lang=en>", "it is a web page"),
        (b"<?xml version='1.0'?><!DOCTYPE html PUBLIC '-//W3C//DTD XHTML'>", "it is a web page"),
        (b"PK\3\4" + bytes(26) + b"a.jpg", "it is an archive"),
        (b"PK\3\4" + bytes(26) + b"[Content_Types].xml", "it is an Office document"),
        (b"Rar!\x1a\7\1\0", "it is an archive"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "it is an archive"),
        (b"\x1f\x8b\x08\0" + bytes(20), "it is an archive"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "it is a camera's RAW file"),
        (box(b"ftyp", b"crx \0\0\0\1crx isom") + bytes(100), "it is a camera's RAW file"),
        (b"PK\3\4" + bytes(26) + b"ppt/slides/slide1.xml", "it is an Office document"),
        (b"\xff\xff\x7c\x05" + bytes(100), "it is not a picture that I can read"),
        (b"\0\0\2\0" + bytes(8) + b"\x10\0\x10\0\x18\0" + bytes(768), "it is not a picture that I can read"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(100), "it is a camera's RAW file"),
        (tiff({**RED_TIFF, 50706: (4, 0x401)}, bytes(2048)), "it is a camera's RAW file"),
        (tiff({**RED_TIFF, 254: (4, 1), 330: (4, 8)}, bytes(2048)), "it is a camera's RAW file"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL is not supported. Please save it as PNG or JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not supported"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not supported"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000 is not supported"),
        (b"8BPS\0\1", "it is a Photoshop document"),
        (b"\0\0\1\0\1\0\x10\x10", "Windows icons are not supported"),
        (b"P6 4 4 255\n" + bytes(48), "Netpbm pictures are not supported"),
        (b"Dear all,\nsee the photo", "it is not a picture that I can read. It is text, and PNG, JPEG"),
        (b'{"ok":false,"error":"not_authed"}', "it is not a picture that I can read. It is text"),
        ("Hallo, hier das Bild".encode("utf-16"), "it is not a picture that I can read. It is text"),
        (b"\xff\xfe\x12\xaf\1\0\xc8\0\x40\0" + bytes(118), "it is not a picture that I can read. PNG"),
        (b"", "the file is empty."),
        (bytes(1000), "it is not a picture that I can read. PNG, JPEG"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, says: str) -> None:
    assert refusal(data).startswith(says)


FLOAT_RGB = {**RED_TIFF, 258: (3, 32), 262: (3, 2), 277: (3, 3), 339: (3, 3)}
BMP_START = struct.pack("<2sIHHI", b"BM", 54 + 1024, 0, 0, 54)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (tiff(FLOAT_RGB, bytes(64 * 32 * 12)), "TIFF"),
        (tiff({**RED_TIFF, 259: (3, 34_712)}, bytes(2048)), "TIFF"),
        (tiff({**RED_TIFF, 259: (3, 50_001)}, bytes(2048)), "TIFF"),
        (red("HEIF").replace(b"hvc1", b"unci"), "HEIC"),
        (red("AVIF").replace(b"av01", b"unci"), "AVIF"),
        (BMP_START + struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 64, 0, 0, 0, 0, 0, 0) + bytes(2048), "BMP"),
        (BMP_START + struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 24, 9, 0, 0, 0, 0, 0) + bytes(1024), "BMP"),
    ],
    ids=[
        "floating point in three colours",
        "JPEG 2000 in a TIFF",
        "WebP in a TIFF",
        "uncompressed HEIF",
        "uncompressed AVIF",
        "64 bits",
        "unknown compression",
    ],
)
def test_an_intact_file_in_a_variant_that_no_decoder_knows_is_not_called_damaged(data: bytes, kind: str) -> None:
    assert refusal(data) == f"it is a variant of {kind} that I cannot read. Please save it as PNG or JPEG and send that."


# Quiet.


QUIET = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s %(message)s")
from model_server.images import read_image, to_pil
try:
    to_pil(read_image(sys.stdin.buffer.read(), "x"))
except Exception:
    pass
"""


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiff({**RED_TIFF, 40_000: (3, 7)}, bytes(2048)),
        lambda: tiff({**RED_TIFF, 259: (3, 8)}, b"no deflate" * 10),
        lambda: encoded(GREEN, "TIFF", compression="tiff_lzw", description="a secret place")[:-3],
        lambda: jpeg_with(0xE1, b"Exif\0\0II*\0\x08\0\0\0\2\0" + struct.pack("<HHII", 0x010E, 2, 4_000, 20) * 2 + b"secret"),
        lambda: jpeg_with(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1"),
        lambda: png_with(chunk(b"acTL", b"\0\0")),
        lambda: png_with(chunk(b"zzZz", b"secret")),
        lambda: red("GIF", comment=b"secret"),
    ],
)
def test_nothing_is_written_about_a_picture_even_at_debug_level(make: Callable[[], bytes]) -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], input=make(), capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
