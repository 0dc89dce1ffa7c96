"""The client of engines elsewhere, against a real server that behaves, and one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from model_runner.errors import (
    BadRequest,
    EngineFailed,
    NotAdmitted,
    Overloaded,
    RunnerError,
    Unavailable,
    Unsupported,
)
from model_runner.openai import OpenAIRunner
from model_runner.openai.transport import Retry
from model_runner.script import Choice, Pause, echo, pieces, replay, tool_call
from model_runner.scripted import ScriptedRunner
from model_runner.types import (
    CONTENT,
    REASONING,
    REFUSAL,
    Channel,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelRunner,
    Tool,
    ToolCall,
    ToolHead,
    Usage,
)
from tests.contracts.model_runner import ModelRunnerContract
from tests.support.generations import Answer, ask, read, user
from tests.support.openai_server import OpenAIServer, Refusal
from tests.support.vllm_server import VllmServer

TEXT = "Où est l'été? 🙂 Là-bas, près de la rivière."
SECRET = "xyzzy-4711-secret"


@contextlib.asynccontextmanager
async def upstream(
    engine: ModelRunner, model: str | None = None, **options: object
) -> AsyncIterator[tuple[OpenAIServer, OpenAIRunner]]:
    kind = VllmServer if options.get("dialect") == "vllm" else OpenAIServer
    async with kind(engine).serve() as server:
        runner = OpenAIRunner(server.url, model, **options)  # type: ignore[arg-type]
        await runner.start()
        try:
            yield server, runner
        finally:
            await runner.close()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what it waits for is in the server
            await asyncio.sleep(0.01)


class TestOpenAIRunner(ModelRunnerContract):
    @pytest.fixture
    async def runner(self) -> AsyncIterator[ModelRunner]:
        async with upstream(ScriptedRunner.echo()) as (_server, runner):
            yield runner

    def ask_for(self, text: str) -> GenerateRequest:
        return user(text)


class TestOpenAIRunnerOfAnEngineLikeVllm(ModelRunnerContract):
    SCRIPTED = True

    @pytest.fixture
    async def runner(self) -> AsyncIterator[ModelRunner]:
        async with upstream(ScriptedRunner.echo(), dialect="vllm", cache_salt=True) as (_, runner):
            yield runner

    def ask_for(self, text: str) -> GenerateRequest:
        return user(text)


# Starting


async def test_start_learns_the_model() -> None:
    async with upstream(ScriptedRunner.echo()) as (_server, runner):
        assert runner.info == ModelInfo("small", context=4096, created=7, owned_by="upstream")


async def test_a_given_model_is_kept() -> None:
    async with upstream(ScriptedRunner.echo(), "other") as (server, runner):
        await ask(runner, user("x"))
        assert runner.info.id == server.bodies[0]["model"] == "other"


@pytest.mark.parametrize(
    ("status", "models"), [(500, {}), (404, {}), (200, {}), (200, []), (200, {"data": []})]
)
async def test_start_survives_an_upstream_that_lists_no_models(status: int, models: object) -> None:
    async with OpenAIServer(ScriptedRunner.echo()).serve() as server:
        server.models, server.models_status = models, status
        with pytest.raises(Unavailable, match="no model id"):
            await OpenAIRunner(server.url).start()
        runner = OpenAIRunner(server.url, "named")
        await runner.start()
        assert runner.health().ok
        assert (await ask(runner, user("abc")))[0].text == "abc"
        await runner.close()


async def test_an_upstream_that_is_away_is_named_without_its_credentials() -> None:
    runner = OpenAIRunner(f"http://me:{SECRET}@127.0.0.1:9/v1?key={SECRET}")
    told = r"the upstream at http://127\.0\.0\.1:9/v1 tells none: the upstream cannot be reached$"
    with pytest.raises(Unavailable, match=told):
        await runner.start()


async def test_a_key_that_is_refused_is_told_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    async with OpenAIServer(ScriptedRunner.echo()).serve() as server:
        server.models_status = 401
        with pytest.raises(Unavailable, match=r"answered 401.*upstream-key"):
            await OpenAIRunner(server.url, None, "sk-wrong").start()
        runner = OpenAIRunner(server.url, "named", "sk-wrong")
        await runner.start()
        server.faults.refusals = [Refusal(401)]
        with pytest.raises(NotAdmitted):
            await runner.open(user("x"))
        await runner.close()
    assert f"127.0.0.1:{server.port}: the upstream answered 401" in caplog.text
    assert "sk-wrong" not in caplog.text


async def test_start_survives_an_upstream_that_is_not_there_yet() -> None:
    async with OpenAIServer(ScriptedRunner.echo()).serve() as server:
        port = server.port
    runner = OpenAIRunner(f"http://127.0.0.1:{port}/v1", "named")
    await runner.start()
    assert not runner.health().ok
    with pytest.raises(Unavailable):
        await runner.open(user("x"))
    async with OpenAIServer(ScriptedRunner.echo()).serve(port):
        assert (await ask(runner, user("abc")))[0].text == "abc"
        assert runner.health().ok
        await runner.close()
    with pytest.raises(Unavailable):
        await runner.open(user("x"))
    assert not runner.health().ok


# What is sent


async def test_what_is_sent() -> None:
    async with upstream(
        ScriptedRunner.echo(), api_key="sk-1", headers={"x-team": "fr"}, dialect="openai"
    ) as (server, runner):
        messages = (
            Message("developer", "Be kind."),
            Message("user", "Hi", name="ann"),
            Message("assistant", "", tool_calls=(ToolCall("c1", "f", "{}"),)),
            Message("tool", "42", tool_call_id="c1"),
            Message("user", "So?"),
        )
        request = GenerateRequest(
            messages=messages,
            tools=(Tool("f", "does f", {"type": "object"}),),
            tool_choice="auto",
            sampling=user("", temperature=0.0, stop=("END",), seed=3, logprobs=2).sampling,
            tenant="t",
        )
        await ask(runner, request)
        assert server.headers[0]["Authorization"] == "Bearer sk-1"
        assert server.headers[0]["x-team"] == "fr"
        assert server.bodies[0] == {
            "model": "small",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Hi", "name": "ann"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ],
                },
                {"role": "tool", "content": "42", "tool_call_id": "c1"},
                {"role": "user", "content": "So?"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.0,
            "stop": ["END"],
            "seed": 3,
            "logprobs": True,
            "top_logprobs": 2,
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "f",
                        "description": "does f",
                        "parameters": {"type": "object"},
                    },
                }
            ],
            "tool_choice": "auto",
        }


async def test_ways_to_sample_are_sent_where_they_are_set() -> None:
    options = {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.2}
    async with upstream(ScriptedRunner.echo(), dialect="vllm") as (server, runner):
        await ask(runner, user("x", logit_bias={5: 2.0}, **options))
        await ask(runner, user("x"))
        fields = {*options, "logit_bias"}
        sent = [{k: v for k, v in body.items() if k in fields} for body in server.bodies]
        assert sent == [options | {"logit_bias": {"5": 2.0}}, {}]


async def test_several_greedy_choices_are_worded_as_vllm_takes_them() -> None:
    async with upstream(ScriptedRunner.echo(), dialect="vllm") as (server, runner):
        await ask(runner, user("x", n=2, temperature=0.0, top_k=5))
        await ask(runner, user("x", temperature=0.0))
        sent = [{k: b.get(k) for k in ("n", "temperature", "top_k")} for b in server.bodies]
        assert sent == [
            {"n": 2, "temperature": None, "top_k": 1},
            {"n": None, "temperature": 0.0, "top_k": None},
        ]


async def test_continuing_is_worded_for_vllm_and_refused_otherwise() -> None:
    request = GenerateRequest(messages=(Message("user", "abcdef"), Message("assistant", "abc")))
    async with upstream(ScriptedRunner.echo(), dialect="vllm") as (server, runner):
        assert (await ask(runner, request))[0].text == "def"
        assert server.bodies[0]["continue_final_message"] is True
        assert server.bodies[0]["add_generation_prompt"] is False
    async with upstream(ScriptedRunner.echo()) as (server, runner):
        with pytest.raises(Unsupported) as caught:
            await runner.open(request)
        assert caught.value.param == "messages"
        assert server.bodies == []


async def test_the_cache_salt_is_a_tenants_own_and_no_name() -> None:
    async def salts(**options: object) -> list[object]:
        async with upstream(ScriptedRunner.echo(), **options) as (server, runner):  # type: ignore[arg-type]
            for tenant in ("ann", "bob", "ann"):
                await ask(runner, replace(user("x"), tenant=tenant))
            return [body.get("cache_salt") for body in server.bodies]

    ann, bob, again = await salts(cache_salt=True, salt_key=b"k")
    assert ann == again != bob
    assert "ann" not in str(ann)
    assert (await salts(cache_salt=True, salt_key=b"other"))[0] != ann
    assert await salts() == [None, None, None]


# What comes back


async def test_every_channel() -> None:
    steps: Choice = [
        *pieces("Hmm… 🙂", REASONING, cut=2),
        *pieces("Je refuse.", REFUSAL),
        *pieces(TEXT),
        *tool_call("search", '{"q": "é"}', index=0, call_id="c1"),
        *tool_call("open", "", index=1, call_id="c2"),
    ]
    async with upstream(ScriptedRunner(replay(steps))) as (_server, runner):
        (answer,) = await ask(runner, user("x"))
    call = Channel("tool_call", 0)
    expected = {REASONING: "Hmm… 🙂", REFUSAL: "Je refuse.", CONTENT: TEXT, call: '{"q": "é"}'}
    assert answer.texts == expected | {Channel("tool_call", 1): ""}
    heads = {d.channel: d.tool for d in answer.deltas if d.tool}
    assert heads == {
        call: ToolHead("c1", "search"),
        Channel("tool_call", 1): ToolHead("c2", "open"),
    }
    assert next(d for d in answer.deltas if d.channel == call).tool is not None
    assert answer.last.finish_reason == "tool_calls"


async def test_the_usage_of_all_choices_is_shared_out() -> None:
    texts = ["a" * 40, "b" * 10, "c" * 4]
    async with upstream(ScriptedRunner.text(*texts)) as (_server, runner):
        answers = await ask(runner, user("one two", n=3))
    assert [a.text for a in answers] == texts
    assert [a.last.usage for a in answers] == [Usage(3, 10), Usage(3, 3), Usage(3, 1)]


async def test_without_usage_it_is_counted_here() -> None:
    async with upstream(ScriptedRunner.text("abcdefgh")) as (server, runner):
        server.faults.usage = False
        (answer,) = await ask(runner, user("x"))
        assert answer.last.usage == Usage(runner.count(user("x")), 2)


# An upstream that cuts, joins and leaves out


@pytest.mark.parametrize("write_bytes", [None, 1, 7])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
async def test_however_the_bytes_come(write_bytes: int | None, newline: str) -> None:
    async with upstream(ScriptedRunner.text(TEXT, TEXT[::-1])) as (server, runner):
        server.faults = replace(
            server.faults,
            write_bytes=write_bytes,
            newline=newline,
            comments=True,
            frames_per_write=3,
        )
        answers = await ask(runner, user("x", n=2, logprobs=1))
    assert [a.text for a in answers] == [TEXT, TEXT[::-1]]
    ends = [end for delta in answers[0].deltas for end in delta.token_ends]
    assert ends == [*range(4, len(TEXT), 4), len(TEXT)]


@pytest.mark.parametrize(
    "fault", [{"done": False}, {"last_blank_line": False, "done": False}, {"frames_per_write": 99}]
)
async def test_endings_that_are_not_quite_right(fault: dict[str, int]) -> None:
    async with upstream(ScriptedRunner.text(TEXT)) as (server, runner):
        server.faults = replace(server.faults, **fault)  # type: ignore[arg-type]
        (answer,) = await ask(runner, user("x"))
    assert answer.text == TEXT
    assert answer.last.usage == Usage(2, 11)


@pytest.mark.parametrize(
    "frame",
    [
        '{"choices": [{"index": 0, "delta": null}]}',  # Azure's last
        '{"choices": [], "usage": {}}',
        '{"choices": [], "usage": {"prompt_tokens": null, "completion_tokens": null}}',
        '{"choices": [{"index": 0, "delta": {}}], "usage": {"total_tokens": null}}',
    ],
)
async def test_null_is_as_good_as_nothing(frame: str) -> None:
    async with upstream(ScriptedRunner.text(TEXT)) as (server, runner):
        server.faults = replace(
            server.faults, usage=False, insert_at=2, insert=f"data: {frame}\n\n"
        )
        (answer,) = await ask(runner, user("x"))
        assert answer.text == TEXT
        assert answer.last.usage == Usage(runner.count(user("x")), 11)


@pytest.mark.parametrize("told", ["-Infinity", "NaN", "null"])
async def test_a_probability_of_nothing_is_told_as_openai_does(told: str) -> None:
    """Neither infinities nor NaN are JSON, in which the answer leaves."""
    top = f'{{"token": "n", "logprob": {told}, "bytes": null}}'
    token = f'{{"token": "Où", "logprob": -0.5, "bytes": null, "top_logprobs": [{top}]}}'
    frame = f'{{"choices": [{{"index": 0, "logprobs": {{"content": [{token}]}}}}]}}'
    async with upstream(ScriptedRunner.text("Où")) as (server, runner):
        server.faults = replace(server.faults, insert_at=0, insert=f"data: {frame}\n\n")
        (answer,) = await ask(runner, user("x", logprobs=1))
    first = next(delta for delta in answer.deltas if delta.logprobs)
    assert [one.logprob for one in first.logprobs[0].top] == [-9999.0]


# An upstream that fails


async def collect(runner: ModelRunner) -> tuple[Answer, RunnerError]:
    """What came before the failure, and the failure."""
    (generation,) = await runner.open(user("x"))
    answer = Answer()
    try:
        async for delta in generation.deltas():
            answer.deltas.append(delta)
    except RunnerError as error:
        return answer, error
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(
    "fault",
    [
        {"hang_up_at": 2},
        {"end_at": 2},
        {"finish": False},
        {"stall_at": 2},
        {"insert_at": 2, "insert": "data: {oops\n\n"},
        {"insert_at": 2, "insert": "data: 4\n\n"},
        {"insert_at": 2, "insert": "data: {}\n\n"},
        {"insert_at": 2, "insert": 'data: {"choices": [{"index": 9, "delta": {}}]}\n\n'},
        {
            "insert_at": 2,
            "insert": 'data: {"choices": [{"index": 0, "delta": {"content": 4}}]}\n\n',
        },
        {"insert_at": 2, "insert": 'data: {"error": {"message": "' + SECRET + '"}}\n\n'},
        {"insert_at": 2, "insert": f"event: error\ndata: {SECRET}\n\n"},
        {"insert_at": 2, "insert": "data: " + "a" * 5_000_000},
        {
            "insert_at": 2,
            "insert": 'data: {"choices": [{"index": 0, "finish_reason": "abort"}]}\n\n',
        },
    ],
    ids=lambda fault: str(fault)[:60],
)
async def test_a_broken_answer_fails_and_what_came_before_it_counts(
    fault: dict[str, object],
) -> None:
    async with upstream(ScriptedRunner.text(TEXT), idle_timeout=0.5) as (server, runner):
        server.faults = replace(server.faults, **fault)  # type: ignore[arg-type]
        answer, error = await collect(runner)
        assert isinstance(error, EngineFailed)
        assert SECRET not in str(error)
        assert TEXT.startswith(answer.text)
        assert len(answer.text) >= 8
        assert all(d.finish_reason is None for d in answer.deltas)
        server.faults = replace(
            server.faults,
            **dict.fromkeys(("hang_up_at", "end_at", "stall_at", "insert_at")),  # type: ignore[arg-type]
            finish=True,
        )
        assert (await ask(runner, user("x")))[0].text == TEXT


async def test_one_choice_that_lacks_its_end_fails_alone() -> None:
    async with upstream(
        ScriptedRunner(replay(["one"], ["two", EngineFailed("gone")])), idle_timeout=5
    ) as (_server, runner):
        first, second = await runner.open(user("x", n=2))
        answer, error = await asyncio.gather(read(first), read(second), return_exceptions=True)
    assert isinstance(answer, Answer)
    assert answer.text == "one"
    assert answer.last.finish_reason == "stop"
    assert isinstance(error, EngineFailed)


async def test_one_choice_that_the_engine_gives_up_fails_alone() -> None:
    async with upstream(ScriptedRunner.text(TEXT)) as (server, runner):
        server.faults.insert_at = 4
        server.faults.insert = 'data: {"choices": [{"index": 1, "finish_reason": "abort"}]}\n\n'
        first, second = await runner.open(user("x", n=2))
        answer, error = await asyncio.gather(read(first), read(second), return_exceptions=True)
    assert isinstance(answer, Answer)
    assert answer.text == TEXT
    assert isinstance(error, EngineFailed)


async def test_a_whole_answer_has_its_time() -> None:
    async with upstream(ScriptedRunner.text("a" * 100, cut=1, delay=0.02), request_timeout=0.3) as (
        _server,
        runner,
    ):
        begin = time.monotonic()
        _, error = await collect(runner)
        assert isinstance(error, EngineFailed)
        assert time.monotonic() - begin < 1.5


# Trying again


async def test_tries_again_before_the_first_byte() -> None:
    async with upstream(ScriptedRunner.text("ok")) as (server, runner):
        server.faults.refusals = [Refusal(503), Refusal(502)]
        assert (await ask(runner, user("x")))[0].text == "ok"
        server.faults.refusals = [Refusal(200, hang_up=True), Refusal(429, {"retry-after": "0"})]
        assert (await ask(runner, user("x")))[0].text == "ok"
        assert len(server.bodies) == 6


async def test_honours_retry_after_up_to_a_bound() -> None:
    async with upstream(ScriptedRunner.text("ok"), retry=Retry(longest_wait=1.0)) as (
        server,
        runner,
    ):
        server.faults.refusals = [Refusal(503, {"retry-after-ms": "300"})]
        begin = time.monotonic()
        await ask(runner, user("x"))
        assert time.monotonic() - begin >= 0.3
        server.faults.refusals = [Refusal(429, {"retry-after": "30"})]
        with pytest.raises(Overloaded) as caught:
            await runner.open(user("x"))
        assert caught.value.retry_after == 30.0
        assert len(server.bodies) == 3


async def test_gives_up_after_a_few_tries() -> None:
    async with upstream(ScriptedRunner.text("ok")) as (server, runner):
        server.faults.refusals = [Refusal(503)] * 3
        with pytest.raises(Unavailable):
            await runner.open(user("x"))
        assert len(server.bodies) == 3
        assert runner.health().ok
        server.faults.refusals = [Refusal(500)]
        with pytest.raises(Unavailable):
            await runner.open(user("x"))
        assert len(server.bodies) == 4


async def test_health_is_that_of_the_upstream_not_of_one_request() -> None:
    async with upstream(ScriptedRunner.text("ok")) as (server, runner):
        server.faults.refusals = [Refusal(503)] * 3
        server.models_status = 503
        with pytest.raises(Unavailable):
            await runner.open(user("x"))
        await until(lambda: not runner.health().ok)
        await ask(runner, user("x"))
        assert runner.health().ok


@pytest.mark.parametrize(
    ("status", "error", "param", "message"),
    [
        (400, {"param": "temperature", "code": "invalid_value"}, "temperature", "invalid_value"),
        (400, {"param": "messages[0].content"}, "messages", "refused"),
        (422, {"param": SECRET, "code": SECRET}, None, "refused"),
        (400, "plainly " + SECRET, None, "refused"),
        (
            400,
            {"message": f"This model's maximum context length is 4096 tokens. {SECRET}"},
            "messages",
            "4096",
        ),
    ],
)
async def test_a_refusal_names_the_parameter_and_quotes_nothing(
    status: int, error: object, param: str | None, message: str
) -> None:
    async with upstream(ScriptedRunner.text("ok")) as (server, runner):
        server.faults.refusals = [Refusal(status, body={"error": error})]
        with pytest.raises(BadRequest) as caught:
            await runner.open(user(SECRET, temperature=0.5))
        assert caught.value.param == param
        assert message in str(caught.value)
        assert SECRET not in str(caught.value)
        assert len(server.bodies) == 1
        assert runner.health().ok


@pytest.mark.parametrize("status", [301, 404])
async def test_what_the_client_cannot_mend_is_our_fault(status: int) -> None:
    async with upstream(ScriptedRunner.text("ok")) as (server, runner):
        server.faults.refusals = [Refusal(status, {"location": "/v1/models"})]
        with pytest.raises(Unavailable):
            await runner.open(user("x"))


async def test_an_answer_that_is_not_streamed_fails() -> None:
    async with upstream(ScriptedRunner.text("ok")) as (server, runner):
        server.faults.refusals = [Refusal(200, body={"choices": []})]
        with pytest.raises(EngineFailed):
            await runner.open(user("x"))


# Closing, slowness, connections


async def test_closing_all_choices_cancels_upstream() -> None:
    engine = ScriptedRunner(replay(["a", Pause(60.0), "b"]))
    async with upstream(engine) as (_server, runner):
        first, second = await runner.open(user("x", n=2))
        reading = asyncio.create_task(read(second))
        await first.close()
        await asyncio.sleep(0.1)
        assert engine.cancelled == []
        await second.close()
        assert (await asyncio.wait_for(reading, 5)).text in ("", "a")
        await until(lambda: len(engine.cancelled) == 2)


async def test_a_finished_choice_does_not_wait_for_a_closed_one() -> None:
    engine = ScriptedRunner(replay(["a"], ["b", Pause(60.0), "c"]))
    async with upstream(engine) as (_server, runner):
        first, second = await runner.open(user("x", n=2))
        reading = asyncio.create_task(read(first))
        await asyncio.sleep(0.2)
        await second.close()
        answer = await asyncio.wait_for(reading, 5)
        assert answer.text == "a"
        assert answer.last.finish_reason == "stop"
        assert answer.last.usage is not None
        await until(lambda: engine.cancelled)


async def test_closing_the_open_one_first_lets_the_finished_one_end() -> None:
    engine = ScriptedRunner(replay(["a"], ["b", Pause(60.0), "c"]))
    async with upstream(engine) as (_server, runner):
        first, second = await runner.open(user("x", n=2))
        await second.close()
        answer = await asyncio.wait_for(read(first), 5)
        assert answer.last.finish_reason == "stop"


async def test_an_answer_nobody_reads_stays_upstream() -> None:
    engine = ScriptedRunner.text("x" * 50_000_000, cut=50_000)
    async with upstream(engine) as (_server, runner):
        (generation,) = await runner.open(user("x"))
        sent = -1
        while engine.generations[0].sent != sent:  # until buffers are full on both sides
            sent = engine.generations[0].sent
            await asyncio.sleep(0.5)
        assert 64 <= sent < 500
        await generation.close()


async def test_a_choice_left_unread_fails_before_it_fills_the_memory() -> None:
    engine = ScriptedRunner.text("x" * 6_000_000, "y" * 6_000_000, cut=50_000)
    async with upstream(engine) as (_server, runner):
        first, second = await runner.open(user("x", n=2))
        assert len((await read(second)).text) == 6_000_000
        with pytest.raises(EngineFailed, match="unread"):
            await read(first)


async def test_a_client_that_goes_away_before_the_answer_begins() -> None:
    async with upstream(ScriptedRunner.text("ok")) as (server, runner):
        server.faults.delay = 30.0
        opening = asyncio.create_task(runner.open(user("x")))
        await until(lambda: server.bodies)
        opening.cancel()
        await asyncio.wait([opening])
        await until(lambda: server.gone)
        server.faults.delay = 0.0
        assert (await ask(runner, user("x")))[0].text == "ok"


async def test_an_upstream_that_does_not_begin_in_time() -> None:
    async with upstream(ScriptedRunner.text("ok"), idle_timeout=0.3) as (server, runner):
        server.faults.delay = 30.0
        with pytest.raises(Unavailable, match="in time"):
            await runner.open(user("x"))
        assert len(server.bodies) == 1


async def test_connections_are_used_again() -> None:
    async with upstream(ScriptedRunner.echo()) as (server, runner):
        for _ in range(4):
            (generation,) = await runner.open(user("hello"))
            await read(generation)
            await generation.close()
            await asyncio.sleep(0.02)
        assert len(set(server.peers)) == 1


async def test_closing_the_runner_ends_its_answers() -> None:
    engine = ScriptedRunner(replay(["a", Pause(60.0)]))
    async with upstream(engine) as (_server, runner):
        (generation,) = await runner.open(user("x"))
        reading = asyncio.create_task(read(generation))
        await asyncio.sleep(0.1)
        await runner.close()
        with pytest.raises(EngineFailed):
            await asyncio.wait_for(reading, 5)


async def test_many_requests_with_random_closes() -> None:
    async with upstream(ScriptedRunner(echo(), delay=0.001)) as (server, runner):

        async def one(number: int) -> None:
            text = f"{number:04d} " * 20
            opened = await runner.open(user(text, n=1 + number % 3))
            answers = await asyncio.gather(*(use(g, number) for g in opened))
            assert all(text.startswith(a.text) for a in answers)
            assert number % 2 or all(a.text == text for a in answers)

        async def use(generation: object, number: int) -> Answer:
            answer = Answer()
            async for delta in generation.deltas():  # type: ignore[attr-defined]
                answer.deltas.append(delta)
                if number % 2 and len(answer.deltas) == number % 7:
                    await generation.close()  # type: ignore[attr-defined]
            return answer

        await asyncio.gather(*(one(i) for i in range(60)))
        engine = server.runner
        assert isinstance(engine, ScriptedRunner)
        await until(lambda: all(g.closed for g in engine.generations))
