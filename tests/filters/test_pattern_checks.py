"""Patterns that can take more than linear time are refused, with a mend; others are not."""

from __future__ import annotations

from itertools import product
from time import thread_time

import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from filters.errors import FilterConfigError
from filters.pattern_checks import problem
from filters.patterns import FLAGS, compile_rule
from policies.document import Document
from policies.loader import LIBRARY


@pytest.mark.parametrize(
    ("pattern", "reason", "mend"),
    [
        ("(a+)+", "nested repeats", "repeat once"),
        ("x(?:a*)*y", "nested repeats", "repeat once"),
        (r"\b(?:\w+\s?)+:", "nested repeats", "repeat once"),
        ("x(?:a{1,5})+y", "nested repeats", "repeat once"),
        ("x(?:a?b?)*y", "nested repeats", "repeat once"),
        ("x(?>(?:a+)+b)y", "nested repeats", "repeat once"),
        ("x(?P<n>a+)(?P=n)+b", "nested repeats", "repeat once"),
        ("(a|a)*b", "choices inside a repeat", "exclusive"),
        (r"(\w|\d)+x", "choices inside a repeat", "exclusive"),
        (r"x(?:\p{L}|\w)+ ", "choices inside a repeat", "exclusive"),
        ("(?i)x(?:a|A)+b", "choices inside a repeat", "exclusive"),
        ("x(?:ab|a|b)+c", "choices inside a repeat", "exclusive"),
        (r"\s*\s*x", "two unbounded repeats", r"\s{0,8}"),
        (r".*.*=", "two unbounded repeats", ".{0,200}"),
        (r"x\w*\d*y", "two unbounded repeats", "join them"),
        (r"x\w{1,5000}\w{1,5000}@", "two unbounded repeats", "bound"),
        (r"\w+@", "begins with an unbounded repeat", r"\b\w{1,64}@"),
        (r"\d+\.\d+", "begins with an unbounded repeat", "left boundary"),
        (r"(?:x|\w+)@", "begins with an unbounded repeat", "left boundary"),
        (r"\b[\w.]+@", "begins with an unbounded repeat", "left boundary"),
        (r"^\s+x", "begins with an unbounded repeat", "left boundary"),
        ("(?s)foo.*bar", "can begin again", ".{0,200}"),
        (r"https?://\S+", "can begin again", "bound the repeat"),
        ("foo.{0,10000}bar", "can begin again", "a bound of more than 4,096 counts as none"),
        ("x(?=.*y)", "without a bounded width", ".{0,64}"),
        ("(?<!a+)x", "without a bounded width", ".{0,64}"),
        ("(?<=a{1,2000})x", "wider than 1024", "bound it"),
        (r"\w{1,3000}\w{1,3000}\w{1,3000}@", "takes more than", "bound its repeats"),
    ],
)
def test_bad_patterns_are_refused_with_the_reason_and_a_mend(
    pattern: str, reason: str, mend: str
) -> None:
    with pytest.raises(FilterConfigError) as caught:
        compile_rule("x", pattern, path=("x", 3))
    assert reason in str(caught.value)
    assert mend in str(caught.value)
    assert caught.value.path == ("x", 3)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\b\w{1,64}@",
        r"(?<!\w)\w+@",
        r"(?<![\w.])[\w.]+@",
        r"\b\w+\b",
        r"\bsecret \w+",
        r"\bkey\s*=\s*\w+",
        "ab+",
        "foo.{0,3}bar",
        "foo.{0,4096}bar",
        "(" * 50 + "a" + ")" * 50,
        "x(?:ab|ac|ad)+y",
        "x(?:a,)*b",
        "x(?:a|b?)*z",
        "x(?>a+)+b",
        r"x\s*+\s*+y",
        r"(?<![\w.])[\w.]{1,20}@\w+(?:\.\w+)+",
        "(?P<x>[ab])c(?P=x)",
        "(?i)(?<=straße )x{2,}y",
        r"-----BEGIN [A-Z ]{0,40}-----[\s\S]{0,4000}?-----END",
        r"(?i)\b(?:ignore|forget)\s{1,3}(?:(?:all|the|your)\s{1,3}){0,3}rules?\b",
        r"[[:alpha:]]{3}\h[\p{Lu}--A]",
    ],
)
def test_good_patterns_are_not(pattern: str) -> None:
    compile_rule("x", pattern)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(" * 2000 + "a" + ")" * 2000, "too deep a pattern"),
        ("(?:(?:x{1000}){1000}){1000}", "too large a pattern"),
        (f"x{{0,{'9' * 5000}}}", "not a regular expression"),
    ],
)
def test_what_would_break_the_compiler_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(FilterConfigError, match=reason) as caught:
        compile_rule("x", pattern)
    assert len(str(caught.value)) < 300


def test_all_shipped_patterns_pass() -> None:
    patterns = []
    for path in sorted((LIBRARY / "packs").glob("*.yaml")):
        data = Document(path.read_text(encoding="utf-8"), str(path)).data
        assert isinstance(data, dict)
        for entry in data.get("regex", {}).values():
            for one in entry if isinstance(entry, list) else [entry]:
                source = one["pattern"] if isinstance(one, dict) and "pattern" in one else one
                if isinstance(source, str):
                    patterns.append(source)
    assert len(patterns) >= 10
    for source in patterns:
        compile_rule("x", source)


def test_syntax_of_the_library_alone_is_judged_too() -> None:
    assert "nested" in str(problem(r"(?:(?|(a+)|(b))+c)", FLAGS))
    assert problem(r"(?:\X{1,3}x)", FLAGS) is None


def test_what_is_too_large_to_judge_is_still_run() -> None:
    many = "|".join(f"w{n}" for n in range(1500))
    assert problem(f"(?:{many})", FLAGS) is None
    assert "more than linear time" in str(problem(f"(?:(?:a|aa)+b|{many})", FLAGS))


ATOMS = st.sampled_from(["a", "b", r"\w", r"\d", "[ab]", "[^a]", ".", r"\b", "x", " "])
REPEATS = st.sampled_from(["", "", "", "+", "*", "?", "{1,3}", "{2,}", "+?", "++"])


def grow(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = st.tuples(
        st.sampled_from(["(?:", "(", "(?>"]), st.lists(parts, min_size=1, max_size=3)
    ).map(lambda g: g[0] + "|".join(g[1]) + ")")
    repeated = st.tuples(group, REPEATS).map("".join)
    return st.lists(repeated | parts, min_size=1, max_size=3).map("".join)


PATTERNS = st.recursive(st.tuples(ATOMS, REPEATS).map("".join), grow, max_leaves=6)


def seconds(pattern: regex.Pattern[str], text: str) -> float:
    """Of this thread, the least of three: noise only adds."""
    times = []
    for _ in range(3):
        began = thread_time()
        for _match in pattern.finditer(text, timeout=60):
            pass
        times.append(thread_time() - began)
        if times[-1] < 0.002:
            break
    return min(times)


@settings(max_examples=40, deadline=None)
@given(PATTERNS)
def test_accepted_patterns_take_time_linear_in_the_text(source: str) -> None:
    try:
        rule = compile_rule("x", source)
    except FilterConfigError:
        assume(False)
    # The matcher alone, and as the scan asks it which starts are live: never let match.
    hard = regex.compile(f"{rule.source}(?s:.)(?!)", FLAGS)
    for pattern, pump in product((rule.pattern, hard), ("a", "b", "ab", "a ", "1", "ax", "aab")):
        short, long = ((pump * 8000)[:size] + "\0" for size in (1000, 8000))
        quick, slow = seconds(pattern, short), seconds(pattern, long)
        # A ratio in one run: for eight times the text linear is 8, quadratic 64. Below 50 ms the
        # clock's own noise is too large a part of it.
        assert slow < 0.050 or slow < 40 * quick, (source, pump, quick, slow)
