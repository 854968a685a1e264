"""Sentences that are the same wherever they are said."""

from __future__ import annotations

from adapters.base import Waiting


def waiting_sentence(waiting: Waiting) -> str:
    if waiting.is_loading:
        return "The model was asleep and is being loaded …"
    place = "You are next" if waiting.position == 1 else f"You are number {waiting.position} in the queue"
    if waiting.estimated_wait_seconds is None:
        return f"{place} …"
    return f"{place}, about {max(1, round(waiting.estimated_wait_seconds))} seconds …"
