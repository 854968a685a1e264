"""Where a request comes from, so that one visitor's wrong tokens are not counted against others."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from aiohttp import hdrs, web

from adapters.web.networks import IPNetwork

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_HOPS = 10


class Visitors:
    """Tells visitors apart by their addresses. Only what a proxy in `trusted_proxies` says in X-Forwarded-For is believed."""

    def __init__(self, trusted_proxies: Sequence[IPNetwork] = ()) -> None:
        self._trusted = trusted_proxies

    def visitor_of(self, request: web.BaseRequest) -> str:
        """The address, of an IPv6 one the /64 that one customer usually has, as text."""
        address = _parse(request.remote or "")
        # The last entry is what the proxy nearest to us has seen; what is before it may be anybody's invention.
        hops = [hop for value in request.headers.getall(hdrs.X_FORWARDED_FOR, ()) for hop in value.split(",")]
        for hop in reversed(hops[-_MAX_HOPS:]):
            if address is None or not self._is_trusted(address):
                break
            said = _parse(hop)
            if said is None:
                break
            address = said
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, 64), strict=False))
        return "an unknown address" if address is None else str(address)

    def _is_trusted(self, address: IPAddress) -> bool:
        return any(address in network for network in self._trusted)


def _parse(text: str) -> IPAddress | None:
    """An address, perhaps with a port as some proxies write it. One of IPv4 within IPv6 is that of IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
