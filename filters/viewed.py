"""Any filter, reading normalised views instead of the text itself (the option `views`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from filters.errors import FilterConfigError
from filters.types import Context, Filter, Finding, Piece, Progress, Scan, Scope, Span
from filters.views import GROUPS, VIEWS, fold, open_view


class ViewedFilter:
    """Opens the inner filters on views; a finding is reported once, whatever views show it.

    inner: for each view, the filter that reads it.
    """

    def __init__(self, name: str, inner: Mapping[str, Filter]) -> None:
        self.name = name
        self.inner = dict(inner)
        first = next(iter(self.inner.values()))
        self.scope: Scope = first.scope
        self.immediate = all(made.immediate for made in self.inner.values())
        self.categories = getattr(first, "categories", None)
        if getattr(first, "needs_judge", False):
            raise FilterConfigError("a critique reads the text itself; it takes no `views`")

    def open(self, context: Context) -> ViewedScan:
        return ViewedScan({view: made.open(context) for view, made in self.inner.items()})


def viewed(
    name: str, options: object, names: object, build: Callable[[object], Filter]
) -> ViewedFilter:
    """Build a filter on the views that the YAML names. Raises FilterConfigError.

    build: makes the inner filter of its options. Terms in them are folded as the view folds text.
    """
    listed = names if isinstance(names, list) else [names]
    wanted: list[str] = []
    for number, view in enumerate(listed):
        if view not in VIEWS and view not in GROUPS:
            known = ", ".join([*VIEWS, *GROUPS])
            raise FilterConfigError(f"no view {view!r}; one of {known}", ("views", number))
        wanted += GROUPS.get(view, (view,))
    if not wanted:
        raise FilterConfigError("`views` names at least one view", ("views",))
    made = {
        view: build(options if view == "plain" else _folded(options, stretch=view == "stretched"))
        for view in wanted
    }
    return ViewedFilter(name, made)


def _folded(options: object, *, stretch: bool) -> object:
    """The options with every list of terms folded, and stretched if that is asked."""
    if isinstance(options, Mapping):
        new = {key: _folded(value, stretch=stretch) for key, value in options.items()}
        for key in ("terms", "allow"):
            if isinstance(options.get(key), list):
                new[key] = [fold(t) if isinstance(t, str) else t for t in options[key]]
        if stretch and "terms" in options:
            new["stretch"] = True
        return new
    return (
        [_folded(one, stretch=stretch) for one in options] if isinstance(options, list) else options
    )


class ViewedScan:
    def __init__(self, scans: Mapping[str, Scan]) -> None:
        self._lanes = [_Lane(view, scan) for view, scan in scans.items()]
        self._reported: set[tuple[str, Span]] = set()

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        findings: list[Finding] = []
        for lane in self._lanes:
            for part, last in _parts(piece.text):
                findings += await lane.feed(part, final=final and last)
        settled = min(lane.settled for lane in self._lanes)
        fresh = []
        for finding in sorted(findings, key=lambda f: (f.span, f.category)):
            key = finding.category, finding.span
            if key not in self._reported:
                self._reported.add(key)
                fresh.append(finding)
        # What lies before `settled` is not found again.
        self._reported = {key for key in self._reported if key[1].start >= settled}
        return Progress(settled, fresh)

    async def aclose(self) -> None:
        for lane in self._lanes:
            await lane.scan.aclose()


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Parts of bounded length, since steps copy what they hold; and whether it is the last."""
    for at in range(0, len(text) or 1, 1024):
        yield text[at : at + 1024], at + 1024 >= len(text)


class _Lane:
    """One view, and the scan that reads it."""

    def __init__(self, view: str, scan: Scan) -> None:
        self.scan = scan
        self.settled = 0  # in the original
        self._view = open_view(view)
        self._starts: list[int] = []  # of the view's characters from offset `_base` on
        self._ends: list[int] = []
        self._base = 0

    async def feed(self, text: str, *, final: bool) -> Sequence[Finding]:
        chars = self._view.feed(text, final=final)
        self._starts += chars.starts
        self._ends += chars.ends
        # The engine's signals are about the text itself, not about a view of it.
        step = await self.scan.feed(Piece(chars.text), final=final)
        findings = [replace(f, span=self._original(f.span)) for f in step.findings]
        place = step.settled - self._base
        self.settled = self._starts[place] if place < len(self._starts) else self._view.frontier
        self._forget(place)
        return findings

    def _original(self, span: Span) -> Span:
        first, last = span.start - self._base, span.end - self._base - 1
        start = self._starts[first] if first < len(self._starts) else self._view.frontier
        return Span(start, max(start, self._ends[last] if last >= first else start))

    def _forget(self, settled: int) -> None:
        if settled > 4096:
            del self._starts[:settled], self._ends[:settled]
            self._base += settled
