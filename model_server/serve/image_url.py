"""Pictures as clients send them: data: URLs in all their spellings, bare base64, and links.

Formats: RFC 2397 (data: URLs) and RFC 4648 (base64, and the alphabet for URLs).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote

from model_server.decoding.budget import aside
from model_server.errors import ImageError
from model_server.images import read_image
from model_server.types import Image

FetchImage = Callable[[str, int], Awaitable[bytes]]
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)", re.IGNORECASE)
_FROM_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")


async def read_image_url(url: str, name: str, fetch: FetchImage, max_bytes: int) -> Image:
    """Fetch or decode a picture, and check it. Raises `ImageError`.

    `name` is what messages call it; `max_bytes` limits its file."""
    url = url.strip()
    scheme = _SCHEME.match(url)
    match scheme and scheme[0].lower():
        case "data":
            return await aside(partial(_read_data_url, url, name, max_bytes))
        case "http" | "https":
            return await aside(partial(read_image, await fetch(url, max_bytes), name, max_bytes=max_bytes))
        case None:  # OpenAI: "either a URL of the image or the base64 encoded image data"
            return await aside(partial(_read_base64, url, name, max_bytes))
        case _:
            raise ImageError(name, "only data:, https: and http: URLs work.")


def _read_data_url(url: str, name: str, max_bytes: int) -> Image:
    head, _, data = url.partition(",")
    if "base64" not in [parameter.strip().lower() for parameter in head.split(";")]:
        raise ImageError(name, "a data: URL must be encoded in base64.")
    return _read_base64(data, name, max_bytes)


def _read_base64(data: str, name: str, max_bytes: int) -> Image:
    """Base64 in either alphabet, with or without padding, line breaks and percent-encoding."""
    if not data:
        raise ImageError(name, "it is empty.")
    try:
        letters = (unquote(data) if "%" in data else data).encode("ascii").translate(_FROM_URL_ALPHABET, b" \t\r\n").rstrip(b"=")
        decoded = base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except ValueError:
        raise ImageError(name, "its base64 encoding is damaged, or it is neither a data: URL nor a link.") from None
    return read_image(decoded, name, max_bytes=max_bytes)
