from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage

from model_server.errors import ImageError
from model_server.images import clean_name, read_image, to_pil

RED = (255, 0, 0)


def encoded(pil: PilImage.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pil.save(buffer, kind, **options)
    return buffer.getvalue()


def halves() -> PilImage.Image:
    """Left red, right blue, 64 x 32."""
    pil = PilImage.new("RGB", (64, 32), "blue")
    pil.paste(RED, (0, 0, 32, 32))
    return pil


def close(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(abs(x - y) < 30 for x, y in zip(a, b, strict=True))


def pixel(data: bytes, at: tuple[int, int] = (5, 5)) -> tuple[int, ...]:
    value = to_pil(read_image(data, "x")).getpixel(at)
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("HEIF", "image/heic"),
        ("AVIF", "image/avif"),
    ],
)
def test_formats_are_accepted_by_their_bytes(kind: str, media_type: str) -> None:
    data = encoded(halves(), kind)
    image = read_image(data, "misleading.txt")
    assert (image.media_type, image.width, image.height, image.data) == (media_type, 64, 32, data)
    assert close(pixel(data), RED)
    assert close(pixel(data, (60, 5)), (0, 0, 255))


def test_an_animation_shows_its_first_frame() -> None:
    frames = [PilImage.new("RGB", (16, 16), colour) for colour in ("green", "red", "blue")]
    assert close(pixel(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])), (0, 128, 0))


def test_exif_rotation_is_applied() -> None:
    exif = PilImage.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    data = encoded(halves(), "JPEG", exif=exif, quality=95)
    image = read_image(data, "x.jpg")
    assert (image.width, image.height) == (32, 64)
    assert close(pixel(data, (16, 5)), RED)
    assert close(pixel(data, (16, 60)), (0, 0, 255))


def test_cmyk() -> None:
    assert close(pixel(encoded(PilImage.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")), RED)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    pil = PilImage.fromarray(np.full((16, 16), 0x8000, dtype=np.uint16))
    assert close(pixel(encoded(pil, kind)), (128, 128, 128))


@pytest.mark.parametrize(
    ("dtype", "brightest", "value"),
    [
        (np.float32, 1.0, 0.5),
        (np.float32, 255.0, 127.5),
        (np.float32, 65_535.0, 32_768.0),
        (np.int32, 255, 128),
        (np.int32, 1, 1),  # nearly black: whole numbers count from 0 to 255 at least
        (np.int32, 65_535, 32_768),
    ],
)
def test_how_deep_a_greyscale_is_shows_in_its_brightest_point(dtype: type[np.generic], brightest: float, value: float) -> None:
    values = np.full((16, 16), value, dtype=dtype)
    values[0, 0] = brightest
    expected = 1 if (dtype, brightest) == (np.int32, 1) else 128
    assert abs(pixel(encoded(PilImage.fromarray(values), "TIFF"))[0] - expected) <= 1


def test_points_that_are_no_numbers_or_below_black_are_black() -> None:
    values = np.ones((16, 16), dtype=np.float32)
    values[5, 5], values[6, 5] = np.nan, -3
    data = encoded(PilImage.fromarray(values), "TIFF")
    assert [pixel(data, at) for at in ((5, 5), (5, 6), (5, 7))] == [(0, 0, 0), (0, 0, 0), (255, 255, 255)]


def test_transparency_is_put_on_white() -> None:
    palette = PilImage.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, *RED])
    palette.paste(1, (8, 0, 16, 16))
    data = encoded(palette, "PNG", transparency=0)
    assert pixel(data, (2, 2)) == (255, 255, 255)
    assert pixel(data, (12, 2)) == RED
    assert pixel(encoded(PilImage.new("RGBA", (16, 16), (0, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert pixel(encoded(PilImage.new("LA", (16, 16), (0, 0)), "PNG")) == (255, 255, 255)


def refusal(data: bytes, name: str = "cat.png") -> str:
    with pytest.raises(ImageError) as caught:
        read_image(data, name)
    assert str(caught.value).startswith(f"I could not use {name}: ")
    return caught.value.reason


def huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IEND\xaeB`\x82"


def test_a_reason_for_everything_that_is_not_usable() -> None:
    assert "empty" in refusal(b"")
    assert "not a picture" in refusal(b"Dear all, please find attached")
    assert "not a picture" in refusal(b"\0" * 1000)
    assert "SVG" in refusal(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "logo.svg")
    assert "SVG" in refusal(b"\n<svg/>", "logo.png")
    assert "SVG" in refusal(b"<!--" + b" " * 2_000 + b"--><svg/>", "logo.SVG")
    assert "not a picture that I can read" in refusal(b"Not even that", "logo.svg")
    assert "web page" in refusal(b"<!DOCTYPE html><html></html>")
    assert "PDF" in refusal(b"%PDF-1.7")
    assert "pixels" in refusal(huge_png())
    assert refusal(b"\xff\xd8\xff" + bytes(100_000_000)) == "it has 100 MB, and I take up to 26 MB."


def test_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: PilImage.Image) -> None:
        raise AssertionError("decoded")

    data = encoded(PilImage.new("1", (9000, 9000)), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    assert "9000 x 9000 pixels" in refusal(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "HEIF", "AVIF", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_cut_off(kind: str, part: float) -> None:
    noise = PilImage.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert "damaged or cut off" in refusal(data[: int(len(data) * part)])


STARTS = (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"\0\0\0\x18ftypheic", b"II*\0")


@given(st.binary(max_size=300), st.sampled_from(STARTS))
def test_random_bytes_never_do_anything_else_than_be_refused_or_read(noise: bytes, start: bytes) -> None:
    try:
        image = read_image(start + noise, "x")
    except ImageError:
        return
    assert to_pil(image).size == (image.width, image.height)


@given(st.text(max_size=200))
def test_names_become_short_single_lines(name: str) -> None:
    cleaned = clean_name(name)
    assert 0 < len(cleaned) <= 60
    assert cleaned.isprintable()
    assert cleaned == clean_name(cleaned)


def test_a_name_keeps_its_ending_and_loses_tricks() -> None:
    assert clean_name("a" * 100 + ".jpeg").endswith(".jpeg")
    assert clean_name("evil\u202egnp.exe\x1b[31m\n") == "evil gnp.exe [31m"


def test_same_bytes_same_name(image: Callable[..., object]) -> None:
    assert image("red") == image("red")
    assert image("red") != image("blue")
