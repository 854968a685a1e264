"""Downloads pictures from links, without letting a link reach internal addresses (SSRF).

A link must not make this machine connect to itself or to its local network. So every address, literal or from DNS, is checked when
connecting (the connection uses the same address that was checked), and again after each redirect. Time, redirects and bytes are
bounded.

A proxy would look up the name once more, and could find another address, perhaps one of its own network. So it is told only the
address that was checked here; the name is for the server behind it (TLS). For an http link the proxy would replace the Host header
by that address, so http links are not followed through a proxy.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from model_server.errors import ImageError
from model_server.images import MAX_BYTES, clean_name

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
ProxyFor = Callable[[str], str | None]
"""From the URL that is wanted to the URL of the proxy, with its password; None is a direct connection."""
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Global for Python 3.11, or by the registry, and still not the internet: it leads to whoever runs this machine's network.
_NOT_FOR_US = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # IETF protocol assignments; a cloud's metadata are at 192.0.0.192
            "168.63.129.16/32",  # Azure's own services, from inside its machines
            "192.88.99.0/24",  # what was the nearest 6to4 relay
            "64:ff9b:1::/48",  # NAT64 with addresses of the local network (RFC 8215)
            "5f00::/16",  # segment routing (RFC 9602)
            "3fff::/20",  # documentation (RFC 9637)
        ),
    )
)
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_UNKNOWN = "its host name is not known."
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
    if any(address in network for network in _NOT_FOR_US):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def no_proxy(_url: str) -> None:
    """A `ProxyFor` for a machine that reaches everything directly."""
    return


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
    proxy_for: ProxyFor = no_proxy,
) -> bytes:
    """Download the bytes behind an http(s) link: at most `max_bytes`, within `timeout_seconds` in all. Does not decode them.

    Raises `ImageError`, named after the link without its query, which may hold secrets. `is_allowed` decides for each address;
    `resolver` None is the system's; `proxy_for` says by which proxy a URL is reached."""
    name = _shown(url)
    checked = _CheckedResolver(resolver or aiohttp.ThreadedResolver(), is_allowed)
    connector = aiohttp.TCPConnector(resolver=checked, use_dns_cache=False)
    options: dict[str, Any] = {
        "auto_decompress": False,  # a small compressed answer must not become a large one (a "zip bomb")
        "headers": {"User-Agent": "Threadsight", "Accept": "image/*", "Accept-Encoding": "identity"},
    }
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), **options) as direct,
            # The proxy itself may have a private address.
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), **options) as by_proxy,
        ):
            target = URL(url)
            for _ in range(_MAX_REDIRECTS + 1):
                _check(target, name, is_allowed)
                proxy = proxy_for(str(target))
                request: AbstractAsyncContextManager[aiohttp.ClientResponse]
                if proxy is None:
                    request = direct.get(target, allow_redirects=False)
                else:
                    request = await _through_proxy(by_proxy, target, name, proxy, checked)
                async with request as response:
                    if response.status in _REDIRECTS and "Location" in response.headers:
                        target = target.join(URL(response.headers["Location"]))
                        continue
                    return await _read(response, name, max_bytes)
            raise ImageError(name, "the link is redirected too often.")
    except TimeoutError:
        raise ImageError(name, "the download took too long.") from None
    except _AddressRefused as error:
        raise ImageError(name, _PRIVATE) from error
    except aiohttp.ClientConnectorDNSError as error:
        reason = _PRIVATE if isinstance(error.os_error, _AddressRefused) else _UNKNOWN
        raise ImageError(name, reason) from error
    except aiohttp.ClientProxyConnectionError as error:
        raise ImageError(name, "the proxy of this machine cannot be reached.") from error
    except aiohttp.ClientHttpProxyError as error:
        raise ImageError(name, f"the proxy of this machine did not let me reach it (status {error.status}).") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ImageError(name, "the download failed.") from error


async def _through_proxy(
    session: aiohttp.ClientSession, target: URL, name: str, proxy: str, resolver: AbstractResolver
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """A request by the proxy, to the address that was checked here."""
    host = target.raw_host or ""
    if target.scheme != "https":
        raise ImageError(name, "it is an http link, and through the proxy of this machine I can follow only https links.")
    try:
        found = await resolver.resolve(host, target.port or 443, socket.AF_UNSPEC)
    except _AddressRefused:
        raise
    except OSError as error:
        raise ImageError(name, _UNKNOWN) from error
    addresses = sorted((result["host"] for result in found), key=lambda address: ":" in address)  # a proxy may lack IPv6
    return session.get(
        target.with_host(addresses[0]),
        headers={"Host": target.host_port_subcomponent or host},
        server_hostname=host,
        proxy=proxy,
        allow_redirects=False,
    )


async def _read(response: aiohttp.ClientResponse, name: str, max_bytes: int) -> bytes:
    if response.status != 200:
        raise ImageError(name, f"the server answered with status {response.status}.")
    data = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        data += chunk
        if len(data) > max_bytes:
            raise ImageError(name, f"it is larger than {max_bytes / 1e6:.0f} MB.")
    return bytes(data)


def _check(target: URL, name: str, is_allowed: Callable[[IpAddress], bool]) -> None:
    if target.scheme not in ("http", "https") or not target.host:
        raise ImageError(name, "only http and https links work.")
    if target.user is not None or target.password is not None:
        raise ImageError(name, "links with a user name or password do not work.")
    try:
        address = ipaddress.ip_address(target.host.partition("%")[0])
    except ValueError:
        # A host whose last part is a number is an address (https://url.spec.whatwg.org/#ends-in-a-number-checker), such as 127.1,
        # 0177.0.0.1 or 2130706433. Nobody writes a picture's link like this, and the libraries below disagree about them.
        if _NUMBER.fullmatch(target.host.rstrip(".").rpartition(".")[2]):
            raise ImageError(name, "its address is written in a way that I do not follow.") from None
        return  # a host name: checked when it is resolved
    if not is_allowed(address):
        raise ImageError(name, _PRIVATE)


def _shown(url: str) -> str:
    try:
        parsed = URL(url)
    except ValueError:
        return "the link"
    return clean_name(f"{parsed.host}{parsed.path}") if parsed.host else "the link"
