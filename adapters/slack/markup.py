"""Slack's markup: parsed in people's text, made harmless in the model's.

People's messages arrive with `<...>` around mentions and links and with `& < >` escaped
(https://docs.slack.dev/messaging/formatting-message-text). The model's text must never become markup, and a streamed page must only
grow: so `harmless` changes and removes no character, it only inserts invisible ones.
"""

from __future__ import annotations

import html
import re

_MARK = re.compile(r"<([^<>]*)>")
_BEFORE_MENTION = re.compile(r"<(?=[@#!])")
_INVISIBLE = "\u200b"  # a zero-width space: with it, `<!channel>` is ordinary text, in code too
_MAX_FALLBACK_CHARS = 1500  # `text` beside blocks is for notifications and screen readers; Slack advises 4,000, escapes add to it


def to_plain(text: str, bot_user_id: str) -> str:
    """A person's text, without the mention of us, with markup converted to plain text. A labelled link keeps its URL."""

    def written_out(match: re.Match[str]) -> str:
        target, _, label = match[1].partition("|")
        if target.startswith("@"):
            return "" if target[1:] == bot_user_id else "@" + (label.lstrip("@") or target[1:])
        if target.startswith("#"):
            return "#" + (label or target[1:])
        if target.startswith("!"):
            return label or "@" + target[1:].split("^")[0]
        if target.startswith("mailto:"):
            return label or target.removeprefix("mailto:")
        if not label or target.endswith(label):
            return target
        return f"{label} ({target})"

    plain = html.unescape(_MARK.sub(written_out, text).replace("&nbsp;", " "))
    return "\n".join(re.sub(r"[ \t]+", " ", line).strip() if "  " in line else line.strip() for line in plain.split("\n")).strip()


def has_mention(text: str, user_id: str) -> bool:
    return f"<@{user_id}>" in text or f"<@{user_id}|" in text


def harmless(markdown: str) -> str:
    """Make Markdown that mentions nobody. If a text begins with another, so does its result. At most 1.5 times as long."""
    return _BEFORE_MENTION.sub("<" + _INVISIBLE, markdown)


def fallback(text: str) -> str:
    """Plain text without markup for `text` beside blocks, at most 1,500 characters of the original."""
    if len(text) > _MAX_FALLBACK_CHARS:
        text = text[: _MAX_FALLBACK_CHARS - 1] + "…"
    return html.escape(text, quote=False)
