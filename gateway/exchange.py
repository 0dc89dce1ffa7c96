"""One request's life, between the wire and the engine:

1. count its tokens and take a lease on the key's limits;
2. screen every text in it: blocked, and the model is never called; redacted, and the model reads
   the redacted text;
3. open the engine: one generation for each choice;
4. screen each choice as it is written, and hand on what may leave;
5. settle the lease and count what happened, however it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

from filters.tasks import is_cancelled
from filters.types import Context, Stage
from gateway.audit import REQUEST, AuditLog, Screened
from gateway.caller import Caller
from gateway.choice import Choice, Event
from gateway.conversation import Part, preceding, turns
from gateway.errors import GatewayError, LimitExceeded, LimitsUnavailable, PromptBlocked
from gateway.judging import AnswerJudges
from gateway.limits.limiter import Lease, Limiter
from gateway.limits.types import Limits
from gateway.logprobs import Alternatives
from gateway.metrics import Metrics
from gateway.policy_store import PolicyStore
from gateway.prompt import Prompt
from gateway.verdict_cache import VerdictCache
from model_runner.types import GenerateRequest, ModelRunner, Usage
from policies.plan import Policy
from policies.screen import Budget, StreamScreen
from policies.types import Verdict

#: Events of one choice that wait for a slow reader before its engine does.
QUEUE = 32
#: Characters of a prompt that are counted without a thread: a few milliseconds at most.
COUNTED_AT_ONCE = 2000


@dataclass(frozen=True)
class Services:
    """What a request needs; one per process."""

    runner: ModelRunner
    policies: PolicyStore
    limiter: Limiter
    metrics: Metrics
    budget: Budget
    max_tokens: int  # of an answer, where the request does not say
    verdicts: VerdictCache = field(default_factory=VerdictCache)
    alternatives: Alternatives = field(default_factory=Alternatives)
    refuse_without_limits: bool = True
    audit: AuditLog | None = None


class Exchange:
    """One request being served. Use `Exchange.open`, iterate `events()`, then `aclose()`."""

    def __init__(self, services: Services, policy: Policy, request: GenerateRequest) -> None:
        self.request = request
        self.policy = policy
        self._prompt = Prompt(policy, self._screen, services.verdicts, services.runner)
        self.choices: list[Choice] = []
        self.headers: dict[str, str] = {}
        self._services = services
        self._began = perf_counter()
        self._request_id = REQUEST.get()
        self._prompt_tokens = 0
        self._queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue(QUEUE)
        self._cut: GatewayError | None = None
        self._lease: Lease | None = None
        self._beat: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._blocked_prompt = False
        services.metrics.running.inc()

    @classmethod
    async def open(cls, services: Services, caller: Caller, request: GenerateRequest) -> Exchange:
        """Steps 1 to 3. Raises PromptBlocked, LimitExceeded, RunnerError and others."""
        request = replace(request, key=caller.id)
        exchange = cls(services, services.policies.get(caller.policy), request)
        try:
            await exchange._admit(caller)
            await exchange._screen_prompt()
            await exchange._start()
        except BaseException:
            await exchange.aclose()
            raise
        return exchange

    async def events(self, *, signals: bool = False) -> AsyncIterator[Event]:
        """Step 4: what may leave, of all choices as it comes. Raises RunnerError, and what cuts it.

        signals: also events that only say what rules that signal found.
        """
        queue = self._queue
        tasks = [asyncio.create_task(_pump(choice, queue)) for choice in self.choices]
        try:
            running = len(tasks)
            while running:
                item = self._cut or await queue.get()
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    raise item
                elif signals or not item.signals:
                    self._mark_first(item)
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self, error: GatewayError) -> None:
        """End `events()` with this error, as if it were the engine's."""
        self._cut = error
        with suppress(asyncio.QueueFull):  # then nobody waits for it
            self._queue.put_nowait(error)

    @property
    def usage(self) -> Usage:
        """Of the whole request. Exact where the engine says, else counted."""
        told = [choice.usage.prompt_tokens for choice in self.choices if choice.usage]
        return Usage(
            prompt_tokens=max(told, default=self._prompt_tokens),
            completion_tokens=sum(choice.completion_tokens for choice in self.choices),
        )

    async def judge(self) -> None:
        """Collect the verdicts of all choices, for those who report them and for the metrics."""
        for choice in self.choices:
            if not choice.verdicts:
                await choice.judge()

    async def settle(self) -> None:
        """Cancel what still runs, and give back what was not used. Safe at any time, and again.

        Runs to its end even if the caller is cancelled, as it is when its client goes away.
        """
        self._settling = self._settling or asyncio.create_task(self._settle())
        await asyncio.shield(self._settling)

    async def aclose(self) -> None:
        """Step 5: settle; then wait for filters that only watch, and count what happened."""
        self._closing = self._closing or asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _settle(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        for choice in self.choices:
            await choice.aclose()
        await self._prompt.aclose()
        if self._lease is not None:
            used = self._used()
            blocked = self._blocked_prompt or any(choice.refused for choice in self.choices)
            total = used.prompt_tokens + used.completion_tokens
            # Never settled, a lease ends by itself; nobody's answer fails for that.
            with suppress(LimitsUnavailable):
                await self._lease.settle(tokens_used=total, blocked=blocked)

    async def _close(self) -> None:
        metrics = self._services.metrics
        try:
            await self.settle()
            await self.judge()
            for part, verdict in await self._prompt.news():
                self._count(Screened(part.stage, part.role, part.path, part.text), verdict)
            for choice in self.choices:
                metrics.held.observe(choice.most_held)
                for stage, verdict in choice.verdicts:
                    place = ("choices", choice.index)
                    self._count(Screened(stage, "assistant", place), verdict)
            used = self._used()
            metrics.tokens.labels("input").inc(used.prompt_tokens)
            metrics.tokens.labels("output").inc(used.completion_tokens)
        finally:
            metrics.running.dec()

    def _used(self) -> Usage:
        """Nothing, if the engine was never asked."""
        return self.usage if self.choices else Usage(0, 0)

    async def _admit(self, caller: Caller) -> None:
        services, request = self._services, self.request
        self._prompt_tokens = await self._counted()
        sampling = request.sampling
        if sampling.max_tokens is None:
            # Without a bound nothing could be reserved, and one request could use up the limit.
            context = services.runner.info.context
            room = services.max_tokens
            if context is not None:
                room = max(1, min(room, context - self._prompt_tokens))
            sampling = replace(sampling, max_tokens=room)
            self.request = replace(request, sampling=sampling)
        most = self._prompt_tokens + (sampling.max_tokens or 0) * sampling.n
        self._lease = await admit(services, caller, most)
        self.headers = self._lease.headers
        self._beat = asyncio.create_task(self._lease.keep_alive())

    async def _counted(self) -> int:
        """Tokens of the prompt. Encoding a long one takes seconds: that is for a thread."""
        runner, request = self._services.runner, self.request
        said = [request.prompt or "", *(message.content for message in request.messages or ())]
        if sum(map(len, said)) <= COUNTED_AT_ONCE:
            return runner.count(request)
        return await asyncio.to_thread(runner.count, request)

    async def _screen_prompt(self) -> None:
        try:
            self.request = await self._prompt.screen(self.request)
        except PromptBlocked:
            self._blocked_prompt = True
            raise

    async def prompt_verdicts(self) -> list[tuple[Part, Verdict]]:
        """What the policy said of each text of the prompt. Waits for filters that only watch."""
        return await self._prompt.verdicts()

    async def _start(self) -> None:
        generations = await self._services.runner.open(self.request)
        said, before = turns(self.request), preceding(self.request)
        runner = self._services.runner
        judges = AnswerJudges(runner, self.request) if runner.capabilities.score else None
        shown = None
        if self.request.sampling.logprobs is not None:
            plan = self.policy.plan("output", role="assistant").at_once()
            shown = partial(self._services.alternatives.shown, plan)
        for index, generation in enumerate(generations):
            context = Context(
                "output",
                "assistant",
                conversation=said,
                preceding=before,
                judge=generation if judges else None,
            )
            self.choices.append(Choice(index, generation, self._screen, context, judges, shown))

    def _screen(self, stage: Stage, context: Context) -> StreamScreen:
        return StreamScreen(
            self.policy.plan(stage, role=context.role),
            context,
            budget=self._services.budget,
            report=partial(self._decided, Screened(stage, context.role)),
        )

    def _count(self, of: Screened, verdict: Verdict) -> None:
        if self.policy.mode == "enforce":  # what monitors see is reported when they are done
            self._decided(of, verdict)

    def _decided(self, of: Screened, verdict: Verdict) -> None:
        services, policy = self._services, self.policy
        services.metrics.verdict(policy.name, policy.mode, of.stage, verdict)
        if services.audit is not None:
            asked = (self.request.key, self._request_id)
            services.audit.add(policy.name, policy.mode, *asked, of, verdict)

    def _mark_first(self, event: Event) -> None:
        if event.text and self._began:
            self._services.metrics.first_token.observe(perf_counter() - self._began)
            self._began = 0.0


async def admit(services: Services, caller: Caller, tokens: int) -> Lease:
    """A lease on the caller's limits. Raises LimitExceeded, LimitsUnavailable."""
    try:
        return await services.limiter.admit(caller.id, caller.limits, tokens=tokens)
    except LimitExceeded as error:
        services.metrics.refusals.labels(error.kind).inc()
        raise
    except LimitsUnavailable:
        if services.refuse_without_limits:
            raise
        return await services.limiter.admit(caller.id, Limits(), tokens=tokens)


async def _pump(choice: Choice, queue: asyncio.Queue[Event | BaseException | None]) -> None:
    """Put one choice's events in the queue, then None; or what it raised."""
    try:
        async with aclosing(choice.events()) as events:
            async for event in events:
                await queue.put(event)
        await queue.put(None)
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        await queue.put(error)  # somebody else's: without it the answer would wait for ever
    except Exception as error:  # noqa: BLE001  (handed on, not handled)
        await queue.put(error)
