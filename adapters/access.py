"""Who may use the bot, and where: allow and deny lists, as one line of settings each.

Rules: an entry is `workspace:ID` (also `guild:`, `team:`), `channel:ID`, `role:ID`, `user:ID`, or `dm` for direct messages. Deny
wins. An allow list with places (workspaces, channels, dm) allows only these; one with people (roles, users) allows only these; one
with both requires both. An empty list allows everybody.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from adapters.base import Author

_KINDS = {"workspace": "workspace", "guild": "workspace", "team": "workspace", "channel": "channel", "role": "role", "user": "user"}
_PLACES = frozenset({"workspace", "channel", "dm"})

Entry = tuple[str, str]


def parse_entries(text: str) -> frozenset[Entry]:
    """Parse entries separated by spaces or commas. Raises ValueError with the rest of a sentence: "has the entry ..."."""
    entries = set()
    for word in text.replace(",", " ").split():
        kind, _, name = word.partition(":")
        if word.lower() == "dm":
            entries.add(("dm", ""))
        elif kind.lower() in _KINDS and name:
            entries.add((_KINDS[kind.lower()], name))
        else:
            raise ValueError(f"has the entry {word!r}; write guild:ID, team:ID, channel:ID, role:ID, user:ID or dm")
    return frozenset(entries)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the bot, and where. An empty `allow` admits everybody; `deny` goes before `allow`."""

    allow: frozenset[Entry] = frozenset()
    deny: frozenset[Entry] = frozenset()

    def is_allowed(self, author: Author, workspace: str, channels: Collection[str], *, is_direct: bool) -> bool:
        """Whether the author may use the bot there. `channels`: the channel and those that contain it, such as a thread, its
        channel and that channel's category."""
        places = {("workspace", workspace), *(("channel", channel) for channel in channels)} | (
            {("dm", "")} if is_direct else set()
        )
        people = {("user", author.id), *(("role", role_id) for role_id in author.role_ids)}
        if self.deny & (places | people):
            return False
        allowed_places = {entry for entry in self.allow if entry[0] in _PLACES}
        allowed_people = self.allow - allowed_places
        return (not allowed_places or bool(allowed_places & places)) and (not allowed_people or bool(allowed_people & people))
