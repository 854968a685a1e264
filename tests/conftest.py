"""What all tests share: Hypothesis judges by what comes out, never by how long it took, because a busy machine is not a mistake."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("threadsight", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("threadsight")
