"""The terms filter against the plain meaning of its words, over the whole text at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from time import thread_time

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filters.errors import FilterConfigError
from filters.folding import Folded, fold_term
from filters.registry import Resources
from filters.terms import TermsFilter
from filters.types import Context, Piece
from policies.errors import PolicyInvalid
from policies.examples import screened
from policies.loader import load, parse
from tests.contracts.filters import feed_all

PIECES = [
    *("a", "b", "A", "é", "-", "--", " ", "  ", "\t", " " * 9, "'", "’", "l'", ".", "1", "\u0301"),
    *("ß", "ss", "İ", "i", "中", "文", "ก", "กี", "-la", "-LA ", "-t-il", "-t-", "rendez", "-vous"),
    *("ab a", "ab-a", "a b", "vous ", "abb"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
TERMS = [
    "a",
    "ab",
    "ab a",
    "ab-a",
    "a ab",
    "é",
    "ss",
    "İ",
    "中",
    "中文",
    "ก",
    "vous",
    "il",
    "la",
    "..",
    "b.",
]
ALLOW = ["a-la", "ab a b", "中文中", "rendez", "l'ab", "a b"]
CLITICS = "la|vous|il|t-il"


def word_ends(text: str, at: int) -> bool:
    """Whether a word may end at `at`, by a look at all of the text."""
    if at in {0, len(text)}:
        return True
    left, right = text[at - 1], text[at]
    word = r"[\w\p{M}]"
    if regex.match(word, left) and regex.match(word, right):
        alone = r"[\p{Han}\p{Thai}]"
        apart = regex.match(alone, left) or regex.match(alone, right)
        return bool(apart) and not regex.match(r"\p{M}", right)
    hyphen = at if right == "-" else at - 1 if left == "-" else None
    if hyphen is None or not 0 < hyphen < len(text) - 1:
        return True
    letter = r"(?![\p{Han}\p{Thai}])[\w\p{M}]"
    if not regex.match(letter, text[hyphen - 1]) or not regex.match(letter, text[hyphen + 1]):
        return True
    particle = regex.compile(rf"(?i)(?:{CLITICS})(?![\w\p{{M}}])").match(text, hyphen + 1)
    surrender = (
        text[:hyphen].lower().endswith("rendez") and particle and particle[0].lower() == "vous"
    )
    return bool(particle) and not surrender


def spans(text: str, phrase: str) -> list[tuple[int, int]]:
    """Everywhere that a phrase stands in `text` as whole words."""
    folded = phrase.casefold().split()
    found = []
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            part = text[start:end]
            if (
                part[0].isspace()
                or part[-1].isspace()
                or max(map(len, regex.findall(r"\s+", part)), default=0) > 8
            ):
                continue
            if part.casefold().replace("’", "'").split() != folded:
                continue
            ends = [(start, part[0]), (end, part[-1])]
            if all(word_ends(text, at) or not regex.match(r"[\w\p{M}]", c) for at, c in ends):
                found.append((start, end))
    return found


def expected(text: str, terms: Sequence[str], allow: Sequence[str]) -> list[tuple[int, int]]:
    allowed = [span for phrase in allow for span in spans(text, phrase)]
    found: list[tuple[int, int]] = []
    matches = {span for term in terms for span in spans(text, term)}
    for start, end in sorted(matches, key=lambda s: (s[0], -s[1])):
        inside = any(a <= start and end <= b and (a, b) != (start, end) for a, b in allowed)
        if not inside and (not found or start >= found[-1][1]):
            found.append((start, end))
    return found


@settings(deadline=None)
@given(TEXTS, st.sets(st.sampled_from(TERMS), min_size=1), st.sets(st.sampled_from(ALLOW)))
@example("rendez-vous", {"vous"}, set())
@example("ab-t-il ab-la", {"ab"}, set())
@example("กี ก", {"ก"}, set())
async def test_finds_what_the_words_mean_in_any_cut(
    text: str, terms: set[str], allow: set[str]
) -> None:
    made = TermsFilter("t", {"x": sorted(terms)}, {"x": sorted(allow)})
    meant = expected(text, sorted(terms), sorted(allow))
    for cuts in ((), range(1, len(text))):
        found, _ = await feed_all(made.open(Context("output")), text, cuts)
        assert [(f.span.start, f.span.end) for f in found] == meant


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("arme", "l'arme, L’ARME, larme, armes, arme-t-il, gendarme", ["arme", "ARME", "arme"]),
        ("l'arme", "L’arme l'arme", ["L’arme", "l'arme"]),
        ("vous", "rendez-vous, pensez-vous, vous-même, avez vous", ["vous", "vous"]),
        ("con", "ce con-là, un con, cons, con-fesse", ["con", "con"]),
        ("rendez-vous", "Rendez-vous demain, rendez vous, rendez-vouss", ["Rendez-vous"]),
        (
            "rendez vous",
            "Rendez  vous, rendez\nvous, rendez-vous",
            ["Rendez  vous", "rendez\nvous"],
        ),
        ("dog", "dog's, dogs, hot-dog, dog!", ["dog", "dog"]),
        ("groß", "GROSS, groß, großen", ["GROSS", "groß"]),
        ("坏人", "他是坏人吗", ["坏人"]),
        ("bad", "他是bad人", ["bad"]),
        ("ドラッグ", "このドラッグは", ["ドラッグ"]),
        ("ยาเสพติด", "ขายยาเสพติดที่", ["ยาเสพติด"]),
    ],
)
async def test_words_end_where_they_should(term: str, text: str, found: list[str]) -> None:
    seen, _ = await feed_all(TermsFilter("t", {"x": [term]}).open(Context("output")), text)
    assert [text[f.span.start : f.span.end] for f in seen] == found


@given(TEXTS, st.lists(st.integers(0, 80), max_size=8), st.booleans())
def test_folded_text_knows_the_way_back(text: str, cuts: list[int], stretch: bool) -> None:
    whole, parts = Folded(stretch=stretch), Folded(stretch=stretch)
    whole.feed(text)
    edges = [0, *sorted(c for c in cuts if c <= len(text)), len(text)]
    for start, end in pairwise(edges):
        parts.feed(text[start:end])
    assert (parts.text, parts.runs) == (whole.text, whole.runs)
    places = [whole.original(at) for at in range(whole.end + 1)]
    assert places == [parts.original(at) for at in range(whole.end + 1)]
    assert places == sorted(places)
    assert places[-1] == len(text)
    for at, letter in enumerate(whole.text):
        assert letter in {*fold_term("x" + text[places[at]] + "x"), " ", "\n"}


def test_what_was_let_go_of_changes_nothing() -> None:
    text = "Straße  und İ " * 40
    whole, parts = Folded(), Folded()
    whole.feed(text)
    for at in range(0, len(text), 7):
        parts.feed(text[at : at + 7])
        parts.forget(parts.end - 9)
    assert len(parts.text) == 9
    assert [parts.original(i) for i in range(parts.base, parts.end)] == [
        whole.original(i) for i in range(parts.base, parts.end)
    ]


async def test_a_hundred_thousand_terms_take_time_linear_in_the_text() -> None:
    random = Random(1)
    terms = {"".join(random.choices("abcdefgh", k=random.randint(3, 12))) for _ in range(100_000)}
    terms |= {"中" * n for n in range(1, 30)} | {("ab " * 40 + "c").strip()}
    made = TermsFilter("t", {"x": sorted(terms)})
    for pump in ("ab ", "中", "abcdefgh", "a-", " "):
        times = []
        for size in (600, 2400):
            scan, text = made.open(Context("output")), (pump * size)[:size]
            began = thread_time()
            for at, letter in enumerate(text):
                await scan.feed(Piece(letter), final=at == size - 1)
            times.append(thread_time() - began)
            assert len(scan._folded.text) < 2500
        assert times[1] < 12 * times[0], pump  # four times the text; square would be sixteen


async def test_stretched_terms_count_letters() -> None:
    made = TermsFilter("t", {"x": ["cool", "no"]}, stretch=True)
    text = "coool COOOOOL col nooooo n o colo no!"
    found, _ = await feed_all(made.open(Context("output")), text, range(1, len(text)))
    assert [text[f.span.start : f.span.end] for f in found] == ["coool", "COOOOOL", "nooooo", "no"]


POLICY = """\
policy: p
filters:
  lists:
    terms:
      bad: {file: lists/bad.txt, allow: [bad hair day]}
      worse: [dreadful]
output:
  - {id: x, when: {lists: [bad, worse]}, do: redact}
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "bad.txt").write_text("# words\nbad\n\nvery  wrong\n", encoding="utf-8")
    (tmp_path / "p.yaml").write_text(POLICY, encoding="utf-8")
    return tmp_path / "p.yaml"


async def test_lists_lie_beside_the_policy_and_its_version_covers_them(policy_file: Path) -> None:
    policy = load(policy_file).policy
    verdict = await screened(policy, "output", "A bad, very wrong, dreadful bad hair day.")
    assert verdict.text == "A [BAD], [BAD], [WORSE] bad hair day."
    listed = policy_file.parent / "lists" / "bad.txt"
    assert policy.files == (listed,)
    assert load(policy_file).policy.version == policy.version
    listed.write_text("worse\n", encoding="utf-8")
    assert load(policy_file).policy.version != policy.version


async def test_lists_are_folded_as_views_fold_text(policy_file: Path) -> None:
    text = policy_file.read_text("utf-8").replace(
        "output:", "    views: [plain, disguised]\noutput:"
    )
    text = text.replace("[dreadful]", "[bête]")
    policy = parse(text, "p", folder=policy_file.parent).policy
    for disguised in ("b4d", "b a d", "baaad", "Bète", "bаd"):
        assert (await screened(policy, "output", f"So {disguised} then")).hits, disguised
    assert not (await screened(policy, "output", "A bad hair day, baad hair day")).hits


async def test_lists_may_be_named_by_the_settings(policy_file: Path) -> None:
    resources = Resources(files={"shared": policy_file.parent / "lists" / "bad.txt"})
    policy = parse(POLICY.replace("lists/bad.txt", "shared"), "p", resources).policy
    assert (await screened(policy, "output", "bad")).text == "[BAD]"


LONG = f"a term has at most 256 characters: '{'x' * 60}…'"


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (("lists/bad.txt", "../bad.txt"), "5:13", "`..` leads out"),
        (("lists/bad.txt", "/etc/hostname"), "5:13", "own folder"),
        (("lists/bad.txt", "lists/none.txt"), "5:13", "No such file"),
        (("lists/bad.txt", "lists/out.txt"), "5:13", "the link leads out"),
        (("lists/bad.txt", "lists/empty.txt"), "5:13", "no terms in it"),
        (("lists/bad.txt", "lists/latin.txt"), "5:13", "not UTF-8"),
        (("lists/bad.txt", "lists/long.txt"), "5:13", f"lists/long.txt:3: {LONG}"),
        (("[bad hair day]", "{file: lists/long.txt}"), "5:42", f"lists/long.txt:3: {LONG}"),
        (("allow:", "alow:"), "5:34", "unknown key 'alow'"),
        (("{file: lists/bad.txt, ", "{"), "5:7", "either `terms` or `file`"),
        (("[dreadful]", "[a, ' ']"), "6:18", "no word or phrase"),
        (("[dreadful]", "[]"), "6:7", "list of words"),
        (("[dreadful]", f"[{'x' * 300}]"), "6:15", LONG),
        (("[dreadful]", "[a, 2024]"), "6:18", "2024 is no word or phrase; write it in quotes"),
        (("[dreadful]", f"['a{' ' * 9}b']"), "6:15", "at most 8 characters of white space"),
    ],
)
def test_bad_lists_say_where(
    policy_file: Path, change: tuple[str, str], place: str, words: str
) -> None:
    lists = policy_file.parent / "lists"
    (lists / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    (lists / "long.txt").write_text(f"# long\na\n{'x' * 300}\n", encoding="utf-8")
    (lists / "latin.txt").write_bytes("é".encode("latin-1"))
    outside = policy_file.parent.parent / f"{policy_file.parent.name}-outside.txt"
    outside.write_text("x\n", encoding="utf-8")
    (lists / "out.txt").symlink_to(outside)
    policy_file.write_text(POLICY.replace(*change), encoding="utf-8")
    with pytest.raises(PolicyInvalid) as caught:
        load(policy_file)
    (problem,) = caught.value.problems
    assert words in problem.message
    assert f"{problem.line}:{problem.column}" == place


def test_without_a_folder_no_file_is_read() -> None:
    with pytest.raises(PolicyInvalid, match="lies in no folder"):
        parse(POLICY, "p")
    with pytest.raises(FilterConfigError, match="no folder"):
        TermsFilter.from_options("t", {"x": {"file": "a"}}, Resources())
