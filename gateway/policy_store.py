"""The policies in force. An edit is taken up by itself; one that does not load changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from filters.registry import Resources
from gateway.errors import UnknownPolicy
from gateway.metrics import Metrics
from policies.errors import PolicyInvalid
from policies.loader import Loaded, library, load
from policies.plan import Policy

log = logging.getLogger("gardefou.policies")


class PolicyStore:
    """Policies by name; the first of `sources` is the default one.

    sources: files, or names of shipped policies. All must load. Raises PolicyInvalid.
    """

    def __init__(self, sources: Sequence[str], resources: Resources, metrics: Metrics) -> None:
        self._resources = resources
        self._metrics = metrics
        self._sources = list(sources)
        self._seen: dict[str, tuple[tuple[int, int], ...]] = {}
        self._loaded: dict[str, Policy] = {}
        for source in sources:
            self._loaded[source] = self._load(source)
            self._seen[source] = self._stamps(source)

    @property
    def default(self) -> Policy:
        return self._loaded[self._sources[0]]

    def by_source(self, source: str) -> Policy:
        """The policy in force of one of `sources`."""
        return self._loaded[source]

    def names(self) -> Mapping[str, Policy]:
        return {policy.name: policy for policy in reversed(self._loaded.values())}

    def get(self, name: str | None) -> Policy:
        """The policy of that name; the default one for None.

        Raises UnknownPolicy: a key's policy that is gone must not become a laxer one.
        """
        if name is None:
            return self.default
        try:
            return self.names()[name]
        except KeyError:
            raise UnknownPolicy(f"no policy {name!r} is loaded") from None

    def reload(self, resources: Resources) -> None:
        """Load all again, with what is known now of the model that judges. Raises PolicyInvalid."""
        self._resources = resources
        for source in self._sources:
            self._loaded[source] = self._load(source)
            self._seen[source] = self._stamps(source)

    def refresh(self) -> None:
        """Load again what has changed on disk; keep the last good one of what does not load."""
        for source in self._sources:
            stamps = self._stamps(source)
            if stamps == self._seen[source]:
                continue
            self._seen[source] = stamps
            stays = f"policy not loaded, version {self._loaded[source].version} stays in force"
            try:
                policy = self._load(source)
            except PolicyInvalid as error:
                # One readable message, as an editor would want it; no trace.
                log.error("%s:\n%s", stays, error)  # noqa: TRY400
                continue
            except Exception:  # whatever it is, later edits must still be taken up
                log.exception("%s: %s", source, stays)
                continue
            self._loaded[source] = policy
            self._seen[source] = stamps[:1] + self._stamps(source)[1:]
            log.info("policy %s loaded, version %s", policy.name, policy.version)

    async def watch(self, seconds: float = 1.0) -> None:
        """Refresh for ever, on a thread: a long list takes seconds to load, streams go on."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.refresh)

    def _stamps(self, source: str) -> tuple[tuple[int, int], ...]:
        """Of the policy's file, and of those that the version in force reads beside it."""
        path = library().get(source, Path(source))
        return tuple(_stamp(one) for one in (path, *self._loaded[source].files))

    def _load(self, source: str) -> Policy:
        outcome = "refused"
        try:
            loaded = load(source, self._resources)
            self._check_name(source, loaded)
            outcome = "loaded"
        finally:
            self._metrics.policy_loads.labels(outcome).inc()
        for warning in loaded.warnings if self._resources.model.digest else ():
            log.warning("%s", warning)
        return loaded.policy

    def _check_name(self, source: str, loaded: Loaded) -> None:
        """A key names its policy: were there two of a name, a lax one might serve it."""
        for other, policy in self._loaded.items():
            if other != source and policy.name == loaded.policy.name:
                what = f"{policy.name!r} is the name of the policy {policy.source} already"
                raise PolicyInvalid([loaded.document.problem(("policy",), what)])


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when the file does. (0, 0): it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
