"""Variants of picture files that viewers show in their own way: what is shown first, in which colours, and what cannot be read.

The right values are what Chromium 156 shows, for TIFF what ImageMagick 6.9 makes of them."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PilImage

from model_server.errors import ImageError
from model_server.images import read_image, to_pil
from model_server.remote.request import request_body
from model_server.types import Image, Message, Role
from tests.field.picture_files import JPEG, chunk, encoded, grey_tiff, png, png_with, profile, ramp

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # as the program has it: Pillow's words on metadata stop nothing
Colour = tuple[int, int, int]
WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
START = b"\x89PNG\r\n\x1a\n"


def shown(data: bytes, at: tuple[int, int] = (5, 5)) -> Colour:
    value = to_pil(read_image(data, "x")).getpixel(at)
    assert isinstance(value, tuple)
    return (int(value[0]), int(value[1]), int(value[2]))


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(data, "x")
    return caught.value.reason


# -- what is shown first ---------------------------------------------------------------------------------------------------


def rows(colour: Colour) -> bytes:
    return zlib.compress((b"\0" + bytes(colour) * 16) * 16)


def frame_control(number: int, width: int = 16, left: int = 0) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, 16, left, 0, 1, 10, 0, 0))


def animated_png(*chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    return START + header + chunk(b"acTL", struct.pack(">II", 2, 0)) + b"".join(chunks) + chunk(b"IEND", b"")


STILL = chunk(b"IDAT", rows(RED))


def frame(number: int, colour: Colour) -> bytes:
    return chunk(b"fdAT", struct.pack(">I", number) + rows(colour))


@pytest.mark.parametrize(
    ("data", "right", "why"),
    [
        (animated_png(STILL, frame_control(0), frame(1, BLUE)), BLUE, "the still picture is hidden"),
        (animated_png(STILL, frame_control(0), frame(1, BLUE), frame_control(2), frame(3, GREEN)), BLUE, "of two frames the first"),
        (animated_png(frame_control(0), STILL, frame_control(1), frame(2, BLUE)), RED, "the still picture is the first frame"),
        (animated_png(STILL), RED, "there is no frame"),
        (animated_png(STILL, frame_control(0)), RED, "nor here"),
        (animated_png(STILL, frame_control(0, 8, 4), frame(1, BLUE)), RED, "a first frame that does not fill the picture"),
        (
            animated_png(chunk(b"gAMA", struct.pack(">I", 45_455)), STILL, frame_control(0), frame(1, BLUE)),
            BLUE,
            "with more chunks",
        ),
    ],
)
def test_of_an_animated_png_the_first_frame_is_shown(data: bytes, right: Colour, why: str) -> None:
    assert shown(data) == right, why


def gif(size: tuple[int, int], place: tuple[int, int, int, int], *, transparent: int | None = None) -> bytes:
    """One frame, all of it in the second of four colours."""
    palette = bytes([*RED, *GREEN, *BLUE, *WHITE])
    control = bytes([0x21, 0xF9, 4, transparent is not None, 0, 0, transparent or 0, 0])
    codes = [code for _ in range(place[2] * place[3]) for code in (4, 1)] + [5]  # each colour behind a code that clears
    bits = sum(code << (3 * number) for number, code in enumerate(codes))
    packed = bits.to_bytes(-(-3 * len(codes) // 8), "little")
    blocks = b"".join(bytes([len(packed[at : at + 255])]) + packed[at : at + 255] for at in range(0, len(packed), 255))
    head = b"GIF89a" + struct.pack("<HHBBB", *size, 0x81, 0, 0) + palette
    return head + control + b"\x2c" + struct.pack("<HHHHB", *place, 0) + b"\2" + blocks + b"\0\x3b"


@pytest.mark.parametrize(
    ("data", "right", "why"),
    [
        (gif((40, 30), (10, 10, 10, 10)), WHITE, "its frame is smaller, and the first colour is not shown around it"),
        (gif((40, 30), (10, 10, 10, 10), transparent=3), WHITE, "with a transparent colour"),
        (gif((40, 30), (0, 0, 40, 30)), GREEN, "its frame fills it"),
        (gif((10, 10), (0, 0, 40, 30)), GREEN, "its frame is larger"),
        (gif((0, 0), (0, 0, 40, 30)), GREEN, "it has no size of its own"),
    ],
)
def test_around_the_first_frame_of_a_gif_is_nothing(data: bytes, right: Colour, why: str) -> None:
    assert shown(data) == right, why
    assert shown(data, (15, 15)) == GREEN


def test_around_the_first_frame_of_a_webp_is_nothing() -> None:
    first = PilImage.new("RGBA", (40, 30))
    first.paste((*RED, 255), (10, 10, 20, 20))
    data = encoded(first, "WEBP", save_all=True, append_images=[PilImage.new("RGBA", (40, 30), (*BLUE, 255))], lossless=True)
    assert not data[20] & 0x10, "it says that nothing is transparent"
    assert (shown(data), shown(data, (15, 15))) == (WHITE, RED)


# -- colours that are named without a profile ------------------------------------------------------------------------------

MUTED = (b"\0" + bytes([120, 160, 120]) * 16) * 16
D65, P3, ADOBE = (0.3127, 0.3290), (0.680, 0.320, 0.265, 0.690, 0.150, 0.060), (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
GAMMA = chunk(b"gAMA", struct.pack(">I", 45_455))


def primaries(*values: float) -> bytes:
    return chunk(b"cHRM", struct.pack(f">{len(values)}I", *(round(100_000 * value) for value in values)))


def numbers(*values: int) -> bytes:
    return chunk(b"cICP", bytes(values))


COLOURS = [
    ((GAMMA, primaries(*D65, *P3)), (109, 163, 117), "Display P3 by its primaries"),
    ((GAMMA, primaries(*D65, *ADOBE)), (98, 161, 119), "Adobe RGB by its primaries"),
    ((GAMMA, primaries(*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)), (120, 160, 120), "sRGB's primaries"),
    ((primaries(*D65, *P3),), (120, 160, 120), "primaries without a gamma say nothing"),
    ((GAMMA, primaries(*D65, *P3), chunk(b"sRGB", b"\0")), (120, 160, 120), "sRGB is stronger"),
    ((GAMMA, primaries(*(0.0,) * 8)), (120, 160, 120), "primaries that are none"),
    ((GAMMA, primaries(*(0.3, 0.3) * 4)), (120, 160, 120), "primaries that are all the same"),
    ((numbers(12, 13, 0, 1),), (108, 161, 116), "Display P3 by its number"),
    ((numbers(12, 13, 0, 1), chunk(b"sRGB", b"\0")), (108, 161, 116), "which is the strongest"),
    ((numbers(1, 13, 0, 1),), (120, 160, 120), "sRGB by its number"),
    ((numbers(200, 13, 0, 1),), (120, 160, 120), "an unknown number"),
    ((numbers(12, 13, 0),), (120, 160, 120), "a number too few"),
]


@pytest.mark.parametrize(("chunks", "right"), [case[:2] for case in COLOURS], ids=[case[2] for case in COLOURS])
def test_a_png_may_name_its_colours_without_a_profile(chunks: tuple[bytes, ...], right: Colour) -> None:
    found = shown(png((16, 16, 8, 2, 0), MUTED, *chunks))
    assert max(abs(a - b) for a, b in zip(found, right, strict=True)) <= 1


@pytest.mark.parametrize(("transfer", "paper"), [(16, 148), (18, 191)], ids=["PQ", "HLG"])
def test_a_white_sheet_in_hdr_is_white_and_half_its_light_is_grey(transfer: int, paper: int) -> None:
    """ITU-R BT.2408 has a sheet of paper at 58 % of PQ's range, and at 75 % of HLG's."""
    for value, right in ((paper, 255), (0, 0)):
        row = b"\0" + bytes([value] * 3) * 16
        assert abs(shown(png((16, 16, 8, 2, 0), row * 16, numbers(9, transfer, 0, 1)))[0] - right) <= 2
    row = b"\0" + bytes([paper - 20] * 3) * 16
    assert 150 < shown(png((16, 16, 8, 2, 0), row * 16, numbers(9, transfer, 0, 1)))[0] < 250


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_an_avif_or_heic_may_name_its_colours_by_number(kind: str) -> None:
    data = encoded(PilImage.new("RGB", (64, 32), (120, 160, 120)), kind, quality=98)
    at = data.index(b"colrnclx") + 8
    named = data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :]
    assert max(abs(a - b) for a, b in zip(shown(data), (120, 160, 120), strict=True)) <= 3
    assert max(abs(a - b) for a, b in zip(shown(named), (108, 161, 116), strict=True)) <= 4


# -- numbers without a sign ------------------------------------------------------------------------------------------------


def test_32_bits_without_a_sign_are_not_read_as_having_one() -> None:
    data = grey_tiff(ramp(np.uint32, 2**32 - 1))
    assert [shown(data, (x, 5))[0] for x in (0, 32, 63)] == [0, 129, 255]
    signed = grey_tiff(ramp(np.int32, 2**31 - 1))
    assert shown(signed, (63, 5))[0] - shown(signed, (0, 5))[0] >= 126


# -- checksums, and variants that nobody here can read ---------------------------------------------------------------------


def test_a_wrong_checksum_behind_whole_pixels_does_not_cost_a_png() -> None:
    packed = rows(BLUE)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    for parts in ((packed[:-4] + b"oops",), (packed[:10], packed[10:-4], b"oops")):
        data = START + header + b"".join(chunk(b"IDAT", part) for part in parts) + chunk(b"IEND", b"")
        assert shown(data) == BLUE
    data = START + header + chunk(b"IDAT", packed[:-9]) + chunk(b"IEND", b"")
    assert refusal(data) == "the file is damaged or cut off."


def jpeg_of(marker: int, bits: int = 8) -> bytes:
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 1] + bytes([marker]) + JPEG[at + 2 : at + 4] + bytes([bits]) + JPEG[at + 5 :]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (jpeg_of(0xC1, 12), "12 bits"),
        (jpeg_of(0xC3), "lossless"),
        (jpeg_of(0xC5), "hierarchical"),
        (jpeg_of(0xCB), "lossless with arithmetic coding"),
    ],
)
def test_an_intact_jpeg_that_cannot_be_read_is_not_called_damaged(data: bytes, why: str) -> None:
    assert refusal(data).startswith("it is a variant of JPEG that I cannot read."), why


def test_a_png_from_inside_an_iphone_program_is_not_called_damaged() -> None:
    data = png((16, 16, 8, 2, 0), MUTED)
    crushed = data[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + data[8:]
    assert refusal(crushed).startswith("it is a PNG in the form that only iPhone programs use inside.")


# -- to a model server every picture goes as it is shown -------------------------------------------------------------------

NOISE = np.random.default_rng(0).bytes(1_500_000)


def sent(data: bytes) -> bytes:
    body = json.loads(request_body("m", [Message(Role.USER, "?", (read_image(data, "x"),))], {}))
    return base64.b64decode(body["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2])


@pytest.mark.parametrize(
    ("data", "right", "why"),
    [
        (animated_png(STILL, frame_control(0), frame(1, BLUE)), BLUE, "an animation that hides its still picture"),
        (png((16, 16, 8, 2, 0), MUTED, numbers(12, 13, 0, 1)), (108, 161, 116), "colours by number"),
        (png((16, 16, 8, 2, 0), MUTED, GAMMA, primaries(*D65, *P3)), (109, 163, 117), "colours by primaries"),
        (png_with(chunk(b"iCCP", b"p\0\0" + zlib.compress(profile("P3")))), RED, "a profile"),
        (png_with(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000)))), RED, "text that Pillow finds too long"),
        (png_with(chunk(b"iCCP", b"p\0\0" + zlib.compress(NOISE))), RED, "a broken profile"),
        (png_with(chunk(b"tEXt", b"Comment\0hello", crc=7)), RED, "a wrong checksum in a comment"),
        (JPEG[:-2], RED, "its end mark is missing"),
    ],
)
def test_a_model_server_is_sent_what_people_see(data: bytes, right: Colour, why: str) -> None:
    with PilImage.open(io.BytesIO(sent(data))) as pil:
        assert (pil.format in ("PNG", "JPEG"), pil.info.get("icc_profile")) == (True, None), why
        found = pil.convert("RGB").getpixel((5, 5))
    assert isinstance(found, tuple)
    assert max(abs(a - b) for a, b in zip(found, right, strict=True)) <= 3, why


def test_a_picture_that_was_stored_and_is_refused_now_is_told() -> None:
    data = bytearray(encoded(PilImage.new("RGBA", (8, 8)), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9  # 14 bits each for width and height, less one (RFC 9649)
    data[at : at + 4] = struct.pack("<I", struct.unpack("<I", data[at : at + 4])[0] & 0xF0000000 | 7_999 << 14 | 7_999)
    stored = Image(bytes(data), "image/webp", "0" * 64, 8_000, 8_000)
    with pytest.raises(ImageError, match="I could not use the picture: it has 8000 x 8000 pixels"):
        request_body("m", [Message(Role.USER, "?", (stored,))], {})
    with pytest.raises(ImageError, match="I could not use the picture: it has 8000 x 8000 pixels"):
        to_pil(stored)


# -- what holds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    directory = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1" + struct.pack(">H", value) + bytes(6)
    data = encoded(PilImage.new("RGB", (64, 32), RED), "JPEG", exif=b"Exif\0\0" + directory)
    assert to_pil(read_image(data, "x")).size == (64, 32)


@pytest.mark.parametrize("next_directory", [8, 0x7FFFFFFF])
def test_a_directory_that_leads_back_to_itself_is_read_once(next_directory: int) -> None:
    directory = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0" + struct.pack(">I", next_directory)
    data = JPEG[:2] + struct.pack(">BBH", 0xFF, 0xE1, len(directory) + 8) + b"Exif\0\0" + directory + JPEG[2:]
    assert to_pil(read_image(data, "x")).size == (32, 64)


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)])
def test_a_picture_of_one_line_is_taken(size: tuple[int, int]) -> None:
    assert to_pil(read_image(encoded(PilImage.new("RGB", size, RED), "PNG"), "x")).size == size


@pytest.mark.parametrize("size", [(0, 16), (16, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    assert refusal(png((*size, 8, 2, 0), b"")) == "the file is damaged or cut off."


def test_what_is_behind_a_picture_costs_nothing() -> None:
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        data = encoded(PilImage.new("RGB", (64, 32), RED), kind) + b"\xff\xd9%PDF-1.4" + bytes(5_000_000)
        assert to_pil(read_image(data, "x")).size == (64, 32), kind
