"""Limits per key, held in Redis so that all gateway processes share them."""

from gateway.limits.limiter import Lease, Limiter
from gateway.limits.types import Limits, Usage, format_duration, rate_limit_headers

__all__ = ["Lease", "Limiter", "Limits", "Usage", "format_duration", "rate_limit_headers"]
