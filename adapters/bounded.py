"""Collections of bounded size: a new entry replaces the oldest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class BoundedDict(Generic[_K, _V]):
    """At most `max_entries` entries; the one set longest ago is dropped first."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[_K, _V] = OrderedDict()

    def __setitem__(self, key: _K, value: _V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def __getitem__(self, key: _K) -> _V:
        return self._entries[key]

    def __contains__(self, key: _K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[_K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: _K) -> _V | None:
        return self._entries.get(key)

    def pop(self, key: _K) -> _V | None:
        """Remove the key. Returns its value; None if there was none."""
        return self._entries.pop(key, None)


class BoundedSet(Generic[_K]):
    """At most `max_entries` members; the one added longest ago is dropped first."""

    def __init__(self, max_entries: int) -> None:
        self._members: BoundedDict[_K, None] = BoundedDict(max_entries)

    def add(self, member: _K) -> None:
        self._members[member] = None

    def discard(self, member: _K) -> None:
        self._members.pop(member)

    def __contains__(self, member: _K) -> bool:
        return member in self._members
