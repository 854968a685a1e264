"""Pictures from Discord's own hosts. Their URLs expire; then the message is read again, for new ones."""

from __future__ import annotations

import aiohttp
from yarl import URL

from adapters.downloads import STALL_SECONDS, Downloader, same_origin
from adapters.proxies import ProxyFor, no_proxy

DOWNLOAD_SECONDS = 30.0
_HOSTS = frozenset({"cdn.discordapp.com", "media.discordapp.net"})

NO_LONGER_THERE = "it is no longer there"


class Expired(Exception):
    """The URL does not work, or no longer."""


class Downloads:
    """Downloads from Discord's hosts, and from `api_url`'s host if given. Times are in seconds."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        api_url: str | None,
        *,
        proxy_for: ProxyFor = no_proxy,
        download_seconds: float = DOWNLOAD_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._api = None if api_url is None else URL(api_url)
        self._downloader = Downloader(
            session,
            "Discord",
            self._is_ours,
            outside="it lies outside of Discord",
            refusal=lambda status: Expired() if status in (403, 404, 410) else None,
            proxy_for=proxy_for,
            download_seconds=download_seconds,
            stall_seconds=stall_seconds,
        )

    async def fetch(self, address: str, max_bytes: int) -> bytes:
        """Download at most `max_bytes`. Raises Expired or AttachmentError."""
        return (await self._downloader.fetch(address, max_bytes)).data

    def is_discords(self, address: str) -> bool:
        """Whether we download from this URL's host."""
        try:
            return self._is_ours(URL(address))
        except ValueError:
            return False

    def _is_ours(self, url: URL) -> bool:
        if self._api is not None and same_origin(url, self._api):
            return True
        host = url.host or ""
        is_proxy = host.startswith("images-ext-") and host.endswith(".discordapp.net")
        return url.scheme == "https" and (host in _HOSTS or is_proxy)
