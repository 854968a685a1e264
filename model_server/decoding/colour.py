"""Colours as a viewer shows them: an embedded profile, or a PNG's gamma, is converted to sRGB.

A profile that is broken, or made for other channels than the picture has, is ignored, as viewers do.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image as PilImage
from PIL import ImageCms

from model_server.decoding.mending import MAX_PROFILE_BYTES

_DISPLAY_GAMMA = 2.2
Convert = Callable[[PilImage.Image], PilImage.Image]
_CHANNELS = {"RGB ": {"RGB", "RGBA"}, "GRAY": {"L", "LA"}, "CMYK": {"CMYK"}, "Lab ": {"LAB"}}


def to_srgb(mode: str, profile: bytes | None, gamma: float | None = None) -> Convert:
    """How pictures of this mode (L, LA, RGB, RGBA, CMYK or LAB) become RGB, or RGBA where they have transparency.

    `profile` is an ICC profile, `gamma` the exponent that a PNG names; both untrusted."""
    if mode == "LAB" or (profile and len(profile) <= MAX_PROFILE_BYTES):
        try:
            if convert := _by_profile(mode, profile):
                return convert
        except Exception:  # lcms refuses a broken profile in many ways
            pass
    if not profile and gamma is not None and 0.05 < gamma < 5 and abs(gamma * _DISPLAY_GAMMA - 1) > 0.05:
        exponent = 1 / (gamma * _DISPLAY_GAMMA)
        table = [round(255 * (i / 255) ** exponent) for i in range(256)]
        return lambda image: plain(_with_alpha(image, lambda colours: colours.point(table * len(colours.getbands()))))
    return plain


def _by_profile(mode: str, profile: bytes | None) -> Convert | None:
    """None if nothing has to be converted, or the profile is for other channels."""
    srgb = ImageCms.createProfile("sRGB")
    if mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    else:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        if mode not in _CHANNELS.get(source.profile.xcolor_space, set()):
            return None
        if mode != "CMYK" and ImageCms.getProfileDescription(source).startswith("sRGB"):
            return None
    colours = mode.removesuffix("A") if mode in ("LA", "RGBA") else mode
    transform = ImageCms.buildTransform(source, srgb, colours, "RGB")

    def convert(image: PilImage.Image) -> PilImage.Image:
        return _with_alpha(image, transform.apply)

    return convert


def _with_alpha(image: PilImage.Image, convert: Convert) -> PilImage.Image:
    """Convert the colours, and keep the transparency as it is."""
    if image.mode not in ("LA", "RGBA"):
        return convert(image)
    alpha = image.getchannel("A")
    image = convert(image.convert(image.mode.removesuffix("A")))
    image.putalpha(alpha)
    return image


def plain(image: PilImage.Image) -> PilImage.Image:
    """As RGB, or RGBA where it has transparency, with its colours as they are."""
    target = "RGBA" if image.mode in ("LA", "RGBA") else "RGB"
    return image if image.mode == target else image.convert(target)
