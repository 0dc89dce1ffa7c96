"""Any filter, reading normalised views instead of the text itself (the option `views`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from filters.errors import FilterConfigError
from filters.types import Context, Filter, Finding, Piece, Progress, Scan, Scope, Span
from filters.view_steps import Chars
from filters.views import GROUPS, VIEWS, Steps, View, open_view, typed

#: Where an entry stands in a filter's options: its category, and its number if there are several.
Place = tuple[str | int, ...]


class ViewedFilter:
    """Opens the inner filters on views; a finding is reported once, whatever views show it.

    inner: for each view, the filter that reads it.
    """

    def __init__(self, name: str, inner: Mapping[str, Filter]) -> None:
        self.name = name
        self.inner = dict(inner)
        made = list(self.inner.values())
        self.scope: Scope = made[0].scope
        self.immediate = all(one.immediate for one in made)
        known: list[frozenset[str] | None] = [getattr(one, "categories", None) for one in made]
        self.needs_engine = any(getattr(one, "needs_engine", False) for one in made)
        told = [categories for categories in known if categories is not None]
        self.categories = frozenset[str]().union(*told) if len(told) == len(known) else None
        if any(getattr(one, "needs_judge", getattr(one, "needs_signals", False)) for one in made):
            raise FilterConfigError("a critique reads the text itself; it takes no `views`")

    def open(self, context: Context) -> ViewedScan:
        views = []
        for name, made in self.inner.items():
            view = open_view(name)
            views.append((view, [_Lane(view, way, made.open(context)) for way in view.ways]))
        return ViewedScan(self.name, views)


class Shown:
    """A filter's options, and the filters made of them for views, each made once.

    options: without the entries' own views. own: these, by the entry's place.
    build: makes a filter of options. Terms in them are folded as the view folds text, once `expand`
        has written them out.
    whole: the filter of all entries, on the text itself.
    """

    def __init__(
        self,
        options: object,
        own: Mapping[Place, tuple[str, ...]],
        build: Callable[[object], Filter],
        expand: Callable[[object], object] = lambda options: options,
    ) -> None:
        self.own = own
        self._options = options
        self._expand = expand
        self._build = build
        self.whole = build(options)  # also says what is wrong with them
        self._made: dict[tuple[str, frozenset[Place] | None], Filter] = {}

    def on(self, name: str, views: Sequence[str]) -> ViewedFilter:
        """The filter with all entries on these views."""
        return ViewedFilter(name, {view: self._inner(view, None) for view in views})

    def by_entry(self, name: str, views: Sequence[str]) -> ViewedFilter:
        """The filter with each entry on views of its own, or else on these."""
        places = list(_places(self._options, self.own))
        wanted = {place: self.own.get(place, tuple(views)) for place in places}
        inner = {}
        for view in VIEWS:
            chosen = frozenset(place for place in places if view in wanted[place])
            if chosen or (not places and view in views):
                inner[view] = self._inner(view, chosen if len(chosen) < len(places) else None)
        return ViewedFilter(name, inner)

    def _inner(self, view: str, chosen: frozenset[Place] | None) -> Filter:
        """The filter that reads a view: of the chosen entries, or of all."""
        if view == "plain" and chosen is None:
            return self.whole
        form = view if view in {"plain", "stretched"} else "fold"
        if (form, chosen) not in self._made:
            options = self._options if chosen is None else _only(self._options, chosen)
            if form != "plain":
                options = _folded(self._expand(options), stretch=form == "stretched")
            self._made[form, chosen] = self._build(options)
        return self._made[form, chosen]


def viewed(
    name: str, options: object, names: object, build: Callable[[object], Filter]
) -> ViewedFilter:
    """Build a filter on the views that the YAML names. Raises FilterConfigError."""
    return Shown(options, {}, build).on(name, views_named(names))


def views_named(names: object, path: Place = ("views",)) -> tuple[str, ...]:
    """The views that the YAML names, one by one. Raises FilterConfigError, with `path`."""
    listed = names if isinstance(names, list) else [names]
    wanted: list[str] = []
    for number, view in enumerate(listed):
        if view not in VIEWS and view not in GROUPS:
            known = ", ".join([*VIEWS, *GROUPS])
            raise FilterConfigError(f"no view {view!r}; one of {known}", (*path, number))
        wanted += GROUPS.get(view, (view,))
    if not wanted:
        raise FilterConfigError("`views` names at least one view", path)
    return tuple(view for view in VIEWS if view in wanted)


def parted(options: object) -> tuple[object, dict[Place, tuple[str, ...]]]:
    """Options by category without their entries' `views`, and these. Raises FilterConfigError."""
    own: dict[Place, tuple[str, ...]] = {}

    def bare(entry: object, place: Place) -> object:
        if not isinstance(entry, Mapping) or "views" not in entry:
            return entry
        own[place] = views_named(entry["views"], (*place, "views"))
        return {key: value for key, value in entry.items() if key != "views"}

    if not isinstance(options, Mapping):
        return options, own
    made = {
        category: [bare(one, (category, n)) for n, one in enumerate(entry)]
        if isinstance(entry, list)
        else bare(entry, (category,))
        for category, entry in options.items()
    }
    return made, own


def _places(options: object, own: Mapping[Place, object]) -> Iterator[Place]:
    """Where the entries stand. A list of which no entry has views of its own is one."""
    if isinstance(options, Mapping):
        for category, entry in options.items():
            several = isinstance(entry, list) and any(
                (category, n) in own for n in range(len(entry))
            )
            yield from [(category, n) for n in range(len(entry))] if several else [(category,)]


def _only(options: object, chosen: frozenset[Place]) -> object:
    """The options with no other entries than the chosen ones."""
    assert isinstance(options, Mapping)  # noqa: S101  (entries have places in nothing else)
    left: dict[str, object] = {}
    for category, entry in options.items():
        if (category,) in chosen:
            left[category] = entry
        elif some := [
            one
            for n, one in enumerate(entry if isinstance(entry, list) else ())
            if (category, n) in chosen
        ]:
            left[category] = some
    return left


def _folded(options: object, *, stretch: bool) -> object:
    """The options with every list of terms folded, and stretched if that is asked."""
    if isinstance(options, Mapping):
        new = {key: _folded(value, stretch=stretch) for key, value in options.items()}
        for key in ("terms", "allow"):
            if isinstance(options.get(key), list):
                new[key] = [typed(t) if isinstance(t, str) else t for t in options[key]]
        if stretch and "terms" in options:
            new["stretch"] = True
        return new
    return (
        [_folded(one, stretch=stretch) for one in options] if isinstance(options, list) else options
    )


class ViewedScan:
    def __init__(self, name: str, views: Sequence[tuple[View, Sequence[_Lane]]]) -> None:
        self._name = name
        self._views = views
        self._lanes = [lane for _, lanes in views for lane in lanes]
        self._reported: set[tuple[str, Span]] = set()

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        findings: list[Finding] = []
        for view, lanes in self._views:
            for part, last in _parts(piece.text):
                chars = view.feed(part, final=final and last)
                if chars.text or (final and last):  # a view of base64 mostly shows nothing
                    for lane in lanes:
                        findings += await lane.feed(chars, final=final and last)
        settled = min(lane.settled for lane in self._lanes)
        fresh = []
        for finding in sorted(findings, key=lambda f: (f.span, f.category)):
            key = finding.category, finding.span
            if key not in self._reported:
                self._reported.add(key)
                fresh.append(replace(finding, filter=self._name))
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
    """One way of a view, and the scan that reads it."""

    def __init__(self, view: View, way: Steps, scan: Scan) -> None:
        self.scan = scan
        self._view, self._way = view, way
        self._place = 0  # what the scan vouches for, of what is shown, from offset `_base` on
        self._starts: list[int] = []  # of the characters shown, from offset `_base` on
        self._ends: list[int] = []
        self._base = 0

    @property
    def settled(self) -> int:
        """In the original."""
        return self._start(self._place)

    async def feed(self, chars: Chars, *, final: bool) -> Sequence[Finding]:
        shown = self._way.feed(chars, final=final)
        if not shown.text and not final:
            return ()
        self._starts += shown.starts
        self._ends += shown.ends
        # The engine's signals are about the text itself, not about a view of it.
        step = await self.scan.feed(Piece(shown.text), final=final)
        findings = [replace(f, span=self._original(f.span)) for f in step.findings]
        self._place = step.settled - self._base
        self._forget()
        return findings

    def _start(self, place: int) -> int:
        known = self._starts
        return known[place] if place < len(known) else self._view.frontier(self._way)

    def _original(self, span: Span) -> Span:
        first, last = span.start - self._base, span.end - self._base - 1
        start = self._start(first)
        return Span(start, max(start, self._ends[last] if last >= first else start))

    def _forget(self) -> None:
        if self._place > 4096:
            del self._starts[: self._place], self._ends[: self._place]
            self._base += self._place
            self._place = 0
