"""Views: any cut gives the same, offsets are those of the original, and disguises are seen."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from filters.errors import FilterConfigError
from filters.regex import RegexFilter
from filters.registry import Resources
from filters.types import Context, Filter, Finding, Piece
from filters.view_steps import Chars
from filters.viewed import ViewedFilter, viewed
from filters.views import GROUPS, VIEWS, open_view
from policies.examples import screened
from policies.loader import parse

WORDS = [
    "é",
    "Œ",
    "e\u0301",
    "ﬁ",
    "ß",
    "İ",
    "ｆ",
    "а",
    "\u200b",
    "𝐛",
    "aaaa",
    "b a d",
    "w.o.r.d",
    "«",
]
CODED = ["YmFkIHdvcmQgaGVyZQ==", "YmFk", "%62%61%64", "%e", "%C3%A9", "%zz", "\n"]
PIECES = st.sampled_from([*"abcxyz .-_1!@0", *WORDS, *CODED])
TEXTS = st.lists(PIECES, max_size=25).map("".join)


def see(name: str, text: str, cuts: Sequence[int] = (), number: int = 0) -> Chars:
    """What a way of a view shows of `text` fed in pieces; checks what it promises on the way."""
    view = open_view(name)
    way = view.ways[number]
    seen = Chars()
    edges = [0, *cuts, len(text)]
    frontier = 0
    for piece, (start, end) in enumerate(pairwise(edges)):
        final = piece == len(edges) - 2
        chars = way.feed(view.feed(text[start:end], final=final), final=final)
        assert all(at >= frontier for at in chars.starts)
        seen.extend(chars)
        assert frontier <= view.frontier(way) <= end
        frontier = view.frontier(way)
    assert frontier == len(text)
    return seen


WAYS = [(name, number) for name in sorted(VIEWS) for number in range(len(VIEWS[name][1]))]


@given(st.sampled_from(WAYS), TEXTS, st.lists(st.integers(0, 200), max_size=8))
@example(("squeezed", 0), "b a d\u200b aaaa", [1])
def test_any_cut_shows_the_same(which: tuple[str, int], text: str, cuts: list[int]) -> None:
    name, number = which
    whole = see(name, text, number=number)
    assert see(name, text, sorted(c for c in cuts if c <= len(text)), number) == whole
    assert see(name, text, range(1, len(text)), number) == whole
    assert whole.starts == sorted(whole.starts)
    assert all(0 <= s <= e <= len(text) for s, e in zip(whole.starts, whole.ends, strict=True))


@pytest.mark.parametrize(
    ("view", "text", "shown"),
    [
        ("plain", "Été", "Été"),
        ("fold", "ÉtÉ ﬁn ｆull 𝐛old а\u200bb", "ete fin full bold ab"),
        ("fold", "Cœur, ŒUF, Lætitia", "coeur, oeuf, laetitia"),
        ("leet", "b4d w0rd", "bad word"),
        ("leet-l", "he11o", "hello"),
        ("joined", "so b a d, b.a.d and b-a-d a b", "so bad, bad and bad a b"),
        ("joined", "il y a un", "il y a un"),
        ("squeezed", "baaaad cool", "bad cool"),
        ("stretched", "coooool", "coooool"),
        ("base64", f"x {base64.b64encode(b'a bad word here').decode()} y", "a bad word here\n"),
        ("base64", f"{base64.b64encode('déjà vu encore'.encode()).decode()}.", "deja vu encore\n"),
        ("base64", "ordinary words only", ""),
        (
            "base64",
            "YSBiYWQgd29yZCBo\r\nZXJlIGFuZCB0aGVy\nZQ==\nend",
            "a bad word here and there\n",
        ),
        ("percent", f"a {quote('bad é ')} b", "a bad e  b"),
    ],
)
def test_what_a_view_shows(view: str, text: str, shown: str) -> None:
    assert see(view, text).text == shown


def test_a_view_in_a_view() -> None:
    inner = base64.b64encode(b"a bad word here").decode()
    twice = base64.b64encode(inner.encode()).decode()
    assert "a bad word here" in see("base64-twice", twice).text


@pytest.mark.parametrize("before", ["", "/", "ab", "key", "dGVzdCBvZiBwYWRkaW5nIA", "x\n", "é"])
@pytest.mark.parametrize("inside", ["", "a", "ab", "abc"])
async def test_base64_is_read_from_any_letter(before: str, inside: str) -> None:
    """As where it stands in a path, or somebody wrote a letter in front of it."""
    once = base64.b64encode(b"it is a bad word").decode()
    twice = base64.b64encode(f"{inside}{once}".encode()).decode()
    made = on_views("base64", "base64-twice")
    for text in (before + inside + once, before + twice):
        found = await find(made, text)
        assert [f.category for f in found] == ["bad"]
        assert found[0].span.start >= len(before)
        assert await find(made, text, range(1, len(text))) == found


def on_views(*names: str) -> ViewedFilter:
    def build(options: object) -> Filter:
        return RegexFilter.from_options("v", options, Resources())

    return viewed("v", {"bad": {"terms": ["bad word", "bête"]}}, list(names), build)


async def find(made: Filter, text: str, cuts: Sequence[int] = ()) -> list[Finding]:
    scan = made.open(Context("output"))
    found: list[Finding] = []
    settled = 0
    edges = [0, *cuts, len(text)]
    for number, (start, end) in enumerate(pairwise(edges)):
        step = await scan.feed(Piece(text[start:end]), final=number == len(edges) - 2)
        assert all(settled <= f.span.start for f in step.findings)
        assert settled <= step.settled <= end
        settled = step.settled
        found += step.findings
    assert settled == len(text)
    return sorted(found, key=lambda f: (f.span, f.category))


@given(
    st.lists(PIECES | st.sampled_from(["bad word", "b.a.d w0rd", "bête", "BETE"]), max_size=20),
    st.lists(st.integers(0, 200), max_size=8),
)
async def test_findings_do_not_depend_on_cuts(pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    made = on_views("plain", "disguised", "decoded")
    whole = await find(made, text)
    assert await find(made, text, sorted(c for c in cuts if c <= len(text))) == whole
    assert await find(made, text, range(1, len(text))) == whole
    assert len({(f.category, f.span) for f in whole}) == len(whole)


@pytest.mark.parametrize(
    "disguised",
    [
        "BAD WORD",
        "b\u200ba\u200bd w\u2060ord",
        "bаd wоrd",  # Cyrillic letters
        "ｂａｄ ｗｏｒｄ",
        "b4d w0rd",
        "b a d   w o r d",
        "b.a.d w.o.r.d",
        "baaaad woooord",
        "bád wörd",
        base64.b64encode(b"it is a bad word").decode(),
        base64.b64encode(base64.b64encode(b"it is a bad word")).decode(),
        quote("bad word", safe="").replace("b", "%62"),
    ],
)
async def test_disguises_are_found_and_cut_from_the_original_to_the_letter(disguised: str) -> None:
    policy = parse(
        "policy: p\nfilters: {v: {regex: {bad: {terms: [bad word]}},"
        " views: [plain, disguised, decoded]}}\n"
        "output: [{id: x, when: {v: bad}, do: redact}]",
        "p",
    ).policy
    verdict = await screened(policy, "output", f"So, {disguised} it is.")
    assert verdict.text.startswith("So, ")
    assert verdict.text.endswith(" it is.")
    assert "[BAD]" in verdict.text
    if not disguised.startswith(("aX", "YV")):  # of base64, the groups that hold the words
        assert verdict.text == "So, [BAD] it is."


def test_unknown_views_say_where() -> None:
    with pytest.raises(FilterConfigError, match="no view 'foldd'; one of plain, fold") as caught:
        on_views("fold", "foldd")
    assert caught.value.path == ("views", 1)
    assert all(set(views) <= set(VIEWS) for views in GROUPS.values())
