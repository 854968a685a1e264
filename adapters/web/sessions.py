"""Signing in: what a browser keeps instead of the token, and how many wrong tokens an address may try."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

SESSION_SECONDS = 90 * 24 * 3600
MAX_GUESSES = 10
GUESS_RECOVERY_SECONDS = 6.0
MAX_ADDRESSES = 10_000

_COOKIE = re.compile(r"(?P<begun>[0-9a-f]{1,12})\.(?P<id>[0-9a-f]{32})\.(?P<seal>[0-9a-f]{64})")


class Sessions:
    """Sessions that survive a restart and end with the token, because their cookies are sealed with it.

    Only those that were ended earlier have to be remembered: `ended` is a text for that, and for the next start.
    """

    def __init__(self, token: str, ended: str = "", clock: Callable[[], float] = time.time) -> None:
        self._key = token.encode()
        self._clock = clock
        self._ended: dict[str, int] = {}  # a session's id, and when it began, in seconds
        for line in ended.splitlines():
            begun, _, session_id = line.partition(" ")
            self._ended[session_id] = int(begun, 16)

    @property
    def ended(self) -> str:
        """A line for each session that was ended and would still be valid."""
        return "\n".join(f"{begun:x} {session_id}" for session_id, begun in self._ended.items() if self._is_young(begun))

    def is_token(self, guess: str) -> bool:
        """Whether it is the right token. Takes as long for any guess. Raises ValueError for text that is not Unicode."""
        return hmac.compare_digest(hashlib.sha256(guess.encode()).digest(), hashlib.sha256(self._key).digest())

    def begin(self) -> str:
        """A new session's cookie."""
        body = f"{int(self._clock()):x}.{secrets.token_hex(16)}"
        return f"{body}.{self._seal(body)}"

    def find(self, cookie: str) -> str | None:
        """The id of the cookie's session; None if there is none."""
        match = _COOKIE.fullmatch(cookie)
        if match is None or not hmac.compare_digest(match["seal"], self._seal(f"{match['begun']}.{match['id']}")):
            return None
        is_valid = self._is_young(int(match["begun"], 16)) and match["id"] not in self._ended
        return match["id"] if is_valid else None

    def end(self, cookie: str) -> str | None:
        """End the cookie's session for all who have the cookie. Returns its id; None if there was none."""
        session_id = self.find(cookie)
        if session_id is not None:
            self._ended[session_id] = int(cookie.partition(".")[0], 16)
        return session_id

    def _seal(self, body: str) -> str:
        return hmac.new(self._key, f"threadsight session {body}".encode(), hashlib.sha256).hexdigest()

    def _is_young(self, begun: int) -> bool:
        return begun + SESSION_SECONDS > self._clock()


class Guesses:
    """Limits the tokens that an address may try: `MAX_GUESSES` at once, then one every `GUESS_RECOVERY_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address: guesses left, and when that was

    def take(self, address: str) -> float:
        """Take a guess away, before it is looked at. Returns 0, or if there is none how many seconds to wait for one."""
        now = self._clock()
        left, at = self._left.pop(address, (float(MAX_GUESSES), now))
        left = min(float(MAX_GUESSES), left + (now - at) / GUESS_RECOVERY_SECONDS)
        wait = 0.0 if left >= 1 else (1 - left) * GUESS_RECOVERY_SECONDS
        self._left[address] = (left if wait else left - 1, now)
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)  # tried longest ago
        return wait

    def give_back(self, address: str) -> None:
        """Give back the guess that was just taken: it was no guess."""
        if address in self._left:
            left, at = self._left[address]
            self._left[address] = (min(float(MAX_GUESSES), left + 1), at)

    def num_wrong(self, address: str) -> int:
        """How many guesses of this address have not come back yet."""
        left, _ = self._left.get(address, (float(MAX_GUESSES), 0.0))
        return MAX_GUESSES - int(left)
