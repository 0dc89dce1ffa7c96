"""Settings for the properties that must always hold."""

from __future__ import annotations

from hypothesis import settings


def invariant() -> settings:
    """500 cases, or as many as the profile asks for."""
    return settings(max_examples=max(500, settings().max_examples))


def seconds(of_500: int) -> int:
    """For `pytest.mark.timeout`, which wins over the command line; none for the deep profile."""
    return of_500 if settings().max_examples <= 500 else 0
