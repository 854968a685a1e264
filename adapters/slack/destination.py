"""Where answers go, and which messages are ours."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass

from adapters.surface import DestinationGone

_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an answer goes, and for whom: streams in channels name their reader."""

    workspace: str
    channel: str
    thread: str
    user: str

    def __str__(self) -> str:
        return json.dumps(list(asdict(self).values()), separators=(",", ":"))


def parse_destination(text: str) -> Destination:
    """The inverse of `str(destination)`. Raises DestinationGone when it is none."""
    try:
        workspace, channel, thread, user = json.loads(text)
    except (ValueError, TypeError):
        raise DestinationGone from None
    return Destination(str(workspace), str(channel), str(thread), str(user))


class Posted:
    """The newest messages that we know to be ours, so that one whose answer from Slack was lost can be told from them."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, message_id: str) -> None:
        self._ids[message_id] = None
        if len(self._ids) > _MAX_REMEMBERED:
            self._ids.popitem(last=False)

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._ids
