"""Exactness, on random models: nothing that is asked on the side changes what is written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_runner.errors import BadRequest, EngineFailed, Overloaded, Unavailable, Unsupported
from model_runner.transformers.generation import LocalGeneration
from model_runner.transformers.runner import TransformersRunner
from model_runner.types import GenerateRequest, Message, Sampling, Tool
from tests.support import tiny
from tests.support.generations import Answer, ask, read, user

GREEDY = {"temperature": 0.0, "max_tokens": 48}
PROMPTS = ["Hello", "déjà vu", "[/INST]</s> the house", "a" * 60]


def ids(answer: Answer) -> list[int]:
    return [token for delta in answer.deltas for token in delta.token_ids]


def module(runner: TransformersRunner) -> torch.nn.Module:
    assert runner._loaded
    found: torch.nn.Module = runner._loaded.model.module
    return found


def logits(folder: Path, head: torch.Tensor) -> torch.Tensor:
    """As transformers alone computes them, without a cache; (positions, vocabulary)."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        rows: torch.Tensor = model(head).logits[0]
    return rows


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_greedy_is_generate(runner: TransformersRunner, wild: Path, prompt: str) -> None:
    request = GenerateRequest(prompt=prompt, sampling=Sampling(**GREEDY))  # type: ignore[arg-type]
    (answer,) = await ask(runner, request)
    words = AutoTokenizer.from_pretrained(wild)
    model: Any = AutoModelForCausalLM.from_pretrained(wild)
    head = words(prompt, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    made = model.generate(torch.tensor([head]), do_sample=False, max_new_tokens=48)
    expected = made[0, len(head) :].tolist()
    ended = expected[-1] == 2
    assert ids(answer) == (expected[:-1] if ended else expected)
    assert answer.last.finish_reason == ("stop" if ended else "length")
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == len(expected)
    assert runner.count(request) == answer.last.usage.prompt_tokens == len(head)
    # bytes of a half character before the answer join with it, so only its own text is compared
    assert answer.text == words.decode(ids(answer), skip_special_tokens=True)


async def test_every_end_of_text_id_ends(tmp_path: Path, tame: Path) -> None:
    whole = TransformersRunner(str(tame), device="cpu")
    await whole.start()
    written = ids((await ask(whole, user("Hello", **GREEDY)))[0])
    await whole.close()
    last = next(token for i, token in enumerate(written) if i > 3 and token not in written[:i])
    tiny.save(tmp_path, ascii_only=True, eos=(2, last))
    runner = TransformersRunner(str(tmp_path), device="cpu")
    await runner.start()
    (answer,) = await ask(runner, user("Hello", **GREEDY))
    await runner.close()
    assert ids(answer) == written[: written.index(last)]
    assert answer.last.finish_reason == "stop"


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"presence_penalty": 1.0}, {}])
async def test_seeded_choices_do_not_depend_on_neighbours(
    runner: TransformersRunner, options: dict[str, float]
) -> None:
    request = user("Hello", max_tokens=24, seed=5, n=3, **options)
    together, alone = await asyncio.gather(ask(runner, request), ask(runner, request))
    assert [ids(a) for a in together] == [ids(a) for a in alone]
    assert len({tuple(ids(a)) for a in together}) == 3
    single = replace(request, sampling=replace(request.sampling, n=1))
    assert ids((await ask(runner, single))[0]) == ids(together[0])
    other = replace(request, sampling=replace(request.sampling, seed=6))
    assert ids((await ask(runner, other))[0]) != ids(together[0])


async def test_close_ends_it_within_two_steps(plain: TransformersRunner) -> None:
    (generation,) = await plain.open(user("Hello", temperature=0.0))
    (other,) = await plain.open(user("Other", temperature=0.0, max_tokens=20))
    async for _ in generation.deltas():
        break
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    await generation.close()
    module(plain).register_forward_hook(count)
    answer = await read(other)
    assert answer.last.usage is not None
    assert steps <= answer.last.usage.completion_tokens + 2


async def test_a_lost_generation_is_freed(plain: TransformersRunner) -> None:
    opened = await plain.open(user("Hello", temperature=0.0))
    opened.clear()
    (answer,) = await ask(plain, user("Hello", **GREEDY))
    assert answer.last.finish_reason
    assert not plain._ready()[1].scheduler.running


async def test_scores_leave_the_stream_as_it_is(runner: TransformersRunner) -> None:
    (without,) = await ask(runner, user("Hello", **GREEDY))
    (generation,) = await runner.open(user("Hello", **GREEDY))
    seen = Answer()
    async for delta in generation.deltas():
        seen.deltas.append(delta)
        for at in (0, len(seen.text) // 2, len(seen.text)):
            await generation.score(" is it the answer?", (" yes", " no"), at=at)
    assert ids(seen) == ids(without)
    assert seen.text == without.text


async def test_score_is_that_of_the_same_text_read_afresh(
    plain: TransformersRunner, tame: Path
) -> None:
    request = user("the house", **GREEDY)
    (generation,) = await plain.open(request)
    answer = await read(generation)
    loaded, _ = plain._ready()
    prompt = loaded.prompts.render(request.messages or ())
    ends = [end for delta in answer.deltas for end in delta.token_ends]
    for at in range(0, len(answer.text) + 1, 3):
        whole = sum(end <= at for end in ends)
        start = ends[whole - 1] if whole else 0
        suffix = [*loaded.codec.encode(answer.text[start:at]), *loaded.codec.encode(" yes?")]
        head = torch.tensor([prompt + ids(answer)[:whole] + suffix])
        expected = torch.softmax(logits(tame, head)[-1].double(), -1)
        (yes,) = loaded.codec.encode(" yes")
        score = await generation.score(" yes?", (" yes",), at=at)
        assert score[" yes"] == pytest.approx(float(expected[yes]), rel=1e-3)
    with pytest.raises(BadRequest):
        await generation.score("?", ("more than one token",), at=0)
    await generation.close()
    with pytest.raises(BadRequest):
        await generation.score("?", (" yes",), at=0)


@pytest.mark.parametrize("seed", [None, 3])
async def test_rewound_to_the_same_place_nothing_changes(
    runner: TransformersRunner, seed: int | None
) -> None:
    request = user("Hello", max_tokens=40, temperature=1.0 if seed else 0.0, seed=seed)
    (never,) = await ask(runner, request)
    # a delta ends with a token; inside one, tokens may share a character
    cuts = list(accumulate(len(delta.text) for delta in never.deltas))
    for back in (0, *cuts[:: max(1, len(cuts) // 5)], len(never.text)):
        (generation,) = await runner.open(request)
        first = await read(generation)
        assert first.text == never.text
        await generation.rewind(back)
        rest = await read(generation)
        assert first.text[:back] + rest.text == never.text
        assert ids(never)[len(ids(never)) - len(ids(rest)) :] == ids(rest)
        await generation.close()


async def test_rewind_keeps_half_a_token(plain: TransformersRunner) -> None:
    (whole,) = await ask(plain, user("Hello", **GREEDY))
    ends = {end for delta in whole.deltas for end in delta.token_ends}
    inside = [at for at in range(len(whole.text)) if at and at not in ends]
    assert inside
    for at in inside[:8]:
        (generation,) = await plain.open(user("Hello", **GREEDY))
        seen = await read(generation)
        await generation.rewind(at)
        rest = await read(generation)
        assert rest.last.finish_reason
        # a second time, to the same place, from what is now written
        await generation.rewind(at)
        again = await read(generation)
        assert again.text == rest.text
        assert seen.text[:at] == whole.text[:at]
        await generation.close()


async def test_note_and_ban_steer_and_do_not_show(plain: TransformersRunner, tame: Path) -> None:
    request = user("Hello", **GREEDY)
    (generation,) = await plain.open(request)
    first = await read(generation)
    ends = [end for delta in first.deltas for end in delta.token_ends]
    at, then = ends[7], first.text[ends[7] : ends[8]]
    await generation.rewind(at, ban=(then,))
    banned = await read(generation)
    assert banned.text
    assert not banned.text.startswith(then)
    await generation.rewind(at, note="the answer is no")
    noted = await read(generation)
    assert "the answer is no" not in noted.text
    prompt = plain._ready()[0].prompts.render(request.messages or ())
    note = plain._ready()[0].codec.extend("the answer is no")
    model: Any = AutoModelForCausalLM.from_pretrained(tame)
    head = torch.tensor([prompt + ids(first)[:8] + note])
    expected = model.generate(head, do_sample=False, max_new_tokens=40)[0, head.shape[1] :]
    assert ids(noted) == expected.tolist()
    await generation.rewind(at)
    assert first.text[:at] + (await read(generation)).text == first.text
    assert noted.last.usage is not None
    assert noted.last.usage.completion_tokens == 48 + 40 + 40  # what was taken back was written too
    await generation.close()


async def test_a_rewind_drops_what_was_not_read(plain: TransformersRunner) -> None:
    (whole,) = await ask(plain, user("Hello", **GREEDY))
    (generation,) = await plain.open(user("Hello", **GREEDY))
    text = ""
    async for delta in generation.deltas():
        text += delta.text
        if len(text) > 5:
            await asyncio.sleep(0.05)  # the engine runs ahead meanwhile
            break
    await generation.rewind(3)
    text = text[:3]
    async for delta in generation.deltas():
        text += delta.text
    assert text == whole.text
    with pytest.raises(BadRequest):
        await generation.rewind(len(text) + 1)
    await generation.close()


async def test_stop_strings_across_tokens_and_rewinds(plain: TransformersRunner) -> None:
    (whole,) = await ask(plain, user("Hello", **GREEDY))
    cuts = set(accumulate(len(delta.text) for delta in whole.deltas))
    for start in range(0, len(whole.text) - 4, 3):
        stop = whole.text[start : start + 4]
        request = user("Hello", **GREEDY, stop=(stop,), logprobs=0)
        (generation,) = await plain.open(request)
        answer = await read(generation)
        assert answer.text == whole.text[: whole.text.find(stop)]
        assert answer.last.finish_reason == "stop"
        if len(answer.text) in cuts:
            await generation.rewind(len(answer.text))
            assert (await read(generation)).text == ""
        await generation.close()


async def test_logprobs_are_of_the_raw_logits(plain: TransformersRunner, tame: Path) -> None:
    request = user("Hello", max_tokens=8, temperature=2.0, seed=1, presence_penalty=2.0, logprobs=3)
    (answer,) = await ask(plain, request)
    prompt = plain._ready()[0].prompts.render(request.messages or ())
    tokens = [t for delta in answer.deltas for t in delta.logprobs]
    assert len(tokens) == len(ids(answer)) == 8
    rows = logits(tame, torch.tensor([prompt + ids(answer)])).double().log_softmax(-1)
    for i, token in enumerate(tokens):
        row = rows[len(prompt) + i - 1]
        assert token.logprob == pytest.approx(float(row[ids(answer)[i]]), abs=1e-4)
        assert [a.logprob for a in token.top] == pytest.approx(
            row.topk(3).values.tolist(), abs=1e-4
        )


async def test_a_fault_ends_one_request_alone(plain: TransformersRunner) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("SECRET text")

    (before,) = await ask(plain, user("Hello", **GREEDY))
    hook = module(plain).register_forward_pre_hook(fail)
    for _ in range(3):
        (generation,) = await plain.open(user("Hello", **GREEDY))
        with pytest.raises(EngineFailed) as caught:
            await read(generation)
        assert "SECRET" not in str(caught.value)
        with pytest.raises(EngineFailed):
            await generation.score("?", (" yes",), at=0)
    assert not plain.health().ok
    hook.remove()
    (after,) = await ask(plain, user("Hello", **GREEDY))
    assert after.text == before.text
    assert plain.health().ok


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_thread_fails_health_and_leaves_nobody_waiting(
    plain: TransformersRunner,
) -> None:
    def end() -> None:
        raise SystemExit

    (generation,) = await plain.open(user("Hello", temperature=0.0))
    with pytest.raises(Unavailable):
        await plain._ready()[1].call(end)
    with pytest.raises(Unavailable):
        await read(generation)
    plain._ready()[1]._thread.join()
    assert not plain.health().ok
    with pytest.raises(Unavailable):
        await plain.open(user("Hello"))


async def test_a_full_queue_is_refused(tame: Path) -> None:
    runner = TransformersRunner(str(tame), device="cpu", concurrency=1, queue=1)
    await runner.start()
    opened = await runner.open(user("Hello", temperature=0.0))
    async for _ in opened[0].deltas():
        break
    opened += await runner.open(user("Hello", temperature=0.0))
    with pytest.raises(Overloaded) as caught:
        await runner.open(user("Hello", temperature=0.0))
    assert caught.value.retry_after >= 1
    score = await opened[1].score("?", (" yes",), at=0)  # one that waits has a prompt already
    assert 0 < score[" yes"] < 1
    for generation in opened:
        await generation.close()
    (answer,) = await ask(runner, user("Hello", **GREEDY))
    assert answer.last.finish_reason
    await runner.close()
    assert not runner.health().ok


async def test_a_key_that_fills_the_queue_keeps_nobody_out(tame: Path) -> None:
    runner = TransformersRunner(str(tame), device="cpu", concurrency=1, queue=4)
    await runner.start()
    greedy = replace(user("Hello", temperature=0.0, n=5), key="greedy")
    opened = await runner.open(greedy)
    async for _ in opened[0].deltas():
        break
    with pytest.raises(Overloaded):
        await runner.open(greedy)
    (answer,) = await ask(runner, replace(user("Hello", **GREEDY), key="other"))
    assert answer.last.finish_reason
    for generation in opened:
        await generation.close()
    await runner.close()


async def test_what_does_not_fit_is_refused(plain: TransformersRunner) -> None:
    length = plain.count(user("Hello"))
    (answer,) = await ask(plain, user("Hello", temperature=0.0))
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == tiny.CONTEXT - length
    refused = [
        (user("Hello", max_tokens=tiny.CONTEXT - length + 1), "max_tokens"),
        (user("x" * 2 * tiny.CONTEXT), "messages"),
        (GenerateRequest(prompt=""), "prompt"),
        (GenerateRequest(token_ids=(1, 100_000)), "prompt"),
        (GenerateRequest(token_ids=(-1,)), "prompt"),
        (replace(user("Hello"), tools=(Tool("clock"),)), "tools"),
        (GenerateRequest(messages=(Message("tool", "x"),)), "messages"),
    ]
    for request, param in refused:
        with pytest.raises(BadRequest) as caught:
            await plain.open(request)
        assert caught.value.param == param
    with pytest.raises(Unsupported):
        await plain.open(refused[-1][0])


async def test_half_a_surrogate_pair_is_no_text(plain: TransformersRunner) -> None:
    for request in (user("\ud83d"), GenerateRequest(prompt="\ud83d")):
        with pytest.raises(BadRequest):
            await plain.open(request)
    (generation,) = await plain.open(user("Hello", **GREEDY))
    with pytest.raises(BadRequest):
        await generation.score("\ud83d", (" yes",), at=0)
    with pytest.raises(BadRequest):
        await generation.rewind(0, note="\ud83d")
    await generation.close()


async def test_closing_lets_go_of_the_cache(plain: TransformersRunner) -> None:
    opened = await plain.open(user("Hello", **GREEDY, n=2))
    for generation in opened:
        await read(generation)
        await generation.score("?", (" yes",), at=0)
        await generation.close()
    await plain._ready()[1].call(lambda: None)
    for generation in opened:
        assert isinstance(generation, LocalGeneration)
        assert generation._choice.row is None


async def test_a_try_never_begins_as_one_that_was_taken_back(plain: TransformersRunner) -> None:
    """Even greedy, and where the banned text would be cut into other tokens than it was."""
    (generation,) = await plain.open(user("Hello", temperature=0.0, max_tokens=8))
    begun = []
    for _ in range(5):
        answer = await read(generation)
        begun.append(next(i for delta in answer.deltas for i in delta.token_ids))
        await generation.rewind(0, ban=("\u2603",))  # of which nothing was written
    assert len(set(begun)) == len(begun)
    await generation.close()
