"""Where an answer goes on Discord, as one line of text that the bot stores with the turn."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass

from adapters.surface import DestinationGone

DIRECT = "dm"  # the workspace of direct messages, which belong to no guild
TOKEN_SECONDS = 14 * 60.0  # an interaction's token lives 15 minutes


@dataclass(frozen=True, slots=True)
class Destination:
    """`channel` is the thread if there is one, else the channel. `reply_to`: the message that the answer replies to, or empty.

    `has_hint`: explain under the answer how to continue, because ordinary messages there are not visible to us. An answer to an
    interaction uses its `token` until `token_until` (seconds since 1970), and afterwards writes to the channel if `is_member`.
    """

    guild: str
    channel: str
    reply_to: str = ""
    has_hint: bool = False
    application: str = ""
    token: str = ""
    token_until: float = 0.0
    is_member: bool = True
    is_alt_text: bool = False  # one short text that only the person who asked can see

    def has_token(self, now: float) -> bool:
        """Whether its token is valid at `now` (seconds since 1970). Raises DestinationGone if it is not and there is no other way
        to write there."""
        if not self.token or now < self.token_until:
            return bool(self.token)
        if not self.is_member:
            raise DestinationGone
        return False

    def __str__(self) -> str:
        return json.dumps(astuple(self), separators=(",", ":"))

    def __repr__(self) -> str:
        return f"Destination(guild={self.guild}, channel={self.channel})"  # without the token, which must not be logged


def parse_destination(text: str) -> Destination:
    """The inverse of `str(destination)`. Raises DestinationGone if the text is not one."""
    try:
        destination = Destination(*json.loads(text))
    except (ValueError, TypeError):
        raise DestinationGone from None
    if not str(destination.channel).isdecimal():
        raise DestinationGone
    return destination
