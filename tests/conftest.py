"""What all tests share: they work without a network, and beside each other in several processes.

Hypothesis judges by what comes out, never by how long it took, because a busy machine is not a mistake.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports the libraries that read these once; and for everything that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # threads of one test would only disturb the one beside it

settings.register_profile("threadsight", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("threadsight")

# These share something costly, so they stay in one process, one after the other: the longest first.
TOGETHER = {
    "a program": r"e2e/test_discord_outages\.py",
    "Chromium": r"e2e/test_page|e2e/test_demo\.py::test_a_",
    "small models": r"model_server/test_(families|original|chatbot)\.py",
    "PostgreSQL": r"\[postgresql\b",
}


def group_of(nodeid: str) -> str | None:
    return next((name for name, pattern in TOGETHER.items() if re.search(pattern, nodeid)), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more process than processors: tests of whole programs wait for much of their time."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out one test or group after the other, in their order. (xdist's own groups do nothing under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda nodeid: group_of(nodeid) or nodeid
    return scheduler


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups and long tests come first, so that no long one runs alone at the end."""
    groups = list(TOGETHER)

    def place(item: pytest.Item) -> int:
        if group := group_of(item.nodeid):
            return groups.index(group)
        is_long = any(item.get_closest_marker(name) for name in ("trains", "whole_program"))
        return len(groups) + (not is_long)

    items.sort(key=place)
