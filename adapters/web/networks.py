"""Lists of addresses and networks. Imports no web framework, because the settings use it too."""

from __future__ import annotations

import ipaddress

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(text: str) -> tuple[IPNetwork, ...]:
    """Addresses and networks such as `127.0.0.1, 10.0.0.0/8`. Raises ValueError with the rest of a sentence."""
    networks = []
    for entry in (part.strip() for part in text.split(",")):
        if not entry:
            continue
        try:
            networks.append(ipaddress.ip_network(entry))
        except ValueError:
            raise ValueError(f"has {entry!r}, which is neither an address nor a network such as 10.0.0.0/8") from None
    return tuple(networks)
