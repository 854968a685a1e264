"""The proxies by which the program reaches what is outside: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, as curl reads them.

The libraries differ in which of these variables they read, and in what NO_PROXY may contain. So it is decided here for all, and
each is told which proxy to take. Addresses of this machine are always reached directly.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

EXAMPLE = "http://proxy.example:3128"
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """`url` may have a password; `shown` has none. `variable` names it."""

    url: str = field(repr=False)
    variable: str

    @property
    def shown(self) -> str:
        """The address for people to read."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """`https` is used for https and wss, `http` for http and ws. `exceptions` are NO_PROXY's entries."""

    https: Proxy | None = None
    http: Proxy | None = None
    exceptions: tuple[str, ...] = ()

    def for_url(self, url: str) -> str | None:
        """The URL of the proxy for an address, with its password; None: it is reached directly. Raises ValueError for no URL."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme in ("https", "wss") else self.http
        host, port = (parts.hostname or "").removesuffix("."), parts.port or _PORTS.get(parts.scheme)
        if proxy is None or _is_this_machine(host) or any(_is_meant(entry, host, port) for entry in self.exceptions):
            return None
        return proxy.url

    @property
    def used(self) -> tuple[Proxy, ...]:
        """The proxies, each once."""
        return tuple(dict.fromkeys(proxy for proxy in (self.https, self.http) if proxy is not None))

    @property
    def sentence(self) -> str | None:
        """What goes where, for the operator; None without proxies."""
        if not self.used:
            return None
        by_scheme = [("https", self.https), ("http", self.http)]
        ways = [f"{scheme} goes {_way(proxy)}" for scheme, proxy in by_scheme]
        direct = ", ".join(("this machine", *self.exceptions))
        return f"{' and '.join(ways)}; reached directly: {direct}."

    def environment(self) -> dict[str, str | None]:
        """The variables for libraries that read them by themselves (huggingface_hub), in upper case; None takes one away."""
        if not self.used:
            return {}
        return {
            "HTTPS_PROXY": self.https.url if self.https else None,
            "HTTP_PROXY": self.http.url if self.http else None,
            "ALL_PROXY": None,
            "NO_PROXY": ",".join((*self.exceptions, *THIS_MACHINE)),
        }


def read_proxies(given: Mapping[str, str]) -> tuple[Proxies, list[str]]:
    """Read the variables, by upper-case names. Returns the proxies, and a sentence for each that is wrong."""
    found: dict[str, Proxy | None] = {}
    problems: dict[str, str] = {}
    for wanted in ("HTTPS_PROXY", "HTTP_PROXY"):
        variable = next((name for name in (wanted, "ALL_PROXY") if given.get(name, "").strip()), None)
        try:
            found[wanted] = None if variable is None else Proxy(_plain_proxy(given[variable].strip()), variable)
        except ValueError as error:
            problems[str(variable)] = f"{variable} {error}."
    exceptions = tuple(given.get("NO_PROXY", "").replace(",", " ").lower().split())
    return Proxies(found.get("HTTPS_PROXY"), found.get("HTTP_PROXY"), exceptions), list(problems.values())


def _plain_proxy(value: str) -> str:
    """A proxy's URL; http:// is left out by many. Raises ValueError, without the value, which may have a password."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        is_address = bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/") and not (parts.query or parts.fragment)
    except ValueError:
        is_address = False
        parts = urlsplit("")
    if parts.scheme.startswith("socks"):
        raise ValueError(f"names a SOCKS proxy, and I can use only HTTP proxies such as {EXAMPLE}")
    if not is_address or parts.scheme not in ("http", "https"):
        raise ValueError(f"is not a proxy's address such as {EXAMPLE} (in a password, # is written %23, / is %2F and @ is %40)")
    return url.rstrip("/")


def _way(proxy: Proxy | None) -> str:
    return "directly" if proxy is None else f"through {proxy.shown} ({proxy.variable})"


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _is_meant(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY means a host: *, a name with all below it, an address, a network, each perhaps with a port."""
    if entry == "*":
        return True
    name, _, its_port = entry.rpartition(":")
    if its_port.isdecimal() and (":" not in name or name.endswith("]")):  # not a part of an IPv6 address
        if int(its_port) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name = entry.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
