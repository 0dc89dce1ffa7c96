"""Settings for the properties that must always hold."""

from __future__ import annotations

from hypothesis import settings


def invariant() -> settings:
    """500 cases, or as many as the profile asks for."""
    return settings(max_examples=max(500, settings().max_examples))
