"""The filters of a policy, as its `filters:` names them and on the views that rules ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from filters.errors import FilterConfigError
from filters.registry import Resources, build, expand, kinds
from filters.types import Filter
from filters.viewed import Shown, ViewedFilter, parted, views_named
from policies.chain import Link
from policies.document import Document
from policies.files import Files
from policies.schema import PolicySpec
from policies.types import OnError

LIBRARY = Path(__file__).parent / "library"
#: Options that any filter takes beside its kind.
COMMON = ("on_error", "ms", "views", "only")
#: Kinds whose options are entries by category, each of which may say `views`.
BY_CATEGORY = ("regex", "terms")


class Source:
    """One entry of `filters:`, and the filters made of it.

    link: the filter as the entry says it. seen: takes what else a policy's version covers.
    Raises FilterConfigError if the entry does not make a filter.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        spec: PolicySpec,
        resources: Resources,
        seen: Any,
    ) -> None:
        self.name = name
        self._on_error, self._ms = _limits(options, spec)
        self._views = views_named(options["views"]) if "views" in options else ("plain",)
        self._made: dict[tuple[str, ...], Link] = {}
        asked = _kind(options, resources)
        try:
            kind, value = asked, options[asked]
            if asked == "pack":
                kind, value = _pack(value, seen, resources)
                beside = Files(resources.files, LIBRARY / "packs", seen)
                resources = replace(resources, read=beside.read)
            bare, own = _parted(value) if kind in BY_CATEGORY else (value, {})
            self._shown = Shown(
                bare,
                own,
                build=lambda options: build(kind, name, options, resources),
                expand=lambda options: expand(kind, options, resources),
            )
            self.link = self._link(self._as_said("views" in options, own))
        except FilterConfigError as error:
            raise FilterConfigError(str(error), (asked, *error.path)) from error

    def on(self, names: Sequence[str]) -> Link:
        """The filter on views of a rule's own. Raises FilterConfigError."""
        views = views_named(list(names))
        if views == self._views and not self._shown.own:
            return self.link
        if views not in self._made:
            made = self._shown.on(f"{self.name}/{'+'.join(views)}", views)
            self._made[views] = self._link(made)
        return self._made[views]

    def _as_said(self, asked: bool, own: object) -> Filter:
        """Without views anywhere, the filter itself."""
        if asked or own:
            made: ViewedFilter = self._shown.by_entry(self.name, self._views)
            return made
        return self._shown.whole

    def _link(self, made: Filter) -> Link:
        return Link(made, self._ms / 1000, self._on_error)


def meant(word: str, known: list[str]) -> str:
    """The end of a complaint about a word that is not known."""
    close = get_close_matches(word, known, 1)
    return f"; did you mean `{close[0]}`?" if close else f"; one of {', '.join(known)}"


def _limits(options: Mapping[str, Any], spec: PolicySpec) -> tuple[OnError, int]:
    on_error: OnError = options.get("on_error", spec.on_error)
    if on_error not in {"block", "allow"}:
        raise FilterConfigError(f"{on_error!r} is none of 'block' or 'allow'", ("on_error",))
    ms = options.get("ms", spec.hold.ms)
    if not isinstance(ms, int) or isinstance(ms, bool) or not 1 <= ms <= 600_000:
        raise FilterConfigError("`ms` is a whole number from 1 to 600000", ("ms",))
    return on_error, ms


def _kind(options: Mapping[str, Any], resources: Resources) -> str:
    asked = [key for key in options if key not in COMMON]
    known = [*kinds(resources), "pack"]
    of_kinds = [key for key in asked if key in known]
    if len(asked) > 1 and len(of_kinds) == 1:
        word = next(key for key in asked if key not in known)
        raise FilterConfigError(f"unknown key {word!r}{meant(word, list(COMMON))}", (word,))
    if len(asked) != 1:
        found = ", ".join(asked) or "none"
        raise FilterConfigError(f"a filter has one kind ({', '.join(known)}); found {found}")
    if asked[0] not in known:
        raise FilterConfigError(f"unknown kind {asked[0]!r}{meant(asked[0], known)}", (asked[0],))
    return asked[0]


def _parted(entries: object) -> tuple[object, Any]:
    """Entries by category, and the views of each."""
    if isinstance(entries, Mapping) and "any" in entries:
        raise FilterConfigError("`any` is no name: rules mean all categories by it", ("any",))
    return parted(entries)


def _pack(name: object, seen: Any, resources: Resources) -> tuple[str, object]:
    """A shipped filter by name: `library/packs/<name>.yaml`."""
    known = {path.stem: path for path in sorted((LIBRARY / "packs").glob("*.yaml"))}
    if isinstance(name, list):
        raise FilterConfigError(
            "one pack is one filter: give each a name of its own, `a: {pack: …}` and `b: {pack: …}`"
        )
    path = known.get(str(name))
    if path is None:
        raise FilterConfigError(f"no pack {name!r}{meant(str(name), list(known))}")
    text = path.read_text(encoding="utf-8")
    seen(text.encode())
    data = Document(text, str(path)).data
    assert isinstance(data, dict)  # noqa: S101  (a test loads every pack)
    kind = next(key for key in data if key in kinds(resources))
    return kind, data[kind]
