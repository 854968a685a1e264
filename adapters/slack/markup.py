"""Slack's own marks in text: read where people write, made harmless where the model writes.

People's messages arrive with `<...>` around mentions and links and with `& < >` escaped
(https://docs.slack.dev/messaging/formatting-message-text). What a model writes must never become such a mark, and a page that is
streamed must only grow: so `harmless` changes no character and never takes one back, it only puts an invisible one in between.
"""

from __future__ import annotations

import html
import re

_MARK = re.compile(r"<([^<>]*)>")
_BEFORE_MENTION = re.compile(r"<(?=[@#!])")
_INVISIBLE = "\u200b"  # a zero-width space: `<!channel>` with it inside is ordinary text, in code too
_MAX_FALLBACK_CHARS = 1500  # `text` beside blocks is for notifications and screen readers; 4,000 is Slack's advice, escapes add up


def to_plain(text: str, bot_user_id: str) -> str:
    """What a person wrote, without the mention of us, with marks written out. A link's address stays where a label hides it."""

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
    """Markdown that mentions nobody. A longer text's result begins with a shorter one's; at most half as long again."""
    return _BEFORE_MENTION.sub("<" + _INVISIBLE, markdown)


def fallback(text: str) -> str:
    """Plain words for `text` beside blocks: nothing in it is read as a mark."""
    if len(text) > _MAX_FALLBACK_CHARS:
        text = text[: _MAX_FALLBACK_CHARS - 1] + "…"
    return html.escape(text, quote=False)
