"""OpenAI's legacy completions: `POST /v1/completions`, streamed and not.

The answer goes on where the prompt ends, so the filters read the prompt ahead of it. What an engine
writes beside the content (reasoning, refusals, tool calls) has no place here and is left out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from secrets import token_hex
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gateway.choice import Event
from gateway.exchange import Exchange
from gateway.filter_results import filter_results
from gateway.wire.dialect import Dialect, Flag, Json, Whole, frame, only
from gateway.wire.openai_chat import StreamOptions, usage_of
from gateway.wire.sampling import Sampled
from model_runner.types import CONTENT, GenerateRequest


class CompletionRequest(Sampled):
    """The request's body."""

    prompt: str
    stream_options: StreamOptions | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=5)] | None = None
    echo: Flag | None = None
    # Accepted for clients that send them always; without effect.
    best_of: Annotated[Literal[1] | None, only(1, "must be 1")] = None
    user: str | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if not all(isinstance(item, str) for item in value):
            raise ValueError("token ids cannot be screened, and are refused; send text")
        if len(value) != 1:
            raise ValueError("one text; several prompts are several requests")
        return value[0]

    @field_validator("echo")
    @classmethod
    def _no_scores_of_the_prompt(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and info.data.get("logprobs") is not None:
            raise ValueError("not with `logprobs`: there are none for the prompt")
        return value

    def neutral(self, tenant: str) -> GenerateRequest:
        return GenerateRequest(
            prompt=self.prompt,
            sampling=self.sampling(max_tokens=self.max_tokens, logprobs=self.logprobs),
            tenant=tenant,
        )


class Answer:
    """Writes one exchange's answer. `annotate` as in chat."""

    def __init__(
        self, body: CompletionRequest, exchange: Exchange, model: str, annotate: bool
    ) -> None:
        self._body = body
        self._exchange = exchange
        self._annotate = annotate
        # As the model read it: screened.
        self._prompt = (exchange.request.prompt or "") if body.echo else ""
        self._head: Json = {
            "id": f"cmpl-{token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    async def chunks(self) -> AsyncIterator[Json]:
        if self._prompt:
            for index in range(len(self._exchange.choices)):
                yield self._head | {"choices": [self._choice(index, self._prompt, [])]}
        async for event in self._exchange.events():
            if event.finish_reason is None and event.channel != CONTENT:
                continue
            chunk = self._head | {"choices": [self._choice(event.index, event.text, [event])]}
            if event.finish_reason is not None and self._annotate:
                await self._add_results(chunk)
            yield chunk
        if self._body.stream_options and self._body.stream_options.include_usage:
            yield self._head | {"choices": [], "usage": usage_of(self._exchange.usage)}

    def end(self) -> Iterable[Json]:
        return ()  # `[DONE]` says it

    def fault(self, error: Json) -> Json:
        return error

    async def whole(self) -> Json:
        said: list[list[Event]] = [[] for _ in self._exchange.choices]
        async for event in self._exchange.events():
            if event.finish_reason is not None or event.channel == CONTENT:
                said[event.index].append(event)
        choices = []
        for index, events in enumerate(said):
            text = self._prompt + "".join(event.text for event in events)
            choices.append(self._choice(index, text, events))
        answer = self._head | {"choices": choices, "usage": usage_of(self._exchange.usage)}
        if self._annotate:
            await self._add_results(answer)
        return answer

    def _choice(self, index: int, text: str, events: list[Event]) -> Json:
        reason = events[-1].finish_reason if events else None
        return {
            "index": index,
            "text": text,
            "logprobs": None if self._body.logprobs is None else _logprobs(events),
            "finish_reason": "stop" if reason == "tool_calls" else reason,
        }

    async def _add_results(self, answer: Json) -> None:
        """Azure's annotations, of the prompt and of the choices that `answer` has."""
        prompt = (verdict for _, verdict in await self._exchange.prompt_verdicts())
        found = [{"prompt_index": 0, "content_filter_results": filter_results(prompt)}]
        answer["prompt_filter_results"] = found
        for written in answer["choices"]:
            choice = self._exchange.choices[written["index"]]
            await choice.judge()
            verdicts = (verdict for _, verdict in choice.verdicts)
            written["content_filter_results"] = filter_results(verdicts)


def _logprobs(events: list[Event]) -> Json | None:
    """Parallel lists, a token each. `text_offset` counts the text as released."""
    tokens = [token for event in events for token in event.logprobs]
    if not tokens:
        return None
    top = [{a.text: a.logprob for a in token.top} for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": top if any(top) else None,
        "text_offset": [offset for event in events for offset in event.offsets],
    }


DIALECT = Dialect(
    "/v1/completions",
    CompletionRequest,
    Answer,
    frame,
    done=b"data: [DONE]\n\n",
    annotates=True,
)
