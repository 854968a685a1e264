"""Serves files. Without a valid token, or if its app may not read files, the answer is status 200 with a sign-in page, as from
Slack."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from tests.loopbacks.slack.socket_mode import reset
from tests.loopbacks.slack.state import File, SlackState

SIGN_IN_PAGE = "<!DOCTYPE html>\n<html><head><title>Slack</title></head><body>Sign in to your workspace</body></html>\n"
_ENDLESS_CHUNK = b"\0" * 65_536


class FileServer:
    """`closing` ends the slow and endless downloads."""

    def __init__(self, state: SlackState) -> None:
        self._state = state
        self.closing = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        file = self._state.files.get(request.match_info["id"])
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if file is None or file.mode in ("tombstone", "hidden_by_limit", "external"):
            return web.Response(status=404, text="not found")
        team = file.user.team
        may_read = team.is_installed and token == team.bot_token and "files:read" in team.scopes
        if not may_read or file.fault == "sign_in":
            return web.Response(text=SIGN_IN_PAGE, content_type="text/html")
        file.num_downloads += 1
        await self._state.changed()
        if file.fault in ("404", "403"):
            return web.Response(status=int(file.fault), text="no")
        if file.fault == "cut":  # a complete response with half of the picture
            return web.Response(body=file.data[: len(file.data) // 2], content_type=file.mimetype)
        if file.fault is None:
            return web.Response(body=file.data, content_type=file.mimetype)
        response = web.StreamResponse(headers={"Content-Type": file.mimetype})
        if file.fault != "endless":
            response.content_length = len(file.data)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client has gone
            await self._stream(request, response, file)
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, file: File) -> None:
        await response.write(file.data[: len(file.data) // 2])
        match file.fault:
            case "slow":
                await self.closing.wait()
            case "endless":
                while not self.closing.is_set():
                    await response.write(_ENDLESS_CHUNK)
            case "truncated":
                assert isinstance(request.transport, asyncio.Transport)
                request.transport.close()
        if file.fault == "slow":
            assert isinstance(request.transport, asyncio.Transport)
            reset(request.transport)
