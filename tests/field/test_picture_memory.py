"""The memory that one picture takes, at its peak and above what the process has anyway: 600 MB at most, whatever the file claims.

Each picture is read in a process of its own, and made in another one. What is measured is the peak of resident memory, of that
process or of one that it starts, whichever is more: pixels are handed over when their decoder has let go of its memory. All that is
decoded at the same time takes 1.2 GB at most.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from model_server.decoding.budget import MAX_BYTES
from tests.field.picture_files import chunk, encoded, tiff

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, and bounded by Linux")
MOST_BYTES = 600_000_000
SIDE = 8000

READ = """
import io, json, resource, sys
from PIL import Image
from model_server.errors import ImageError
from model_server.images import read_image, to_pil

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

small = io.BytesIO()
Image.new("RGB", (8, 8)).save(small, "PNG")
to_pil(read_image(small.getvalue(), "x"))
data = open(sys.argv[1], "rb").read()
before, reason, size = peak(), "", None
try:
    image = read_image(data, "x")
    size = to_pil(image).size
    assert size == (image.width, image.height)
except ImageError as error:
    reason = error.reason
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"peak": peak() - before, "children": children, "size": size, "reason": reason}))
"""

MAKE = """
import sys
from PIL import Image
import pillow_heif
pillow_heif.register_heif_opener()
side, mode, kind, options, path = int(sys.argv[1]), sys.argv[2], sys.argv[3], eval(sys.argv[4]), sys.argv[5]
gradient = Image.linear_gradient("L").resize((side, side))
colours = {"RGB": (gradient, gradient.rotate(90), gradient), "RGBA": (gradient, gradient.rotate(90), gradient, gradient),
           "CMYK": (gradient, gradient.rotate(90), gradient, gradient), "L": (gradient,)}[mode]
Image.merge(mode, colours).save(path, kind, **options)
"""


def read_apart(path: Path) -> tuple[tuple[int, int] | None, str, int]:
    """Size or None, the reason, and the peak in bytes: of what the process took, or of all that a child had."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True, timeout=240)
    found = json.loads(done.stdout)
    return tuple(found["size"]) if found["size"] else None, found["reason"], max(found["peak"], found["children"])


def made(tmp_path: Path, mode: str, kind: str, side: int, options: dict[str, object]) -> Path:
    """A picture of side x side, made in a process of its own, because its encoder takes as much."""
    path = tmp_path / "picture"
    subprocess.run([sys.executable, "-c", MAKE, str(side), mode, kind, repr(options), str(path)], check=True, timeout=240)
    return path


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"quality": 50}),
        ("RGB", "JPEG", {"quality": 50, "progressive": True, "subsampling": 0}),
        ("RGBA", "PNG", {"compress_level": 1}),
        ("L", "GIF", {}),
        ("RGBA", "TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_the_largest_pictures_stay_within_the_bound(tmp_path: Path, mode: str, kind: str, options: dict[str, object]) -> None:
    size, reason, peak = read_apart(made(tmp_path, mode, kind, SIDE, options))
    assert (size, reason) == ((4000, 4000), "")
    assert peak < MOST_BYTES


@pytest.mark.parametrize(
    ("mode", "kind", "side", "options"),
    [
        ("RGBA", "WEBP", 5600, {"lossless": True, "method": 0}),
        ("RGB", "AVIF", 7000, {"speed": 10}),
        ("RGB", "HEIF", 6900, {"quality": 30, "enc_params": {"preset": "ultrafast"}}),
        ("CMYK", "JPEG", 7400, {"quality": 30, "progressive": True}),
    ],
)
def test_the_largest_of_what_takes_more_stay_within_it_too(
    tmp_path: Path, mode: str, kind: str, side: int, options: dict[str, object]
) -> None:
    size, reason, peak = read_apart(made(tmp_path, mode, kind, side, options))
    assert (size is not None, reason) == (True, "")
    assert peak < MOST_BYTES


def packed(num_bytes: int, block: bytes = bytes(1 << 20)) -> bytes:
    packer = zlib.compressobj(1)
    parts = [packer.compress(block[: min(len(block), num_bytes - at)]) for at in range(0, num_bytes, len(block))]
    return b"".join([*parts, packer.flush()])


def interlaced_png() -> bytes:
    """RGBA in Adam7's seven passes."""
    passes = ((8, 8, 0, 0), (8, 8, 4, 0), (4, 8, 0, 4), (4, 4, 2, 0), (2, 4, 0, 2), (2, 2, 1, 0), (1, 2, 0, 1))
    num_bytes = sum(-(-(SIDE - y) // dy) * (1 + 4 * -(-(SIDE - x) // dx)) for dx, dy, x, y in passes)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed(num_bytes)) + chunk(b"IEND", b"")


def broken_png() -> bytes:
    """RGBA, with a comment at its end that breaks off: it is decoded twice."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0))
    pixels = chunk(b"IDAT", packed(SIDE * (1 + 4 * SIDE)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"tEXt", b"k\0" + b"a" * 100)[:50]


def float_tiff(samples: int = 1, bits: int = 32, form: int = 3) -> bytes:
    """One strip with all rows, so that the decoder holds it whole."""
    tags = {
        256: (4, SIDE),
        257: (4, SIDE),
        258: (3, bits),
        259: (3, 8),
        262: (3, 1),
        277: (3, samples),
        278: (4, SIDE),
        339: (3, form),
    }
    if samples == 4:
        tags[262], tags[338] = (3, 2), (3, 2)
    return tiff(tags, packed(SIDE * SIDE * samples * bits // 8))


def tiff_with_a_huge_tile() -> bytes:
    """64 x 64 pixels in a tile of 32768 x 32768."""
    tags = {256: (4, 64), 257: (4, 64), 258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1), 322: (4, 32768), 323: (4, 32768)}
    return tiff(tags, packed(32768 * 32768))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(interlaced_png, id="interlaced PNG"),
        pytest.param(broken_png, id="PNG that breaks off after its pixels"),
        pytest.param(float_tiff, id="float TIFF in one strip"),
        pytest.param(lambda: float_tiff(4, 16, 1), id="TIFF of 16 bits with transparency in one strip"),
        pytest.param(tiff_with_a_huge_tile, id="TIFF with a huge tile"),
    ],
)
def test_what_a_file_claims_does_not_move_the_bound(tmp_path: Path, data: object) -> None:
    assert callable(data)
    path = tmp_path / "picture"
    path.write_bytes(data())
    size, reason, peak = read_apart(path)
    assert peak < MOST_BYTES
    assert size is not None or "memory" in reason


def test_a_lossless_webp_of_a_few_bytes_is_refused_for_its_size(tmp_path: Path) -> None:
    data = bytearray(encoded(Image.new("RGBA", (8, 8)), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9  # 14 bits each for width and height, less one (RFC 9649)
    data[at : at + 4] = struct.pack("<I", struct.unpack("<I", data[at : at + 4])[0] & 0xF0000000 | (SIDE - 1) << 14 | (SIDE - 1))
    path = tmp_path / "picture"
    path.write_bytes(data)
    size, reason, peak = read_apart(path)
    assert size is None
    assert (
        reason == "it has 8000 x 8000 pixels, and I take up to 33 million as WebP. Please send it smaller, or as an ordinary JPEG."
    )
    assert peak < 100_000_000


READ_TWENTY = """
import asyncio, base64, sys
from model_server.decoding.budget import aside
from model_server.images import read_image
from model_server.serve.image_url import read_image_url

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

async def main():
    data = open(sys.argv[1], "rb").read()
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    before = peak()
    served = [read_image_url(url, "x", None, 10**8) for _ in range(10)]
    attached = [aside(lambda: read_image(data, "x")) for _ in range(10)]
    await asyncio.gather(*served, *attached)
    print(peak() - before)

asyncio.run(main())
"""


def test_twenty_of_the_largest_at_once_take_no_more_than_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "picture"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0))
    pixels = chunk(b"IDAT", packed(SIDE * (1 + 4 * SIDE)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    done = subprocess.run([sys.executable, "-c", READ_TWENTY, str(path)], capture_output=True, text=True, check=True, timeout=240)
    assert int(done.stdout) < MAX_BYTES
