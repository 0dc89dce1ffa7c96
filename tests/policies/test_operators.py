"""What stands in the place of a redacted span."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.registry import Resources
from policies.errors import PolicyInvalid
from policies.examples import run_examples, screened
from policies.loader import parse
from policies.operators import TAG, Fixed, Hash, Mask
from policies.plan import Policy

KEYED = Resources(redaction_key=b"a key for tests only")
POLICY = """\
policy: test
filters:
  own: {regex: {number: '(?<!\\d)\\d{4}(?: \\d{4}){3}', tail: '\\d{4} please', word: 'secret \\w+'}}
output:
  - {id: number, when: {own: number}, do: redact, with: {mask: 4}}
  - {id: tail, when: {own: tail}, do: redact, with: TAIL}
  - {id: word, when: {own: word}, do: redact, with: WORD}
"""


def policy(tail: str = "tag", word: str = "tag", resources: Resources = KEYED) -> Policy:
    return parse(POLICY.replace("TAIL", tail).replace("WORD", word), "p.yaml", resources).policy


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-z .@-]{0,30}"), st.integers(0, 6))
def test_a_mask_shows_no_more_than_it_may(text: str, keep: int) -> None:
    masked = Mask(keep).replace(text, "x", keep)
    assert len(masked) == len(text)
    kept = [i for i, (a, b) in enumerate(zip(text, masked, strict=True)) if a == b]
    shown = [i for i in kept if not text[i].isspace() and text[i] not in "-./:@()+,*"]
    assert len(shown) <= keep
    assert all(masked[i] == "*" for i in range(len(text)) if i not in kept)
    hidden = [i for i in range(len(text)) if masked[i] == "*" != text[i]]
    assert not hidden or not shown or max(hidden) < min(shown)
    assert len(shown) <= len(hidden) + text.count("*")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("4539 1488 0343 6467", "**** **** **** 6467"),
        ("jean@example.org", "****@******e.org"),
        ("12", "*2"),
        ("1", "*"),
        ("pass_w!rd", "*****w!rd"),
        (
            "e\N{COMBINING ACUTE ACCENT}te\N{COMBINING ACUTE ACCENT}",
            "***e\N{COMBINING ACUTE ACCENT}",
        ),
    ],
)
def test_masks(text: str, masked: str) -> None:
    assert Mask(4).replace(text, "x", 4) == masked


def test_a_hash_is_keyed_and_named() -> None:
    made = Hash("mail", b"k" * 16).replace("a@b.fr", "email", 0)
    digest = hmac.new(b"k" * 16, b"mail\0email\0a@b.fr", hashlib.sha256).hexdigest()
    assert made == f"[EMAIL:{digest[:16]}]"
    others = [Hash("mail", b"l" * 16), Hash("post", b"k" * 16)]
    assert len({made, *(h.replace("a@b.fr", "email", 0) for h in others)}) == 3
    assert "kkk" not in repr(Hash("mail", b"k" * 16))
    assert Hash("mail", b"k" * 16).replace("\ud800", "email", 0)


async def test_each_rule_has_its_operator() -> None:
    verdict = await screened(policy(word="{text: (removed)}"), "output", "Of secret things.")
    assert verdict.text == "Of (removed)."
    verdict = await screened(policy(word="{text: ''}"), "output", "Of secret things.")
    assert verdict.text == "Of ."
    verdict = await screened(policy(word="{hash: mine}"), "output", "Of secret things.")
    expected = Hash("mine", KEYED.redaction_key).replace("secret things", "word", 0)
    assert verdict.text == f"Of {expected}."
    verdict = await screened(policy(), "output", "Of secret things and 4539 1488 0343 6467.")
    assert verdict.text == "Of [WORD] and **** **** **** 6467."


def test_a_redaction_that_leaves_nothing_is_warned_of() -> None:
    text = POLICY.replace("TAIL", "tag").replace("WORD", "{text: ' '}")
    [warning] = parse(text, "p.yaml", KEYED).warnings
    assert str(warning).startswith("p.yaml:7:47: warning: `word` leaves nothing")


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("tag", "**** **** **** **** ******"),  # a rule that shows nothing binds the mask
        ("{mask: 2}", "**** **** **** **** ****se"),
        ("{mask: 8}", "**** **** **** **** **ease"),
    ],
)
async def test_a_mask_on_merged_findings_shows_what_all_of_them_may(
    tail: str, expected: str
) -> None:
    text = "4539 1488 0343 6467 please"
    assert (await screened(policy(tail), "output", text)).text == expected


async def test_examples_see_what_stands_in_place() -> None:
    examples = "{hit: {'4539 1488 0343 6467': '**** **** **** 6467'}, pass: [x]}"
    text = POLICY.replace("with: {mask: 4}}", f"with: {{mask: 4}}, examples: {examples}}}")
    text = text.replace("TAIL", "tag").replace("WORD", "tag")
    problems = [o.problem async for o in run_examples(parse(text, "p.yaml")) if o.rule == "number"]
    assert problems == [None, None]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("{hash: mine}", "p.yaml:7:54: `hash` needs a key"),
        ("{hash: Mine}", "p.yaml:7:54: 'Mine': names are lower-case"),
        ("{mask: -1}", "p.yaml:7:54: "),
        ("{mask: four}", "p.yaml:7:54: "),
        ("{mask: ~}", "p.yaml:7:47: expected tag, {mask: 4}"),
        ("{}", "p.yaml:7:47: expected tag, {mask: 4}"),
        ("{mask: 4, text: x}", "p.yaml:7:47: expected tag, {mask: 4}"),
        ("stars", "p.yaml:7:47: expected tag, {mask: 4}"),
        ("{maks: 4}", "p.yaml:7:54: unknown key 'maks'; did you mean `mask`?"),
    ],
)
def test_operators_that_cannot_be(word: str, expected: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        policy(word=word, resources=Resources())
    (problem,) = str(caught.value).splitlines()
    assert problem.startswith(expected)


def test_only_redactions_have_operators() -> None:
    text = POLICY.replace("TAIL", "tag").replace("do: redact, with: WORD", "do: block, with: tag")
    with pytest.raises(PolicyInvalid, match="p.yaml:7:46: `with` goes with `do: redact`"):
        parse(text, "p.yaml")


def test_operators_keep_nothing_unless_they_mask() -> None:
    assert [o.keep for o in (TAG, Fixed("x"), Hash("x", b""), Mask(3))] == [0, 0, 0, 3]
