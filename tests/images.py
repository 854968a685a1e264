"""A picture that `tiny` understands, drawn by hand."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw


def red_circle() -> bytes:
    """A PNG with a red circle in the middle of a white background."""
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).ellipse((90, 90, 166, 166), fill=(220, 30, 30))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
