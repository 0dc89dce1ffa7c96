"""Made-up rows in which the same words and the same style are harmful and harmless.

A family (templates/*.yaml) lists pairs `harmful | harmless`, and frames that stand around either.
Each draw takes one pair, one frame and one filling of the slots, and gives two rows: whatever the
frame, both sides of it occur equally often, so nothing but the meaning tells them apart.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import regex
from ruamel.yaml import YAML

from filters.builtin.categories import CATEGORIES
from filters.builtin.training.rows import Row

TEMPLATES = Path(__file__).parent / "templates"
_SLOT = regex.compile(r"\{(\w+)\}")
#: French elision. An h is silent in these words alone; it is said in `haine`, `honte`, `handicap`.
_ELISION = regex.compile(
    r"\b(d|qu|l|j|m|t|s|n)e (?=[aeiouâàéèêîôû]|h(?:ab|armo|eure|ist|omm|omo|ôte|uil|um|yp))",
    regex.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Family:
    """labels: of the harmful side, what is not named being 0; `harmless`: of the other side.

    unknown: categories masked on the harmful side.
    """

    name: str
    language: str
    labels: Mapping[str, float]
    pairs: Sequence[tuple[str, str]]
    frames: Sequence[str]
    harmless: Mapping[str, float] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Twins:
    """One draw: two rows that differ in the harmful words alone. pair: its place in the family."""

    family: str
    frame: str
    pair: int
    harmful: Row
    harmless: Row


@cache
def load(
    folder: Path = TEMPLATES,
) -> tuple[list[Family], Mapping[str, Mapping[str, Sequence[str]]]]:
    """All families, and the slots of each language."""
    yaml = YAML(typ="safe")
    frames = {lang: yaml.load(folder / f"frames.{lang}.yaml") for lang in ("en", "fr")}
    slots = {lang: yaml.load(folder / f"slots.{lang}.yaml") for lang in ("en", "fr")}
    families = []
    for path in sorted(folder.glob("families.*.yaml")):
        language = path.suffixes[-2].lstrip(".")
        families += [_family(entry, language, frames[language]) for entry in yaml.load(path)]
    return families, slots


def _family(entry: Mapping[str, Any], language: str, frames: Mapping[str, Sequence[str]]) -> Family:
    pairs = []
    for line in entry["pairs"]:
        harmful, _, harmless = line.partition(" | ")
        pairs.append((harmful.strip(), harmless.strip()))
    return Family(
        name=f"{entry['family']}.{language}",
        language=language,
        labels=entry["labels"],
        pairs=pairs,
        frames=frames[entry["frames"]],
        harmless=entry.get("harmless", {}),
        unknown=frozenset(entry.get("unknown", ())),
        weight=float(entry.get("weight", 1.0)),
    )


def generate(seed: int, count: int, *, acts: Sequence[str] = ()) -> Iterator[Twins]:
    """`count` draws from all families, by their weights times the root of their pairs.

    acts: more fillings of the English slot `act`.
    """
    families, listed = load()
    english = {**listed["en"], "act": [*listed["en"]["act"], *acts]}
    slots = {**listed, "en": english}
    chance = random.Random(seed)
    weights = [family.weight * len(family.pairs) ** 0.5 for family in families]
    for family in chance.choices(families, weights, k=count):
        yield draw(family, slots[family.language], chance)


def draw(family: Family, slots: Mapping[str, Sequence[str]], chance: random.Random) -> Twins:
    """One pair of rows."""
    place = chance.randrange(len(family.pairs))
    pair, frame = family.pairs[place], chance.choice(family.frames)
    values: dict[str, str] = {}

    def fill(text: str) -> str:
        while slot := _SLOT.search(text):
            name = slot[1]
            if name not in values:
                values[name] = chance.choice(slots[name.rstrip("0123456789")])
            text = text[: slot.start()] + values[name] + text[slot.end() :]
        return text

    def write(phrase: str, labels: Mapping[str, float]) -> Row:
        phrase = fill(phrase)
        capital = phrase[:1].upper() + phrase[1:]
        text = fill(frame.replace("{x}", phrase).replace("{X}", capital))
        if family.language == "fr":
            text = _ELISION.sub(r"\1'", text)
        text = text[:1].upper() + text[1:] if frame[:1].isupper() or frame[0] == "{" else text
        return Row(text, labels, family.language, f"generated/{family.name}")

    zero = dict.fromkeys(CATEGORIES, 0.0)
    harmful = {c: v for c, v in {**zero, **family.labels}.items() if c not in family.unknown}
    return Twins(
        family.name,
        frame,
        place,
        write(pair[0], harmful),
        write(pair[1], {**zero, **family.harmless}),
    )
