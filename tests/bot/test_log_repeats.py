"""Warnings that repeat are counted, also asyncio's when the descriptors are used up."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from bot.log_format import LogFormat
from bot.log_repeats import MAX_REMEMBERED, PERIOD_SECONDS, RepeatFilter


class Log(NamedTuple):
    logger: logging.Logger
    out: io.StringIO
    clock: list[float]

    @property
    def lines(self) -> list[str]:
        """What was written, without its time."""
        return [line.split(" ", 2)[2] for line in self.out.getvalue().splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    out, clock = io.StringIO(), [0.0]
    handler = logging.StreamHandler(out)
    handler.setFormatter(LogFormat())
    handler.addFilter(RepeatFilter(handler, lambda: clock[0]))
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    yield Log(logger, out, clock)
    logger.removeHandler(handler)


def test_what_repeats_is_counted_and_told_once_a_minute(log: Log) -> None:
    for _ in range(500):
        log.logger.warning("No room for %s", "more")
    assert log.lines == ["WARNING asyncio: No room for more"]
    log.clock[0] = PERIOD_SECONDS + 1
    for _ in range(500):
        log.logger.warning("No room for %s", "more")
    assert log.lines[1:] == ["WARNING asyncio: No room for more (this happened 500 times within 61 s)"]


def test_a_number_is_told_with_another_line_too(log: Log) -> None:
    log.logger.setLevel(logging.INFO)
    for _ in range(3):
        log.logger.error("Broken")
    log.clock[0] = PERIOD_SECONDS
    log.logger.info("Ready")
    log.logger.info("Ready")
    assert log.lines == [
        "ERROR asyncio: Broken",
        "ERROR asyncio: Broken (this happened 2 more times within 60 s)",
        "INFO asyncio: Ready",
        "INFO asyncio: Ready",  # not a warning
    ]


def test_other_texts_levels_and_loggers_are_others(log: Log) -> None:
    for text in ("one", "two"):
        log.logger.warning(text)
        log.logger.error(text)
        log.logger.getChild("child").warning(text)
    assert len(log.lines) == 6


def test_what_is_remembered_is_bounded(log: Log) -> None:
    for number in range(3 * MAX_REMEMBERED):
        log.logger.warning("Number %d", number)
    (repeats,) = log.logger.handlers[-1].filters
    assert isinstance(repeats, RepeatFilter)
    assert len(repeats._seen) <= MAX_REMEMBERED + 1
    assert len(log.lines) == 3 * MAX_REMEMBERED


async def test_descriptors_that_are_used_up_fill_no_log(log: Log) -> None:
    with socket.socket() as listening:
        for _ in range(128):  # as asyncio does for each place in the queue, every second
            error = OSError(24, "Too many open files")
            context = {"message": "socket.accept() out of system resource", "exception": error, "socket": listening}
            asyncio.get_running_loop().call_exception_handler(context)
    assert log.out.getvalue().count("out of system resource") == 1
