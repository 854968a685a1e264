"""The web page: one aiohttp server, plain ES modules and CSS, no build step."""

from adapters.web.server import WebAdapter, WebAddressError

__all__ = ["WebAdapter", "WebAddressError"]
