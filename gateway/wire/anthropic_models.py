"""Anthropic's Models: `GET /v1/models` and `GET /v1/models/{id}`, as its clients read them."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.wire.dialect import Json
from model_runner.types import ModelInfo


def described(info: ModelInfo) -> Json:
    """The one model."""
    created = datetime.fromtimestamp(info.created, UTC)
    return {
        "type": "model",
        "id": info.id,
        "display_name": info.id,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": info.context,
    }


def listed(info: ModelInfo) -> Json:
    """The page of a list that holds the one model."""
    return {
        "data": [described(info)],
        "has_more": False,
        "first_id": info.id,
        "last_id": info.id,
    }
