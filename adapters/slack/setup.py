"""The Slack app: its scopes and events, its manifest, and the steps from nothing to the first answer.

Does not need Slack's packages, so that it works before the extra is installed. Every scope and event is listed here with its
purpose; the manifest and the checks are made from these lists (https://docs.slack.dev/reference/app-manifest).
"""

from __future__ import annotations

from adapters.commands import COMMANDS

# Scope -> what does not work without it, as the rest of a sentence that begins with "without it".
SCOPES = {
    "app_mentions:read": "nobody can mention me",
    "channels:history": "I do not see what is said in threads of public channels",
    "channels:read": "I do not know in which public channels I am, and miss what was asked while I was away",
    "chat:write": "I cannot answer",
    "commands": "there is no /threadsight and no “Ask about this image”",
    "files:read": "I cannot look at pictures",
    "groups:history": "I do not see what is said in threads of private channels",
    "groups:read": "I do not know in which private channels I am, and miss what was asked while I was away",
    "im:history": "I do not see direct messages",
    "im:read": "I miss direct messages that were sent while I was away",
    "mpim:history": "I do not see what is said in group messages",
    "mpim:read": "I do not know in which group messages I am, and miss what was asked while I was away",
    "users:read": "I do not know who runs the workspace, so that only the person who asked can stop an answer",
}
AGENT_SCOPES = {"assistant:write": "I do not appear among Slack's agents"}

# A message event needs the history scope of its kind of channel.
EVENTS = (
    "app_home_opened",
    "app_mention",
    "app_uninstalled",
    "channel_deleted",
    "channel_left",
    "group_deleted",
    "group_left",
    "message.channels",
    "message.groups",
    "message.im",
    "message.mpim",
    "tokens_revoked",
)
AGENT_EVENTS = ("agent_session_stopped",)

EVENTS_PATH = "/slack/events"
INSTALL_PATH = "/slack/install"
REDIRECT_PATH = "/slack/oauth_redirect"

COMMAND = "/threadsight"
ASK_SHORTCUT = "threadsight_ask_about_image"
_PLACEHOLDER_URL = "https://YOUR-ADDRESS"
_DESCRIPTION = "Chat about pictures in threads, with a vision-language model on your own machine."


def scopes(*, is_agent: bool = False) -> list[str]:
    """The bot scopes of the app, sorted. `is_agent`: with those of Slack's assistant view."""
    return sorted({**SCOPES, **AGENT_SCOPES} if is_agent else SCOPES)


def events(*, is_agent: bool = False) -> list[str]:
    """The bot events that the app subscribes to, sorted. `is_agent` as in `scopes`."""
    return sorted((*EVENTS, *AGENT_EVENTS) if is_agent else EVENTS)


def manifest(*, is_agent: bool = False, request_url: str | None = None) -> str:
    """The app manifest as YAML. `request_url` is this program's page as Slack reaches it, for http mode only; None is Socket
    Mode."""
    address = request_url.rstrip("/") if request_url else None
    is_socket = address is None
    url = [] if is_socket else [f"      url: {address}{EVENTS_PATH}"]
    lines = [
        "display_information:",
        "  name: Threadsight",
        f"  description: {_DESCRIPTION}",
        '  background_color: "#1f2937"',
        "features:",
        "  app_home:",
        "    home_tab_enabled: true",
        "    messages_tab_enabled: true",
        "    messages_tab_read_only_enabled: false",
        "  bot_user:",
        "    display_name: Threadsight",
        "    always_online: true",
        *(["  agent_view:", f"    agent_description: {_DESCRIPTION}"] if is_agent else []),
        "  shortcuts:",
        "    - name: Ask about this image",
        "      type: message",
        f"      callback_id: {ASK_SHORTCUT}",
        "      description: Ask Threadsight about a picture in this message",
        "  slash_commands:",
        f"    - command: {COMMAND}",
        "      description: Ask about a picture, see your quota, have your data deleted",
        f"      usage_hint: {' | '.join(command.name for command in COMMANDS if not command.is_about_chat)}",
        "      should_escape: false",
        *url,
        "oauth_config:",
        *([] if is_socket else ["  redirect_urls:", f"    - {address}{REDIRECT_PATH}"]),
        "  scopes:",
        "    bot:",
        *(f"      - {scope}" for scope in scopes(is_agent=is_agent)),
        "settings:",
        "  event_subscriptions:",
        *([] if is_socket else [f"    request_url: {address}{EVENTS_PATH}"]),
        "    bot_events:",
        *(f"      - {event}" for event in events(is_agent=is_agent)),
        "  interactivity:",
        "    is_enabled: true",
        *([] if is_socket else [f"    request_url: {address}{EVENTS_PATH}"]),
        "  org_deploy_enabled: false",
        f"  socket_mode_enabled: {'true' if is_socket else 'false'}",
        "  token_rotation_enabled: false",
    ]
    return "\n".join(lines) + "\n"


def setup_steps(*, mode: str = "socket", is_agent: bool = False) -> str:
    """The steps for a person who begins from nothing, with the manifest at the end."""
    is_http = mode == "http"
    steps = [
        "Open https://api.slack.com/apps, choose “Create New App” and “From a manifest”, and pick your workspace.",
        "Choose YAML, and paste the manifest below in place of what is there. Then “Create”.",
    ]
    if is_http:
        steps[1] += f" Put the address under which Slack reaches this program in place of {_PLACEHOLDER_URL}."
        steps.append("Under “Basic Information”, copy the Signing Secret: SLACK_SIGNING_SECRET=…")
    else:
        steps.append(
            "Under “Basic Information”, “App-Level Tokens”, generate a token with the scope connections:write: "
            "SLACK_APP_TOKEN=xapp-…"
        )
    steps += [
        "Under “Install App”, install it, and copy the Bot User OAuth Token: SLACK_BOT_TOKEN=xoxb-…",
        "Put these lines into the file .env"
        + (", with THREADSIGHT_SLACK_MODE=http" if is_http else "")
        + ". Then `make install` adds Slack's packages, `threadsight doctor` says whether all is well, and `make run` starts.",
        "In Slack, invite it to a channel with “/invite @Threadsight”, post a picture, and mention @Threadsight with it.",
    ]
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    text = manifest(is_agent=is_agent, request_url=_PLACEHOLDER_URL if is_http else None)
    return f"{numbered}\n\n--- manifest ---\n{text}"
