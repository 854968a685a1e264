"""Addresses as browsers compare them: without upper case, default ports, a dot at the end, or other forms of an IPv6 address."""

from __future__ import annotations

import re
from typing import NamedTuple

from yarl import URL

_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")  # a name as DNS knows it, or an address


class Origin(NamedTuple):
    """Scheme, host and port of a page. `host` is an ASCII name (IDNA) or an address, an IPv6 one without brackets."""

    scheme: str
    host: str
    port: int


def origin_of(address: str) -> Origin | None:
    """The origin of an http(s) URL; None if it is something else, such as the `null` that browsers send as an origin."""
    try:
        url = URL(address)
        host, port = (url.raw_host or "").removesuffix("."), url.port
    except ValueError:
        return None
    if url.scheme not in ("http", "https") or not port or not _HOST.fullmatch(host):
        return None
    return Origin(url.scheme, host, port)


def origin_of_host(host: str, scheme: str) -> Origin | None:
    """The origin that a Host header names, if the page was opened by `scheme`; None if it is not a host and a port."""
    return None if re.search(r"[/\\@?#\s]", host) else origin_of(f"{scheme}://{host}")


def path_of(address: str) -> str:
    """A URL's path, with a slash at its end, as it is sent."""
    return URL(address).raw_path.rstrip("/") + "/"
