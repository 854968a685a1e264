"""As much of Slack as the adapter's tests need, on a loopback port, for the unmodified slack_bolt and slack_sdk.

It keeps what people would see, records every call, and fails when told to. Formats: https://docs.slack.dev/reference/methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from tests.chat_handler import TIMEOUT_SECONDS

BOT_TOKEN, APP_TOKEN, TEAM, BOT, BOT_ID = "xoxb-bot", "xapp-app", "T1", "UBOT", "B1"
SIGN_IN_PAGE = "<!DOCTYPE html><html><body>Sign in to Slack</body></html>"
Message = dict[str, Any]


@dataclass
class SlackLoopback:
    scopes: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    messages: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))  # by channel
    ephemeral: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    responses: list[dict[str, Any]] = field(default_factory=list)  # to response_urls
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    downloads: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    admins: set[str] = field(default_factory=set)
    acknowledged: dict[str, Any] = field(default_factory=dict)
    api_url: str = ""
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _sockets: list[web.WebSocketResponse] = field(default_factory=list)

    # -- for tests ---------------------------------------------------------------------------------------------------------

    def fail(self, method: str, *faults: Any) -> None:
        """The next calls of `method` end so: a word of Slack's, ("429", seconds), ("500",), ("reset",), ("done, then reset",)."""
        self.faults[method].extend(faults)

    async def wait_for(self, is_so: Callable[[], Any]) -> Any:
        async with asyncio.timeout(TIMEOUT_SECONDS), self._changed:
            await self._changed.wait_for(is_so)
        return is_so()

    def now(self) -> str:
        return f"{1_800_000_000 + next(self._numbers)}.000100"

    def upload(self, name: str, data: bytes, **more: Any) -> dict[str, Any]:
        file_id = f"F{next(self._numbers)}"
        self.downloads[file_id] = data
        url = f"{self.api_url.removesuffix('api/')}files/{file_id}"
        self.files[file_id] = {
            "id": file_id,
            "name": name,
            "size": len(data),
            "mode": "hosted",
            "url_private_download": url,
            **more,
        }
        return self.files[file_id]

    def people_say(self, channel: str, text: str, user: str = "U1", **more: Any) -> Message:
        """Somebody posts a message; nothing is told of it yet."""
        message = {"type": "message", "user": user, "text": text, "ts": self.now(), "team": TEAM, **more}
        self.messages[channel].append(message)
        return message

    async def tell(self, event: dict[str, Any]) -> str:
        """An event; returns when it was acknowledged."""
        return await self.send("events_api", self.envelope(event))

    def envelope(self, event: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "event_callback",
            "team_id": TEAM,
            "api_app_id": "A1",
            "event_id": f"Ev{next(self._numbers)}",
            "event_time": 1,
            "event": event,
            "authorizations": [{"team_id": TEAM, "user_id": BOT, "is_bot": True, "is_enterprise_install": False}],
        }

    async def tell_message(self, channel: str, message: Message, kind: str = "message", **more: Any) -> None:
        channel_type = "im" if channel.startswith("D") else "channel"
        event = {
            **message,
            "type": kind,
            "channel": channel,
            **({"channel_type": channel_type} if kind == "message" else {}),
            **more,
        }
        await self.tell(event)

    async def send(self, kind: str, payload: dict[str, Any]) -> str:
        envelope_id = f"e{next(self._numbers)}"
        await self.wait_for(lambda: any(not socket.closed for socket in self._sockets))
        socket = next(socket for socket in reversed(self._sockets) if not socket.closed)
        await socket.send_json({"envelope_id": envelope_id, "type": kind, "payload": payload, "accepts_response_payload": True})
        await self.wait_for(lambda: envelope_id in self.acknowledged)
        return envelope_id

    async def interact(self, kind: str, **payload: Any) -> str:
        return await self.send(
            "interactive",
            {"type": kind, "team": {"id": TEAM}, "api_app_id": "A1", "trigger_id": "trigger", "user": {"id": "U1", "team_id": TEAM}}
            | payload,
        )

    async def drop_sockets(self) -> None:
        for socket in self._sockets:
            await socket.close()

    def thread(self, channel: str, ts: str, user: str = BOT) -> list[Message]:
        return [m for m in self.messages[channel] if m.get("thread_ts") == ts and m["user"] == user and m["ts"] != ts]

    def called(self, method: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.calls if name == method]

    # -- Slack -------------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[SlackLoopback]:
        app = web.Application()
        app.router.add_route("*", "/api/{method}", self._on_call)
        app.router.add_get("/socket", self._on_socket)
        app.router.add_get("/files/{id}", self._on_download)
        app.router.add_post("/response", self._on_response)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.api_url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/"
        try:
            yield self
        finally:
            await self.drop_sockets()
            await runner.cleanup()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _on_response(self, request: web.Request) -> web.Response:
        self.responses.append(await request.json())
        await self._notify()
        return web.Response(text="ok")

    async def _on_download(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {BOT_TOKEN}":
            return web.Response(text=SIGN_IN_PAGE, content_type="text/html")
        data = self.downloads.get(request.match_info["id"])
        return web.Response(status=404) if data is None else web.Response(body=data, content_type="image/png")

    async def _on_socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.append(socket)
        await socket.send_json({"type": "hello", "num_connections": 1, "connection_info": {"app_id": "A1"}})
        await self._notify()
        async for frame in socket:
            if frame.type is WSMsgType.TEXT:
                answer = json.loads(frame.data)
                self.acknowledged[answer["envelope_id"]] = answer.get("payload")
                await self._notify()
        return socket

    async def _on_call(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        given: dict[str, Any] = dict(request.query)
        if request.content_type == "application/json":
            given |= await request.json()
        else:
            given |= dict(await request.post())
        for name in ("blocks", "view"):
            if isinstance(given.get(name), str):
                given[name] = json.loads(given[name])
        self.calls.append((method, given))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        fault = self.faults[method].popleft() if self.faults[method] else None
        try:
            match fault:
                case None | ("done, then reset",):
                    answer = self._answer(method, given, token)
                    if fault is not None:
                        self._reset(request)
                case ("429", seconds):
                    headers = {"Retry-After": str(seconds)}
                    return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)
                case ("500",):
                    return web.Response(status=500, text="<html>oops</html>", content_type="text/html")
                case ("reset",):
                    self._reset(request)
                    answer = {}
                case word:
                    answer = {"ok": False, "error": word}
        finally:
            await self._notify()
        return web.json_response(answer, headers={"x-oauth-scopes": self.scopes} if self.scopes else None)

    @staticmethod
    def _reset(request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()

    def _answer(self, method: str, given: dict[str, Any], token: str) -> dict[str, Any]:
        if method != "oauth.v2.access" and token != (APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN):
            return {"ok": False, "error": "invalid_auth"}
        do = getattr(self, "_" + method.replace(".", "_"), None)
        if do is None:
            return {"ok": True}
        try:
            return {"ok": True, **do(given)}
        except SlackError as error:
            return {"ok": False, "error": str(error)}

    def _find(self, given: dict[str, Any]) -> Message:
        found = next((m for m in self.messages[given["channel"]] if m["ts"] == given["ts"]), None)
        if found is None:
            raise SlackError("message_not_found")
        return found

    def _auth_test(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "url": "https://x.slack.com/",
            "team": "Team",
            "user": "threadsight",
            "team_id": TEAM,
            "user_id": BOT,
            "bot_id": BOT_ID,
        }

    def _oauth_v2_access(self, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("code") != "code":
            raise SlackError("invalid_code")
        who = {"team": {"id": TEAM, "name": "Team"}, "authed_user": {"id": "U1"}, "bot_user_id": BOT}
        return {**who, "access_token": BOT_TOKEN, "token_type": "bot", "scope": "chat:write", "app_id": "A1"}

    def _apps_connections_open(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"url": self.api_url.replace("http:", "ws:").replace("/api/", "/socket")}

    def _chat_postMessage(self, given: dict[str, Any]) -> dict[str, Any]:
        message = {"user": BOT, "bot_id": BOT_ID, "ts": self.now(), **given}
        self.messages[given["channel"]].append(message)
        return {"channel": given["channel"], "ts": message["ts"]}

    def _chat_postEphemeral(self, given: dict[str, Any]) -> dict[str, Any]:
        self.ephemeral.append(given)
        return {"message_ts": self.now()}

    def _chat_update(self, given: dict[str, Any]) -> dict[str, Any]:
        message = self._find(given)
        if message.get("is_streaming"):
            raise SlackError("streaming_state_conflict")
        message.pop("markdown_text", None)
        message |= given
        return {"ts": given["ts"]}

    def _chat_delete(self, given: dict[str, Any]) -> dict[str, Any]:
        self.messages[given["channel"]].remove(self._find(given))
        return {}

    def _chat_startStream(self, given: dict[str, Any]) -> dict[str, Any]:
        if not given["channel"].startswith("D") and not (given.get("recipient_user_id") and given.get("recipient_team_id")):
            raise SlackError("missing_recipient_user_id")
        return self._chat_postMessage({**given, "is_streaming": True})

    def _chat_appendStream(self, given: dict[str, Any]) -> dict[str, Any]:
        message = self._find(given)
        if not message.get("is_streaming"):
            raise SlackError("message_not_in_streaming_state")
        if len(given.get("markdown_text") or "") > 12_000:
            raise SlackError("msg_too_long")
        message["markdown_text"] = message.get("markdown_text", "") + (given.get("markdown_text") or "")
        return {"ts": given["ts"]}

    def _chat_stopStream(self, given: dict[str, Any]) -> dict[str, Any]:
        answer = self._chat_appendStream(given)
        self._find(given).update(is_streaming=False, blocks=given.get("blocks") or [])
        return answer

    def _conversations_history(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "messages": [m for m in self._between(given) if m.get("thread_ts", m["ts"]) == m["ts"]][::-1][: int(given["limit"])]
        }

    def _conversations_replies(self, given: dict[str, Any]) -> dict[str, Any]:
        root = [m for m in self.messages[given["channel"]] if m["ts"] == given["ts"]]
        if not root:
            raise SlackError("thread_not_found")
        return {"messages": [*root, *(m for m in self._between(given) if m.get("thread_ts") == given["ts"] and m not in root)]}

    def _between(self, given: dict[str, Any]) -> list[Message]:
        oldest, latest = float(given.get("oldest") or 0), float(given.get("latest") or 1e12)
        return [m for m in self.messages[given["channel"]] if oldest <= float(m["ts"]) <= latest]

    def _conversations_info(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["channel"].startswith("CNOT"):
            raise SlackError("channel_not_found")
        return {"channel": {"id": given["channel"], "is_member": True}}

    def _users_conversations(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"channels": [{"id": channel} for channel in list(self.messages)]}

    def _users_info(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"user": {"id": given["user"], "is_admin": given["user"] in self.admins}}

    def _files_info(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["file"] not in self.files:
            raise SlackError("file_not_found")
        return {"file": self.files[given["file"]]}

    def _views_open(self, given: dict[str, Any]) -> dict[str, Any]:
        self.views.append(given["view"])
        return {"view": {"id": "V1"}}

    _views_publish = _views_open


class SlackError(Exception):
    """Slack's word for what went wrong."""
