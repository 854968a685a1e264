"""Pictures as people send them: what a viewer shows is taken, and looks the same. (What is no picture: test_no_pictures.py.)"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageDraw

from model_server.errors import ImageError
from model_server.images import read_image, to_pil
from tests.field.picture_files import (
    COLORANTS,
    JPEG,
    RED_TIFF,
    chunk,
    encoded,
    grey_tiff,
    jpeg_with,
    png,
    png_with,
    profile,
    ramp,
    red,
    srgb_profile,
    tiff,
)

Colour = tuple[int, int, int]
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # as the program has it: Pillow's words on metadata stop nothing
GREEN = PilImage.new("RGB", (64, 32), (0, 200, 0))
MUTED = PilImage.new("RGB", (64, 32), (120, 160, 120))


def shown(data: bytes, at: tuple[int, int] = (5, 5)) -> Colour:
    value = to_pil(read_image(data, "x")).getpixel(at)
    assert isinstance(value, tuple)
    return (int(value[0]), int(value[1]), int(value[2]))


def near(a: Colour, b: Colour, by: int = 3) -> bool:
    return all(abs(x - y) <= by for x, y in zip(a, b, strict=True))


# Metadata never costs the picture.

BIG = np.random.default_rng(0).bytes(1_500_000)
EXIF_START = b"Exif\0\0"
WEBP = red("WEBP", lossless=True)


def webp_with(name: bytes, body: bytes, length: int) -> bytes:
    """In the extended form, with one more chunk at the end, that says it has `length` bytes."""
    extended = b"VP8X" + struct.pack("<IB3x", 10, 0x0C) + struct.pack("<I", 63)[:3] + struct.pack("<I", 31)[:3]
    chunks = b"WEBP" + extended + WEBP[12:] + name + struct.pack("<I", length) + body
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def avif_with_exif(exif: bytes) -> bytes:
    data = red("AVIF", exif=b"II*\0\x08\0\0\0" + b"\0" * 40, quality=95)
    return data.replace(b"II*\0\x08\0\0\0", exif)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(png_with(chunk(b"iCCP", b"p\0\0" + zlib.compress(BIG))), "a broken profile of over 1 MB", id="iCCP"),
        pytest.param(png_with(chunk(b"iCCP", b"p\0\0" + zlib.compress(srgb_profile() + BIG))), "a large one", id="iCCP-long"),
        pytest.param(png_with(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000)))), "text that unpacks to 3 MB", id="zTXt"),
        pytest.param(
            png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(BIG))), "packed XMP of over 1 MB", id="iTXt"
        ),
        pytest.param(png_with(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))] * 80), "80 MB of text", id="zTXt-many"),
        pytest.param(png_with(chunk(b"tEXt", b"Comment\0hello", crc=7)), "a wrong checksum in a comment", id="crc"),
        pytest.param(png_with(chunk(b"pHYs", b"\1")), "a resolution that is too short", id="pHYs"),
        pytest.param(png_with(chunk(b"zTXt", b"k\0\7abc")), "an unknown compression of a text", id="zTXt-method"),
        pytest.param(png_with(chunk(b"eXIf", b"no EXIF")), "EXIF that is none", id="eXIf"),
        pytest.param(red()[:-12], "its last chunk is missing", id="no-IEND"),
        pytest.param(red()[:-12] + chunk(b"tEXt", b"k\0" + b"a" * 100)[:50], "a comment at its end breaks off", id="cut-text"),
        pytest.param(jpeg_with(0xE1, EXIF_START + b"II*\0\xff\xff\xff\xff"), "an EXIF directory beyond its end", id="jpeg-exif"),
        pytest.param(jpeg_with(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1"), "a broken index of further pictures", id="jpeg-mpf"),
        pytest.param(jpeg_with(0xE2, b"ICC_PROFILE\0\1\3" + b"abc"), "a profile of which two parts are missing", id="jpeg-icc"),
        pytest.param(jpeg_with(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff"), "a broken Photoshop block", id="jpeg-8bim"),
        pytest.param(JPEG[:20] + b"junk" + JPEG[20:], "junk between its segments", id="jpeg-junk"),
        pytest.param(JPEG + b"\0" * 100 + b"trailer", "something after its end", id="jpeg-trailer"),
        pytest.param(JPEG[:-2], "its end mark is missing", id="jpeg-no-end"),
        pytest.param(webp_with(b"EXIF", b"no EXIF!", 8), "EXIF that is none", id="webp-exif"),
        pytest.param(webp_with(b"XMP ", b"<x:xmp", 5_000), "XMP at its end breaks off", id="webp-cut"),
        pytest.param(avif_with_exif(b"no EXIF!"), "EXIF that is none", id="avif-exif"),
        pytest.param(red("HEIF", exif=EXIF_START + b"no EXIF!", quality=95), "EXIF that is none", id="heif-exif"),
    ],
)
def test_metadata_never_costs_the_picture(data: bytes, why: str) -> None:
    assert near(shown(data), (255, 0, 0), by=6), why


@pytest.mark.parametrize("tag", [34665, 34853, 330, 40965])
def test_a_directory_that_leads_nowhere_does_not_cost_a_tiff(tag: int) -> None:
    data = tiff({**RED_TIFF, tag: (4, 0x7FFFFFFF)}, bytes([90]) * 64 * 32)
    assert shown(data) == (90, 90, 90)


def test_a_bmp_with_too_large_a_palette_is_shown() -> None:
    palette = bytes([0, 0, 255, 0]) * 300
    header = struct.pack("<2sIHHI", b"BM", 54 + 1200 + 256, 0, 0, 54 + 1200) + struct.pack(
        "<IiiHHIIiiII", 40, 16, 16, 1, 8, 0, 0, 0, 0, 300, 0
    )
    assert shown(header + palette + bytes(256)) == (255, 0, 0)


def test_a_picture_is_not_turned_by_its_xmp() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for data in (png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)), red("JPEG", xmp=xmp), red("WEBP", xmp=xmp)):
        assert to_pil(read_image(data, "x")).size == (64, 32)


def test_a_profile_of_over_a_megabyte_is_still_used() -> None:
    padded = profile("Adobe") + bytes(1_500_000)
    padded = struct.pack(">I", len(padded)) + padded[4:]
    plain = encoded(MUTED, "PNG")
    data = plain[:33] + chunk(b"iCCP", b"p\0\0" + zlib.compress(padded)) + plain[33:]
    assert shown(data) == shown(encoded(MUTED, "PNG", icc_profile=profile("Adobe")))
    assert not near(shown(data), (120, 160, 120), by=6)


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(data, "x")
    return caught.value.reason


def test_a_jpeg_that_lacks_its_last_bytes_is_taken_and_one_that_lacks_a_part_is_not() -> None:
    noise = PilImage.fromarray(np.random.default_rng(0).integers(0, 255, (640, 640, 3), dtype=np.uint8))
    data = encoded(noise, "JPEG")
    whole = to_pil(read_image(data, "x"))
    cut = to_pil(read_image(data[:-400], "x"))
    assert whole.crop((0, 0, 640, 600)).tobytes() == cut.crop((0, 0, 640, 600)).tobytes()
    for part in (0.9, 0.5):
        assert refusal(data[: int(len(data) * part)]) == "the file is damaged or cut off."
    progressive = encoded(noise, "JPEG", progressive=True)
    assert refusal(progressive[: int(len(progressive) * 0.7)]) == "the file is damaged or cut off."


# Colours as a viewer shows them.


def in_srgb(colour: Colour, space: str) -> Colour:
    """What a colour of that space is in sRGB (IEC 61966-2-1), by the profile's own numbers."""
    to_xyz, srgb_to_xyz = (np.array(COLORANTS[name]).T for name in (space, "sRGB"))
    light = np.clip(np.linalg.inv(srgb_to_xyz) @ to_xyz @ (np.array(colour) / 255) ** 2.2, 0, 1)
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    red_, green, blue = (round(float(value) * 255) for value in curved)
    return red_, green, blue


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("space", ["P3", "Adobe"])
def test_a_profile_that_is_not_srgb_is_converted(kind: str, space: str) -> None:
    options: dict[str, object] = (
        ({"lossless": True} if kind == "WEBP" else {}) if kind in ("WEBP", "PNG", "TIFF") else {"quality": 98}
    )
    by = 1 if kind in ("PNG", "TIFF", "WEBP") else 4
    assert near(shown(encoded(MUTED, kind, icc_profile=profile(space), **options)), in_srgb((120, 160, 120), space), by=by)
    assert not near(in_srgb((120, 160, 120), space), (120, 160, 120), by=8)


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(1.0, 188), (1.8, 146), (2.2, 128)],  # light of 0.5 ** gamma in sRGB's curve
)
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_is_converted(mode: str, gamma: float, expected: int) -> None:
    drawn = PilImage.new("L", (64, 32), 128).convert(mode)
    assert near(shown(encoded(drawn, "PNG", icc_profile=profile("grey", gamma))), (expected,) * 3, by=3)


def test_transparency_and_a_profile_go_together() -> None:
    drawn = PilImage.new("RGBA", (64, 32), (120, 160, 120, 255))
    drawn.paste((0, 0, 0, 0), (0, 0, 32, 32))
    data = encoded(drawn, "PNG", icc_profile=profile("P3"))
    assert shown(data) == (255, 255, 255)
    assert shown(data, (50, 5)) == shown(encoded(drawn.convert("RGB"), "PNG", icc_profile=profile("P3")), (50, 5))


@pytest.mark.parametrize(
    "broken",
    [b"", b"junk", profile("P3")[:200], profile("grey"), srgb_profile(), bytes(5_000)],
    ids=["none", "junk", "cut", "of other channels", "sRGB", "zeros"],
)
def test_a_profile_that_is_broken_or_says_nothing_changes_nothing(broken: bytes) -> None:
    assert near(shown(encoded(GREEN, "PNG", icc_profile=broken)), (0, 200, 0), by=0)


@pytest.mark.parametrize(("gamma", "expected"), [(45_455, 128), (100_000, 186), (None, 128)])
def test_the_gamma_of_a_png_counts(gamma: int | None, expected: int) -> None:
    chunks = [chunk(b"gAMA", struct.pack(">I", gamma))] if gamma else []
    assert near(shown(png((16, 16, 8, 0, 0), (b"\0" + bytes([128]) * 16) * 16, *chunks)), (expected,) * 3, by=1)


def test_cmyk_and_lab_are_shown_in_their_colours() -> None:
    assert near(shown(encoded(PilImage.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")), (255, 0, 0), by=10)
    assert near(shown(encoded(PilImage.new("LAB", (16, 16), (137, 208, 195)), "TIFF")), (255, 0, 0), by=12)


# Deep pictures as a viewer shows them.


@pytest.mark.parametrize(
    ("data", "expected", "why"),
    [
        (grey_tiff(ramp(np.uint16, 65_535)), 255, "the whole range"),
        (grey_tiff(ramp(np.uint16, 4_095)), 255, "12 bits in 16"),
        (grey_tiff(ramp(np.uint16, 1_000)), 249, "a part of its range: 10 bits hold it"),
        (encoded(PilImage.fromarray(ramp(np.uint16, 4_095)), "PNG"), 255, "12 bits in 16, as PNG"),
        (grey_tiff(ramp(np.uint16, 2_000), t281=(3, 2_000)), 255, "it names its brightest value"),
        (grey_tiff(ramp(np.uint16, 65_535), t262=(3, 0)), 0, "0 is white"),
        (grey_tiff(ramp(np.int16, 16_383)), 255, "signed"),
        (grey_tiff(ramp(np.float32, 1.0)), 255, "0 to 1"),
        (grey_tiff(ramp(np.float32, 1.02)), 255, "0 to 1, overshot by resampling"),
        (grey_tiff(ramp(np.float32, 255)), 255, "0 to 255"),
        (grey_tiff(ramp(np.float32, 10)), 255, "a range of its own"),
        (grey_tiff(ramp(np.float32, 200) - 100), 255, "and one that begins below 0"),
        (grey_tiff(np.where(ramp(np.float32, 1) == 0, np.inf, ramp(np.float32, 1)).astype(np.float32)), 255, "some have no value"),
    ],
)
def test_deep_greyscale_is_scaled(data: bytes, expected: int, why: str) -> None:
    assert near(shown(data, (63, 5)), (expected,) * 3, by=2), why
    middle = shown(data, (32, 5))[0]
    assert abs(middle - (expected or 255) / 2) <= 6, why


@pytest.mark.parametrize(
    ("colour_type", "samples", "extra", "expected"),
    [
        (4, (0x8000, 0xFFFF), (), (128, 128, 128)),
        (4, (0x8000, 0), (), (255, 255, 255)),
        (6, (0xFFFF, 0, 0, 0xFFFF), (), (255, 0, 0)),
        (6, (0xFFFF, 0, 0, 0), (), (255, 255, 255)),
        (0, (0x8000,), (chunk(b"tRNS", struct.pack(">H", 0x1234)),), (128, 128, 128)),
        (0, (0x8000,), (chunk(b"tRNS", struct.pack(">H", 0x8000)),), (255, 255, 255)),
        (2, (0xFFFF, 0, 0), (chunk(b"tRNS", struct.pack(">HHH", 0xFFFF, 0, 1)),), (255, 255, 255)),
        (2, (0xFFFF, 0, 0), (chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0)),), (255, 0, 0)),
    ],
)
def test_sixteen_bits_with_transparency(
    colour_type: int, samples: tuple[int, ...], extra: tuple[bytes, ...], expected: Colour
) -> None:
    row = b"\0" + struct.pack(f">{len(samples)}H", *samples) * 16
    assert near(shown(png((16, 16, 16, colour_type, 0), row * 16, *extra)), expected, by=1)


# Transparent ground.


def drawing(*colours: str, alpha: int = 255) -> bytes:
    """Thick crosses on transparent ground, one colour after the other."""
    pil = PilImage.new("RGBA", (200, 100), (255, 255, 255, 0))
    draw = ImageDraw.Draw(pil)
    for i, colour in enumerate(colours):
        ink = (*PilImage.new("RGB", (1, 1), colour).getpixel((0, 0)), alpha)  # type: ignore[misc]
        left = i * 200 // len(colours)
        draw.line((left + 10, 10, left + 60, 90), ink, 12)
        draw.line((left + 60, 10, left + 10, 90), ink, 12)
    return encoded(pil, "PNG")


@pytest.mark.parametrize(
    ("colours", "ground"),
    [
        (("black",), 255),
        (("red", "blue"), 255),
        (("white",), 0),
        (("white", "#f8f8f8"), 0),
        (("#ffffe8",), 0),
        (("white", "black"), 128),
        (("gray",), 255),
    ],
)
def test_the_ground_leaves_the_drawing_visible(colours: tuple[str, ...], ground: int) -> None:
    assert shown(drawing(*colours), (1, 50)) == (ground,) * 3


def test_the_ground_leaves_a_faint_drawing_visible_too() -> None:
    rgb = np.asarray(to_pil(read_image(drawing("white", alpha=120), "x")))
    assert rgb.max() - rgb.min() > 100
