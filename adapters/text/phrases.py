"""Sentences that are the same on all platforms."""

from __future__ import annotations

from datetime import datetime

from adapters.base import Quota, Waiting


def waiting_sentence(waiting: Waiting) -> str:
    """What a person is told while the question waits for the model."""
    if waiting.is_loading:
        return "The model was asleep and is being loaded …"
    place = "You are next" if waiting.position == 1 else f"You are number {waiting.position} in the queue"
    if waiting.estimated_wait_seconds is None:
        return f"{place} …"
    return f"{place}, about {max(1, round(waiting.estimated_wait_seconds))} seconds …"


def quota_sentence(quota: Quota, now: datetime) -> str:
    """What a person is told about the questions used and left. `now` in UTC."""
    asked = f"You have asked {quota.num_used} question{'' if quota.num_used == 1 else 's'} in the last 24 hours"
    if quota.limit is None:
        return f"{asked}. There is no limit here."
    if quota.next_at is None:
        return f"{asked}, of {quota.limit}."
    minutes = max(1, round((quota.next_at - now).total_seconds() / 60))
    wait = f"{minutes} minute{'' if minutes == 1 else 's'}" if minutes < 90 else f"{round(minutes / 60)} hours"
    return f"{asked}, which is the limit here. The next one is free in about {wait}."
