"""`gardefou screen`: texts in, verdicts out, by the same chain that serves."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from string import whitespace
from typing import Any, BinaryIO

import click

from filters.labelled import decoded
from filters.types import Stage
from gateway.cli.opened import opened
from gateway.cli.options import settings_from, settings_options
from gateway.settings.types import Settings
from policies.examples import STAGES, screened
from policies.types import Verdict


@click.command()
@click.option("--policy", "source", default="default", show_default=True, help="File or name.")
@click.option("--stage", type=click.Choice(list(STAGES)), default="input", show_default=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "lines"]),
    default="jsonl",
    show_default=True,
    help='jsonl: {"text": …} a line. lines: a text a line.',
)
@settings_options("filter", "redaction_key")
@click.argument("file", type=click.File("rb"), default="-")
def screen(
    source: str, stage: str, form: str, file: BinaryIO, config: Path | None, **given: Any
) -> None:
    """Screen the texts in FILE (default: standard input); write a JSON verdict for each line.

    \b
    action    allow, flag, redact, revise or block: the strongest of the rules that answered
    text      as released
    findings  what rules answered, with [start, end) in the text
    scores    the maximum per category, 0 to 1, before thresholds

    What the policy would do in force, also where its mode is `monitor`. A line that is no text, and
    a filter that fails, are errors that name the line; the others are still screened, and the exit
    code is 1.
    """
    settings = settings_from(config, given)
    sys.exit(1 if asyncio.run(_screen(settings, source, STAGES[stage], file, form)) else 0)


async def _screen(settings: Settings, source: str, stage: Stage, file: BinaryIO, form: str) -> bool:
    """Whether a line held no text, or a filter failed."""
    wrong, name = False, getattr(file, "name", "<stdin>")
    async with opened(settings, source) as policy:
        for number, text in _texts(file, form):
            if text is None:
                wrong = True
                what = 'a JSON object with a "text"' if form == "jsonl" else "text"
                click.echo(f"{name}:{number}: expected {what} in UTF-8", err=True)
                continue
            verdict = await screened(policy, stage, text)
            for fault in verdict.faults:
                wrong = True
                click.echo(f"{name}:{number}: `{fault.filter}` failed: {fault.reason}", err=True)
            shown = json.dumps(_shown(verdict), ensure_ascii=False)
            # Half a character of UTF-16 has no UTF-8: as JSON came with it, so it leaves.
            click.echo(shown.encode("utf-8", "backslashreplace"))
    return wrong


def _texts(file: BinaryIO, form: str) -> Iterator[tuple[int, str | None]]:
    """Line numbers with their texts; None for a line that holds none."""
    for number, line in decoded(file):
        if line is None or form == "lines":
            yield number, None if line is None else line.rstrip("\r\n")
            continue
        if not line.strip(whitespace):
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        yield number, text if isinstance(text, str) else None


def _shown(verdict: Verdict) -> dict[str, Any]:
    return {
        "action": verdict.action.word,
        "text": verdict.text,
        "findings": [
            {
                "filter": hit.finding.filter,
                "category": hit.finding.category,
                "start": hit.finding.span.start,
                "end": hit.finding.span.end,
                "score": hit.finding.score,
                "rule": hit.rule,
                "action": hit.action.word,
            }
            for hit in verdict.hits
        ],
        "scores": verdict.scores,
        "rule": verdict.rule,
        "faults": [{"filter": f.filter, "reason": f.reason} for f in verdict.faults],
        "policy_version": verdict.policy_version,
    }
