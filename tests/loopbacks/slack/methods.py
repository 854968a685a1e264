"""A Web API method here is a plain function from a `MethodCall` to the content of Slack's response, without "ok".

The functions are in `chat_methods`, `stream_methods` and `reading_methods`; they raise SlackError with Slack's error code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.loopbacks.slack.state import Channel, Json, SlackError, SlackState, Team

TokenKind = Literal["bot", "app", "none"]


@dataclass(frozen=True)
class MethodCall:
    """One call. `publish` sends an event that the call causes, such as that a message was posted."""

    state: SlackState
    team: Team
    arguments: Json
    publish: Callable[[Channel, Json], object]
    new_socket_url: Callable[[], str]

    def text(self, name: str) -> str:
        """A required argument as text."""
        value = self.arguments.get(name)
        if value in (None, ""):
            raise SlackError("invalid_arguments", response_metadata={"messages": [f"[ERROR] missing required field: {name}"]})
        return str(value)

    def is_true(self, name: str) -> bool:
        return str(self.arguments.get(name, "")).lower() in ("true", "1")

    def number(self, name: str, default: int) -> int:
        try:
            return int(self.arguments.get(name) or default)
        except ValueError:
            raise SlackError("invalid_arguments") from None

    def channel(self, *, to_write: bool = False, name: str = "channel") -> Channel:
        return self.state.channel_for(self.team, self.text(name), to_write=to_write)

    def need(self, scope: str) -> None:
        need(self.team, scope)


@dataclass(frozen=True)
class Method:
    """`scopes`: one of them is enough; empty if none is needed."""

    do: Callable[[MethodCall], Json]
    scopes: tuple[str, ...]
    token: TokenKind


METHODS: dict[str, Method] = {}


def method(
    name: str, *scopes: str, token: TokenKind = "bot"
) -> Callable[[Callable[[MethodCall], Json]], Callable[[MethodCall], Json]]:
    def register(do: Callable[[MethodCall], Json]) -> Callable[[MethodCall], Json]:
        METHODS[name] = Method(do, scopes, token)
        return do

    return register


def need(team: Team, *scopes: str) -> None:
    """Raises SlackError missing_scope unless the token has one of the scopes."""
    if scopes and not team.scopes.intersection(scopes):
        raise SlackError("missing_scope", needed=scopes[0], provided=",".join(sorted(team.scopes)))
