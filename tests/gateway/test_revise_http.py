"""Answers that are written anew, as a client and an operator see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from model_runner.errors import BadRequest
from model_runner.script import Choice, pieces, say
from model_runner.scripted import Rewound, ScriptedRunner
from model_runner.types import GenerateRequest
from tests.support.gateway import ask, serving

POLICY = """\
policy: kind
filters:
  words: {regex: {diagnosis: '\\b(angina|angine)\\b', email: '\\b\\w{1,20}@\\w+\\.org'}}
output:
  - id: no-diagnosis
    when: {words: diagnosis}
    do: revise
    steer: {en: See a doctor., fr: Voyez un médecin.}
    tries: 2
    examples: {hit: {"It is angina.": "It is "}, pass: [See a doctor.]}
  - id: contact
    when: {words: email}
    do: redact
    examples: {hit: {"me@here.org": "[EMAIL]"}, pass: [x]}
"""
SAID = "Ask me@here.org: it is angina, I think."
MENDED = "Ask [EMAIL]: it is hard to say."


def mend(rewound: Rewound) -> Choice:
    """Mends what it says only when it is told for the second time."""
    text = "angine." if len(rewound.ban) < 2 else "hard to say."
    return pieces(text, cut=3)


async def test_a_client_sees_one_clean_stream(redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    runner = ScriptedRunner.text(SAID, cut=3, rewind=mend)
    body = ask(
        "Qu'est-ce que j'ai, et que faire pour mon mal ?", stream_options={"include_usage": True}
    )
    async with serving(runner, redis, policy=[str(tmp_path / "p.yaml")]) as gateway:
        frames, raw = await gateway.stream(body)
        assert _text(frames) == MENDED
        assert _finish(frames) == "stop"
        for hidden in ("angin", "médecin", "doctor", "here.org"):
            assert hidden not in raw
        sampled = runner.generations[0]
        assert frames[-1]["usage"]["completion_tokens"] == sampled._tokens > len("Ask hard") // 3
        _, whole, _ = await gateway.post(
            ask("Qu'est-ce que j'ai, et que faire pour mon mal ?"),
            **{"x-gardefou-filter-results": "1"},
        )
        assert whole["choices"][0]["message"]["content"] == MENDED
        assert whole["choices"][0]["finish_reason"] == "stop"
        results = whole["choices"][0]["content_filter_results"]
        assert results["diagnosis"] == {"filtered": True, "severity": "high"}
        assert "angin" not in json.dumps(whole)
        for generation in runner.generations:
            first, second = generation.rewound
            assert (first.text, second.text) == ("Ask me@here.org: it is ",) * 2
            assert (first.note, first.place) == ("Voyez un médecin.", "instruction")
            assert (first.ban, second.ban) == (("angina",), ("angina", "angine"))
        count = gateway.count
        assert await count("gardefou_rewinds_total", policy="kind") == 4
        revised = "gardefou_revised_answers_total"
        assert await count(revised, policy="kind", outcome="mended") == 2
        assert (
            await count(
                "gardefou_decisions_total",
                policy="kind",
                mode="enforce",
                stage="output",
                filter="words",
                category="diagnosis",
                action="revise",
            )
            == 4
        )


async def test_without_tries_left_it_is_cut(redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    runner = ScriptedRunner.text(SAID, "Rest.", cut=5, rewind=lambda _rewound: ["angina"])
    async with serving(runner, redis, policy=[str(tmp_path / "p.yaml")]) as gateway:
        frames, raw = await gateway.stream(ask("?", n=2))
        assert _text(frames) == "Ask [EMAIL]: it is "
        assert _finish(frames) == "content_filter"
        assert _text(frames, 1) == "Rest."
        assert "angin" not in raw
        assert len(runner.generations[0].rewound) == 2
        assert runner.generations[0].closed
        name = "gardefou_revised_answers_total"
        assert await gateway.count(name, policy="kind", outcome="given_up") == 1


async def test_an_engine_that_only_continues_does_it_by_a_new_request(
    redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)

    def script(request: GenerateRequest) -> list[Choice]:
        told = (request.messages or ())[0].content.endswith("\n\nSee a doctor.")
        return list(say("Ask me@here.org: it is hard to say." if told else SAID, cut=3)(request))

    runner = ScriptedRunner(script)
    async with serving(runner, redis, policy=[str(tmp_path / "p.yaml")]) as gateway:
        frames, raw = await gateway.stream(ask("What is it that I have?", logprobs=True))
        assert _text(frames) == MENDED
        assert "angin" not in raw
        tokens = [
            token["token"]
            for frame in frames
            for choice in frame["choices"]
            for token in (choice["logprobs"] or {"content": []})["content"]
        ]
        rest = iter(MENDED)
        assert all(c in rest for c in "".join(tokens))
        assert "".join(tokens).endswith("hard to say.")
        first, second = runner.generations
        assert first.closed
        assert second.finished
        assert (second.request.messages or ())[-1].content == "Ask me@here.org: it is "


async def test_a_rewind_that_finds_no_room_blocks(redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    runner = ScriptedRunner.text(SAID, cut=3, rewind=_no_room)
    async with serving(runner, redis, policy=[str(tmp_path / "p.yaml")]) as gateway:
        frames, _ = await gateway.stream(ask("?"))
        assert _text(frames) == "Ask [EMAIL]: it is "
        assert _finish(frames) == "content_filter"
        name = "gardefou_revised_answers_total"
        assert await gateway.count(name, policy="kind", outcome="given_up") == 1
        assert await gateway.count("gardefou_rewinds_total", policy="kind") == 0


def _no_room(_rewound: Rewound) -> Choice:
    raise BadRequest("text and note are longer than the model can read")


def _text(frames: list[Any], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for frame in frames
        for choice in frame["choices"]
        if choice["index"] == index
    )


def _finish(frames: list[Any], index: int = 0) -> str:
    reasons = [
        choice["finish_reason"]
        for frame in frames
        for choice in frame["choices"]
        if choice["index"] == index and choice["finish_reason"]
    ]
    (reason,) = reasons
    return str(reason)


async def test_signals_count_the_text_as_it_stands(redis: Redis, tmp_path: Path) -> None:
    """What text does not wait for reads one text, over all that was written anew."""
    signal = """\
  - {id: seen, when: {marks: any}, do: flag, release: signal}
"""
    marks = "filters:\n  marks: {regex: {mark: 'hard|Ask'}}\n"
    text = POLICY.replace("filters:\n", marks) + signal
    (tmp_path / "p.yaml").write_text(text)
    runner = ScriptedRunner.text(SAID, cut=3, rewind=mend)
    async with serving(runner, redis, policy=[str(tmp_path / "p.yaml")]) as gateway:
        body = ask("?", stream=True)
        headers = {"x-gardefou-filter-results": "1"}
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.http.post(url, json=body, headers=headers) as answer:
            raw = await answer.text()
        frames = [json.loads(x[6:]) for x in raw.split("\n") if x.startswith("data: {")]
        assert _text(frames) == MENDED
        told = [c.get("content_filter_offsets") for f in frames for c in f["choices"]]
        spans = [(o["start_offset"], o["end_offset"]) for o in told if o]
        hard = MENDED.index("hard")
        assert set(spans) <= {(0, 3), (hard, hard + 4), (0, hard + 4)}  # one by one, or together
        checked = [o["check_offset"] for o in told if o]
        assert checked == sorted(checked)
        name = "gardefou_decisions_total"
        labels = {"policy": "kind", "mode": "enforce", "stage": "output", "filter": "marks"}
        assert await gateway.count(name, category="mark", action="flag", **labels) == 2
