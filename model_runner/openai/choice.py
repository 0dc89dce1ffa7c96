"""The chunks of one choice -> deltas."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model_runner.errors import EngineFailed
from model_runner.openai.align import Aligner
from model_runner.openai.chunks import (
    MAX_TOOL_CALLS,
    ChunkChoice,
    ChunkDelta,
    Function,
    ToolCall,
    finish_reason,
)
from model_runner.openai.chunks import TokenLogprob as ChunkLogprob
from model_runner.openai.chunks import TopLogprob as ChunkTop
from model_runner.openai.written import Written
from model_runner.types import (
    CONTENT,
    REASONING,
    REFUSAL,
    Alternative,
    Channel,
    Delta,
    FinishReason,
    TokenLogprob,
    ToolHead,
)


@dataclass(slots=True)
class _Call:
    """A tool call being told. Its head leaves with its first arguments, when its name is whole."""

    id: str = ""
    name: str = ""
    sent: bool = False


class ChoiceReader:
    """State of one choice. `finish_reason` once told; `tokens`: a count of those seen.

    Without logprobs, a chunk that carries text counts as a token. Logprobs that were not asked for
    are left out of the deltas. `written`: the content and its tokens, where the engine tells ids.
    """

    def __init__(self, *, logprobs: bool) -> None:
        self._logprobs = logprobs
        self.finish_reason: FinishReason | None = None
        self.tokens = 0
        self.written = Written()
        self._calls: dict[int, _Call] = {}
        self._aligners: dict[Channel, Aligner] = {}

    def read(self, chunk: ChunkChoice) -> list[Delta]:
        """The deltas of this chunk; they never carry finish_reason or usage. Raises EngineFailed"""
        delta = chunk.delta or ChunkDelta()
        reasoning = delta.reasoning_content or delta.reasoning or ""
        content, refusal = delta.content or "", delta.refusal or ""
        calls = list(delta.tool_calls or ())
        if delta.function_call is not None:
            calls.append(ToolCall(index=0, function=delta.function_call))
        told = (chunk.logprobs and chunk.logprobs.content) or ()
        refused = (chunk.logprobs and chunk.logprobs.refusal) or ()
        # Engines that split reasoning off still tell all tokens as those of the content.
        thinking = bool(reasoning) and not content
        calling = bool(calls) and not content and not reasoning
        said = () if thinking or calling else told
        deltas = [
            self._text(REASONING, reasoning, told if thinking else ()),
            self._text(CONTENT, content, said, chunk.token_ids or ()),
            self._text(REFUSAL, refusal, refused),
        ]
        self.written.add(content, chunk.token_ids or (), [token.token for token in said])
        deltas += [d for call in calls for d in self._call(call)]
        self.tokens += len(told) + len(refused) or bool(reasoning or content or refusal or calls)
        if chunk.finish_reason:
            self.finish_reason = finish_reason(chunk.finish_reason)
            deltas += self._unsent_heads()
        return [d for d in deltas if d is not None]

    def _text(
        self, channel: Channel, text: str, told: Sequence[ChunkLogprob], ids: Sequence[int] = ()
    ) -> Delta | None:
        if not text and not (told and self._logprobs):
            return None
        if not self._logprobs:
            return Delta(channel=channel, text=text, token_ids=tuple(ids))
        logprobs = tuple(_logprob(token) for token in told)
        aligner = self._aligners.setdefault(channel, Aligner())
        ends = aligner.step(text, (token.bytes for token in logprobs))
        if ends is None:  # logprobs that cannot be placed might tell text before its verdict
            return Delta(channel=channel, text=text, token_ids=tuple(ids)) if text else None
        return Delta(
            channel=channel, text=text, token_ids=tuple(ids), token_ends=ends, logprobs=logprobs
        )

    def _call(self, told: ToolCall) -> Iterable[Delta]:
        index = self._index(told)
        call = self._calls.setdefault(index, _Call())
        function = told.function or Function()
        call.id = call.id or told.id or ""
        name = function.name or ""
        if not call.sent and name != call.name:  # the same once more is no second piece
            call.name += name
        if function.arguments:
            # Another call has begun: those before it are whole, arguments or none.
            yield from self._unsent_heads(before=index)
            head = None if call.sent else _head(call)
            call.sent = True
            yield Delta(channel=Channel("tool_call", index), text=function.arguments, tool=head)

    def _index(self, told: ToolCall) -> int:
        if told.index is not None:
            return told.index
        last = max(self._calls, default=-1)
        if last < 0 or (told.id and told.id != self._calls[last].id):
            last += 1
        if last >= MAX_TOOL_CALLS:
            raise EngineFailed("the upstream made too many tool calls")
        return last

    def _unsent_heads(self, before: int = MAX_TOOL_CALLS) -> list[Delta]:
        """Heads of calls that got no arguments."""
        deltas = []
        for index, call in sorted(self._calls.items()):
            if index < before and not call.sent:
                call.sent = True
                deltas.append(Delta(channel=Channel("tool_call", index), tool=_head(call)))
        return deltas


def _head(call: _Call) -> ToolHead:
    return ToolHead(id=call.id or f"call_{uuid.uuid4().hex}", name=call.name)


def _logprob(told: ChunkLogprob) -> TokenLogprob:
    top = tuple(Alternative(*_said(t)) for t in told.top_logprobs or ())
    return TokenLogprob(*_said(told), top)


def _said(told: ChunkTop) -> tuple[str, float, bytes]:
    """Text, log probability and bytes. The bytes count: the text says the same, or what it can."""
    if told.bytes is None:
        return told.token, told.logprob, told.token.encode("utf-8", "surrogatepass")
    exact = bytes(told.bytes)
    return exact.decode(errors="replace"), told.logprob, exact
