"""The audit log: every decision, with its place and never with its text."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.audit import audit_log
from gateway.errors import SettingsInvalid
from gateway.metrics import Metrics
from model_runner.scripted import ScriptedRunner
from tests.support.gateway import Gateway, ask, serving

KEY = b"sixteen letters!"
BANNED = "the purple parrot protocol"
POLICY = """\
policy: audited
mode: {mode}
on_error: block
filters:
  words: {{regex: {{secret: '{banned}', name: 'Jeannot'}}}}
input:
  - {{id: banned, when: {{words: secret}}, do: block}}
output:
  - {{id: names, when: {{words: name}}, do: redact}}
"""


@asynccontextmanager
async def audited(
    redis: Redis,
    path: Path,
    *,
    key: bytes = KEY,
    mode: str = "enforce",
    says: str = "Bonjour Jeannot et Lise.",
    **options: Any,
) -> AsyncIterator[Gateway]:
    policy = path.with_suffix(".yaml")
    policy.write_text(POLICY.format(mode=mode, banned=BANNED), encoding="utf-8")
    metrics = Metrics()
    with audit_log(path, key, metrics) as audit:
        runner = ScriptedRunner.text(says, cut=3)
        options = {"policy": [str(policy)], **options}
        async with serving(runner, redis, audit=audit, metrics=metrics, **options) as gateway:
            yield gateway


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def written(path: Path, count: int) -> list[dict[str, Any]]:
    """Its lines, once there are so many."""
    for _ in range(500):
        if path.exists() and len(found := lines(path)) >= count:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"not {count} lines in time")


async def test_a_line_says_what_was_decided_of_whom(redis: Redis, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with audited(redis, path) as gateway:
        record, secret = await gateway.keys.add("app")
        mine = {"authorization": f"Bearer {secret}"}
        asked: dict[str, Any] = ask(f"Tell me about {BANNED}.")
        asked["messages"].insert(0, {"role": "system", "content": "Be brief."})
        status, _, headers = await gateway.post(asked, **mine)
        assert status == 400
        status, answer, _ = await gateway.post(ask("Hello"), **mine, x_request_id="mine-1")
        assert answer["choices"][0]["message"]["content"] == "Bonjour [NAME] et Lise."
    blocked, redacted = lines(path)
    version = blocked.pop("version")
    assert version
    assert blocked.pop("time") <= redacted.pop("time")
    assert blocked == {
        "request": headers["x-request-id"],
        "key": record.id,
        "policy": "audited",
        "mode": "enforce",
        "stage": "input",
        "role": "user",
        "place": "messages[1].content",
        "action": "block",
        "rule": "banned",
        "hits": [
            {
                "rule": "banned",
                "action": "block",
                "filter": "words",
                "category": "secret",
                "start": 14,
                "end": 40,
                "score": 1.0,
            }
        ],
        "faults": [],
        "rewinds": 0,
        "characters": 41,
        "hash": blocked["hash"],
    }
    assert len(blocked["hash"]) == 16
    assert redacted["request"] == "mine-1"
    assert (redacted["stage"], redacted["place"]) == ("output", "choices[0]")
    assert [(hit["start"], hit["end"]) for hit in redacted["hits"]] == [(8, 15)]
    raw = path.read_text(encoding="utf-8")
    assert not any(word in raw for word in ("parrot", "Jeannot", "Bonjour", "brief", secret))
    assert path.stat().st_mode & 0o777 == 0o600


async def test_equal_texts_are_told_by_a_keyed_hash(redis: Redis, tmp_path: Path) -> None:
    hashes: list[list[str | None]] = []
    for number, key in enumerate((KEY, KEY, b"another key of ours", b"")):
        path = tmp_path / f"{number}.jsonl"
        async with audited(redis, path, key=key) as gateway:
            for text in (BANNED, BANNED, BANNED + "!"):
                await gateway.post(ask(text))
            # what was blocked before is remembered, and blocked and counted all the same
            counted = {"policy": "audited", "mode": "enforce", "stage": "input", "action": "block"}
            assert await gateway.count("gardefou_verdicts_total", **counted) == 3
        hashes.append([line.get("hash") for line in lines(path)])
    one, again, other, none = hashes
    assert one == again
    assert one[0] == one[1] != one[2]
    assert not set(one) & set(other)
    assert none == [None] * 3


async def test_what_a_monitor_would_have_done_is_written_down(redis: Redis, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with audited(redis, path, mode="monitor") as gateway:
        status, answer, _ = await gateway.post(ask(BANNED))
        assert (status, answer["choices"][0]["finish_reason"]) == (200, "stop")
        found = await written(path, 2)
    assert {(line["mode"], line["stage"], line["action"]) for line in found} == {
        ("monitor", "input", "block"),
        ("monitor", "output", "redact"),
    }
    assert {line["role"] for line in found} == {"user", "assistant"}


async def test_what_passes_leaves_no_line(redis: Redis, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with audited(redis, path, says="Bonjour.") as gateway:
        assert (await gateway.post(ask("Hello")))[0] == 200
    assert path.read_text() == ""


async def test_a_file_that_was_moved_away_is_made_anew(redis: Redis, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with audited(redis, path) as gateway:
        await gateway.post(ask(BANNED))
        await written(path, 1)
        path.rename(tmp_path / "audit.jsonl.1")
        await gateway.post(ask(BANNED))
        await written(path, 1)
    assert len(lines(tmp_path / "audit.jsonl.1")) == 1


async def test_what_cannot_be_written_is_counted_and_said(
    redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go on; so does the log once there is a place for it again."""
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "audit.jsonl"
    async with audited(redis, path) as gateway:
        shutil.rmtree(folder)
        for _ in range(3):
            assert (await gateway.post(ask(BANNED)))[0] == 400
        for _ in range(500):
            if await gateway.count("gardefou_audit_lost_total") == 3:
                break
            await asyncio.sleep(0.01)
        assert await gateway.count("gardefou_audit_lost_total") == 3
        folder.mkdir()
        await gateway.post(ask(BANNED))
        assert len(await written(path, 1)) == 1
    (said,) = [r.getMessage() for r in caplog.records if r.name == "gardefou.audit"]
    assert str(path) in said
    assert "No such file" in said


def test_a_place_that_cannot_be_written_to_is_refused_at_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsInvalid, match=r"--audit: cannot write to .*: Is a directory"),
        audit_log(tmp_path, KEY, Metrics()),
    ):
        pass
