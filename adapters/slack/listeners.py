"""Bolt's listeners: acknowledge at once, pass the event on or begin the work, return.

Bolt passes arguments by name. The last listener of each kind takes everything else, so that Slack does not send it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

from slack_bolt.async_app import AsyncApp

from adapters.slack.actions import ASK_VIEW, Actions
from adapters.slack.blocks import CONFIRM_ACTIONS
from adapters.slack.events import Events
from adapters.slack.setup import ASK_SHORTCUT, COMMAND
from adapters.slack.workspaces import Workspace

_GONE_EVENTS = ("channel_deleted", "channel_left", "group_deleted", "group_left")
_ANY = re.compile(r".*", re.DOTALL)


def add_listeners(
    bolt: AsyncApp,
    events: Events,
    actions: Actions,
    workspace_of: Callable[[Any], Workspace],
    removed_from: Callable[[str], Coroutine[Any, Any, None]],
    begin: Callable[[Coroutine[Any, Any, None]], object],
) -> None:
    """Register the listeners. `workspace_of` takes Bolt's context, `removed_from` a workspace's id; `begin` starts a task."""

    async def on_message(event: dict[str, Any], context: Any) -> None:
        events.message(workspace_of(context), event)

    async def on_gone(event: dict[str, Any], context: Any) -> None:
        events.left(workspace_of(context), event)

    async def on_home(event: dict[str, Any], context: Any) -> None:
        if event.get("tab") == "home":
            begin(actions.show_home(workspace_of(context), str(event["user"])))

    async def on_native_stop(event: dict[str, Any], context: Any) -> None:
        begin(actions.native_stop(workspace_of(context), event))

    async def on_removed(event: dict[str, Any], body: dict[str, Any]) -> None:
        if event.get("type") == "app_uninstalled" or (event.get("tokens") or {}).get("bot"):
            begin(removed_from(str(body.get("team_id") or "")))

    async def on_button(ack: Any, body: dict[str, Any], context: Any) -> None:
        await ack()
        begin(actions.button(workspace_of(context), body))

    async def on_confirmed(ack: Any, body: dict[str, Any], context: Any, respond: Any) -> None:
        await ack()
        begin(actions.confirmed(workspace_of(context), body, respond))

    async def on_shortcut(ack: Any, body: dict[str, Any], context: Any) -> None:
        await ack()
        begin(actions.open_question(workspace_of(context), body))

    async def on_question(ack: Any, body: dict[str, Any], context: Any) -> None:
        await ack()
        begin(actions.answer_question(workspace_of(context), body))

    async def on_command(ack: Any, body: dict[str, Any], context: Any, respond: Any) -> None:
        await ack()
        begin(actions.command(workspace_of(context), body, respond))

    async def on_anything() -> None:
        pass

    async def on_any_action(ack: Any) -> None:
        await ack()

    for name in ("message", "app_mention"):
        bolt.event(name)(on_message)
    for name in _GONE_EVENTS:
        bolt.event(name)(on_gone)
    for name in ("app_uninstalled", "tokens_revoked"):
        bolt.event(name)(on_removed)
    bolt.event("app_home_opened")(on_home)
    bolt.event("agent_session_stopped")(on_native_stop)
    bolt.event(_ANY)(on_anything)
    for action_id in CONFIRM_ACTIONS:
        bolt.action(action_id)(on_confirmed)
    bolt.action(re.compile(r"threadsight_.*"))(on_button)
    bolt.action(_ANY)(on_any_action)
    bolt.shortcut(ASK_SHORTCUT)(on_shortcut)
    bolt.shortcut(_ANY)(on_any_action)
    bolt.view(ASK_VIEW)(on_question)
    bolt.view(_ANY)(on_any_action)
    bolt.command(COMMAND)(on_command)
