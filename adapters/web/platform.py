"""The web page's platform description: a platform that is always served."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from adapters.base import Adapter, Finding
from adapters.platform import Host, PlatformDescription
from adapters.settings import secret
from adapters.web.networks import parse_networks
from adapters.web.settings import WebSettings


def _make(settings: WebSettings, host: Host) -> Adapter:
    from adapters.web.server import WebAdapter

    return WebAdapter(
        settings.host,
        settings.port,
        secret(settings.token),
        public_url=settings.public_url,
        trusted_proxies=parse_networks(settings.trusted_proxies),
        max_image_bytes=host.max_image_bytes,
        more_routes=host.page_routes,
    )


async def _check(settings: WebSettings, host: Host) -> AsyncIterator[Finding]:
    yield await asyncio.to_thread(_look_at_port, settings.host, settings.port)
    if settings.public_url is not None:
        yield Finding("Web page", True, f"People open it at {settings.public_url}, through the proxy before it.")
        if not parse_networks(settings.trusted_proxies):
            yield Finding(
                "Web page",
                True,
                "all visitors seem to come from that proxy, so that wrong tokens of one keep others from signing in for a while. "
                "THREADSIGHT_WEB_TRUSTED_PROXIES, with the proxy's address, tells them apart.",
            )


def _look_at_port(host: str, port: int) -> Finding:
    if port == 0:
        return Finding("Web page", True, f"will take any free port of {host}.")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        return Finding(
            "Web page",
            False,
            f"{host}, port {port}: {error.strerror or error}. Threadsight may be running already; "
            "else choose another THREADSIGHT_WEB_PORT.",
        )
    return Finding("Web page", True, f"{host}, port {port} is free.")


PLATFORM = PlatformDescription(name="web", title="Web page", settings=WebSettings, make=_make, check=_check)
