"""Downloads from a platform's own hosts, in bounded size and time. URLs may be signed and are never logged or shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from adapters.base import AttachmentError
from adapters.proxies import ProxyFor, no_proxy
from adapters.sizes import check_size

DOWNLOAD_SECONDS = 60.0
STALL_SECONDS = 10.0  # without a byte
_MAX_REDIRECTS = 3
_CHUNK_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file, and the media type without parameters that the server gave it; it need not be true."""

    data: bytes = field(repr=False)
    content_type: str


class Downloader:
    """Downloads only from URLs that `is_ours` accepts, redirects included. Times are in seconds.

    `platform` is the name for people. `outside` is the reason given for any other URL. `refusal` makes the error for a status other
    than 200; where it returns None, the error names the status.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        platform: str,
        is_ours: Callable[[URL], bool],
        *,
        outside: str,
        refusal: Callable[[int], Exception | None],
        proxy_for: ProxyFor = no_proxy,
        download_seconds: float = DOWNLOAD_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._session = session
        self._platform = platform
        self._is_ours = is_ours
        self._outside = outside
        self._refusal = refusal
        self._proxy_for = proxy_for
        self._download_seconds = download_seconds
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_seconds, sock_read=stall_seconds)

    async def fetch(self, address: str, max_bytes: int, headers: Mapping[str, str] | None = None) -> Downloaded:
        """Download at most `max_bytes`. Raises AttachmentError, or the error that `refusal` makes."""
        try:
            async with asyncio.timeout(self._download_seconds):
                return await self._follow(URL(address), max_bytes, headers)
        except TimeoutError:  # includes stalls: aiohttp's stall error is a TimeoutError
            raise AttachmentError("the download took too long") from None
        except aiohttp.ClientPayloadError:
            raise AttachmentError("the download broke off") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise AttachmentError(f"I could not reach {self._platform} to download it") from None

    async def _follow(self, url: URL, max_bytes: int, headers: Mapping[str, str] | None) -> Downloaded:
        for _ in range(_MAX_REDIRECTS + 1):
            if not self._is_ours(url):
                raise AttachmentError(self._outside)
            proxy = self._proxy_for(str(url))
            async with self._session.get(
                url, headers=headers, allow_redirects=False, timeout=self._timeout, proxy=proxy
            ) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    url = url.join(URL(response.headers["Location"]))
                    continue
                if response.status != 200:
                    told = AttachmentError(f"{self._platform} answered with the error {response.status}")
                    raise self._refusal(response.status) or told
                return Downloaded(await _read(response, max_bytes), response.content_type)
        raise AttachmentError(f"{self._platform} sent me in circles")


def same_origin(url: URL, of: URL) -> bool:
    """Whether two URLs have scheme, host and port in common."""
    return url.is_absolute() and url.origin() == of.origin()


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    is_plain = "Content-Encoding" not in response.headers  # otherwise the announced size is the compressed one
    announced = response.content_length if is_plain else None
    check_size(announced, max_bytes)
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        data += chunk
        check_size(len(data), max_bytes, is_all=False)
    if announced is not None and len(data) < announced:
        raise AttachmentError("the download broke off")
    return bytes(data)
