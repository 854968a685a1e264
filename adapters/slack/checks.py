"""Checks the tokens with Slack: a finding for every wrong token and every missing scope, with what to do about it.

Slack tells a bot its scopes, but not the events that its app subscribes to, so these cannot be checked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.base import Finding, TokenError
from adapters.proxies import ProxyFor, no_proxy
from adapters.slack.setup import INSTALL_PATH, SCOPES
from adapters.slack.workspaces import Refused, translated_errors, web_client, word_of
from adapters.surface import DestinationGone, TryLater

INSTALL_AGAIN = (
    "Add it under “OAuth & Permissions” in the Slack app, or paste the manifest of `threadsight setup slack`; "
    "then install the app again."
)
_WRONG_TOKEN = frozenset(
    {"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "not_allowed_token_type", "no_permission"}
)


@dataclass(frozen=True, slots=True)
class SignIn:
    """What a bot token belongs to. `scopes` is empty if Slack did not tell them."""

    team_id: str
    team_name: str
    bot_user_id: str
    bot_name: str
    scopes: frozenset[str]

    @property
    def missing_scopes(self) -> list[str]:
        """The scopes that the bot needs and lacks; empty if Slack did not tell its scopes."""
        return sorted(SCOPES.keys() - self.scopes) if self.scopes else []


async def sign_in(bot_token: str, api_url: str | None, proxy_for: ProxyFor = no_proxy) -> SignIn:
    """Ask Slack what the bot token belongs to. Raises TokenError, or TryLater if Slack cannot be reached."""
    response = await _asked(web_client(bot_token, api_url, proxy_for).auth_test(), _about_bot_token)
    if not response.get("bot_id"):
        raise TokenError("SLACK_BOT_TOKEN is not a bot's token. It must be the Bot User OAuth Token, which begins with xoxb-.")
    given = next((value for name, value in response.headers.items() if name.lower() == "x-oauth-scopes"), "")
    return SignIn(
        team_id=str(response["team_id"]),
        team_name=str(response.get("team") or response["team_id"]),
        bot_user_id=str(response["user_id"]),
        bot_name=str(response.get("user") or "threadsight"),
        scopes=frozenset(scope.strip() for scope in given.split(",") if scope.strip()),
    )


async def open_connection(app_token: str, api_url: str | None, proxy_for: ProxyFor = no_proxy) -> str:
    """Ask for a socket's URL. Raises TokenError, or TryLater if Slack cannot be reached."""
    client = web_client(app_token, api_url, proxy_for)
    response = await _asked(client.apps_connections_open(app_token=app_token), _about_app_token)
    return str(response["url"])


async def _asked(call: Awaitable[AsyncSlackResponse], about: Callable[[str], str]) -> AsyncSlackResponse:
    """Await the call. Raises TokenError with `about`'s sentence for Slack's error code, or TryLater."""
    try:
        async with translated_errors():
            return await call
    except (DestinationGone, Refused) as error:
        word = error.word if isinstance(error, Refused) else ""
        if isinstance(error.__cause__, SlackApiError):
            word = word_of(error.__cause__) or word
        raise TokenError(about(word)) from error


def about_scope(scope: str) -> str:
    """A sentence about a scope that is missing."""
    return f"The bot lacks the scope {scope}: without it {SCOPES[scope]}."


async def check(
    bot_token: str | None, app_token: str | None, *, api_url: str | None = None, proxy_for: ProxyFor = no_proxy
) -> AsyncIterator[Finding]:
    """Yields the findings. `bot_token` is None if several workspaces install the app by themselves."""
    if bot_token is None:
        sentence = f"Every workspace that installs the app is served: at the page's address, under {INSTALL_PATH}."
        yield Finding("Slack", True, sentence)
    else:
        async for finding in _check_bot_token(bot_token, api_url, proxy_for):
            yield finding
    if app_token is not None:
        yield await _check_app_token(app_token, api_url, proxy_for)


async def _check_bot_token(bot_token: str, api_url: str | None, proxy_for: ProxyFor) -> AsyncIterator[Finding]:
    try:
        found = await sign_in(bot_token, api_url, proxy_for)
    except TokenError as error:
        yield Finding("Slack", False, str(error))
    except TryLater:
        yield Finding("Slack", False, "Slack could not be reached. Is this machine online?")
    else:
        yield Finding("Slack", True, f"The bot's token works: @{found.bot_name} in {found.team_name}.")
        for finding in _scope_findings(found.missing_scopes, is_told=bool(found.scopes)):
            yield finding


def _scope_findings(missing: Collection[str], *, is_told: bool) -> list[Finding]:
    if not is_told:
        return [Finding("Slack scopes", True, "Slack did not tell the bot's scopes, so I could not check them.")]
    if missing:
        return [Finding("Slack scopes", False, f"{about_scope(scope)} {INSTALL_AGAIN}") for scope in missing]
    sentence = "The bot has every scope. Slack does not tell its events: if it stays silent, compare the app's with the manifest's."
    return [Finding("Slack scopes", True, sentence)]


async def _check_app_token(app_token: str, api_url: str | None, proxy_for: ProxyFor) -> Finding:
    try:
        await open_connection(app_token, api_url, proxy_for)
    except TokenError as error:
        return Finding("Slack socket", False, str(error))
    except TryLater:
        return Finding("Slack socket", False, "Slack could not be reached. Is this machine online?")
    return Finding("Slack socket", True, "The app-level token opens a socket.")


def _about_bot_token(word: str) -> str:
    if word in _WRONG_TOKEN:
        return (
            f"Slack does not take SLACK_BOT_TOKEN ({word}). Copy the Bot User OAuth Token again, "
            "from “Install App” in the Slack app's settings; it begins with xoxb-."
        )
    return f"Slack did not let the bot in ({word or 'it gave no reason'})."


def _about_app_token(word: str) -> str:
    if word == "missing_scope":
        return "SLACK_APP_TOKEN lacks the scope connections:write. Generate another one under “App-Level Tokens”."
    if word in _WRONG_TOKEN:
        return (
            f"Slack does not take SLACK_APP_TOKEN ({word}). Generate one under “Basic Information”, “App-Level Tokens”, "
            "with the scope connections:write; it begins with xapp-."
        )
    return f"Slack did not open a socket ({word or 'it gave no reason'}). Is Socket Mode on in the Slack app's settings?"
