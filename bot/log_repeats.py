"""Counts the log's warnings that repeat, so that nobody outside can fill a disk with one mistake made again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

PERIOD_SECONDS = 60.0
MAX_REMEMBERED = 1000

_Line = tuple[str, int, str]


class RepeatFilter(logging.Filter):
    """For a handler. Of equal warnings and errors it lets the first through, and then one a minute that says how often it happened.

    Equal are those of the same logger and level with the same text; a traceback may differ. A number that is left over is told with
    the next line of any kind.
    """

    def __init__(self, handler: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._handler = handler
        self._clock = clock
        self._seen: dict[_Line, tuple[float, int]] = {}  # when the line was let through, and how often it was held back since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        now = self._clock()
        line = (record.name, record.levelno, record.getMessage())
        for old, (at, num) in list(self._seen.items()):
            if now - at < PERIOD_SECONDS and len(self._seen) <= MAX_REMEMBERED:
                break  # the dictionary is in the order of time
            del self._seen[old]
            if num and old == line:
                record.msg, record.args = f"{line[2]} (this happened {num + 1} times within {now - at:.0f} s)", ()
                record.exc_info = record.exc_text = None
            elif num:
                self._tell(old, num, now - at)
        if record.levelno < logging.WARNING:
            return True
        if line in self._seen:
            at, num = self._seen[line]
            self._seen[line] = (at, num + 1)
            return False
        self._seen[line] = (now, 0)
        return True

    def _tell(self, line: _Line, num: int, seconds: float) -> None:
        name, level, text = line
        sentence = f"{text} (this happened {num} more times within {seconds:.0f} s)"
        self._handler.emit(logging.LogRecord(name, level, "", 0, sentence, (), None))
