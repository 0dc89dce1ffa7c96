"""The example policies of guards load with the settings beside them, and their examples hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from re import finditer

import pytest

from filters.registry import Resources
from filters.types import Found, Span, Turn
from gateway.settings.read import read_settings
from policies.examples import run_examples
from policies.loader import load

FOLDER = Path(__file__).parents[2] / "examples" / "guards"
SETTINGS = read_settings({}, FOLDER / "gardefou.toml")


class Tone:
    """A classifier of one word, with the categories that the settings name."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.categories = tuple(dict.fromkeys(labels.values()))

    async def score(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        return [dict.fromkeys(self.categories, 0.95 * ("idiot" in text)) for text in texts]


class Spans:
    """A detector of one pattern."""

    def __init__(self, category: str, pattern: str, labels: Mapping[str, str]) -> None:
        assert category in labels.values()
        self.categories = frozenset(labels.values())
        self._category, self._pattern = category, pattern

    async def find(self, texts: Sequence[str]) -> Sequence[Sequence[Found]]:
        return [
            [Found(self._category, Span(*m.span()), 0.9) for m in finditer(self._pattern, text)]
            for text in texts
        ]


class Moral:
    """A guard that knows one word."""

    categories = frozenset({"unsafe", "controversial"})

    async def judge(self, turns: Sequence[Turn]) -> Mapping[str, float]:
        return {"unsafe": 0.9 * ("bad" in turns[-1].text), "controversial": 0.1}


def resources() -> Resources:
    detectors = SETTINGS.detectors
    return Resources(
        classifiers={name: Tone(one.labels) for name, one in SETTINGS.classifiers.items()},
        detectors={
            "names": Spans("person", "Ada", detectors["names"].labels or {}),
            "presidio": Spans("email", r"\w+@\w+\.\w+", detectors["presidio"].labels or {}),
        },
        guards=dict.fromkeys(SETTINGS.guards, Moral()),
    )


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
async def test_an_example_holds_however_it_is_cut(path: Path) -> None:
    outcomes = [o async for o in run_examples(load(path, resources()), cuts=25)]
    assert outcomes
    assert [o.problem for o in outcomes if o.problem] == []


@pytest.mark.parametrize("text", ["[detectors.x]\nkey = 's3cret-s3cret'\n", "[guards.x]\nms = 0\n"])
def test_settings_that_are_none_say_why_and_tell_no_key(text: str, tmp_path: Path) -> None:
    (file := tmp_path / "gardefou.toml").write_text(text)
    with pytest.raises(Exception, match=r"either a `model` or a `url`|guards\.x") as failed:
        read_settings({}, file)
    assert "s3cret" not in str(failed.value)
