"""Limits one person's questions: a number within any 24 hours, and a number at the same time.

Rules: a question counts at once, before its pictures are downloaded, so that many at the same time cannot exceed the limit. A
question that was not answered (a refusal, a full queue, a failure) or was deleted does not count. Questions from before a restart
count, and forgetting one's data does not reset the count. The owner, at the page or in the terminal, is not limited. Of several
roles with a limit the most generous one applies, in place of the general limit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from adapters.base import Author, Quota
from adapters.text.phrases import quota_sentence

OWNER = "local"
WINDOW = timedelta(hours=24)
_NUM_REMEMBERED = 10_000  # above this, people who have not asked for a day are removed

AskedSince = Callable[[str, str, datetime], Awaitable[Sequence[tuple[int, datetime]]]]
"""The ids and times of the turns that an author on a platform has asked since then, oldest first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Questions per 24 hours and at the same time. None: no limit, also in `per_role`, by role id."""

    per_day: int | None = None
    per_role: Mapping[str, int | None] = field(default_factory=dict)
    max_waiting_per_person: int | None = None

    def of(self, role_ids: Iterable[str]) -> int | None:
        return _most_generous([self.per_role[role_id] for role_id in role_ids if role_id in self.per_role] or [self.per_day])

    def of_anybody(self) -> int | None:
        """The highest limit that a person of unknown roles may have."""
        return _most_generous([self.per_day, *self.per_role.values()])


@dataclass(slots=True, eq=False)
class Ticket:
    """One person's question, from its acceptance to the end of its answer."""

    person: tuple[str, str]  # platform, author id
    at: datetime
    turn_id: int | None = None


@dataclass(slots=True)
class _Person:
    asked: list[Ticket]  # within the window, oldest first
    num_waiting: int = 0
    role_ids: frozenset[str] | None = None  # None: not seen since the start


class Shares:
    """Counts who asked when, and how many questions of each person are unanswered."""

    def __init__(self, limits: Limits, asked_since: AskedSince, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._limits = limits
        self._asked_since = asked_since
        self._now = now
        self._people: dict[tuple[str, str], _Person] = {}
        self._sweep_at = _NUM_REMEMBERED

    async def quota(self, platform: str, author: Author) -> Quota:
        person = await self._person(platform, author.id)
        person.role_ids = author.role_ids
        return self._quota(person, author.id)

    async def take(self, platform: str, author: Author) -> Ticket | str:
        """Take a ticket for a new question. Returns a sentence instead if the person may not ask now."""
        person = await self._person(platform, author.id)
        person.role_ids = author.role_ids
        return self._take(person, platform, author.id)

    async def take_again(self, platform: str, author_id: str) -> Ticket | str:
        """The same for a question that is answered again; after a restart the person's roles may be unknown."""
        return self._take(await self._person(platform, author_id), platform, author_id)

    async def take_open(self, platform: str, author_id: str) -> Ticket:
        """Take a ticket for a question that was accepted before a restart: it counts already, and waits again."""
        person = await self._person(platform, author_id)
        person.num_waiting += 1
        return Ticket((platform, author_id), self._now())

    def give_back(self, ticket: Ticket, *, counts: bool) -> None:
        """The question no longer waits. `counts`: it was answered."""
        person = self._people[ticket.person]
        person.num_waiting -= 1
        if not counts and ticket in person.asked:
            person.asked.remove(ticket)

    def forget_turn(self, platform: str, author_id: str, turn_id: int) -> None:
        """The question was deleted by the person who asked it."""
        if person := self._people.get((platform, author_id)):
            person.asked = [ticket for ticket in person.asked if ticket.turn_id != turn_id]

    def _take(self, person: _Person, platform: str, author_id: str) -> Ticket | str:
        """Check and count without an await in between."""
        most = self._limits.max_waiting_per_person
        if author_id != OWNER and most is not None and person.num_waiting >= most:
            questions = "a question" if most == 1 else f"{most} questions"
            return f"I am still answering {questions} of yours. Please wait a little, so that the others get their answers too."
        quota = self._quota(person, author_id)
        if quota.limit is not None and quota.num_used >= quota.limit:
            return quota_sentence(quota, self._now()) if quota.next_at else "You may not ask questions here."
        ticket = Ticket((platform, author_id), self._now())
        person.asked.append(ticket)
        person.num_waiting += 1
        return ticket

    def _quota(self, person: _Person, author_id: str) -> Quota:
        num_used = len(person.asked)
        limit = self._limits.of_anybody() if person.role_ids is None else self._limits.of(person.role_ids)
        if author_id == OWNER or limit is None:
            return Quota(num_used)
        # The next question is allowed when fewer than `limit` are in the window.
        next_at = person.asked[num_used - limit].at + WINDOW if 0 < limit <= num_used else None
        return Quota(num_used, limit, next_at)

    async def _person(self, platform: str, author_id: str) -> _Person:
        key, since = (platform, author_id), self._now() - WINDOW
        if key not in self._people:
            stored = await self._asked_since(platform, author_id, since)
            asked = [Ticket(key, at, turn_id) for turn_id, at in stored]
            self._people.setdefault(key, _Person(asked))  # another task may have been quicker
            if len(self._people) > self._sweep_at:
                self._sweep(since, key)
        person = self._people[key]
        person.asked = _within(person.asked, since)
        return person

    def _sweep(self, since: datetime, newest: tuple[str, str]) -> None:
        self._people = {
            key: person
            for key, person in self._people.items()
            if key == newest or person.num_waiting or _within(person.asked, since)
        }
        self._sweep_at = max(_NUM_REMEMBERED, 2 * len(self._people))


def _within(asked: Sequence[Ticket], since: datetime) -> list[Ticket]:
    return [ticket for ticket in asked if ticket.at > since]


def _most_generous(limits: Sequence[int | None]) -> int | None:
    numbers = [number for number in limits if number is not None]
    return max(numbers) if len(numbers) == len(limits) else None
