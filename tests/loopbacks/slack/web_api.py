"""Serves the Web API: arguments from JSON, form or query; tokens and scopes; faults and rate limits; every call is recorded.

Errors are HTTP 200 with {"ok": false, "error": word}, as Slack's (https://docs.slack.dev/apis/web-api).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable

from aiohttp import web

from tests.loopbacks.slack import chat_methods, reading_methods, stream_methods
from tests.loopbacks.slack.faults import Fault, Faults, RateLimits
from tests.loopbacks.slack.methods import METHODS, MethodCall, need
from tests.loopbacks.slack.socket_mode import reset
from tests.loopbacks.slack.state import Call, Channel, Json, SlackError, SlackState, Team

_MODULES = (chat_methods, reading_methods, stream_methods)  # importing them registers their methods
_JSON_ARGUMENTS = ("blocks", "chunks", "view", "attachments", "metadata", "loading_messages")
_ERROR_PAGE = "<!DOCTYPE html><html><body>Something went wrong</body></html>"


class WebApi:
    def __init__(self, state: SlackState, publish: Callable[[Channel, Json], object], new_socket_url: Callable[[], str]) -> None:
        self.faults = Faults()
        self.limits = RateLimits()
        self._state = state
        self._publish = publish
        self._new_socket_url = new_socket_url

    async def serve(self, request: web.Request) -> web.StreamResponse:
        name, arguments = request.match_info["method"], await _arguments(request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        token = str(arguments.pop("token", "")) or token
        fault = self.faults.take(name) or Fault()
        if fault.hold is not None:
            await fault.hold.wait()
        if fault.delay_seconds:
            await asyncio.sleep(fault.delay_seconds)
        seconds = self.limits.refuse(name, token, arguments)
        if seconds is not None:
            fault = Fault(status=429, retry_after_seconds=seconds)
        goes_wrong = fault.error is not None or fault.status is not None or fault.is_reset
        answer: Json = {"ok": True}
        if not goes_wrong or fault.is_done:
            answer = self._answer(name, arguments, token)
        error = answer.get("error") if not goes_wrong else fault.error or ("reset" if fault.is_reset else f"HTTP {fault.status}")
        self._state.calls.append(Call(name, arguments, token, error, time.monotonic()))
        await self._state.changed()
        return self._response(request, fault, answer, token)

    def _response(self, request: web.Request, fault: Fault, answer: Json, token: str) -> web.StreamResponse:
        if fault.is_reset:
            assert isinstance(request.transport, asyncio.Transport)
            reset(request.transport)
        if fault.status == 429:
            headers = {"Retry-After": str(fault.retry_after_seconds)}
            return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)
        if fault.status is not None:
            return web.Response(status=fault.status, text=_ERROR_PAGE, content_type="text/html")
        if fault.error is not None:
            answer = {"ok": False, "error": fault.error}
        team = self._team(token)
        scopes = "" if team is None else ",".join(sorted(team.scopes))
        if token == self._state.app_token:
            scopes = "connections:write"
        return web.json_response(answer, headers={"X-OAuth-Scopes": scopes} if scopes else None)

    def _answer(self, name: str, arguments: Json, token: str) -> Json:
        try:
            if name not in METHODS:
                raise SlackError("unknown_method", req_method=name)
            method = METHODS[name]
            team = self._authorize(method.token, token)
            if method.token == "bot":
                need(team, *method.scopes)
            return {"ok": True} | method.do(MethodCall(self._state, team, arguments, self._publish, self._new_socket_url))
        except SlackError as error:
            return {"ok": False, "error": error.word} | error.more

    def _team(self, token: str) -> Team | None:
        return next((team for team in self._state.teams.values() if token == team.bot_token), None)

    def _authorize(self, kind: str, token: str) -> Team:
        first = next(iter(self._state.teams.values()))
        team = self._team(token)
        if kind == "none":
            return team or first
        if not token:
            raise SlackError("not_authed")
        if token == self._state.app_token or (team is not None and kind == "app"):
            if (token == self._state.app_token) != (kind == "app"):
                raise SlackError("not_allowed_token_type")
            return first
        if team is None:
            raise SlackError("invalid_auth")
        if not team.is_installed:
            raise SlackError("token_revoked")
        return team


async def _arguments(request: web.Request) -> Json:
    """All arguments together; JSON values of a form or query are parsed."""
    arguments: Json = dict(request.query)
    if request.content_type == "application/json":
        with contextlib.suppress(ValueError):  # an empty body
            arguments |= await request.json()
    else:
        arguments |= {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    for name in _JSON_ARGUMENTS:
        if isinstance(arguments.get(name), str):
            with contextlib.suppress(ValueError):
                arguments[name] = json.loads(arguments[name])
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Basic":  # the SDK sends an app's client id and secret this way
        arguments["client_id"], _, arguments["client_secret"] = base64.b64decode(credentials).decode().partition(":")
    return arguments
