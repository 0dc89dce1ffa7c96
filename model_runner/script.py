"""What a `ScriptedRunner` says: steps, and helpers that write them.

A script is a callable from the request to choices; a choice is a sequence of steps:
`str` (content), `Delta`, `Pause` or an exception to raise there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from model_runner.checks import continues
from model_runner.types import (
    CONTENT,
    Alternative,
    Channel,
    Delta,
    FinishReason,
    GenerateRequest,
    Sampling,
    TokenLogprob,
    ToolHead,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds before the next step; closing the generation ends the wait."""

    seconds: float


Step: TypeAlias = str | Delta | Pause | Exception
Choice: TypeAlias = Sequence[Step]
Script: TypeAlias = Callable[[GenerateRequest], Sequence[Choice]]


def replay(*choices: Choice) -> Script:
    """The same steps for every request, exactly as given. Choice i gets `choices[i % len]`."""
    return lambda _request: choices


def say(*texts: str | Sequence[str], cut: int = 4) -> Script:
    """Answer with a text (choice i with `texts[i % len]`) as a well-behaved engine would.

    A token is `cut` code points, or an item of the text where that is a sequence of pieces.
    Honours `max_tokens`, `stop` and `logprobs`; a last assistant message with which the text begins
    is continued. Other sampling options change nothing.
    """

    def script(request: GenerateRequest) -> list[Choice]:
        return [_write(slices(text, cut), request) for text in texts]

    return script


def echo(cut: int = 4) -> Script:
    """Answer with the last user message (or the prompt), as `say` would."""
    return lambda request: say(question(request), cut=cut)(request)


def pieces(text: str | Sequence[str], channel: Channel = CONTENT, *, cut: int = 4) -> list[Delta]:
    """Deltas that write `text` to a channel, `cut` code points each."""
    return [Delta(channel=channel, text=piece) for piece in slices(text, cut)]


def tool_call(
    name: str, arguments: str, *, index: int = 0, call_id: str | None = None, cut: int = 4
) -> list[Delta]:
    """Deltas of one tool call: its head, then the arguments in pieces."""
    channel = Channel("tool_call", index)
    head = ToolHead(id=call_id or f"call_{index}", name=name)
    return [Delta(channel=channel, tool=head), *pieces(arguments, channel, cut=cut)]


def question(request: GenerateRequest) -> str:
    """The last user message, or else the prompt."""
    for message in reversed(request.messages or ()):
        if message.role == "user":
            return message.content
    return request.prompt or ""


def slices(text: str | Sequence[str], cut: int) -> list[str]:
    if not isinstance(text, str):
        return list(text)
    return [text[i : i + cut] for i in range(0, len(text), cut)]


def _write(tokens: list[str], request: GenerateRequest) -> list[Delta]:
    """The deltas of one choice, a token each, and a last one that says why it ended."""
    sampling = request.sampling
    tokens = _rest(tokens, request)
    reason: FinishReason = "stop"
    if sampling.max_tokens is not None and len(tokens) > sampling.max_tokens:
        tokens, reason = tokens[: sampling.max_tokens], "length"
    begin, end = _stop("".join(tokens), sampling.stop)
    if begin < end:
        reason = "stop"
    deltas: list[Delta] = []
    at = 0
    for token in tokens:
        if at >= end:
            break
        deltas.append(_delta(token, at, begin, sampling))
        at += len(token)
    # The usage counts every token written, those of a stop string included.
    usage = Usage(count(request), len(deltas))
    return [*deltas, Delta(finish_reason=reason, usage=usage)]


def _rest(tokens: list[str], request: GenerateRequest) -> list[str]:
    """The tokens behind what a trailing assistant message already says."""
    if not continues(request) or not request.messages:
        return tokens
    said = len(request.messages[-1].content)
    if not "".join(tokens).startswith(request.messages[-1].content):
        return tokens
    rest = []
    for token in tokens:
        if len(token) > said:
            rest.append(token[said:])
        said = max(0, said - len(token))
    return rest


def _stop(text: str, stop: Sequence[str]) -> tuple[int, int]:
    """Where the text is cut, and where the engine stops: the stop string that completes first."""
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    end, cut = min(found, default=(len(text), len(text)))
    return cut, end


def _delta(token: str, at: int, begin: int, sampling: Sampling) -> Delta:
    text = token[: max(0, begin - at)]
    if sampling.logprobs is None or not text:
        return Delta(text=text)
    chosen = Alternative(token, -0.125, token.encode())
    others = [
        Alternative(f"<{i}>", -2.0 - i, f"<{i}>".encode()) for i in range(sampling.logprobs - 1)
    ]
    top = (chosen, *others) if sampling.logprobs else ()
    logprob = TokenLogprob(token, chosen.logprob, chosen.bytes, top)
    return Delta(text=text, token_ends=(at + len(token),), logprobs=(logprob,))


def count(request: GenerateRequest) -> int:
    """A stand-in for a tokenizer: words between blanks, and one more for each message and tool."""
    if request.token_ids is not None:
        return len(request.token_ids)
    if request.prompt is not None:
        return 1 + len(request.prompt.split())
    words = sum(1 + len(m.content.split()) for m in request.messages or ())
    return words + sum(1 + len((t.description or "").split()) for t in request.tools)
