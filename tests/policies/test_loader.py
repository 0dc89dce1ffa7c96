"""YAML -> Policy: problems say where and what was meant; shipped policies pass their examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.registry import Resources
from policies.document import Document
from policies.errors import PolicyInvalid
from policies.examples import run_examples, screened
from policies.loader import LIBRARY, library, load, parse
from policies.operators import Mask
from policies.types import Action, Steer
from tests.support.filters import WordScorer

GOOD = """\
policy: test
filters:
  pii: {pack: personal-data}
  words: {classifier: words, ms: 50, on_error: allow}
  own: {regex: {x: 'abc', y: [d, e]}}
output:
  - id: contact
    when: {pii: [email, phone], except: ["*@Example.FR"]}
    do: redact
  - id: bad
    when: {words: bad, at: 0.7}
    do: block
    release: hold
tools:
  - {id: own-x, when: {own: x}, do: flag}
"""
WORDS = Resources(classifiers={"words": WordScorer()})


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyInvalid) as caught:
        parse(text, "p.yaml", WORDS)
    return str(caught.value).splitlines()


async def test_a_policy_means_what_it_says() -> None:
    policy = parse(GOOD, "p.yaml", WORDS).policy
    assert (policy.name, policy.mode, policy.overflow) == ("test", "enforce", "block")
    assert policy.links["words"].timeout == 0.05
    assert policy.links["words"].on_error == "allow"
    verdict = await screened(policy, "output", "me@example.fr or me@example.org.")
    assert verdict.text == "me@example.fr or [EMAIL]."
    assert (await screened(policy, "output", "They hit")).rule is None
    verdict = await screened(policy, "output", "They kill. So")
    assert (verdict.action, verdict.rule, verdict.text) == (Action.BLOCK, "bad", "")
    assert policy.rule("bad") is not None
    # Tool calls answer to the rules of output too.
    verdict = await screened(policy, "tool_arguments", '{"to": "me@example.org abc"}')
    assert verdict.text == '{"to": "[EMAIL] abc"}'
    assert [hit.rule for hit in verdict.hits] == ["contact", "own-x"]
    assert (await screened(policy, "input", "me@example.org abc")).hits == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("policy: test", "policy: test\npolcy: x"),
            "p.yaml:2:1: unknown key 'polcy'; did you mean `policy`?",
        ),
        (("do: flag", "do: flaag"), "p.yaml:15:33: 'flaag' is none of"),
        (("at: 0.7", "at: 60"), "p.yaml:11:24: `at` is a number from 0 to 1, not 60"),
        (("at: 0.7", 'at: "0,6"'), "p.yaml:11:24: `at` is a number from 0 to 1, not '0,6'"),
        (("at: 0.7", "at: 50%"), "p.yaml:11:24: `at` is a number from 0 to 1, not '50%'"),
        (("at: 0.7", "at: true"), "p.yaml:11:24: `at` is a number from 0 to 1, not true"),
        (("release: hold", "examples: {hit: [a, 12]}"), "p.yaml:13:25: 12 is a number; write it"),
        (("release: hold", "examples: {hit: {a: 1}}"), "p.yaml:13:22: 1 is a number; write it"),
        (
            ("release: hold", "examples: {pass: {a: b}}"),
            "p.yaml:13:16: `pass` takes text or a list",
        ),
        (
            ("release: hold", "examples: {pass: [yes, true]}"),
            "p.yaml:13:28: true is no text; write",
        ),
        (('["*@Example.FR"]', "[x, 3]"), "p.yaml:8:45: 3 is a number; write it in quotes"),
        (("release: hold", "say: No."), "p.yaml:13:5: `say` is told where a prompt is blocked"),
        (("release: hold", "roles: [user]"), "p.yaml:13:5: `roles` choose messages of a prompt"),
        (("do: flag}", "do: flag, roles: user}"), "p.yaml:15:43: rules of tools read calls"),
        (("do: flag}", "do: flag, say: {}}"), "p.yaml:15:43: in no language; leave it out"),
        (("do: flag}", "do: flag, say: {en: 1}}"), "p.yaml:15:49: 1 is a number; write it in"),
        (("do: flag}", "do: flag, say: 1}"), "p.yaml:15:43: `say` takes text, or language"),
        (
            ("do: flag}", "do: flag, say: {english: hello}}"),
            "p.yaml:15:49: 'english' is no language: write a code, as en, fr or pt-BR",
        ),
        (("{regex: {x: 'abc', y: [d, e]}}", "regex"), "p.yaml:5:3: expected {kind: options}"),
        (("x: 'abc', y", "x: 'abc', any: d, y"), "p.yaml:5:27: `any` is no name"),
        (("pii: {pack", "except: {regex: {x: a}}\n  pii: {pack"), "p.yaml:3:3: `at` and `except`"),
        (("policy: test", "policy: test\nhold: {ms: a}"), "p.yaml:2:8: `ms` is a whole number"),
        (("pii: {pack", "at: {regex: {x: a}}\n  pii: {pack"), "p.yaml:3:3: `at` and `except` are"),
        (("ms: 50", "view: [plain]"), "p.yaml:4:30: unknown key 'view'; did you mean `views`?"),
        (("personal-data}", "[a, b]}"), "p.yaml:3:9: one pack is one filter: give each a name"),
        (("'abc'", f"'({'a' * 100}'"), "p.yaml:5:17: not a regular expression: missing ) at"),
        (("'abc'", "'" + "(" * 2000 + "x" + ")" * 2000 + "'"), "p.yaml:5:17: too deep a pattern"),
        (("'abc'", "'(?:(?:x{1000}){1000}){1000}'"), "p.yaml:5:17: too large a pattern"),
        (("'abc'", "'" + "a" * 100 + "*.*.*'"), "p.yaml:5:17: two unbounded"),
        (("own: x}", "onw: x}"), "p.yaml:15:24: no filter 'onw'; did you mean `own`?"),
        (("own: x}", "own: z}"), "p.yaml:15:24: own has no category 'z'; one of x, y"),
        (("'abc'", "'(abc'"), "p.yaml:5:17: not a regular expression"),
        (("[d, e]", "[d, 'e*']"), "p.yaml:5:34: the pattern matches the empty text"),
        (("{classifier", "{clasifier"), "p.yaml:4:11: unknown kind 'clasifier'; did you mean"),
        (("personal-data}", "personal}"), "p.yaml:3:9: no pack 'personal'; did you mean"),
        (("ms: 50", "ms: fast"), "p.yaml:4:30: `ms` is a whole number"),
        (("id: bad", "id: contact"), "p.yaml:10:5: the id 'contact' stands twice"),
        (("id: bad", "id: Bad Id"), "p.yaml:10:5: 'Bad Id': names are lower-case"),
        (("do: redact", "do: revise"), "p.yaml:9:5: `revise` needs an engine"),
        (("{words: bad, at", "{words: bad, own: x, at"), "p.yaml:11:5: one rule asks one filter"),
        (("words: bad", "words: 3"), "p.yaml:11:5: `words: …` takes a category"),
        (
            ("{words: bad, at", "{words: bad, exept: x, at"),
            "p.yaml:11:5: one rule asks one filter; fo",
        ),
        (
            ("policy: test", "policy: test\n\tx: 1"),
            "p.yaml:2:1: a tab; YAML is indented with spaces",
        ),
        (("policy: test", "policy: test\n---\nx: 1"), "p.yaml:2:1: a second document begins here"),
        (("policy: test", 'policy: test\nx: "\\d"'), "p.yaml:2:6: a backslash in double quotes"),
        (
            ("policy: test", "policy: test\nx: Non : pas"),
            "p.yaml:2:8: text in which a blank follows a colon stands in quotes",
        ),
        (
            ("policy: test", "policy: test\nx: {fr: Non : pas}"),
            "p.yaml:2:13: text in which a blank",
        ),
        (("policy: test", "policy: test\n<<: 1"), "p.yaml:2:1: YAML 1.2 merges nothing"),
        (("policy: test", "policy: test\nx: \x08"), "p.yaml:2:4: unacceptable character"),
        (
            ("    do: redact", "    do: redact\n    examples: {hit: [Voici : x]}"),
            "p.yaml:10:22: `hit` takes text or a list of texts; text in which a blank",
        ),
        (("    release: hold", "    do: flag"), "p.yaml:13:5: 'do' stands twice"),
        (("  - id: contact", "  - id: [contact"), "p.yaml:8:9: "),
        (("policy: test", "policy: test\nx: &x [*x]"), "p.yaml:2:4: too large or too deep"),
        (("policy: test", f"policy: test\na: {'[' * 500}{']' * 500}"), "p.yaml:2:36: too deep"),
        (("policy: test", f"policy: test\nx: {'1' * 5000}"), "p.yaml:2:4: too long a number"),
        (("on_error: allow", "on_error: yes"), "p.yaml:4:38: 'yes' is none of"),
    ],
)
def test_problems_say_where_and_what_was_meant(change: tuple[str, str], expected: str) -> None:
    assert change[0] in GOOD
    found = problems(GOOD.replace(*change))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_all_problems_come_at_once() -> None:
    text = GOOD.replace("own: x}", "onw: x}").replace("'abc'", "'(abc'")
    assert [p.split(": ")[0] for p in problems(text)] == ["p.yaml:5:17", "p.yaml:15:24"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid, match="No such file.*default, patterns, strict"):
        load(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("policy: test\n# é\n".encode("latin-1"))
    for path, message in ((latin, "2:3: not UTF-8"), (tmp_path, "1:1: Is a directory")):
        with pytest.raises(PolicyInvalid) as caught:
            load(path)
        assert str(caught.value) == f"{path}:{message}"
    for text in ("", "# nothing yet\n"):
        assert problems(text) == [
            "p.yaml:1:1: the file is empty; a policy begins with `policy: NAME`"
        ]
    assert problems("policy: a\nfilters: [a]") == ["p.yaml:2:1: expected {name: {kind: options}}"]


def test_of_a_long_pattern_the_beginning_is_quoted() -> None:
    (found,) = problems(GOOD.replace("'abc'", "'x*|" + "|".join(["word"] * 20_000) + "'"))
    assert len(found) < 200
    assert "'x*|word|word" in found


@given(
    st.text(max_size=80) | st.from_regex(r"(policy|filters|output): [\[{&*!|>'\"\w:, -]{0,20}\n")
)
def test_any_text_loads_or_is_refused(text: str) -> None:
    try:
        parse(text, "p.yaml")
    except PolicyInvalid as error:
        assert all(problem.line >= 1 for problem in error.problems)


def test_yes_and_no_are_words() -> None:
    data = Document("a: yes\nb: no\nc: on\nd: true\ne: 1e3\nf: 012\ng: ~\nh: '1'", "x").data
    assert data == dict(a="yes", b="no", c="on", d=True, e=1e3, f=12, g=None, h="1")


def test_an_edit_changes_the_version() -> None:
    versions = {parse(text, "p", WORDS).policy.version for text in (GOOD, GOOD, GOOD + "\n")}
    assert len(versions) == 2


@pytest.mark.parametrize("name", sorted(library()))
async def test_shipped_policies_pass_their_examples(name: str) -> None:
    outcomes = [outcome async for outcome in run_examples(load(name), cuts=25)]
    assert len(outcomes) > 10
    assert [o.problem for o in outcomes if o.problem or o.skipped] == []


async def test_examples_that_do_not_hold_are_found() -> None:
    loaded = parse(
        """\
policy: test
filters: {own: {regex: {x: 'ab+'}}}
output:
  - id: one
    when: {own: x}
    do: redact
    examples:
      hit: {"abb c": "[X] d", "abc": "[X]c"}
      pass: [no, tabs]
  - {id: two, when: {own: x}, do: flag}
""",
        "p.yaml",
    )
    found = [o.problem async for o in run_examples(loaded) if o.problem]
    assert found == [
        "p.yaml:8:13: `one` releases '[X] c', not '[X] d'",
        "p.yaml:9:18: `one` hits 'tabs' (found: x 1.00)",
        "p.yaml:10:5: `two` has no `hit` examples",
    ]


@pytest.mark.parametrize("path", sorted((LIBRARY / "packs").glob("*.yaml")), ids=lambda p: p.stem)
async def test_packs_find_what_their_examples_say(path: Path) -> None:
    data = Document(path.read_text(encoding="utf-8"), str(path)).data
    assert isinstance(data, dict)
    policy = parse(
        f"policy: t\nfilters: {{p: {{pack: {path.stem}}}}}\n"
        "output: [{id: all, when: {p: any}, do: flag}]",
        "t",
    ).policy
    kind = next(key for key in data if key != "examples")
    assert set(data["examples"]) == set(data[kind])
    for category, examples in data["examples"].items():
        for text in examples["hit"]:
            verdict = await screened(policy, "output", text)
            assert category in {f.category for f in verdict.findings}, text
        for text in examples["pass"]:
            verdict = await screened(policy, "output", text)
            assert category not in {f.category for f in verdict.findings}, text


REVISE = """\
policy: kind
filters: {words: {regex: {bad: bad, worse: worse}}}
input:
  - {id: in, when: {words: bad}, do: block}
output:
  - id: out
    when: {words: bad}
    do: revise
    steer: {en: Be kind., fr: Sois gentil.}
    place: assistant
    tries: 3
    then: redact
    with: {mask: 2}
tools:
  - {id: tool, when: {words: worse}, do: redact}
"""


def test_a_rule_that_revises() -> None:
    loaded = parse(REVISE, "p.yaml", Resources(rewind=True)).policy
    (rule,) = loaded.stages["output"]
    note = {"en": "Be kind.", "fr": "Sois gentil."}
    assert rule.steer == Steer(note, "assistant", 3, Action.REDACT)
    assert rule.action is Action.REVISE
    # A call leaves whole: there is nothing to write anew.
    assert [r.action for r in loaded.stages["tool_arguments"]] == [Action.REDACT, Action.REDACT]
    assert loaded.stages["tool_arguments"][1].operator == Mask(2)


@pytest.mark.parametrize(
    ("change", "expected", "can"),
    [
        (
            ("do: block", "do: revise"),
            "p.yaml:4:34: `revise` is for answers, not for prompts",
            True,
        ),
        (
            ("worse}, do: redact", "worse}, do: revise"),
            "p.yaml:15:38: `revise` is for answers",
            True,
        ),
        (("do: revise", "do: block"), "p.yaml:9:5: `steer` goes with `do: revise`", True),
        (("tries: 3", "tries: 9"), "p.yaml:11:5: `tries` is at most 8, not 9", True),
        (("then: redact", "then: allow"), "p.yaml:12:5: 'allow' is none of", True),
        (("then: redact", "then: block"), "p.yaml:13:5: `with` goes with `do: redact`", True),
        (("place: assistant", "place: system"), "p.yaml:10:5: 'system' is none of", True),
        (("policy: kind", "policy: kind"), "p.yaml:8:5: `revise` needs an engine that can", False),
    ],
)
def test_what_a_rule_that_revises_needs(change: tuple[str, str], expected: str, can: bool) -> None:
    assert change[0] in REVISE
    with pytest.raises(PolicyInvalid) as caught:
        parse(REVISE.replace(*change, 1), "p.yaml", Resources(rewind=can))
    assert str(caught.value.problems[0]).startswith(expected)
