"""What operators see. No user, key or text is ever a label.

Names follow OpenTelemetry's semantic conventions for generative AI where there are any
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/), as Prometheus writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from filters.types import Stage
from gateway.limits.types import KINDS
from policies.types import Action, Verdict

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FILTER_SECONDS = (1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1, 5)


class Metrics:
    """The metrics of one gateway, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request's arrival to the last byte of its answer.",
            ["operation", "status"],
            buckets=_SECONDS,
            registry=r,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request's arrival to the first text that left.",
            buckets=_SECONDS,
            registry=r,
        )
        self.tokens = Counter(
            "gardefou_tokens", "Tokens read (input) and written (output).", ["type"], registry=r
        )
        self.decisions = Counter(
            "gardefou_decisions",
            "Findings that a rule answered. In monitor mode, what would have been done.",
            ["policy", "mode", "stage", "filter", "category", "action"],
            registry=r,
        )
        self.verdicts = Counter(
            "gardefou_verdicts",
            "Texts screened, by the strongest action.",
            ["policy", "mode", "stage", "action"],
            registry=r,
        )
        self.rewinds = Counter(
            "gardefou_rewinds",
            "Times that an answer was taken back to where it was well, and written anew.",
            ["policy"],
            registry=r,
        )
        self.revised = Counter(
            "gardefou_revised_answers",
            "Answers of which a part was written anew: mended, or given_up (cut after all, or a "
            "rule had no tries left and did what its `then` says).",
            ["policy", "outcome"],
            registry=r,
        )
        self.faults = Counter(
            "gardefou_filter_faults",
            "Filters that failed, timed out or answered nonsense, by what was done about it.",
            ["filter", "on_error"],
            registry=r,
        )
        self.filter_seconds = Histogram(
            "gardefou_filter_seconds",
            "Time spent in a filter on one text.",
            ["filter", "stage"],
            buckets=_FILTER_SECONDS,
            registry=r,
        )
        self.model_queue = Gauge(
            "gardefou_model_queue",
            "Windows that wait to be scored by a classifier or detector in this process.",
            ["model"],
            registry=r,
        )
        self.model_batch = Histogram(
            "gardefou_model_batch_size",
            "Windows scored together.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=r,
        )
        self.model_seconds = Histogram(
            "gardefou_model_batch_seconds",
            "Time to score one batch.",
            ["model"],
            buckets=_FILTER_SECONDS,
            registry=r,
        )
        self.model_wait = Histogram(
            "gardefou_model_wait_seconds",
            "How long a batch's oldest window waited for its turn.",
            ["model"],
            buckets=_FILTER_SECONDS,
            registry=r,
        )
        self.model_shed = Counter(
            "gardefou_model_shed",
            "Windows refused because too many waited; the policy's `on_error` decided.",
            ["model"],
            registry=r,
        )
        self.audit_lost = Counter(
            "gardefou_audit_lost",
            "Decisions that could not be written to the audit log.",
            registry=r,
        )
        self.held = Histogram(
            "gardefou_held_characters",
            "The most characters that one choice held back at a time.",
            buckets=(0, 5, 10, 20, 40, 80, 160, 400, 1000, 4096),
            registry=r,
        )
        self.refusals = Counter(
            "gardefou_limit_refusals", "Requests refused by a limit.", ["limit"], registry=r
        )
        self.running = Gauge("gardefou_running_requests", "Requests being served.", registry=r)
        self.policy_loads = Counter(
            "gardefou_policy_loads",
            "Policies loaded, and loads refused. Where the engine can judge, the start loads each"
            " twice: before the engine starts, and once its model is known.",
            ["outcome"],
            registry=r,
        )
        self.draining = Gauge(
            "gardefou_draining", "1 once the gateway goes down and takes nothing new.", registry=r
        )
        self.engine_choices = Gauge(
            "gardefou_engine_choices",
            "Choices in the engine of this process: running, waiting, and free places.",
            ["state"],
            registry=r,
        )
        self.engine_steps = Counter(
            "gardefou_engine_steps", "Forward passes of the engine in this process.", registry=r
        )
        self.engine_tokens = Counter(
            "gardefou_engine_tokens",
            "Tokens that the engine in this process read of prompts, wrote, scored, and did not"
            " have to read since a prefix was kept (reused).",
            ["kind"],
            registry=r,
        )
        self.engine_events = Counter(
            "gardefou_engine_events",
            "In the engine of this process: prefix_hits; choices preempted for room; steps that"
            " failed (faults); pools rebuilt for that.",
            ["kind"],
            registry=r,
        )
        self.engine_bytes = Gauge(
            "gardefou_engine_bytes",
            "Keys and values of the engine in this process: used, the limit, and prefixes among"
            " what is used.",
            ["kind"],
            registry=r,
        )
        self.ready = Gauge("gardefou_ready", "1 if requests can be served.", registry=r)

        self._stats: Callable[[], Mapping[str, float]] | None = None
        self._seen: Mapping[str, float] = {}

        # Series that are there from the start: `rate` misses a counter's first step otherwise.
        for outcome in ("loaded", "refused"):
            self.policy_loads.labels(outcome)
        for kind in KINDS:
            self.refusals.labels(kind)

    def verdict(self, policy: str, mode: str, stage: Stage, verdict: Verdict) -> None:
        """Count one text's verdict."""
        self.verdicts.labels(policy, mode, stage, verdict.action.word).inc()
        self.rewinds.labels(policy).inc(verdict.rewinds)
        if verdict.rewinds or verdict.gave_up:
            given_up = verdict.gave_up or verdict.action is Action.BLOCK
            self.revised.labels(policy, "given_up" if given_up else "mended").inc()
        for hit in verdict.hits:
            found = hit.finding
            self.decisions.labels(
                policy, mode, stage, found.filter, found.category, hit.action.word
            ).inc()
        for fault in verdict.faults:
            self.faults.labels(fault.filter, fault.on_error).inc()
        for name, seconds in verdict.timings.items():
            self.filter_seconds.labels(name, stage).observe(seconds)

    def batches(self, model: str) -> BatchMetrics:
        """What the batches of one model are told to."""
        return BatchMetrics(self, model)

    def watch(self, stats: Callable[[], Mapping[str, float]]) -> None:
        """Show what an engine in this process says of itself, whenever metrics are asked for."""
        self._stats = stats

    def _look(self) -> None:
        now = {} if self._stats is None else self._stats()
        if not now:
            return
        for gauge, label, name in (
            (self.engine_choices, "running", "running"),
            (self.engine_choices, "waiting", "waiting"),
            (self.engine_choices, "free", "free"),
            (self.engine_bytes, "used", "kv_bytes"),
            (self.engine_bytes, "limit", "kv_limit_bytes"),
            (self.engine_bytes, "prefixes", "prefix_bytes"),
        ):
            gauge.labels(label).set(now[name])
        more = {name: value - self._seen.get(name, 0) for name, value in now.items()}
        self.engine_steps.inc(more["steps"])
        for counter, label, name in (
            (self.engine_tokens, "read", "tokens_read"),
            (self.engine_tokens, "written", "tokens_written"),
            (self.engine_tokens, "scored", "tokens_scored"),
            (self.engine_tokens, "reused", "prefix_tokens"),
            (self.engine_events, "prefix_hits", "prefix_hits"),
            (self.engine_events, "preempted", "preempted"),
            (self.engine_events, "faults", "faults"),
            (self.engine_events, "rebuilt", "rebuilt"),
        ):
            counter.labels(label).inc(more[name])
        self._seen = now

    def render(self) -> bytes:
        self._look()
        return generate_latest(self.registry)


class BatchMetrics:
    """Counts what one model's `filters.batching.Worker` does."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._queue = metrics.model_queue.labels(model)
        self._size = metrics.model_batch.labels(model)
        self._seconds = metrics.model_seconds.labels(model)
        self._wait = metrics.model_wait.labels(model)
        self._shed = metrics.model_shed.labels(model)

    def queued(self, depth: int) -> None:
        self._queue.set(depth)

    def batch(self, size: int, waited: float, seconds: float) -> None:
        self._size.observe(size)
        self._wait.observe(waited)
        self._seconds.observe(seconds)

    def shed(self, texts: int) -> None:
        self._shed.inc(texts)
