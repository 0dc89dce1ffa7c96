"""Models behind generative guards: an engine of this process, or one elsewhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from filters.breaker import CircuitBreaker
from filters.errors import FilterConfigError, FilterFailed, FilterTimeout
from filters.guard_template import as_text, joined
from filters.types import PromptPiece
from model_runner.errors import RunnerError
from model_runner.types import GenerateRequest, ModelRunner


class GuardEngine(ModelRunner, Protocol):
    """An engine that knows its control tokens by name."""

    def control(self, name: str) -> int | None: ...


class EnginePrompts:
    """A `PromptModel` on an engine of this process. Control tokens are ids: text cannot spell them.

    own: it is started and closed here, and not the engine that also answers.
    """

    def __init__(self, name: str, engine: GuardEngine, *, own: bool) -> None:
        self._name = name
        self._engine = engine
        self._own = own
        self._started = not own
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Load the model, once. Raises FilterConfigError."""
        async with self._starting:
            if not self._started:
                try:
                    await self._engine.start()
                except RunnerError as error:
                    raise FilterConfigError(f"guard {self._name!r}: {error}") from error
                self._started = True

    async def probabilities(
        self, prompt: Sequence[PromptPiece], labels: Sequence[str]
    ) -> Mapping[str, float]:
        await self.start()
        try:
            ids, firsts = self.encoded(prompt, labels)
            request = GenerateRequest(token_ids=tuple(ids))
            found = await self._engine.judge(request, "", tuple(firsts))
        except RunnerError as error:
            # Not its message: it could say something of the text.
            raise FilterFailed(f"{self._name}: {type(error).__name__}") from error
        return {firsts[first]: found[first] for first in firsts}

    def encoded(
        self, prompt: Sequence[PromptPiece], labels: Sequence[str]
    ) -> tuple[list[int], dict[str, str]]:
        """The prompt's tokens, and the labels by what their first tokens spell.

        Raises FilterFailed where the model has not the tokens that the template needs.
        """
        ids: list[int] = []
        for piece in joined(prompt):
            ids += [self._control(piece.text)] if piece.control else self._text(piece.text)
        firsts = {self._first(label): label for label in labels}
        if len(firsts) != len(labels):
            raise FilterFailed(f"{self._name}: labels begin with the same token")
        return ids, firsts

    async def aclose(self) -> None:
        if self._own and self._started:
            self._started = False
            await self._engine.close()

    def _text(self, text: str) -> Sequence[int]:
        return self._engine.encode(text)

    def _control(self, name: str) -> int:
        token = self._engine.control(name)
        if token is None:
            raise FilterFailed(f"{self._name}: the model has no token {name}")
        return token

    def _first(self, label: str) -> str:
        """The part of a label that its first token spells."""
        first = self._engine.encode(label)[:1]
        for length in range(1, len(label) + 1):
            if tuple(self._engine.encode(label[:length])) == tuple(first):
                return label[:length]
        raise FilterFailed(f"{self._name}: the label {label!r} begins with no token of its own")


class NoPrompts:
    """Stands where a guard would be asked of an engine that is not there, as in `policy lint`."""

    absent = True

    def __init__(self, name: str) -> None:
        self._name = name

    async def probabilities(
        self,
        prompt: Sequence[PromptPiece],  # noqa: ARG002
        labels: Sequence[str],  # noqa: ARG002
    ) -> Mapping[str, float]:
        raise FilterFailed(f"{self._name}: there is no engine to ask")


class _Logprobs(BaseModel):
    model_config = ConfigDict(extra="ignore")
    top_logprobs: list[dict[str, float]]


class _Choice(BaseModel):
    model_config = ConfigDict(extra="ignore")
    logprobs: _Logprobs


class _Completion(BaseModel):
    model_config = ConfigDict(extra="ignore")
    choices: list[_Choice]


class CompletionPrompts:
    """A `PromptModel` over `POST {url}/completions` with `logprobs`, as vLLM serves it.

    The prompt goes as text, with whatever in the judged text reads as a control token broken up.
    url: up to and with `/v1`. timeout: seconds. top: likeliest tokens that the engine tells.
    """

    def __init__(
        self,
        name: str,
        url: str,
        model: str,
        *,
        key: str | None = None,
        timeout: float = 5.0,
        top: int = 20,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._name = name
        self._url = f"{url.rstrip('/')}/completions"
        self._model = model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout
        self._top = top
        self._breaker = breaker or CircuitBreaker(name)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def probabilities(
        self, prompt: Sequence[PromptPiece], labels: Sequence[str]
    ) -> Mapping[str, float]:
        body = {
            "model": self._model,
            "prompt": as_text(prompt),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": self._top,
            "add_special_tokens": False,  # the template writes them
        }
        async with self._breaker.call():
            raw = await self._post(body)
            try:
                [top] = _Completion.model_validate_json(raw).choices[0].logprobs.top_logprobs
            except (ValidationError, ValueError, IndexError) as error:
                raise FilterFailed(f"{self._name}: its answer has no log probabilities") from error
        return {label: _likely(label, labels, top) for label in labels}

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = None

    async def _post(self, body: Mapping[str, object]) -> bytes:
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._open().post(
                    self._url, json=body, headers=self._headers, allow_redirects=False
                ) as answer,
            ):
                if answer.status != 200:
                    raise FilterFailed(f"{self._name}: it answers with status {answer.status}")
                return await answer.read()
        except TimeoutError as error:
            raise FilterTimeout(f"{self._name}: no answer within {self._timeout} s") from error
        except aiohttp.ClientError as error:
            raise FilterFailed(f"{self._name}: {type(error).__name__}") from error

    def _open(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
            self._loop = loop
        return self._session


def _likely(label: str, labels: Sequence[str], top: Mapping[str, float]) -> float:
    """How likely tokens are with which this label begins, and no other."""
    others = [other for other in labels if other != label]
    return sum(
        math.exp(logprob)
        for token, logprob in top.items()
        if token.strip()
        and label.startswith(token)
        and not any(other.startswith(token) for other in others)
    )
