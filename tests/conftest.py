"""How much Hypothesis tries.

default: what every run does. The invariants of screening take `invariant()` from
tests/support/profiles.py, 500 cases at least; `scripts/invariants` runs 50,000 of each.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Machines that run tests are shared: how long a case takes says nothing.
SLOW = (HealthCheck.too_slow,)
settings.register_profile("default", deadline=None, suppress_health_check=SLOW)
settings.register_profile(
    "deep", deadline=None, suppress_health_check=SLOW, max_examples=50_000, print_blob=True
)
settings.load_profile("default")
