"""Slack's markup: parsed in people's text, made harmless in the model's.

People's messages arrive with `<...>` around mentions and links and with `& < >` escaped
(https://docs.slack.dev/messaging/formatting-message-text). The model's text must never become markup, and a streamed page must only
grow: so `harmless` changes and removes no character, it only inserts invisible ones.
"""

from __future__ import annotations

import html
import re

from adapters.text.mentions import OUR_MENTION, without_our_mention

_MARK = re.compile(r"<([^<>]*)>")
_CODE_BLOCK = re.compile(r"```(?P<before>\n?)(?P<code>.+?)(?P<after>\n?)```", re.DOTALL)
_BEFORE_MENTION = re.compile(r"<(?=[@#!])")
_INVISIBLE = "\u200b"  # a zero-width space: with it, `<!channel>` is ordinary text, in code too
_MAX_FALLBACK_CHARS = 1500  # `text` beside blocks is for notifications and screen readers; chat.update takes 4,000
_CUT_ENTITY = re.compile(r"&[a-z]*\Z")


def to_plain(text: str, bot_user_id: str) -> str:
    """A person's `text`, without the mention of us, with Slack's markup written out. A labelled link keeps its URL.

    Code blocks get lines of their own; white space stays as it was written.
    """

    def written_out(match: re.Match[str]) -> str:
        target, _, label = match[1].partition("|")
        if target.startswith("@"):
            return OUR_MENTION if target[1:] == bot_user_id else "@" + (label.lstrip("@") or target[1:])
        if target.startswith("#"):
            return "#" + (label or target[1:])
        if target.startswith("!"):
            return label or "@" + target[1:].split("^")[0]
        if target.startswith("mailto:"):
            return label or target.removeprefix("mailto:")
        if not label or target.endswith(label):
            return target
        return f"{label} ({target})"

    plain = _MARK.sub(written_out, _CODE_BLOCK.sub(_on_lines_of_its_own, text.replace(OUR_MENTION, "")))
    return without_our_mention(_unescaped(plain))


def labels_in(text: str) -> dict[str, str]:
    """The names that a text gives for people, channels and groups, by their ids."""
    found = {}
    for match in _MARK.finditer(text):
        target, _, label = match[1].partition("|")
        if label and target[:1] in ("@", "#", "!"):
            found[target[1:].removeprefix("subteam^")] = _unescaped(label)
    return found


def _on_lines_of_its_own(match: re.Match[str]) -> str:
    """A code block, whose marks Slack sets right before and behind the code, as Markdown has it."""
    start, end = match.start(), match.end()
    before = "" if start == 0 or match.string[start - 1] == "\n" else "\n"
    after = "" if end == len(match.string) or match.string[end] == "\n" else "\n"
    return f"{before}```\n{match['code']}\n```{after}"


def _unescaped(text: str) -> str:
    """Slack escapes these three and no other (https://docs.slack.dev/messaging/formatting-message-text#escaping)."""
    return text.replace("&nbsp;", " ").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def has_mention(text: str, user_id: str) -> bool:
    """Whether Slack's markup in the text mentions this person or bot."""
    return f"<@{user_id}>" in text or f"<@{user_id}|" in text


def harmless(markdown: str) -> str:
    """Make Markdown that mentions nobody. If a text begins with another, so does its result. At most 1.5 times as long."""
    return _BEFORE_MENTION.sub("<" + _INVISIBLE, markdown)


def fallback(text: str) -> str:
    """Plain text without markup for `text` beside blocks: as much of it as 1,500 characters hold."""
    escaped = html.escape(text, quote=False)
    if len(escaped) <= _MAX_FALLBACK_CHARS:
        return escaped
    return _CUT_ENTITY.sub("", escaped[: _MAX_FALLBACK_CHARS - 1]) + "…"
