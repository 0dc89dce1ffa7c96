"""Which rows training sees: balanced within each source, so that no source's style is a label."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import regex
from ruamel.yaml import YAML

from filters.builtin.categories import CATEGORIES
from filters.builtin.training.acts import acts
from filters.builtin.training.generate import generate
from filters.builtin.training.rows import Row, files, read_rows, source
from filters.errors import FilterConfigError

_PLAN = Path(__file__).with_name("sampling.yaml")
#: Of a hundred rows, those that calibration keeps for itself, and those that are held out where no
#: source is held out whole. Neither is trained on.
_KEPT = range(4)
_HELD = range(4, 14)
#: Harmless rows that are looked through for those which the network takes for harmful.
_SPARE = 32_000


@dataclass(frozen=True, slots=True)
class Split:
    """calibration: rows of the trained sources. held_out: whole sources.

    spare: harmless rows that training does not take.
    """

    training: Sequence[Row]
    calibration: Sequence[Row]
    held_out: Sequence[Row]
    spare: Sequence[Row]


def kept(text: str, part: range = _KEPT) -> bool:
    """Whether a text is of that part: by a hash of its letters, so that copies go together."""
    letters = "".join(filter(str.isalpha, text.lower())) or text
    return zlib.crc32(letters.encode()) % 100 in part


def harmful(row: Row) -> bool:
    return max(row.labels.values(), default=0.0) >= 0.5


def doubtful(row: Row, pattern: regex.Pattern[str]) -> bool:
    """Whether `unsafe` is the only harm that a row is said to have, and the pattern is in it."""
    said = {category for category, value in row.labels.items() if value >= 0.5}
    return said == {"unsafe"} and bool(pattern.search(row.text))


def split(data: Path, *, seed: int, made: int) -> Split:
    """Read `data/*.jsonl[.gz]` and draw `made` pairs of generated rows.

    Where no source is one of those that are held out whole, a tenth of each source's rows is.
    Raises FilterConfigError if there are no rows.
    """
    plan = YAML(typ="safe").load(_PLAN)
    chance = random.Random(seed)
    training: list[Row] = []
    calibration: list[Row] = []
    held_out: list[Row] = []
    unused: list[Row] = []
    found: dict[str, list[Row]] = {}
    for path in files(data):
        found.setdefault(source(path), []).extend(read_rows(path))
    if not any(found.values()):
        known = ", ".join(CATEGORIES)
        raise FilterConfigError(f"{data}: no rows in *.jsonl or *.jsonl.gz that label {known}")
    whole = found.keys() & set(plan["held_out"])
    for name, rows in found.items():
        if name in whole:
            held_out += rows
            continue
        if not whole:
            held_out += [row for row in rows if kept(row.text, _HELD)]
            rows = [row for row in rows if not kept(row.text, _HELD)]
        if name in plan["doubtful"]:
            pattern = regex.compile(plan["doubtful"][name])
            rows = [row for row in rows if not doubtful(row, pattern)]
        spare = [row for row in rows if kept(row.text)]
        calibration += chance.sample(spare, min(len(spare), 600))
        rows = [row for row in rows if not kept(row.text)]
        taken = list(balanced(rows, plan["take"].get(name, len(rows)), chance))
        training += taken * plan["repeat"].get(name, 1)
        used = {row.text for row in taken}
        unused += [r for r in rows if r.labels.get("unsafe") == 0 and r.text not in used]
    for twins in generate(seed, made, acts=acts(training)):
        # Whole pairs are held out, in whatever frame and filling they come.
        side = held_out if twins.pair % 12 == 5 else training
        side += [twins.harmful, twins.harmless]
    if not training:
        raise FilterConfigError(f"{data}: of so few rows none is left to learn from")
    chance.shuffle(training)
    spare = chance.sample(unused, min(len(unused), _SPARE))
    return Split(training, calibration, held_out, spare)


def balanced(rows: Iterable[Row], take: int, chance: random.Random) -> Iterator[Row]:
    """At most `take` rows, half of them harmful if there are enough of either kind."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[harmful(row)].append(row)
    for side in sides:
        chance.shuffle(side)
    half = take // 2
    first = min(len(sides[0]), max(half, take - len(sides[1])))
    yield from sides[0][:first]
    yield from sides[1][: take - first]


def pieces(row: Row, size: int, chance: random.Random) -> Row:
    """A long text cut to `size` characters somewhere, at the beginning more often than not.

    Of jailbreaks every part counts as one: their windows are scored alone.
    """
    if len(row.text) <= size:
        return row
    start = 0 if chance.random() < 0.5 else chance.randrange(len(row.text) - size)
    return replace(row, text=row.text[start : start + size])
