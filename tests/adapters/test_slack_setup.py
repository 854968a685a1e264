"""The manifest asks for what the code uses, no more and no less, and the steps lead to it."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import adapters.slack.setup as slack_setup
from adapters.slack.setup import EVENTS, SCOPES, manifest, setup_steps

SOURCES = sorted(Path(slack_setup.__file__).parent.glob("*.py"))

# What Slack demands for each method that we call, for all kinds of channels (https://docs.slack.dev/reference/methods).
_KINDS = ("channels", "groups", "im", "mpim")
METHOD_SCOPES: dict[str, tuple[str, ...]] = {
    "auth_test": (),
    "apps_connections_open": (),  # of the app-level token
    "agents_sessions_setStatus": (),  # of apps that are declared agents
    "assistant_threads_setStatus": ("chat:write",),
    "chat_appendStream": ("chat:write",),
    "chat_delete": ("chat:write",),
    "chat_postEphemeral": ("chat:write",),
    "chat_postMessage": ("chat:write",),
    "chat_startStream": ("chat:write",),
    "chat_stopStream": ("chat:write",),
    "chat_update": ("chat:write",),
    "conversations_history": tuple(f"{kind}:history" for kind in _KINDS),
    "conversations_replies": tuple(f"{kind}:history" for kind in _KINDS),
    "conversations_info": tuple(f"{kind}:read" for kind in _KINDS),
    "users_conversations": tuple(f"{kind}:read" for kind in _KINDS),
    "files_info": ("files:read",),
    "users_info": ("users:read",),
    "views_open": (),
    "views_publish": (),
}
EVENT_SCOPES = {
    "app_home_opened": (),
    "app_mention": ("app_mentions:read",),
    "app_uninstalled": (),
    "channel_deleted": ("channels:read",),
    "channel_left": ("channels:read",),
    "group_deleted": ("groups:read",),
    "group_left": ("groups:read",),
    **{f"message.{kind}": (f"{kind}:history",) for kind in _KINDS},
    "tokens_revoked": (),
}
OTHER_SCOPES = {"commands"}  # the slash command and the shortcut


def called_methods() -> set[str]:
    groups = ("auth_", "apps_", "agents_", "assistant_", "chat_", "conversations_", "users_", "files_", "views_")
    attributes = {
        node.attr
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    }
    return {name for name in attributes if name.startswith(groups)}


def read(text: str) -> dict[str, Any]:
    yaml = importlib.import_module("yaml")
    parsed = yaml.safe_load(text)
    assert isinstance(parsed, dict)
    return parsed


def test_the_scopes_are_those_that_the_code_needs() -> None:
    assert called_methods() == set(METHOD_SCOPES)
    assert set(EVENTS) == set(EVENT_SCOPES)
    needed = {scope for scopes in (*METHOD_SCOPES.values(), *EVENT_SCOPES.values()) for scope in scopes} | OTHER_SCOPES
    assert set(SCOPES) == needed


def test_every_event_has_a_listener_of_its_own() -> None:
    source = next(path for path in SOURCES if path.name == "listeners.py").read_text("utf-8")
    listened = {
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for event in slack_setup.events(is_agent=True):
        assert event.partition(".")[0] in listened


def test_the_manifest_for_a_socket() -> None:
    parsed = read(manifest())
    assert parsed["oauth_config"]["scopes"]["bot"] == sorted(SCOPES)
    assert parsed["settings"]["event_subscriptions"] == {"bot_events": sorted(EVENTS)}
    assert parsed["settings"]["interactivity"] == {"is_enabled": True}
    assert parsed["settings"]["socket_mode_enabled"] is True
    home = parsed["features"]["app_home"]
    assert home == {"home_tab_enabled": True, "messages_tab_enabled": True, "messages_tab_read_only_enabled": False}
    [command] = parsed["features"]["slash_commands"]
    assert (command["command"], command["usage_hint"]) == ("/threadsight", "ask | quota | forget | help")
    assert parsed["features"]["shortcuts"][0]["type"] == "message"
    assert "agent_view" not in parsed["features"]
    assert len(parsed["display_information"]["description"]) <= 140


def test_the_manifest_for_http() -> None:
    parsed = read(manifest(request_url="https://bot.example/"))
    url = "https://bot.example/slack/events"
    assert parsed["settings"]["event_subscriptions"]["request_url"] == url
    assert parsed["settings"]["interactivity"]["request_url"] == url
    assert parsed["features"]["slash_commands"][0]["url"] == url
    assert parsed["oauth_config"]["redirect_urls"] == ["https://bot.example/slack/oauth_redirect"]
    assert parsed["settings"]["socket_mode_enabled"] is False


def test_the_manifest_of_an_agent() -> None:
    parsed = read(manifest(is_agent=True))
    assert parsed["features"]["agent_view"]["agent_description"]
    assert "assistant:write" in parsed["oauth_config"]["scopes"]["bot"]
    assert "agent_session_stopped" in parsed["settings"]["event_subscriptions"]["bot_events"]


@pytest.mark.parametrize(("mode", "token"), [("socket", "SLACK_APP_TOKEN"), ("http", "SLACK_SIGNING_SECRET")])
def test_the_steps_name_every_token_and_end_with_the_manifest(mode: str, token: str) -> None:
    steps, _, text = setup_steps(mode=mode).partition("--- manifest ---\n")
    assert "SLACK_BOT_TOKEN" in steps
    assert token in steps
    assert read(text)["settings"]["socket_mode_enabled"] is (mode == "socket")


def test_the_steps_need_no_package_of_slacks() -> None:
    code = "import sys; import adapters.slack.setup; print([m for m in sys.modules if m.startswith('slack')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCES[0].parents[2])
    assert result.stdout.strip() == "[]"
