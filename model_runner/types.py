"""The runner seam: what the gateway asks of an engine, in process or elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
ChannelKind = Literal["content", "reasoning", "refusal", "tool_call"]
#: Where the note of a rewind stands: see `Generation.rewind`.
Place = Literal["instruction", "assistant"]


@dataclass(frozen=True, slots=True)
class Channel:
    """One of the texts that a choice writes. `index` counts tool calls; 0 for all others."""

    kind: ChannelKind
    index: int = 0


CONTENT = Channel("content")
REASONING = Channel("reasoning")
REFUSAL = Channel("refusal")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant message made. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON Schema object."""

    name: str
    description: str | None = None
    parameters: Mapping[str, object] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    max_tokens: new tokens at most; None: up to the context's end or the runner's own default.
    temperature: 0 is greedy.
    top_k: only the k likeliest tokens; None: all.
    min_p: only tokens at least this times as likely as the likeliest; 0: all.
    repetition_penalty: over 1, tokens of prompt and answer become less likely (Keskar et al. 2019,
        "CTRL"); 1: off.
    logit_bias: added to the logits of these token ids before sampling. It never touches `score`.
    seed: same seed, same request, same tokens; choice i of n uses a stream of its own.
    stop: text that ends the answer and is not part of it.
    logprobs: alternatives to report per token (0: the chosen token alone); None: no logprobs.
    n: choices.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    n: int = 1


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One request. Exactly one of `messages`, `prompt` and `token_ids` is set; the runner renders.

    A last message of role `assistant` is continued, not answered.
    tenant: whose request it is; caches are kept apart by it.
    key: opaque id of the API key that asks; an engine shares its time out fairly between keys.
    """

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str | Mapping[str, object] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    tenant: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have stood here. `text` may be no valid text alone; `bytes` is exact."""

    text: str
    logprob: float
    bytes: bytes


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of the chosen token, and the likeliest ones (chosen included)."""

    text: str
    logprob: float
    bytes: bytes
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts, of one choice; `prompt_tokens` is the same for all choices of a request."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ToolHead:
    """What a tool call is called; sent with the first delta of its channel."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Delta:
    """A step of one choice.

    text: what `channel` gained; complete code points, possibly empty.
    token_ids: tokens that this step sampled, where the engine tells.
    token_ends: for each entry of `logprobs` (or else of `token_ids`), the offset in the *channel's*
        text where the token's text ends. May lie past the text so far, when a token ends in the
        middle of a code point or is held back as a possible stop string.
    finish_reason, usage: on the last delta of the choice.
    signals: extras. `probes`: by name, for each of `token_ids` its end in this text, and its score.
    """

    channel: Channel = CONTENT
    text: str = ""
    token_ids: tuple[int, ...] = ()
    token_ends: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tool: ToolHead | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    signals: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. The policy loader and the wire ask before they promise."""

    score: bool = False
    rewind: bool = False
    logprobs: bool = False
    token_prompts: bool = False
    text_prompts: bool = False
    n: bool = False
    seed: bool = False
    top_k: bool = False
    min_p: bool = False
    repetition_penalty: bool = False
    logit_bias: bool = False
    tools: bool = False
    continues: bool = False  # a last assistant message is continued
    bans: bool = False  # `ban` of a rewind is kept


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """id: the name clients use. context: positions at most, None if unknown.

    digest: stands for weights and tokenizer, since what was measured on one model is of no use on
        another; empty where unknown.
    """

    id: str
    context: int | None = None
    created: int = 0
    owned_by: str = "gardefou"
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """ok: requests can be served. detail: for operators, never a user's text.

    fatal: it will not be ok again in this process (a dead device), which therefore should end.
    """

    ok: bool
    detail: str = ""
    fatal: bool = False


class Generation(Protocol):
    """One choice being written. Offsets count code points of the content channel."""

    def deltas(self) -> AsyncIterator[Delta]:
        """Iterate once. Raises a RunnerError if the engine fails.

        A rewind changes what the iteration under way yields next. If it has ended, iterate anew.
        """
        ...

    async def score(self, suffix: str, labels: Sequence[str], *, at: int) -> Mapping[str, float]:
        """Probability of each label as the next token behind the text cut at `at`, plus `suffix`.

        Works on the live cache however far decoding has gone, and leaves the stream as it was.
        Labels are single tokens; probabilities are over the whole vocabulary.
        Raises: BadRequest (a label is not one token, `at` out of range), Unsupported.
        """
        ...

    async def rewind(
        self,
        to: int,
        *,
        note: str | None = None,
        place: Place = "assistant",
        ban: Sequence[str] = (),
    ) -> None:
        """Go back to the last token boundary at or before `to`, and write on from there.

        When it returns, `deltas()` yields what is written from `to` on and nothing else: what was
        under way is dropped. Text before `to` stays as it is and is not sent again; that part of a
        split token which lies before `to` is forced. A choice that had ended goes on. Without note
        and ban the same choices are made as if nothing had been taken back.

        note: text that the model reads and nobody else: it is in no delta, offset or log
            probability. It reads as plain text, whatever it spells.
        place: `assistant`: right behind the kept text, in the assistant's own voice; it stays there
            until a rewind to a place before it. `instruction`: behind the last user message, in
            place of an earlier note there (`steering.instructed`), with the kept text behind it as
            it was written. A prompt without messages has one place only: `assistant`.
        ban: strings. Of each, as it could stand behind the kept text (with a space before it or
            without), the first token that is more than white space cannot be chosen until something
            other than white space stands behind `to`. It steers: other tokens may still spell the
            same text. Kept where `capabilities.bans`; else ignored. Ends of text are never banned.

        `max_tokens` bounds what is kept and what follows; `usage` counts every token sampled, those
        taken back too, and of the prompt what it had without notes.
        Raises: Unsupported, BadRequest (`to` past what `deltas()` has yielded; no room for the
        note).
        """
        ...

    async def close(self) -> None:
        """Cancel, within two steps of the engine. Safe to call at any time, and again."""
        ...


class ModelRunner(Protocol):
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def info(self) -> ModelInfo: ...

    async def start(self) -> None:
        """Load or connect. Raises RunnerError if it cannot serve."""
        ...

    async def close(self) -> None: ...

    def health(self) -> Health: ...

    def count(self, request: GenerateRequest) -> int:
        """Prompt tokens of the request, exactly or (for engines elsewhere) from above.

        From any thread. Raises BadRequest for a prompt that is too long for the engine, if it can
        tell.
        """
        ...

    async def open(self, request: GenerateRequest) -> list[Generation]:
        """Admit the request: one generation for each choice. Raises RunnerError."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of `text` where it goes on behind other text; none of them controls.

        Raises: Unsupported (an engine that does not tell), Unavailable (nothing is loaded yet).
        """
        ...

    async def judge(
        self, request: GenerateRequest, suffix: str, labels: Sequence[str]
    ) -> Mapping[str, float]:
        """As `Generation.score`, behind a prompt that is read and not answered.

        suffix: put behind the prompt as plain text, where an answer would begin, or, if a last
            assistant message is continued, go on. What `request` says of sampling does not count.
        Raises: BadRequest (a label is not one token, the request is none), Unsupported, and what
        `open` raises.
        """
        ...
