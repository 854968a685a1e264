"""Our identity in each workspace, and the Web API clients for it.

Slack reports an error with HTTP 200 and an error code; `translated_errors` turns it into `DestinationGone`, `TryLater`, or
`Refused` with the code. A message may exist although the call failed, so only calls that may be repeated use `client`; the others
use `writing`, which retries only if Slack has said that it did nothing (429).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.authorization.async_authorize import AsyncAuthorize
from slack_bolt.logger.messages import warning_client_prioritized_and_token_skipped, warning_token_skipped
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.async_handler import AsyncRetryHandler
from slack_sdk.http_retry.builtin_async_handlers import (
    AsyncConnectionErrorRetryHandler,
    AsyncRateLimitErrorRetryHandler,
    AsyncServerErrorRetryHandler,
)
from slack_sdk.oauth.installation_store import Bot
from slack_sdk.socket_mode import aiohttp as socket_client
from slack_sdk.web import async_base_client
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook import async_client as webhook_client

from adapters.proxies import ProxyFor, no_proxy
from adapters.surface import DestinationGone, TryLater

log = logging.getLogger(__name__)

DEFAULT_API_URL = "https://slack.com/api/"
CALL_SECONDS = 30

_SOCKET_ADDRESS = re.compile(r"wss?://[^\s'\"]+")


def _without_addresses(record: logging.LogRecord) -> bool:
    """A log filter that removes socket URLs: whoever has one can connect."""
    record.msg, record.args = _SOCKET_ADDRESS.sub("(a socket's address)", record.getMessage()), ()
    if record.exc_info and _SOCKET_ADDRESS.search(str(record.exc_info[1])):
        record.exc_info = None
    return True


# The SDK looks for SLACK_BOT_TOKEN in the environment by itself, and says that it does not use what it finds there.
_NO_NEWS = frozenset({warning_client_prioritized_and_token_skipped(), warning_token_skipped()})


def _is_news(record: logging.LogRecord) -> bool:
    return record.getMessage() not in _NO_NEWS


# The SDK's own loggers write whole messages at DEBUG; this one never does.
sdk_log = logging.getLogger("adapters.slack.sdk")
sdk_log.setLevel(logging.WARNING)
sdk_log.addFilter(_is_news)
sdk_log.addFilter(_without_addresses)
# What takes no logger of ours, such as the answer to a command, writes the message there, and already at INFO the address to which
# whoever has it can post.
for _name in ("slack_sdk", "slack_bolt"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_GONE = frozenset(
    {
        *("channel_not_found", "not_in_channel", "is_archived", "message_not_found", "thread_not_found", "cant_update_message"),
        *("cant_delete_message", "edit_window_closed", "no_permission", "restricted_action", "restricted_action_thread_locked"),
        *("account_inactive", "token_revoked", "invalid_auth", "not_authed", "team_not_found", "user_not_found", "access_denied"),
        *("restricted_action_read_only_channel", "restricted_action_non_threadable_channel", "cannot_reply_to_message"),
    }
)
_LATER = frozenset(
    {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org"}
)
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError, SlackClientError)  # SlackApiError is handled before


class Refused(Exception):
    """Slack refused. `word` is its error code."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Unknown(TryLater):
    """The connection broke: the call may have succeeded."""


def word_of(error: SlackApiError) -> str:
    """Slack's error code; empty if the response was not Slack's JSON, such as an HTML page."""
    try:
        return str(error.response.get("error") or "")
    except (AttributeError, TypeError, ValueError):
        return ""


def status_of(error: SlackApiError) -> int:
    """The HTTP status of the response; 0 if there was none."""
    response: Any = error.response
    return int(getattr(response, "status_code", 0) or getattr(response, "status", 0) or 0)


@contextlib.asynccontextmanager
async def translated_errors() -> AsyncIterator[None]:
    """A context for calls of the Web API. Turns its errors into DestinationGone, TryLater or Refused."""
    try:
        yield
    except SlackApiError as error:
        word, status = word_of(error), status_of(error)
        if status == 429 or word in ("ratelimited", "rate_limited"):
            raise TryLater(_retry_after(error)) from error
        if word in _LATER or status >= 500:
            raise Unknown from error
        if word in _GONE:
            raise DestinationGone from error
        raise Refused(word or f"HTTP {status}") from error
    except _UNREACHABLE as error:
        raise Unknown from error


def _retry_after(error: SlackApiError) -> float | None:
    headers: Any = getattr(error.response, "headers", None) or {}
    for name, value in headers.items():
        if name.lower() == "retry-after":
            with contextlib.suppress(ValueError):
                return float(value)
    return None


def _no_proxy_of_its_own(*_: object) -> None:
    """The SDK would take HTTPS_PROXY for every address, also for those in NO_PROXY. We say which proxy it is to use."""


for _module in (async_base_client, webhook_client, socket_client):
    vars(_module)["load_http_proxy_from_env"] = _no_proxy_of_its_own


def web_client(
    token: str | None, api_url: str | None, proxy_for: ProxyFor = no_proxy, *, is_repeatable: bool = True
) -> AsyncWebClient:
    """Make a client of the Web API. One that is not `is_repeatable` retries only what Slack has certainly not done."""
    handlers: list[AsyncRetryHandler] = [AsyncRateLimitErrorRetryHandler(max_retry_count=2)]
    if is_repeatable:
        handlers += [AsyncServerErrorRetryHandler(), AsyncConnectionErrorRetryHandler()]
    address = api_url or DEFAULT_API_URL
    return AsyncWebClient(
        token=token,
        base_url=address,
        timeout=CALL_SECONDS,
        proxy=proxy_for(address),
        retry_handlers=handlers,
        logger=sdk_log,
    )


@dataclass(slots=True)
class Workspace:
    """One workspace. `id` is Slack's team id. `admins` caches who may press other people's buttons."""

    id: str
    bot_user_id: str
    token: str = field(repr=False)
    client: AsyncWebClient = field(repr=False)
    writing: AsyncWebClient = field(repr=False)
    admins: dict[str, tuple[float, bool]] = field(default_factory=dict, repr=False)

    async def is_admin(self, user_id: str) -> bool:
        """Whether this person is an admin of the workspace; cached for ten minutes."""
        now = asyncio.get_running_loop().time()
        known = self.admins.get(user_id)
        if known is not None and known[0] > now:
            return known[1]
        try:
            async with translated_errors():
                user = (await self.client.users_info(user=user_id)).get("user") or {}
        except (DestinationGone, TryLater, Refused):
            return False
        is_admin = any(bool(user.get(right)) for right in ("is_admin", "is_owner", "is_primary_owner"))
        self.admins[user_id] = now + 600, is_admin
        return is_admin


class Workspaces:
    """All workspaces that we are installed in: one with a given token, or several, whose stored tokens `find_bot` reads by team
    id."""

    def __init__(
        self,
        api_url: str | None,
        find_bot: Callable[[str], Awaitable[Bot | None]] | None = None,
        proxy_for: ProxyFor = no_proxy,
    ) -> None:
        self._api_url = api_url
        self._proxy_for = proxy_for
        self._find_bot = find_bot
        self._known: dict[str, Workspace] = {}
        self._finding = asyncio.Lock()
        self.only: Workspace | None = None

    def learn(self, team_id: str, bot_user_id: str, token: str) -> Workspace:
        """The workspace with this token, with clients for it. A known one is kept as long as its token is the same."""
        known = self._known.get(team_id)
        if known is None or known.token != token:
            known = self._known[team_id] = Workspace(
                team_id,
                bot_user_id,
                token,
                web_client(token, self._api_url, self._proxy_for),
                web_client(token, self._api_url, self._proxy_for, is_repeatable=False),
            )
        return known

    async def find(self, team_id: str) -> Workspace:
        """Find a workspace. Raises DestinationGone if we are not installed there."""
        if team_id in self._known:
            return self._known[team_id]
        async with self._finding:  # so that callers continue in order of their calls
            if team_id in self._known:
                return self._known[team_id]
            bot = None if self._find_bot is None else await self._find_bot(team_id)
            if bot is None or not bot.bot_token or not bot.bot_user_id:
                raise DestinationGone
            return self.learn(team_id, bot.bot_user_id, bot.bot_token)

    def forget(self, team_id: str) -> None:
        """Forget a workspace in which we are no longer installed."""
        self._known.pop(team_id, None)

    def forget_tokens(self) -> None:
        """Forget all tokens; they are read again when needed."""
        self._known.clear()


class FromMemory(AsyncAuthorize):
    """Our identity in an event's workspace, which Bolt needs before each event.

    Bolt's own implementations ask Slack or the database every time, so that events could overtake each other.
    """

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces

    async def __call__(
        self, *, context: Any, enterprise_id: str | None, team_id: str | None, user_id: str | None, **actor: str | None
    ) -> AuthorizeResult | None:
        """None if we are not installed there; Bolt then does not acknowledge the event."""
        try:
            workspace = self._workspaces.only or await self._workspaces.find(str(team_id))
        except DestinationGone:
            return None
        return AuthorizeResult(
            enterprise_id=enterprise_id, team_id=workspace.id, bot_user_id=workspace.bot_user_id, bot_token=workspace.token
        )
