"""Receives a request's body, within a size and a time."""

from __future__ import annotations

import asyncio

from aiohttp import web

from model_server.serve.refusal import BadRequest

IDLE_SECONDS = 30.0  # for the next piece
TOTAL_SECONDS = 600.0


async def receive(http: web.Request) -> bytes:
    """The body. Raises `BadRequest` if it stops coming, and `web.HTTPRequestEntityTooLarge`."""
    body = bytearray()
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            while True:
                async with asyncio.timeout(IDLE_SECONDS):
                    piece = await http.content.readany()
                if not piece:
                    return bytes(body)
                body += piece
                if 0 < http.client_max_size < len(body):
                    raise web.HTTPRequestEntityTooLarge(http.client_max_size, len(body))
    except TimeoutError as error:
        raise BadRequest("The request did not arrive whole: it stopped on its way.", status=408) from error
