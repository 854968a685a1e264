"""Downloads pictures from links, without letting a link reach internal addresses (SSRF).

A link must not make this machine connect to itself or to its local network. So every address, literal or from DNS, is checked when
connecting (the connection uses the same address that was checked), and again after each redirect. Time, redirects and bytes are
bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from model_server.errors import ImageError
from model_server.images import MAX_BYTES, clean_name

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_MAX_REDIRECTS = 5
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PRIVATE = "the link leads to a private or local address, and I do not follow those."


def is_public_address(address: IpAddress) -> bool:
    """Whether an address is on the public internet.

    False for private, loopback, link-local, shared (CGNAT), reserved and multicast addresses, also when embedded in an IPv6 address
    (mapped, 6to4, Teredo, NAT64). Ranges: https://www.iana.org/assignments/iana-ipv4-special-registry."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public_address(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class _AddressRefused(OSError):
    pass


class _CheckedResolver(AbstractResolver):
    """Resolves a host name, and refuses it if any of its addresses is not allowed."""

    def __init__(self, resolver: AbstractResolver, is_allowed: Callable[[IpAddress], bool]) -> None:
        self._resolver = resolver
        self._is_allowed = is_allowed

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(self._is_allowed(ipaddress.ip_address(result["host"].partition("%")[0])) for result in found):
            raise _AddressRefused(host)
        return found

    async def close(self) -> None:
        await self._resolver.close()


async def fetch_image_url(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout_seconds: float = 20.0,
    is_allowed: Callable[[IpAddress], bool] = is_public_address,
    resolver: AbstractResolver | None = None,
) -> bytes:
    """Download the bytes behind an http(s) link: at most `max_bytes`, within `timeout_seconds` in all. Does not decode them.

    Raises `ImageError`, named after the link without its query, which may hold secrets. `is_allowed` decides for each address;
    `resolver` None is the system's."""
    name = _shown(url)
    checked = _CheckedResolver(resolver or aiohttp.ThreadedResolver(), is_allowed)
    connector = aiohttp.TCPConnector(resolver=checked, use_dns_cache=False)
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # a small compressed answer must not become a large one (a "zip bomb")
                headers={"User-Agent": "Threadsight", "Accept": "image/*", "Accept-Encoding": "identity"},
            ) as session,
        ):
            return await _follow(session, url, name, max_bytes, is_allowed)
    except TimeoutError:
        raise ImageError(name, "the download took too long.") from None
    except aiohttp.ClientConnectorDNSError as error:
        reason = _PRIVATE if isinstance(error.os_error, _AddressRefused) else "its host name is not known."
        raise ImageError(name, reason) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ImageError(name, "the download failed.") from error


async def _follow(
    session: aiohttp.ClientSession, url: str, name: str, max_bytes: int, is_allowed: Callable[[IpAddress], bool]
) -> bytes:
    target = URL(url)
    for _ in range(_MAX_REDIRECTS + 1):
        _check(target, name, is_allowed)
        async with session.get(target, allow_redirects=False) as response:
            if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                target = target.join(URL(response.headers["Location"]))
                continue
            if response.status != 200:
                raise ImageError(name, f"the server answered with status {response.status}.")
            data = bytearray()
            async for chunk in response.content.iter_chunked(65536):
                data += chunk
                if len(data) > max_bytes:
                    raise ImageError(name, f"it is larger than {max_bytes / 1e6:.0f} MB.")
            return bytes(data)
    raise ImageError(name, "the link is redirected too often.")


def _check(target: URL, name: str, is_allowed: Callable[[IpAddress], bool]) -> None:
    if target.scheme not in ("http", "https") or not target.host:
        raise ImageError(name, "only http and https links work.")
    if target.user is not None or target.password is not None:
        raise ImageError(name, "links with a user name or password do not work.")
    try:
        address = ipaddress.ip_address(target.host.partition("%")[0])
    except ValueError:
        return  # a host name: checked when it is resolved
    if not is_allowed(address):
        raise ImageError(name, _PRIVATE)


def _shown(url: str) -> str:
    try:
        parsed = URL(url)
    except ValueError:
        return "the link"
    return clean_name(f"{parsed.host}{parsed.path}") if parsed.host else "the link"
