"""Delivers events and people's actions to the app like Slack: attempts, acknowledgements, retries; by socket or HTTP.

An event that is not acknowledged within three seconds is sent again at once, after one minute and after five
(https://docs.slack.dev/apis/events-api#retries); people's actions are sent once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tests.loopbacks.slack.state import Json

DeliveryKind = Literal["events_api", "interactive", "slash_commands"]


@dataclass(eq=False)
class Delivery:
    """One payload on its way. `answer` came with the acknowledgement; `responses` were sent to the response_url."""

    kind: DeliveryKind
    body: Json
    num_tries: int = 0
    retry_reasons: list[str] = field(default_factory=list)
    is_acknowledged: bool = False
    is_given_up: bool = False
    answer: Json | None = None
    responses: list[Json] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return self.is_acknowledged or self.is_given_up

    @property
    def event(self) -> Json:
        """The event in it; empty if it is not an event."""
        found: Json = self.body.get("event", {})
        return found


class NotAcknowledged(Exception):
    """`reason` is Slack's retry reason: timeout, http_timeout, http_error, connection_failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Way(Protocol):
    async def bring(self, delivery: Delivery, within_seconds: float) -> Json | None:
        """Make one attempt. Returns what came with the acknowledgement, or raises NotAcknowledged."""


class Deliveries:
    def __init__(self, way: Way, changed: Callable[[], Awaitable[None]]) -> None:
        self.way = way
        self.all: list[Delivery] = []
        self.ack_seconds = 3.0
        self.retry_seconds: tuple[float, ...] = (0.0, 60.0, 300.0)
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, kind: DeliveryKind, body: Json) -> Delivery:
        """Begin to deliver a payload; first attempts are in order of the calls."""
        delivery = Delivery(kind, body)
        self.all.append(delivery)
        task = asyncio.create_task(self._bring(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return delivery

    async def _bring(self, delivery: Delivery) -> None:
        pauses = self.retry_seconds if delivery.kind == "events_api" else ()
        for pause in (*pauses, None):
            delivery.num_tries += 1
            try:
                delivery.answer = await self.way.bring(delivery, self.ack_seconds)
            except NotAcknowledged as error:
                delivery.retry_reasons.append(error.reason)
                delivery.is_given_up = pause is None
            else:
                delivery.is_acknowledged = True
            await self._changed()
            if delivery.is_finished or pause is None:
                return
            await asyncio.sleep(pause)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
