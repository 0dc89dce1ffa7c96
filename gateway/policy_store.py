"""The policies in force. An edit is taken up by itself; one that does not load changes nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
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
        self._clashing: set[str] = set()  # not loaded for another's name
        # One load at a time: of a `reload` beside a `refresh`, what was read first could be taken
        # last. (`serve` reloads before it watches; who does both is safe, too.)
        self._loading = threading.Lock()
        self.reload(resources)

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
        with self._loading:
            self._resources = resources
            read = {source: load(source, resources) for source in self._sources}
            names: dict[str, Policy] = {}
            for source, loaded in read.items():
                _check_name(source, loaded, names)
                names[source] = loaded.policy
            for source, loaded in read.items():
                self._take(source, loaded)

    def refresh(self) -> None:
        """Load again what has changed on disk; keep the last good one of what does not load."""
        with self._loading:
            self._refresh()

    def _refresh(self) -> None:
        now = {source: self._stamps(source) for source in self._sources}
        changed = [source for source in self._sources if now[source] != self._seen[source]]
        if changed:  # the name that others wait for may be free now
            changed += self._clashing.difference(changed)
        read: dict[str, Loaded] = {}
        for source in changed:
            self._seen[source] = now[source]
            try:
                read[source] = load(source, self._resources)
            except Exception as error:  # noqa: BLE001  (later edits must still be taken up)
                self._stays(source, error)
        self._clashing.difference_update(changed)
        for source, loaded in self._without_clashes(read).items():
            self._take(source, loaded, now[source])
            log.info("policy %s loaded, version %s", loaded.policy.name, loaded.policy.version)

    def _without_clashes(self, read: Mapping[str, Loaded]) -> Mapping[str, Loaded]:
        """Those whose names no other policy would have."""
        names = self._loaded | {source: loaded.policy for source, loaded in read.items()}
        for source, loaded in read.items():
            try:
                _check_name(source, loaded, names)
            except PolicyInvalid as error:
                self._stays(source, error)
                self._clashing.add(source)
                return self._without_clashes({s: one for s, one in read.items() if s != source})
        return read

    async def watch(self, seconds: float = 1.0) -> None:
        """Refresh for ever, on a thread: a long list takes seconds to load, streams go on."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.refresh)

    def _stamps(self, source: str) -> tuple[tuple[int, int], ...]:
        """Of the policy's file, and of those that the version in force reads beside it."""
        path = library().get(source, Path(source))
        return tuple(_stamp(one) for one in (path, *self._loaded[source].files))

    def _take(
        self, source: str, loaded: Loaded, stamps: tuple[tuple[int, int], ...] | None = None
    ) -> None:
        """stamps: the policy's before it was read, so that an edit meanwhile is not missed."""
        self._loaded[source] = loaded.policy
        found = self._stamps(source)
        self._seen[source] = found if stamps is None else stamps[:1] + found[1:]
        self._metrics.policy_loads.labels("loaded").inc()
        for warning in loaded.warnings if self._resources.model.digest else ():
            log.warning("%s", warning)

    def _stays(self, source: str, error: Exception) -> None:
        """Tell and count what did not load."""
        # Of what an editor can mend one readable message, no trace.
        trace = None if isinstance(error, PolicyInvalid) else error
        what = f"{error}" if trace is None else f"{source}: {type(error).__name__}"
        version = self._loaded[source].version
        log.error(
            "policy not loaded, version %s stays in force:\n%s", version, what, exc_info=trace
        )
        self._metrics.policy_loads.labels("refused").inc()


def _check_name(source: str, loaded: Loaded, policies: Mapping[str, Policy]) -> None:
    """A key names its policy: were there two of a name, a lax one might serve it.

    policies: all that there would be, by source. Raises PolicyInvalid.
    """
    for other, policy in policies.items():
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
