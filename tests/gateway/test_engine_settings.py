"""The engine's knobs, from the settings to the engine."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import SettingsInvalid
from gateway.server import make_runner
from gateway.settings.read import read_settings
from model_runner.errors import Unavailable


async def test_the_engine_is_what_the_settings_say() -> None:
    given = {"concurrency": 3, "queue": 2, "kv_gib": 0.25, "judge_reserve": 32, "device": "cpu"}
    runner = make_runner(read_settings(given, None), lambda _: None)
    await runner.start()
    try:
        stats: dict[str, float] = runner.stats()  # type: ignore[attr-defined]
        assert stats["free"] == 3
        assert stats["kv_limit_bytes"] == 2**28
    finally:
        await runner.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", 0),
        ("queue", 0),
        ("read_tokens", 0),
        ("judges", -1),
        ("judge_reserve", -1),
        ("kv_gib", 0.0),
        ("kv_gib", float("nan")),
        ("stall", 1.0),
        ("stall", float("inf")),
        ("max_tokens", 0),
        ("receive_seconds", 0.0),
        ("requests_per_minute", -1),
        ("tokens_per_minute", 0),
        ("concurrent_streams", 10**12 + 1),
        ("blocks_per_hour", -1),
        ("name", ""),
        ("model", " "),
        ("device", ""),
    ],
)
def test_what_no_engine_can_be_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsInvalid, match=name.replace("_", "-")):
        read_settings({name: value}, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"judge_reserve": 99999}, r"judge-reserve: 99999 of the \d+ tokens"),
        ({"judge_reserve": 2048 - 63}, "judge-reserve"),
        ({"kv_gib": 1e-7}, r"kv-gib: keys and values of 512 tokens take 0\.\d+ GiB"),
        ({"device": "cuda:99"}, "torch sees"),
        ({"device": "abacus"}, "device abacus: torch knows no such device"),
        ({"model": "/nowhere/at/all"}, "cannot load /nowhere/at/all: there is no such folder"),
        ({"model": "./nowhere"}, "there is no such folder"),
    ],
)
async def test_what_could_not_serve_does_not_start(given: dict[str, Any], words: str) -> None:
    runner = make_runner(read_settings({"device": "cpu"} | given, None), lambda _: None)
    with pytest.raises(Unavailable, match=words):
        await runner.start()
    assert not runner.health().ok
    await runner.close()
