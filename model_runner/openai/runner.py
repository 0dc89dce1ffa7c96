"""`OpenAIRunner`: an OpenAI-compatible engine elsewhere, as a `ModelRunner`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from model_runner.checks import check
from model_runner.errors import NotAdmitted, Overloaded, RunnerError, Unavailable, Unsupported
from model_runner.openai.faults import FaultLog
from model_runner.openai.payload import Dialect, count, payload, salt
from model_runner.openai.scoring import Scorer
from model_runner.openai.stream import Limits, Stream
from model_runner.openai.transport import (
    NOT_ADMITTED,
    Answered,
    Retry,
    ask,
    not_admitted,
    post,
)
from model_runner.types import (
    Capabilities,
    GenerateRequest,
    Generation,
    Health,
    ModelInfo,
)

NO_SUCH: Final = frozenset({404, 405, 501})  # an engine without that endpoint
NOT_READY: Final = frozenset({502, 503, 504})
PROBE_TIMEOUT: Final = 5.0  # seconds for an answer to GET /models
PROBE_EVERY: Final = 5.0  # seconds between probes of an upstream that could not be reached


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: str
    created: int | None = None
    owned_by: str | None = None
    max_model_len: int | None = None  # vLLM


class _Models(BaseModel):
    model_config = ConfigDict(extra="ignore")
    data: list[_Model]


def usual(dialect: Dialect) -> Capabilities:
    """What engines of that dialect can do, unless the operator knows better."""
    vllm = dialect == "vllm"
    return Capabilities(
        logprobs=True,
        n=True,
        seed=True,
        tools=True,
        logit_bias=True,
        # OpenAI's API has none of these; an engine that only ignores them would not say so.
        top_k=vllm,
        min_p=vllm,
        repetition_penalty=vllm,
        continues=vllm,
        score=vllm,
    )


def _without_credentials(url: str) -> str:
    """An address as messages may show it: no user, no password, no query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class OpenAIRunner:
    """Serves requests through `POST {base_url}/chat/completions`, streamed.

    base_url: up to and with `/v1`.
    model: the upstream's id; None: the first that it lists when we start.
    api_key: sent as Bearer. headers: sent besides.
    dialect: `vllm` can continue a last assistant message; `openai` refuses one.
    cache_salt: send vLLM's `cache_salt`, a keyed hash of the tenant; an engine that does not know
        the field may refuse it. salt_key: that hash's key; None: one for this process.
    connect_timeout: seconds for a connection. idle_timeout: seconds up to the answer's begin, and
        between two chunks of it. request_timeout: seconds for a whole answer, None for no limit.
    bytes_per_token: for `count`; see `payload.count`.
    has, lacks: names of capabilities, beyond and without those.
    capabilities: what the upstream is known to do, where it is not the usual. `score` is verified
        at the start, or as soon as the upstream can be reached; the rest is taken at its word.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        dialect: Dialect = "openai",
        cache_salt: bool = False,
        salt_key: bytes | None = None,
        connect_timeout: float = 5.0,
        idle_timeout: float = 60.0,
        request_timeout: float | None = None,
        max_connections: int = 1000,
        retry: Retry | None = None,
        bytes_per_token: float = 3.0,
        capabilities: Capabilities | None = None,
        has: Collection[str] = (),
        lacks: Collection[str] = (),
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._faults = FaultLog(base_url)
        self._info = ModelInfo(model, owned_by="upstream") if model else None
        self._headers = dict(headers or {})
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._dialect: Dialect = dialect
        self._salt_key = (salt_key or secrets.token_bytes(32)) if cache_salt else b""
        self._connect_timeout = connect_timeout
        self._limits = Limits(idle=idle_timeout, total=request_timeout)
        self._max_connections = max_connections
        self._retry = retry or Retry()
        self._bytes_per_token = bytes_per_token
        said = dict.fromkeys(has, True) | dict.fromkeys(lacks, False)
        self._capabilities = replace(capabilities or usual(dialect), **said)
        self._scorer = Scorer(self._ask) if self._capabilities.score else None
        self._verified = self._scorer is None
        self._refusal = ""  # why it serves nothing
        self._session: aiohttp.ClientSession | None = None
        self._health = Health(ok=False, detail="not started")
        self._probing: asyncio.Task[None] | None = None
        self._streams: set[Stream] = set()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def info(self) -> ModelInfo:
        if self._info is None:
            raise Unavailable("the upstream's model is not known yet")
        return self._info

    async def start(self) -> None:
        """Ask for the model. An upstream that does not tell is no fault where its id is given.

        Raises: Unavailable, where no model id is known; Unsupported, where it does not score
        although that was declared.
        """
        connector = aiohttp.TCPConnector(limit=self._max_connections)
        timeout = aiohttp.ClientTimeout(total=None, connect=self._connect_timeout)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers
        )
        await self.probe()
        if self._info is None:
            detail = self._health.detail or "it lists no model"
            where = _without_credentials(self._base_url)
            await self.close()
            raise Unavailable(
                f"no model id was given, and the upstream at {where} tells none: {detail}"
            )
        if self._refusal:
            await self.close()
            raise Unsupported(self._refusal)
        if not self._health.ok:
            self._watch()

    async def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        for stream in list(self._streams):
            await stream.abort()
        if self._session is not None:
            await self._session.close()
        self._session = None
        self._health = Health(ok=False, detail="closed")

    def health(self) -> Health:
        """Whether the upstream could be reached when last tried; it is tried again till it can."""
        return self._health

    def count(self, request: GenerateRequest) -> int:
        """From above, as a rule; see `payload.count`."""
        return count(request, self._bytes_per_token)

    async def open(self, request: GenerateRequest) -> list[Generation]:
        if self._session is None:
            raise Unavailable("not started")
        check(request, self._capabilities)
        body = payload(
            request,
            self.info.id,
            dialect=self._dialect,
            salt_key=self._salt_key,
            ids=self._scorer is not None,
        )
        try:
            response = await post(
                self._session,
                f"{self._base_url}/chat/completions",
                body,
                retry=self._retry,
                timeout=self._limits.idle,
            )
        except RunnerError as error:
            self._faults.note(error)
            if isinstance(error, Unavailable):
                self._watch()  # whether this request failed, or all would
            raise
        if self._verified:
            self._health = Health(ok=True)
        stream = Stream(
            response,
            n=request.sampling.n,
            logprobs=request.sampling.logprobs is not None,
            prompt_tokens=self.count(request),
            limits=self._limits,
            failed=self._faults.note,
            scorer=self._scorer,
            salt=salt(self._salt_key, request.tenant),
        )
        self._streams.add(stream)
        stream.task.add_done_callback(lambda _task: self._streams.discard(stream))
        return list(stream.generations)

    def encode(self, text: str) -> tuple[int, ...]:  # noqa: ARG002
        raise Unsupported("an engine elsewhere does not tell its tokens at once")

    async def judge(
        self, request: GenerateRequest, suffix: str, labels: Sequence[str]
    ) -> Mapping[str, float]:
        if self._scorer is None:
            raise Unsupported("this engine does not score")
        check(request, self._capabilities)
        body = payload(request, self.info.id, dialect=self._dialect)
        ids = await self._scorer.prompt(body)
        of = salt(self._salt_key, request.tenant)
        return await self._scorer.score(ids, "", suffix, labels, salt=of)

    async def _ask(self, path: str, body: Mapping[str, object]) -> object:
        """JSON of vLLM's other endpoints; `/tokenize` is none of OpenAI's, and stands beside."""
        if self._session is None:
            raise Unavailable("not started")
        base = self._base_url
        if path == "/tokenize":
            base = base.removesuffix("/v1")
        try:
            return await ask(
                self._session,
                base + path,
                {"model": self.info.id, **body},
                retry=self._retry,
                timeout=self._limits.idle,
            )
        except RunnerError as error:
            self._faults.note(error)
            raise

    def _watch(self) -> None:
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe_until_well(), name="upstream probe")

    async def _probe_until_well(self) -> None:
        await self.probe()
        while not self._health.ok:
            await asyncio.sleep(PROBE_EVERY)
            await self.probe()

    async def probe(self) -> None:
        """An answer is health, be it an error: some engines serve, and yet fail to list models."""
        if self._session is None:
            return
        try:
            async with (
                asyncio.timeout(PROBE_TIMEOUT),
                self._session.get(f"{self._base_url}/models", allow_redirects=False) as response,
            ):
                if response.status == 200:
                    self._learn(await response.read())
                status = response.status
                detail = "" if status == 200 else f"/models answered {status}"
                if status in NOT_ADMITTED:
                    detail = str(not_admitted(status))
                    self._faults.note(detail)
                self._health = Health(ok=status not in NOT_READY, detail=detail)
        except (aiohttp.ClientError, OSError, TimeoutError):
            detail = "the upstream cannot be reached"
            if self._health.detail != detail:  # once, not with every look
                self._faults.note(detail)
            self._health = Health(ok=False, detail=detail)
            return
        if self._health.ok and not self._verified and self._info is not None:
            await self._verify()

    async def _verify(self) -> None:
        """A policy was let in that counts on scores: nothing is served until there are some."""
        assert self._scorer is not None  # noqa: S101
        try:
            await self._scorer.verify()
            self._verified = True
        except RunnerError as error:
            missing = isinstance(error, Answered) and error.status in NO_SUCH
            if isinstance(error, Unavailable | Overloaded | NotAdmitted) and not missing:
                self._health = Health(ok=False, detail=str(error))
                return
            told = f"the upstream was declared to score, and does not: {error}"
            self._refusal = told
            self._health = Health(ok=False, detail=told)

    def _learn(self, body: bytes) -> None:
        with suppress(ValidationError):
            models = _Models.model_validate_json(body).data
            wanted = [m for m in models if self._info is None or m.id == self._info.id]
            for model in wanted[:1]:
                self._info = ModelInfo(
                    id=model.id,
                    context=model.max_model_len,
                    created=model.created or 0,
                    owned_by=model.owned_by or "upstream",
                )
