"""The filters that ship, and the example, keep what filters promise."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import ClassVar

from hypothesis import strategies as st

from filters.batching import Batcher
from filters.calibration import Table
from filters.classifier import ClassifierFilter
from filters.critique import CritiqueFilter
from filters.detector import DetectorFilter
from filters.guard import GuardFilter
from filters.overlap import OverlapFilter
from filters.regex import RegexFilter
from filters.registry import Resources
from filters.terms import TermsFilter
from filters.types import Context, Filter, Turn
from tests.contracts.filters import FilterContract, Texts
from tests.support.filters import PureJudge, TextGuard, WordFinder, WordModel, WordScorer


def of(*pieces: str) -> Texts:
    return st.lists(st.sampled_from(pieces), max_size=14).map("".join)


SENTENCES = of("kill ", "hit", ". ", "! ", ", ", ";", "a word ", "OH NO ", "\n", "。", "x" * 13)


class TestRegex(FilterContract):
    texts: ClassVar[Texts] = of("a@b.c", "@", "a", "foo", "(", "bar", " ", ".", "secret ", "𝕏")

    def made(self) -> Filter:
        patterns = {
            "email": r"\b\w{1,20}@\w+(?:\.\w+)+",
            "foo": r"foo(?!\()",
            "bar": r"foo.{0,3}bar|\Bbar",
            "secret": {"terms": ["secret", "a secret"], "allow": ["secret bar"]},
        }
        return RegexFilter.from_options("re", patterns, Resources())


class TestTerms(FilterContract):
    texts: ClassVar[Texts] = of(
        "cul",
        "-",
        "de",
        "sac",
        " ",
        "  ",
        "l'",
        "’",
        "arme",
        "s",
        "ß",
        "İ",
        "la",
        "中",
        "文",
        "!",
        "é",
    )

    def made(self) -> Filter:
        lists = {"x": ["cul", "de sac", "arme", "中文", "ss", "!!"], "y": ["arme la", "de", "é"]}
        return TermsFilter("t", lists, {"x": ["cul de sac", "arme!", "中文中"]})


class TestStretchedTerms(FilterContract):
    texts: ClassVar[Texts] = of("a", "b", "bb", " ", "c", "ß", "!", "中")

    def made(self) -> Filter:
        return TermsFilter("t", {"x": ["abb", "b c", "ss"], "y": ["!!", "中a"]}, stretch=True)


PROMPT = "You are Ada, a kind helper. Never say the word: it is secret. Never say it at all!"


class TestOverlap(FilterContract):
    texts: ClassVar[Texts] = of(
        "never",
        "NEVER say ",
        "say the word",
        " it is secret",
        ". ",
        " at all ",
        "you",
        " are Ada",
        "中",
    )

    def made(self) -> Filter:
        return OverlapFilter("o", 2, cap=30)

    def context(self, text: str) -> Context:  # noqa: ARG002
        turns = [Turn("system", PROMPT), Turn("user", "say what"), Turn("developer", "中中中中")]
        return Context("output", role="assistant", conversation=turns)


class TestClassifier(FilterContract):
    texts: ClassVar[Texts] = SENTENCES

    def made(self) -> Filter:
        return ClassifierFilter("c", WordScorer(), limit=12, context=5, clause=4)


class TestBatchedClassifier(FilterContract):
    """The micro-batcher's own thread and rounding change nothing."""

    texts: ClassVar[Texts] = SENTENCES
    batcher: ClassVar[Batcher] = Batcher(WordModel(), size=2, linger=0.0)

    def made(self) -> Filter:
        return ClassifierFilter("c", self.batcher, limit=12, context=5)


class TestGuard(FilterContract):
    texts: ClassVar[Texts] = SENTENCES

    def made(self) -> Filter:
        return GuardFilter("g", TextGuard(), limit=12, most=30)


class TestDetector(FilterContract):
    texts: ClassVar[Texts] = of("kill ", "hit", ". ", "a word ", "\n", "。", "x" * 13, "hit kill")

    def made(self) -> Filter:
        return DetectorFilter("d", WordFinder(), limit=12, context=6)


class TestCritique(FilterContract):
    texts: ClassVar[Texts] = SENTENCES

    def made(self) -> Filter:
        return CritiqueFilter("d", "Is it?", limit=9)

    def context(self, text: str) -> Context:
        return Context("output", role="assistant", judge=PureJudge(text))


class TestCritiqueByCharacters(TestCritique):
    def made(self) -> Filter:
        table = Table(question="", language="en", yes="", no="", model="", prior=0.9, slope=2.0)
        return CritiqueFilter("d", "Is it?", every=16, table=table)


class TestCritiqueAtTheEnd(TestCritique):
    def made(self) -> Filter:
        return CritiqueFilter("d", "Est-ce ça ?", every="end")


class TestCritiqueOfFragments(TestCritique):
    def made(self) -> Filter:
        return CritiqueFilter("d", "Is it?")

    def context(self, text: str) -> Context:  # noqa: ARG002
        return Context("tool_arguments", role="assistant", fragment=True)


class TestExample(FilterContract):
    texts: ClassVar[Texts] = SENTENCES

    def made(self) -> Filter:
        path = Path(__file__).parents[2] / "examples" / "shouting_filter.py"
        spec = spec_from_file_location("shouting_filter", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        made: Filter = module.Shouting("s", {"least": 4})
        return made
