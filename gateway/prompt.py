"""The texts of one request on their way in: each screened once, and put back as released."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

from filters.types import Context, Piece, Stage, Turn
from gateway.conversation import Before, Part, Place, Surroundings, parts, turns, with_texts
from gateway.errors import InvalidBody, PromptBlocked, ScreeningFailed
from gateway.json_texts import screened_json
from gateway.judging import judge_part
from gateway.languages import spoken
from gateway.verdict_cache import VerdictCache
from model_runner.types import GenerateRequest, ModelRunner
from policies.plan import Policy
from policies.screen import StreamScreen
from policies.types import Action, Verdict, highest

OpenScreen = Callable[[Stage, Context], StreamScreen]

#: Texts that are screened at once; others wait, and their filters' time limits with them.
SIDE_BY_SIDE = 8

#: Texts of one request. Each is kept, with its screen, until the request ends.
MOST_TEXTS = 10_000

#: Roles of what is said in turn.
SAID = frozenset({"user", "assistant", "tool"})

#: Stands for what was cut from an earlier turn that a policy blocks.
REMOVED = "[REMOVED]"


@dataclass(slots=True)
class _Text:
    """One text, and where its verdict is: remembered, or with its screen."""

    part: Part
    key: bytes = b""
    known: Verdict | None = None
    screen: StreamScreen | None = None
    asides: list[StreamScreen] = field(default_factory=list)  # of the strings in JSON text
    screened: bool = False  # to its end: else its verdict is of a part
    blocked: bool = False
    released: str = ""

    @property
    def failed(self) -> bool:
        """Blocked for a filter's fault, which is no word on the text."""
        return any(screen.failed for screen in self._screens())

    async def verdict(self) -> Verdict:
        if self.known is None:
            said = [await screen.verdict() for screen in self._screens()]
            self.known = said[0] if len(said) == 1 else _joined(said, self.released)
        return self.known

    async def aclose(self) -> None:
        for screen in self._screens():
            await screen.aclose()

    def _screens(self) -> list[StreamScreen]:
        return [self.screen, *self.asides] if self.screen is not None else []


class Prompt:
    """Screens a request's texts, some side by side. Those that are known are not screened again."""

    def __init__(
        self, policy: Policy, open_screen: OpenScreen, cache: VerdictCache, runner: ModelRunner
    ) -> None:
        self._policy = policy
        self._open_screen = open_screen
        self._cache = cache
        self._runner = runner
        self._texts: list[_Text] = []
        self._strings = 0
        self._current = 0

    async def screen(self, request: GenerateRequest) -> GenerateRequest:
        """`request` as the model may read it; once.

        Raises PromptBlocked, ScreeningFailed, InvalidBody.
        """
        self._current = _current_turn(request)
        self._texts = [_Text(part) for part in parts(request)]
        if len(self._texts) > MOST_TEXTS:
            raise InvalidBody(
                f"the request has {len(self._texts)} texts, and {MOST_TEXTS} are screened at most",
                "messages" if request.messages else None,
            )
        await self._screen_all(request)
        await self._refuse_blocked()
        changed: dict[Place, str] = {}
        for text in self._texts:
            released = self._mended(text) if text.blocked else text.released
            if released != text.part.text:
                changed[text.part.path] = released
        try:
            return with_texts(request, changed)
        except ValueError:
            # A redaction broke a tool's schema: it cannot be sent, redacted or not.
            await self._refuse(next(t for t in self._texts if t.part.path in changed))

    async def verdicts(self) -> list[tuple[Part, Verdict]]:
        """What the policy said of each text. Waits for filters that only watch."""
        return [(text.part, await text.verdict()) for text in self._texts]

    async def news(self) -> list[tuple[Part, Verdict]]:
        """As `verdicts`, of the texts that were not remembered, which are from now on, and of what
        is said now, though it was said before: a block counts whenever it blocks."""
        found = []
        for text in self._texts:  # not all, where it was cut short
            if text.screened:
                verdict = await text.verdict()
                self._cache.put(text.key, text.part.text, verdict)
                found.append((text.part, verdict))
            elif text.known is not None and self._is_new(text.part):
                found.append((text.part, replace(text.known, timings={})))
        return found

    async def aclose(self) -> None:
        for text in self._texts:
            await text.aclose()

    async def _screen_all(self, request: GenerateRequest) -> None:
        said, around = turns(request), Surroundings(request)
        left = iter(self._texts)

        async def some() -> None:
            for text in left:
                if self._is_unknown(text, request, around):
                    text.screen = self._open(text.part, request, said)
                    step = await text.screen.push(Piece(text.part.text), final=True)
                    text.blocked, text.released = step.then == "stop", step.release.text
                    if "\\" in text.part.text and not text.blocked and _is_json(text.part):
                        await self._inside(text, partial(self._open, text.part, request, said))
                    text.screened = True
                await asyncio.sleep(0)  # thousands of short texts must not keep others waiting

        at_once = min(SIDE_BY_SIDE, len(self._texts))
        tasks = [asyncio.create_task(some()) for _ in range(at_once)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _inside(self, text: _Text, opened: Callable[[], StreamScreen]) -> None:
        """Screen what JSON strings say once escapes are undone: no filter finds `\\nIgnore`."""

        async def screened(string: str) -> str:
            as_written = json.dumps(string, ensure_ascii=False)[1:-1] == string
            if as_written and text.released == text.part.text:
                return string  # read already, as it stands in the text
            self._strings += 1
            if self._strings > MOST_TEXTS:
                raise InvalidBody(f"more than {MOST_TEXTS} strings in JSON have escapes", None)
            text.asides.append(screen := opened())
            step = await screen.push(Piece(string), final=True)
            text.blocked = text.blocked or step.then == "stop"
            await asyncio.sleep(0)
            return step.release.text

        shown = await screened_json(text.part.text, text.released, screened)
        text.released = "" if text.blocked else shown

    async def _refuse_blocked(self) -> None:
        """Of what is blocked now, what a rule blocked goes before what a fault did."""
        blocked = [text for text in self._texts if text.blocked]
        for text in blocked:
            if not text.failed and not self._is_old(text.part):
                await self._refuse(text)
        if any(text.failed for text in blocked):
            raise ScreeningFailed("a filter failed, and the prompt goes nowhere unscreened")

    def _is_unknown(self, text: _Text, request: GenerateRequest, around: Surroundings) -> bool:
        """Whether the text has to be screened; else what was said of it is taken over."""
        part = text.part
        plan = self._policy.plan(part.stage, role=part.role)
        beside = around.of(part) if plan.reads_conversation else ()
        text.key = self._cache.key(request.tenant, plan, part, beside)
        text.known = self._cache.get(text.key, part.text)
        if text.known is None:
            return True
        text.blocked, text.released = text.known.action is Action.BLOCK, text.known.text
        return False

    def _open(self, part: Part, request: GenerateRequest, said: Sequence[Turn]) -> StreamScreen:
        plan = self._policy.plan(part.stage, role=part.role)
        reads = plan.reads_conversation and part.path[0] == "messages"
        before = Before(said, int(part.path[1])) if reads else ()
        judge = judge_part(self._runner, request, part)
        return self._open_screen(
            part.stage, Context(part.stage, part.role, conversation=before, judge=judge)
        )

    async def _refuse(self, text: _Text) -> NoReturn:
        verdict = await text.verdict()
        rule = self._policy.rule(verdict.rule or "")
        say = dict(rule.say) if rule else {}
        if say:  # for clients that ask for no language, as most libraries do
            own = spoken(text.part.text, tuple(say))
            say = {own: say[own], **say}
        raise PromptBlocked(text.part.path, verdict, say)

    def _is_new(self, part: Part) -> bool:
        """Whether it is of the newest turn. Instructions and tools come with each."""
        if part.path[0] != "messages":
            return part.path[0] == "prompt"
        return int(part.path[1]) >= self._current and part.role in SAID

    def _is_old(self, part: Part) -> bool:
        """Whether the policy's `history` answers for it, not the rule alone."""
        return (
            self._policy.history != "block"
            and part.path[0] == "messages"
            and int(part.path[1]) < self._current
            and part.role in SAID
        )

    def _mended(self, text: _Text) -> str:
        if self._policy.history == "ignore":
            return text.part.text
        if text.part.path[-1] == "arguments":
            return "{}"  # half an argument list is no JSON
        return text.released + REMOVED


def _is_json(part: Part) -> bool:
    """Whether the model reads JSON there, if it is any."""
    if part.stage == "tool_result":
        return part.text.lstrip()[:1] in ("{", "[")
    return part.path[-1] in {"arguments", "parameters", "tool_choice"}


def _joined(said: Sequence[Verdict], text: str) -> Verdict:
    """One verdict of a text's own and of those on the strings in it; the first of equals counts."""
    strongest = max(said, key=lambda verdict: verdict.action)
    return replace(
        strongest,
        text=text,
        hits=tuple(hit for verdict in said for hit in verdict.hits),
        scores=highest(*(verdict.scores for verdict in said)),
        faults=tuple(fault for verdict in said for fault in verdict.faults),
        timings=said[0].timings,
    )


def _current_turn(request: GenerateRequest) -> int:
    """Index of the first message of the newest turn: behind the last answer that is not continued.

    Answers that the client sends back are the client's word; nothing tells whether we gave them.
    """
    messages = request.messages or ()
    answers = [n for n, m in enumerate(messages[:-1]) if m.role == "assistant" and not m.tool_calls]
    return answers[-1] + 1 if answers else 0
