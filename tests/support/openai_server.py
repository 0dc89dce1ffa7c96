"""A small, real OpenAI-compatible server over any runner, which can be made to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from aiohttp import web

from model_runner.errors import BadRequest, RunnerError
from model_runner.types import (
    Delta,
    GenerateRequest,
    Generation,
    Message,
    ModelRunner,
    Sampling,
    TokenLogprob,
    Tool,
    ToolCall,
)

FIELDS = (
    *("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"),
    *("top_k", "min_p", "repetition_penalty"),
)


@dataclass
class Refusal:
    """An answer before any event."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: object = None
    hang_up: bool = False  # close the connection instead
    page: str | None = None  # HTML instead


@dataclass
class Faults:
    """What goes wrong. `*_at`: before the event of this number, counted from 0."""

    refusals: list[Refusal] = field(default_factory=list)  # one for each of the next requests
    delay: float = 0.0  # seconds before the answer begins
    write_bytes: int | None = None  # cut the body into writes of so many bytes
    frames_per_write: int = 1
    newline: str = "\n"
    comments: bool = False
    done: bool = True
    usage: bool = True
    finish: bool = True
    last_blank_line: bool = True
    hang_up_at: int | None = None
    end_at: int | None = None
    stall_at: int | None = None
    insert_at: int | None = None
    insert: str = ""  # bytes that are no UTF-8 as surrogates


class OpenAIServer:
    """`url` once entered. Records bodies and headers; `faults` may be changed between requests."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.faults = Faults()
        self.models: object = {"data": [{"id": "small", "created": 7, "max_model_len": 4096}]}
        self.models_status = 200
        self.bodies: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.peers: list[object] = []
        self.gone = 0  # clients that left before the answer began
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[OpenAIServer]:
        app = web.Application()
        self.routes(app)
        serving = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await serving.setup()
        site = web.TCPSite(serving, "127.0.0.1", port)
        await site.start()
        self.port = serving.addresses[0][1]
        try:
            yield self
        finally:
            await serving.cleanup()

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._chat)

    def beside(self, chunk: dict[str, object], body: dict[str, object]) -> dict[str, object]:  # noqa: ARG002
        """What a kind of engine adds to a chunk of the answer to `body`."""
        return {}

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response(self.models, status=self.models_status)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if request.transport is not None:
            self.peers.append(request.transport.get_extra_info("peername"))
        try:
            await asyncio.sleep(self.faults.delay)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        if self.faults.refusals:
            return self._refuse(request, self.faults.refusals.pop(0))
        try:
            generations = await self.runner.open(neutral(body))
        except BadRequest as error:
            told = {"error": {"message": str(error), "param": error.param, "code": None}}
            return web.json_response(told, status=400)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._write(request, response, generations, body)
        finally:
            for generation in generations:
                await generation.close()
        return response

    def _refuse(self, request: web.Request, refusal: Refusal) -> web.Response:
        if refusal.hang_up and request.transport is not None:
            request.transport.abort()
        if refusal.page is not None:
            return web.Response(text=refusal.page, status=refusal.status, content_type="text/html")
        return web.json_response(refusal.body, status=refusal.status, headers=refusal.headers)

    async def _write(
        self,
        request: web.Request,
        response: web.StreamResponse,
        generations: list[Generation],
        body: dict[str, object],
    ) -> None:
        faults, held, number = self.faults, "", 0
        async for event in self._events(generations, body):
            if number == faults.hang_up_at and request.transport is not None:
                await self._send(response, held)
                request.transport.abort()
                return
            if number == faults.end_at:
                break
            if number == faults.stall_at:
                await self._send(response, held)
                await asyncio.sleep(60)
            if number == faults.insert_at:
                held += faults.insert
            number += 1
            held += event
            if number % faults.frames_per_write == 0:
                await self._send(response, held)
                held = ""
        if not faults.last_blank_line:
            held = held.removesuffix("\n\n")
        await self._send(response, held)

    async def _send(self, response: web.StreamResponse, text: str) -> None:
        data = text.replace("\n", self.faults.newline).encode(errors="surrogateescape")
        step = self.faults.write_bytes or len(data) or 1
        for i in range(0, len(data), step):
            await response.write(data[i : i + step])

    async def _events(
        self, generations: list[Generation], body: dict[str, object]
    ) -> AsyncIterator[str]:
        queue: asyncio.Queue[tuple[int, Delta | None]] = asyncio.Queue(maxsize=8)
        tasks = [asyncio.create_task(_pump(i, g, queue)) for i, g in enumerate(generations)]
        open_, prompt, completion = len(generations), 0, 0
        try:
            while open_:
                index, delta = await queue.get()
                if delta is None:
                    open_ -= 1
                    continue
                if delta.usage is not None:
                    prompt = delta.usage.prompt_tokens
                    completion += delta.usage.completion_tokens
                for choice in choices(index, delta, finish=self.faults.finish):
                    chunk: dict[str, object] = {"choices": [choice]}
                    yield self._event(chunk | self.beside(chunk, body))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.faults.usage:
            usage = {"prompt_tokens": prompt, "completion_tokens": completion}
            yield self._event({"choices": [], "usage": usage})
        if self.faults.done:
            yield "data: [DONE]\n\n"

    def _event(self, chunk: dict[str, object]) -> str:
        comment = ": still here\n\n" if self.faults.comments else ""
        whole = {"id": "c1", "object": "chat.completion.chunk", **chunk}
        return f"{comment}data: {json.dumps(whole, ensure_ascii=False)}\n\n"


async def _pump(
    index: int, generation: Generation, queue: asyncio.Queue[tuple[int, Delta | None]]
) -> None:
    try:
        async for delta in generation.deltas():
            await queue.put((index, delta))
    except RunnerError:
        pass
    finally:
        await queue.put((index, None))


def choices(index: int, delta: Delta, *, finish: bool) -> Iterator[dict[str, object]]:
    """A delta as the wire has it; a last one with text gives two."""
    body: dict[str, object] = {}
    match delta.channel.kind:
        case "content":
            body["content"] = delta.text
        case "reasoning":
            body["reasoning_content"] = delta.text
        case "refusal":
            body["refusal"] = delta.text
        case "tool_call":
            head = {"id": delta.tool.id, "type": "function"} if delta.tool else {}
            function = {"arguments": delta.text}
            if delta.tool:
                function["name"] = delta.tool.name
            body["tool_calls"] = [{"index": delta.channel.index, **head, "function": function}]
    choice: dict[str, object] = {"index": index, "delta": body, "finish_reason": None}
    if delta.logprobs:
        choice["logprobs"] = {"content": [logprob(t) for t in delta.logprobs]}
    if delta.text or delta.tool:
        yield choice
    if delta.finish_reason and finish:
        yield {"index": index, "delta": {}, "finish_reason": delta.finish_reason}


def logprob(token: TokenLogprob) -> dict[str, object]:
    top = [{"token": a.text, "logprob": a.logprob, "bytes": list(a.bytes)} for a in token.top]
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.bytes),
        "top_logprobs": top,
    }


def neutral(body: dict[str, object]) -> GenerateRequest:
    """The request that a body words."""
    options = {name: body[name] for name in FIELDS if name in body}
    bias: dict[str, float] = body.get("logit_bias", {})  # type: ignore[assignment]
    sampling = Sampling(
        logit_bias={int(token): value for token, value in bias.items()},
        stop=tuple(body.get("stop", ())),  # type: ignore[arg-type]
        logprobs=body.get("top_logprobs", 0) if body.get("logprobs") else None,  # type: ignore[arg-type]
        n=body.get("n", 1),  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )
    told: list[dict[str, object]] = body["messages"]  # type: ignore[assignment]
    tools: list[dict[str, dict[str, str]]] = body.get("tools", [])  # type: ignore[assignment]
    return GenerateRequest(
        messages=tuple(_message(m) for m in told),
        tools=tuple(Tool(t["function"]["name"]) for t in tools),
        sampling=sampling,
    )


def _message(told: dict[str, object]) -> Message:
    calls: list[dict[str, object]] = told.get("tool_calls", [])  # type: ignore[assignment]
    functions: list[dict[str, str]] = [c["function"] for c in calls]  # type: ignore[misc]
    return Message(
        told["role"],  # type: ignore[arg-type]
        str(told["content"] or ""),
        tool_calls=tuple(
            ToolCall(str(c["id"]), f["name"], f["arguments"])
            for c, f in zip(calls, functions, strict=True)
        ),
    )
