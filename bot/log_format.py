"""The form of the program's log, which keeps passwords out, also those in other packages' lines and tracebacks."""

from __future__ import annotations

import logging
import re

_LOGIN = re.compile(r"//[^\s/@]*@|(?<=Basic )[A-Za-z0-9+/=]{4,}")


class LogFormat(logging.Formatter):
    """A line for each record. aiohttp's errors quote the proxy's URL, and packages write these errors into the log."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, its traceback included, without what is before the @ of a URL."""
        return _LOGIN.sub(lambda match: "//***@" if match[0].startswith("//") else "***", super().format(record))
