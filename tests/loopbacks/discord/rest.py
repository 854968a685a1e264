"""The REST half of the loopback Discord."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.loopbacks.discord.payloads import (
    APPLICATION,
    ARCHIVED,
    BOT,
    GUILD,
    TOKEN,
    Payload,
    application_payload,
    error_text,
    message_payload,
    user_payload,
    with_ids,
)

if TYPE_CHECKING:
    from tests.loopbacks.discord.server import DiscordLoopback


_INVISIBLE = "\u200b\u2060\ufeff"


class Rest:
    def __init__(self, discord: DiscordLoopback) -> None:
        self._discord = discord

    def routes(self) -> list[tuple[str, str, Any]]:
        me = user_payload(BOT, "sight", bot=True)
        messages, webhook = "/channels/{channel:\\d+}/messages", f"/webhooks/{APPLICATION}/{{token}}"
        guilds = (
            [{"id": str(GUILD), "name": "Guild", "permissions": str(self._discord.permissions)}] if self._discord.has_guild else []
        )
        api = [
            ("GET", "/users/@me", _telling(lambda _: me)),
            ("GET", "/users/@me/guilds", _telling(lambda _: guilds)),
            ("GET", "/oauth2/applications/@me", _telling(lambda _: application_payload(self._discord.flags))),
            ("GET", "/gateway/bot", _telling(lambda _: self._gateway())),
            ("GET", "/users/{user:\\d+}", _telling(lambda request: user_payload(int(request.match_info["user"])))),
            ("POST", "/users/@me/channels", self._on_open_direct),
            ("PUT", f"/applications/{APPLICATION}/commands", self._on_commands),
            (
                "GET",
                "/channels/{channel:\\d+}",
                _telling(lambda request: self._discord.channels[int(request.match_info["channel"])]),
            ),
            ("PATCH", "/channels/{channel:\\d+}", self._on_channel_edit),
            ("POST", "/channels/{channel:\\d+}/typing", self._on_typing),
            ("GET", messages, self._on_list),
            ("POST", messages, self._on_create),
            ("GET", messages + "/{message:\\d+}", self._on_read),
            ("PATCH", messages + "/{message:\\d+}", self._on_edit),
            ("DELETE", messages + "/{message:\\d+}", self._on_delete),
            ("POST", messages + "/{message:\\d+}/threads", self._on_thread),
            ("POST", "/interactions/{id}/{token}/callback", self._on_callback),
            ("POST", webhook, self._on_followup),
            ("PATCH", webhook + "/messages/{message}", self._on_webhook_edit),
            ("DELETE", webhook + "/messages/{message}", self._on_webhook_edit),
        ]
        files = [("GET", "/cdn/{id}/{name}", self._on_file), ("GET", "/stickers/{name}", self._on_file)]
        return [*((method, f"/api/v10{path}", handler) for method, path, handler in api), *files]

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Records the call, checks the token, and fails when told to."""
        path = request.path.removeprefix("/api/v10")
        if not request.path.startswith(("/api/", "/cdn/", "/stickers/")):  # the gateway, and what is not Discord's
            return await handler(request)  # type: ignore[no-any-return]
        body = json.loads(await request.text() or "null") if request.method != "GET" else dict(request.query)
        self._discord.calls.append((request.method, path, body))
        is_open = path.startswith(("/interactions", "/webhooks", "/cdn", "/stickers"))
        if not is_open and request.headers.get("Authorization") != f"Bot {TOKEN}":
            return _error(401, 0)
        limits, refusal = self._limited(request, path)
        if refusal is not None:
            return refusal
        fault = next((f for m, p, f in self._discord.faults if f and m == request.method and p.fullmatch(path)), None)
        match fault.popleft() if fault else None:
            case None:
                response: web.StreamResponse = await handler(request)
            case int(status):
                response = _error(status, 0)
            case ("429", seconds, is_global):
                body = {"message": "You are being rate limited.", "retry_after": seconds, "global": is_global}
                response = _json(body, 429, {"Via": "1.1 google", "Retry-After": str(seconds)})
            case (int(status), int(code)):
                response = _error(status, code)
            case ("hold", asyncio.Event() as arrived, asyncio.Event() as go):
                arrived.set()
                await go.wait()
                response = await handler(request)
            case ("cut", int(num_bytes)):
                response = await _cut(request, await handler(request), num_bytes)
            case str(word):
                if word.startswith("done"):
                    await handler(request)
                assert request.transport is not None
                request.transport.close()
                raise ConnectionResetError
        if not response.prepared:
            response.headers.update(limits)
        await self._discord.changed()
        return response

    def _limited(self, request: web.Request, path: str) -> tuple[dict[str, str], web.Response | None]:
        """Counts writes of messages. Returns the rate limit's headers, and a refusal if there were too many and it is enforced."""
        write = re.fullmatch(r"/channels/(\d+)/messages(/\d+)?", path)
        if write is None or request.method not in ("POST", "PATCH"):
            return {}, None
        headers, seconds = self._discord.limits.take(int(write[1]))
        if seconds is None:
            return headers, None
        body = {"message": "You are being rate limited.", "retry_after": round(seconds, 3), "global": False}
        more = {"Via": "1.1 google", "Retry-After": str(math.ceil(seconds)), "X-RateLimit-Scope": "user"}
        return headers, _json(body, 429, headers | more)

    def _gateway(self) -> Payload:
        limit = {"total": 1000, "remaining": 1000, "reset_after": 1, "max_concurrency": 1}
        return {"url": self._discord.gateway_url, "shards": self._discord.num_shards, "session_start_limit": limit}

    def _refusal(self, request: web.Request) -> web.Response | None:
        channel = self._discord.channels.get(int(request.match_info["channel"]))
        if channel is None:
            return _error(404, 10003)
        needed = (1 << 38) if "parent_id" in channel and channel["type"] in (10, 11, 12) else (1 << 11)
        is_write = request.method in ("POST", "PATCH")
        if is_write and "guild_id" in channel and not self._discord.permissions & needed:
            return _error(403, 50013)
        if is_write and (state := channel.get("thread_metadata")):
            if state["locked"]:
                return _error(400, 160005)
            if state["archived"] and request.method == "PATCH":
                return _error(400, ARCHIVED)
        id_ = request.match_info.get("message")
        if id_ is not None and int(id_) not in self._discord.messages[int(request.match_info["channel"])]:
            return _error(404, 10008)
        return None

    async def _on_typing(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        self._discord.typed_in.append(int(request.match_info["channel"]))
        return web.Response(status=204)

    async def _on_create(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        channel, body = int(request.match_info["channel"]), await request.json()
        if wrong := self._wrong(body):
            return wrong
        if body.get("enforce_nonce") and body["nonce"] in self._discord.nonces:
            return _json(self._discord.messages[channel][self._discord.nonces[body["nonce"]]])
        message = self._write(channel, body)
        self._discord.nonces[str(body.get("nonce"))] = int(message["id"])
        return _json(message)

    def _write(self, channel: int, body: Payload) -> Payload:
        id_ = self._discord.snowflake()
        message = message_payload(id_, channel, body["content"], user_payload(BOT, "sight", bot=True))
        message |= {"flags": body.get("flags", 0), "components": with_ids(body.get("components", []))}
        if "message_reference" in body:  # the client may send its ids as numbers
            message["message_reference"] = {"type": 0} | {
                key: str(value) for key, value in body["message_reference"].items() if key.endswith("_id")
            }
        self._discord.messages[channel][id_] = message
        self._discord.history[id_].append(body["content"])
        return message

    async def _on_edit(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        message = self._discord.messages[int(request.match_info["channel"])][int(request.match_info["message"])]
        body = await request.json()
        return self._wrong(body) or _json(self._change(message, body))

    def _wrong(self, body: Payload) -> web.Response | None:
        """Why Discord takes no message with this body (https://discord.com/developers/docs/reference#error-messages)."""
        content = str(body.get("content") or "")
        if not content.strip(f"{_INVISIBLE} \n\t"):
            return _error(400, 50006)
        if len(content) > self._discord.max_message_chars:
            limit = f"Must be {self._discord.max_message_chars} or fewer in length."
            wrong = {"content": {"_errors": [{"code": "BASE_TYPE_MAX_LENGTH", "message": limit}]}}
            return _json({"code": 50035, "message": "Invalid Form Body", "errors": wrong}, 400)
        return None

    def _change(self, message: Payload, body: Payload) -> Payload:
        message |= {"content": body["content"]}
        if "components" in body:
            message["components"] = with_ids(body["components"])
        self._discord.history[int(message["id"])].append(body["content"])
        return message

    async def _on_read(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        return refusal or _json(self._discord.messages[int(request.match_info["channel"])][int(request.match_info["message"])])

    async def _on_delete(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        del self._discord.messages[int(request.match_info["channel"])][int(request.match_info["message"])]
        return web.Response(status=204)

    async def _on_list(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        query = request.query
        found = sorted(self._discord.messages[int(request.match_info["channel"])].items(), reverse=True)
        found = [(id_, m) for id_, m in found if id_ < int(query.get("before", 1 << 63)) and id_ > int(query.get("after", 0))]
        limit = int(query["limit"])
        page = found[-limit:] if "after" in query and "before" not in query else found[:limit]  # those next to it, newest first
        return _json([message for _, message in page])

    async def _on_thread(self, request: web.Request) -> web.Response:
        if not self._discord.permissions & (1 << 35):
            return _error(403, 50013)
        parent, id_, body = int(request.match_info["channel"]), int(request.match_info["message"]), await request.json()
        if id_ in self._discord.channels:
            return _error(400, 160004)
        self._discord.add_thread(parent, BOT, id=id_, name=body["name"])
        await self._discord.dispatch("THREAD_CREATE", {**self._discord.channels[id_], "newly_created": True})
        starter = self._discord.messages[parent].get(id_)
        if starter is not None:  # Discord updates the message by itself: it has a thread now
            starter["flags"] |= 1 << 5
            await self._discord.dispatch("MESSAGE_UPDATE", starter)
        return _json(self._discord.channels[id_], 201)

    async def _on_channel_edit(self, request: web.Request) -> web.Response:
        channel = self._discord.channels[int(request.match_info["channel"])]
        channel["thread_metadata"] |= await request.json()
        return _json(channel)

    async def _on_open_direct(self, request: web.Request) -> web.Response:
        person = int((await request.json())["recipient_id"])
        known = (
            id_ for id_, each in self._discord.channels.items() if each["type"] == 1 and each["recipients"][0]["id"] == str(person)
        )
        id_ = next(known, None) or self._discord.add_direct(person)
        return _json(self._discord.channels[id_])

    async def _on_commands(self, request: web.Request) -> web.Response:
        commands = await request.json()
        self._discord.commands.append(commands)
        return _json(
            [
                {"id": str(i), "application_id": str(APPLICATION), "version": "1", "description": "", **c}
                for i, c in enumerate(commands, 1)
            ]
        )

    async def _on_callback(self, request: web.Request) -> web.Response:
        id_, body = int(request.match_info["id"]), await request.json()
        payload = self._discord.interactions.get(request.match_info["token"])
        if payload is None:
            return _error(404, 10062)
        if id_ in self._discord.callbacks:
            return _error(400, 40060)
        resource: Payload | None = {"type": body["type"]}
        shown: Payload = {"id": str(id_), "type": payload["type"], "channel_id": payload["channel_id"]}
        if body["type"] in (4, 5):
            data = body.get("data") or {}
            message = self._write(int(payload["channel_id"]), {"content": data.get("content", ""), **data})
            self._discord.followups[id_].append(int(message["id"]))
            shown["response_message_id"] = message["id"]
            resource = {"type": body["type"], "message": message}
        self._discord.callbacks[id_] = body
        return _json({"interaction": shown, "resource": resource})

    async def _on_followup(self, request: web.Request) -> web.Response:
        payload = self._discord.interactions.get(request.match_info["token"])
        if payload is None:
            return _error(404, 10015)
        body = await request.json()
        if wrong := self._wrong(body):
            return wrong
        message = self._write(int(payload["channel_id"]), body)
        self._discord.followups[int(payload["id"])].append(int(message["id"]))
        return _json(message)

    async def _on_webhook_edit(self, request: web.Request) -> web.Response:
        payload = self._discord.interactions.get(request.match_info["token"])
        if payload is None:
            return _error(404, 10015)
        name, channel = request.match_info["message"], int(payload["channel_id"])
        if name == "@original":
            original = payload["message"] if payload["type"] == 3 else None
            name = original["id"] if original else str(self._discord.followups[int(payload["id"])][0])
        if request.method == "DELETE":
            del self._discord.messages[channel][int(name)]
            return web.Response(status=204)
        body = await request.json()
        return self._wrong(body) or _json(self._change(self._discord.messages[channel][int(name)], body))

    async def _on_file(self, request: web.Request) -> web.Response:
        data = self._discord.files.get(request.path)
        return web.Response(status=404) if data is None else web.Response(body=data)


def _json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=json.dumps(data).encode(), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )


def _telling(what: Callable[[web.Request], Any]) -> Any:
    async def tell(request: web.Request) -> web.Response:
        return _json(what(request))

    return tell


async def _cut(request: web.Request, whole: web.StreamResponse, num_bytes: int) -> web.StreamResponse:
    """Send the beginning of a file whose full size was announced, then close the connection."""
    assert isinstance(whole, web.Response)
    assert isinstance(whole.body, bytes)
    assert request.transport is not None
    response = web.StreamResponse(headers={"Content-Length": str(len(whole.body))})
    await response.prepare(request)
    await response.write(whole.body[:num_bytes])
    request.transport.close()
    return response


def _error(status: int, code: int) -> web.Response:
    return _json({"code": code, "message": error_text(code)}, status)
