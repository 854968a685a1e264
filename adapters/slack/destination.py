"""Where an answer goes on Slack, as one line of text that the bot stores with the turn."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from adapters.surface import DestinationGone


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an answer goes, and for whom: a stream in a channel has to name its recipient."""

    workspace: str
    channel: str
    thread: str
    user: str

    def __str__(self) -> str:
        return json.dumps(list(asdict(self).values()), separators=(",", ":"))


def parse_destination(text: str) -> Destination:
    """The inverse of `str(destination)`. Raises DestinationGone if the text is not one."""
    try:
        workspace, channel, thread, user = json.loads(text)
    except (ValueError, TypeError):
        raise DestinationGone from None
    return Destination(str(workspace), str(channel), str(thread), str(user))
