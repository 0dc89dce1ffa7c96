"""The open detector protocol, served: by a policy or a filter that the key may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from filters.remote_detector import RemoteDetector
from filters.types import Found, Span
from gateway.wire.detections import PATH
from model_runner.scripted import ScriptedRunner
from tests.support.filters import WordScorer
from tests.support.gateway import Gateway, serving

POLICY = """
policy: mine
filters:
  words: {regex: {secret: 'sesame', email: '\\b\\w{1,64}@\\w+\\.\\w+'}}
  tone: {classifier: words}
  ill: {classifier: broken}
input:
  - {id: s, when: {words: secret}, do: block}
  - {id: t, when: {tone: bad, at: 0.7}, do: flag}
output:
  - {id: e, when: {words: email}, do: redact}
"""
GATED = """
policy: gated
filters:
  long: {regex: {key: 'BEGIN[^E]{1,90}END'}}
  tone: {classifier: words, only: {long: key}}
  ill: {classifier: broken}
hold: {characters: 64}
input:
  - {id: t, when: {tone: bad}, do: block}
  - {id: i, when: {ill: bad}, do: flag}
"""
OTHER = "policy: other\nfilters: {theirs: {regex: {x: y}}}\n"
BROKEN = """
policy: broken
on_error: ON_ERROR
filters: {ill: {classifier: broken}, words: {regex: {secret: 'sesame'}}}
input:
  - {id: i, when: {ill: bad}, do: block}
  - {id: s, when: {words: secret}, do: block}
"""


class Broken(WordScorer):
    async def score(self, texts: Any) -> Any:  # noqa: ARG002
        raise ValueError("private text")


CLASSIFIERS: Any = {"words": WordScorer(), "broken": Broken()}


async def ask(gateway: Gateway, detector: str, *texts: str, key: str = "", **params: Any) -> Any:
    headers = {"detector_id": detector} | ({"authorization": f"Bearer {key}"} if key else {})
    body = {"contents": list(texts), "detector_params": params}
    status, answer, _ = await gateway.post(body, PATH, **headers)
    return status, answer


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    texts = {"mine": POLICY, "other": OTHER}
    texts |= {how: BROKEN.replace("ON_ERROR", how) for how in ("block", "allow")}
    for name, text in texts.items():
        text = text.replace("policy: broken", f"policy: broken-{name}")
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return [str(tmp_path / f"{name}.yaml") for name in texts]


async def test_a_policy_and_its_filters_answer(redis: Redis, files: list[str]) -> None:
    async with serving(
        ScriptedRunner.echo(), redis, policy=files, classifiers=CLASSIFIERS
    ) as gateway:
        status, answer = await ask(gateway, "mine", "été sesame", "kill it", "hit it")
        assert status == 200
        told = {"detection": "secret", "detection_type": "block", "score": 1.0}
        assert answer[0] == [{"start": 4, "end": 10, "text": "sesame", **told}]
        [[(start, end, score)], []] = [
            [(d["start"], d["end"], d["score"]) for d in row] for row in answer[1:]
        ]
        assert (start, end, score) == (0, 7, 0.9)
        _, answer = await ask(gateway, "words", "a@b.fr sesame")
        assert [(d["detection"], d["detection_type"]) for d in answer[0]] == [
            ("email", "words"),
            ("secret", "words"),
        ]
        assert (await ask(gateway, "mine", "a@b.fr", stage="output"))[1][0][0]["start"] == 0
        assert (await ask(gateway, "mine", "a@b.fr"))[1] == [[]]
        _, all_ = await ask(gateway, "tone", "hit it", threshold=0)
        assert {d["detection"] for d in all_[0]} == {"bad", "odd"}


async def test_our_own_client_reads_it(redis: Redis, files: list[str]) -> None:
    async with serving(
        ScriptedRunner.echo(), redis, policy=files, classifiers=CLASSIFIERS
    ) as gateway:
        remote = RemoteDetector("there", gateway.url, "words", timeout=20)
        assert await remote.find(["👩‍🔬 a@b.fr", ""]) == [[Found("email", Span(4, 10), 1.0)], []]
        await remote.aclose()


async def test_keys_see_their_own_policy_and_apps_see_bands(redis: Redis, files: list[str]) -> None:
    async with serving(
        ScriptedRunner.echo(), redis, policy=files, classifiers=CLASSIFIERS
    ) as gateway:
        _, app = await gateway.keys.add("app")
        _, editor = await gateway.keys.add("editor", role="editor", policy="other")
        assert (await ask(gateway, "mine", "x"))[0] == 401
        status, error = await ask(gateway, "other", "x", key=app)
        assert (status, error["code"]) == (404, 404)
        assert "other" in error["message"]
        assert (await ask(gateway, "theirs", "x", key=app))[0] == 404
        assert (await ask(gateway, "words", "x", key=editor))[0] == 404
        assert (await ask(gateway, "theirs", "y", key=editor))[0] == 200
        # 0.6 is told as the middle of its band, and a threshold cannot feel around for it.
        for threshold, count in ((0.55, 1), (0.61, 1), (0.62, 1), (0.63, 0)):
            _, answer = await ask(gateway, "tone", "hit", key=app, threshold=threshold)
            bad = [d["score"] for d in answer[0] if d["detection"] == "bad"]
            assert bad == [0.625] * count


async def test_limits_count_it(redis: Redis, files: list[str]) -> None:
    async with serving(
        ScriptedRunner.echo(), redis, policy=files, classifiers=CLASSIFIERS
    ) as gateway:
        from gateway.limits.types import Limits

        _, key = await gateway.keys.add("app", limits=Limits(requests_per_minute=2))
        statuses = [(await ask(gateway, "words", "x", key=key))[0] for _ in range(3)]
        assert statuses == [200, 200, 429]
        seen = {"operation": "detections", "status": "200"}
        assert await gateway.count("gen_ai_server_request_duration_seconds_count", **seen) == 2


async def test_a_filter_that_fails_is_no_clean_text(redis: Redis, files: list[str]) -> None:
    async with serving(
        ScriptedRunner.echo(), redis, policy=files, classifiers=CLASSIFIERS
    ) as gateway:
        assert (await ask(gateway, "ill", "sesame"))[0] == 503
        for how, wanted in (("block", 503), ("allow", 200)):
            _, key = await gateway.keys.add(how, policy=f"broken-{how}")
            status, answer = await ask(gateway, f"broken-{how}", "sesame", key=key)
            assert status == wanted
            assert "private" not in str(answer)
            _ = await gateway.keys.revoke(how)


async def test_bodies_that_are_none(redis: Redis, files: list[str]) -> None:
    async with serving(
        ScriptedRunner.echo(), redis, policy=files, classifiers=CLASSIFIERS
    ) as gateway:
        bodies: list[Any] = [{}, {"contents": []}, {"contents": "x"}, {"contents": ["x"], "y": 1}]
        for body in bodies:
            status, answer, _ = await gateway.post(body, PATH, detector_id="mine")
            assert (status, answer["code"]) == (400, 400)
        status, answer, _ = await gateway.post({"contents": ["x"]}, PATH)
        assert status == 400
        assert "detector-id" in answer["message"]
        status, answer = await ask(gateway, "mine", "x", lookahead=3)
        assert "lookahead" in answer["message"]


async def test_a_filter_behind_a_gate_answers_for_itself(redis: Redis, tmp_path: Path) -> None:
    (file := tmp_path / "gated.yaml").write_text(GATED, encoding="utf-8")
    async with serving(
        ScriptedRunner.echo(), redis, policy=[str(file)], classifiers=CLASSIFIERS
    ) as gateway:
        status, answer = await ask(gateway, "tone", "kill it")
        assert (status, answer[0][0]["detection"]) == (200, "bad")


async def test_moderations_do_not_call_clean_what_a_flagging_filter_failed_on(
    redis: Redis, tmp_path: Path
) -> None:
    (file := tmp_path / "gated.yaml").write_text(GATED, encoding="utf-8")
    async with serving(
        ScriptedRunner.echo(), redis, policy=[str(file)], classifiers=CLASSIFIERS
    ) as gateway:
        assert (await gateway.post({"input": "x"}, "/v1/moderations"))[0] == 503
