"""What the documentation says is so: links, commands, flags, tables, policies, code."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from filters.registry import Resources
from filters.validators import VALIDATORS
from gateway.cli import main
from gateway.resources import make_resources
from gateway.settings.read import read_settings
from gateway.settings.types import Settings
from policies.examples import run_examples
from policies.loader import load, parse
from policies.schema import Hold, PolicySpec, RuleSpec
from tests.support.docs import DOCS, TABLES, written

ROOT = DOCS.parent
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
#: Made by a training that takes hours; comes with the model.
NOT_YET = {"model_runner/demo/MODEL_CARD.md"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [body for said, body in found if said == language]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        name = str(target.relative_to(ROOT))
        assert target.exists() or name in NOT_YET, link
        assert not anchor or anchor in anchors(target), link


def commands(text: str) -> Iterator[list[str]]:
    """The `gardefou …` command lines in shell blocks and in the running text."""
    shell = "".join(body for language, body in _FENCE.findall(text) if language == "sh")
    for line in shell.replace("\\\n", " ").splitlines():
        for part in line.split("|"):
            if not part.lstrip().startswith(("gardefou ", "make ")):
                continue
            words = shlex.split(part, comments=True)
            words = words[: words.index(">")] if ">" in words else words
            if words[:1] == ["gardefou"]:
                yield words[1:]
            if words[:2] == ["make", "serve"] and words[2:]:
                yield ["serve", *shlex.split(words[2].removeprefix("ARGS="))]
    for said in re.findall(r"`gardefou ([^`]*)`", _FENCE.sub("", text)):
        yield [word for word in said.split() if word != "…"]


def understood(command: click.Command, words: list[str], path: str = "gardefou") -> None:
    """Fail if click knows no such command, option or choice. Runs nothing."""
    context = click.Context(command, info_name=path)
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        for name in words[0].split("|"):  # `policy lint|test`
            inner = command.get_command(context, name)
            assert inner is not None, f"{path} has no command {name}"
            understood(inner, words[1:], f"{path} {name}")
        return
    given, _, order = command.make_parser(context).parse_args(args=list(words))
    for parameter in order:
        if isinstance(parameter.type, click.Choice):
            parameter.type.convert(given[parameter.name or ""], parameter, context)


@every_page
def test_commands_are_understood(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        understood(main, words)


@pytest.mark.parametrize(
    "words", [["serve", "--prot", "1"], ["polcy"], ["keys", "add", "a", "--role", "king"]]
)
def test_what_is_not_understood_is_seen(words: list[str]) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        understood(main, words)


@every_page
def test_flags_exist(page: Path) -> None:
    """Flags named alone, as `--max-tokens`, are flags of some command of ours."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    known = {flag for command in every_command(main) for flag in flags(command)}
    said = re.findall(r"`(--[a-z-]+)", text)
    assert set(said) <= known


def every_command(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from every_command(inner)


def flags(command: click.Command) -> set[str]:
    options = [p for p in command.params if isinstance(p, click.Option)]
    return {flag for option in options for flag in option.opts}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_tables_are_those_of_the_code(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == written(text), "run scripts/docs"


def test_every_table_stands_somewhere() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert {name for name in TABLES if f"<!-- {name} -->" not in text} == set()


def test_every_check_is_named() -> None:
    text = (DOCS / "writing-a-policy.md").read_text(encoding="utf-8")
    assert [name for name in VALIDATORS if f"`{name}`" not in text] == []


def test_every_key_of_a_policy_is_explained() -> None:
    text = (DOCS / "writing-a-policy.md").read_text(encoding="utf-8")
    keys = [field.alias or name for name, field in PolicySpec.model_fields.items()]
    keys.remove("hold")
    keys += [f"hold.{name}" for name in Hold.model_fields]
    keys += [field.alias or name for name, field in RuleSpec.model_fields.items()]
    assert [key for key in keys if f"| `{key}`" not in text] == []
    actions = RuleSpec.model_fields["do"].annotation.__args__  # type: ignore[union-attr]
    assert [action for action in actions if f"| `{action}`" not in text] == []
    default = Hold()
    for name in Hold.model_fields:
        value = getattr(default, name)
        assert re.search(rf"^\| `hold\.{name}` .*\| `?{value}`? \|$", text, re.MULTILINE)


class Toxicity:
    """In the place of the one that ships: what pages show is how a policy is written."""

    categories = ("toxicity",)

    async def score(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        return [{"toxicity": 0.9 if "idiot" in text else 0.1} for text in texts]


def policies() -> Iterator[Any]:
    for page in PAGES:
        for number, text in enumerate(blocks(page, "yaml")):
            yield pytest.param(page, text, id=f"{page.name}:{number}")


@pytest.mark.parametrize(("page", "text"), list(policies()))
async def test_policies_load_and_their_examples_hold(page: Path, text: str, tmp_path: Path) -> None:
    code = tmp_path / "filters_of_the_page.py"
    code.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    resources = Resources(
        classifiers={"builtin": Toxicity()},
        judge=True,
        rewind=True,
        kinds={"shouting": f"{code}:Shouting"},
    )
    loaded = parse(text, page.name, resources)
    outcomes = [outcome async for outcome in run_examples(loaded, cuts=25)]
    assert outcomes
    assert [outcome.problem for outcome in outcomes if outcome.problem] == []


def test_the_first_policy_of_the_page_loads_as_it_stands(tmp_path: Path) -> None:
    """Copied literally, with no settings: as `gardefou policy lint` loads it."""
    file = tmp_path / "support-fr.yaml"
    file.write_text(blocks(DOCS / "writing-a-policy.md", "yaml")[0], encoding="utf-8")
    assert load(file, make_resources(Settings(), judge=True)).policy.name == "support-fr"


async def test_the_page_s_filter_policy_fits_the_example() -> None:
    (text,) = blocks(DOCS / "writing-a-filter.md", "yaml")
    kinds = {"shouting": f"{ROOT / 'examples' / 'shouting_filter.py'}:Shouting"}
    outcomes = run_examples(parse(text, "loud", Resources(kinds=kinds)), cuts=25)
    assert [o.problem async for o in outcomes if o.problem] == []


def test_settings_files_load(tmp_path: Path) -> None:
    text = "\n".join(blocks(DOCS / "writing-a-policy.md", "toml"))
    file = tmp_path / "gardefou.toml"
    file.write_text(text, encoding="utf-8")
    assert isinstance(read_settings({}, file), Settings)
    assert read_settings({}, file).classifiers


def defined() -> set[str]:
    """Classes, functions, `Class.method`s and fields of the four packages."""
    names: set[str] = set()
    for package in ("gateway", "policies", "filters", "model_runner"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(node.name)
                if isinstance(node, ast.ClassDef):
                    names |= {f"{node.name}.{name}" for name in methods(node)}
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    names.add(node.target.id)
    return names


def methods(node: ast.ClassDef) -> set[str]:
    return {n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_request_s_life_names_what_there_is() -> None:
    text = (DOCS / "structure.md").read_text(encoding="utf-8")
    said = set(re.findall(r"`(_?[A-Z]\w+(?:\.\w+)?|[a-z]+_[a-z]+)`", text))
    assert len(said) > 15
    assert said - defined() - {"Host", "Origin"} == set()


@every_page
def test_python_compiles(page: Path) -> None:
    for number, code in enumerate(blocks(page, "python")):
        compile(code, f"{page.name}:{number}", "exec")


def test_the_filters_that_the_page_writes_work() -> None:
    """Runs the page's own tests on the page's own filters."""
    names: dict[str, Any] = {}
    for code in blocks(DOCS / "writing-a-filter.md", "python"):
        exec(compile(code, "writing-a-filter.md", "exec"), names)  # noqa: S102
    tests = {name: test for name, test in names.items() if name.startswith("test_")}
    assert tests
    for test in tests.values():
        test()


def test_readme_says_the_same_in_both_languages() -> None:
    """The French page is no summary: as many sections, commands and examples."""
    english, french = ROOT / "README.md", ROOT / "README.fr.md"
    for language in ("sh", "python", "yaml"):
        assert len(blocks(english, language)) == len(blocks(french, language))
    heads = [len(re.findall(r"^#", page.read_text(), re.MULTILINE)) for page in (english, french)]
    assert heads[0] == heads[1]
