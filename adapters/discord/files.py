"""Pictures from Discord's own hosts, in bounded size and time. Addresses are signed and never logged.

An address expires; then the message is read once more, which gives a fresh one.
"""

from __future__ import annotations

import asyncio

import aiohttp
from yarl import URL

from adapters.base import AttachmentError

DOWNLOAD_SECONDS = 30.0
STALL_SECONDS = 10.0
_CHUNK_BYTES = 64 * 1024
_HOSTS = frozenset({"cdn.discordapp.com", "media.discordapp.net"})

NO_LONGER_THERE = "it is no longer there"


class Expired(Exception):
    """The address does not work (any more)."""


class Downloads:
    """`api_url`: its host may be asked too."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        api_url: str | None,
        *,
        download_seconds: float = DOWNLOAD_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._session = session
        self._api_origin = None if api_url is None else URL(api_url).origin()
        self._download_seconds = download_seconds
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_seconds, sock_read=stall_seconds)

    async def fetch(self, address: str, max_bytes: int) -> bytes:
        """Raises Expired, or AttachmentError."""
        try:
            async with asyncio.timeout(self._download_seconds):
                return await self._download(URL(address), max_bytes)
        except TimeoutError:  # a stall too: aiohttp's is one
            raise AttachmentError("the download took too long") from None
        except aiohttp.ClientPayloadError:
            raise AttachmentError("the download broke off") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise AttachmentError("I could not reach Discord to download it") from None

    def is_discords(self, address: str) -> bool:
        """Whether we would download from there."""
        try:
            url = URL(address)
            if self._api_origin is not None and url.is_absolute() and url.origin() == self._api_origin:
                return True
        except ValueError:
            return False
        host = url.host or ""
        is_proxy = host.startswith("images-ext-") and host.endswith(".discordapp.net")
        return url.scheme == "https" and (host in _HOSTS or is_proxy)

    async def _download(self, url: URL, max_bytes: int) -> bytes:
        if not self.is_discords(str(url)):
            raise AttachmentError("it lies outside of Discord")
        async with self._session.get(url, allow_redirects=False, timeout=self._timeout) as response:
            if response.status in (403, 404, 410):
                raise Expired
            if response.status != 200:
                raise AttachmentError(f"Discord answered with the error {response.status}")
            announced = response.content_length
            if (announced or 0) > max_bytes:
                raise AttachmentError(_too_large(max_bytes))
            data = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                data += chunk
                if len(data) > max_bytes:
                    raise AttachmentError(_too_large(max_bytes))
            is_plain = "Content-Encoding" not in response.headers
            if is_plain and announced is not None and len(data) < announced:
                raise AttachmentError("the download broke off")
            return bytes(data)


def _too_large(max_bytes: int) -> str:
    return f"it is larger than {max_bytes / 10**6:.0f} MB"
