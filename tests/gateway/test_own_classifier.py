"""Classifiers that the settings define: folders that `gardefou train classifier` wrote, or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from filters.batching import Batcher
from filters.builtin.scorer import FOLDER, BuiltinModel
from filters.errors import FilterConfigError
from filters.registry import Resources
from gateway.guards import make_classifiers
from gateway.settings.types import Settings
from policies.errors import PolicyInvalid
from policies.examples import screened
from policies.loader import parse
from policies.types import Action

POLICY = """
policy: p
filters: {own: {classifier: mine}}
input: [{id: i, when: {own: toxicity, at: 0.6}, do: block}]
"""


def settings(**classifiers: Any) -> Settings:
    return Settings.model_validate({"classifiers": classifiers, "batch": {"threads": 3}})


async def test_a_folder_that_was_trained_needs_nothing_but_its_name() -> None:
    classifiers = make_classifiers(settings(mine={"model": str(FOLDER)}), None)
    policy = parse(POLICY, "p", Resources(classifiers=classifiers)).policy
    verdicts = [
        await screened(policy, "input", text)
        for text in ("You are a worthless idiot.", "How do I kill a process?")
    ]
    assert [verdict.action for verdict in verdicts] == [Action.BLOCK, Action.ALLOW]
    for scorer in classifiers.values():
        assert isinstance(scorer, Batcher)
        scorer.close()


def test_it_may_stand_in_place_of_the_one_that_ships(tmp_path: Path) -> None:
    (tmp_path / "classifier.safetensors").write_bytes(b"nothing")
    classifiers = make_classifiers(settings(builtin={"model": str(tmp_path)}), None)
    with pytest.raises(PolicyInvalid, match=r"p:3:.*not a built-in classifier"):
        parse(POLICY.replace("mine", "builtin"), "p", Resources(classifiers=classifiers))


def test_the_settings_say_how_many_cores_it_takes() -> None:
    for scorer in make_classifiers(settings(mine={"model": str(FOLDER)}), None).values():
        assert isinstance(scorer, Batcher)
        assert isinstance(scorer.model, BuiltinModel)
        assert scorer.model.threads == 3


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        ({"model": str(FOLDER), "labels": {"a": "hate"}}, "'mine'.*leave out `labels`"),
        ({"model": str(FOLDER), "device": "cuda"}, "'mine'.*leave out `device`"),
        ({"model": "some-org/some-model"}, "'mine': in some-org/some-model .* needs `labels`"),
        ({"model": "~nobody-here/x"}, "'~nobody-here/x': .*home"),
    ],
)
def test_what_does_not_fit_is_told(mine: dict[str, Any], said: str) -> None:
    with pytest.raises(FilterConfigError, match=said):
        make_classifiers(settings(mine=mine), None)


class Milder:
    """0.07 for the sentence alone, 0.01 behind others."""

    categories = ("toxicity",)

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def score(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        self.asked += texts
        return [
            {"toxicity": 0.01 if "first" in text and "last" in text else 0.07} for text in texts
        ]


@pytest.mark.parametrize(("at", "asked"), [(0.05, 3), (0.5, 2)])
async def test_rules_say_which_scores_matter(at: float, asked: int) -> None:
    text = "This is the first sentence, a long one. This is the last, as long as the one before. "
    policy = POLICY.replace("0.6", str(at)).replace("do: block", "do: flag")
    scorer = Milder()
    loaded = parse(policy, "p", Resources(classifiers={"mine": scorer})).policy
    verdict = await screened(loaded, "input", text)
    assert [hit.finding.span.start for hit in verdict.hits] == ([0] if at == 0.05 else [])
    assert len(scorer.asked) == asked
