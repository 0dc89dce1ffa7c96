"""The texts of one request on their way in: each screened once, and put back as released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from filters.types import Context, Piece, Stage
from gateway.conversation import Part, Place, beside, parts, turns, with_texts
from gateway.errors import PromptBlocked
from gateway.judging import judge_part
from gateway.verdict_cache import VerdictCache
from model_runner.types import GenerateRequest, ModelRunner
from policies.plan import Policy
from policies.screen import StreamScreen
from policies.types import Action, Verdict

OpenScreen = Callable[[Stage, Context], StreamScreen]

#: Stands for what was cut from an earlier turn that a policy blocks.
REMOVED = "[REMOVED]"


@dataclass(slots=True)
class _Text:
    """One text, and where its verdict is: remembered, or with its screen."""

    part: Part
    key: bytes
    known: Verdict | None = None
    screen: StreamScreen | None = None
    blocked: bool = False
    released: str = ""

    async def verdict(self) -> Verdict:
        if self.known is None:
            assert self.screen is not None  # noqa: S101
            self.known = await self.screen.verdict()
        return self.known


class Prompt:
    """Screens a request's texts side by side. Those of earlier turns are looked up first."""

    def __init__(
        self, policy: Policy, open_screen: OpenScreen, cache: VerdictCache, runner: ModelRunner
    ) -> None:
        self._policy = policy
        self._open_screen = open_screen
        self._cache = cache
        self._runner = runner
        self._texts: list[_Text] = []
        self._current = 0

    async def screen(self, request: GenerateRequest) -> GenerateRequest:
        """`request` as the model may read it; once. Raises PromptBlocked."""
        self._current = _current_turn(request)
        self._texts = [self._look_up(request, part) for part in parts(request)]
        await asyncio.gather(*(self._push(text) for text in self._texts))
        changed: dict[Place, str] = {}
        for text in self._texts:
            if text.blocked and self._is_old(text.part):
                text.released = self._mended(text)
            elif text.blocked:
                await self._refuse(text)
            if text.released != text.part.text:
                changed[text.part.path] = text.released
        try:
            return with_texts(request, changed)
        except ValueError:
            # A redaction broke a tool's schema: it cannot be sent, redacted or not.
            await self._refuse(next(t for t in self._texts if t.part.path in changed))

    async def verdicts(self) -> list[tuple[Part, Verdict]]:
        """What the policy said of each text. Waits for filters that only watch."""
        return [(text.part, await text.verdict()) for text in self._texts]

    async def fresh(self) -> list[tuple[Part, Verdict]]:
        """As `verdicts`, of the texts that were not remembered; they are from now on."""
        found = []
        for text in self._texts:
            if text.screen is not None:
                verdict = await text.verdict()
                self._cache.put(text.key, text.part.text, verdict)
                found.append((text.part, verdict))
        return found

    async def aclose(self) -> None:
        for text in self._texts:
            if text.screen is not None:
                await text.screen.aclose()

    def _look_up(self, request: GenerateRequest, part: Part) -> _Text:
        plan = self._policy.plan(part.stage, role=part.role)
        in_messages = part.path[0] == "messages"
        before = turns(request)[: int(part.path[1])] if in_messages else ()
        around = beside(request, part) if plan.reads_conversation else ()
        key = self._cache.key(request.tenant, plan, part, around)
        known = self._cache.get(key, part.text)
        if known is not None:
            return _Text(part, key, known, None, known.action is Action.BLOCK, known.text)
        judge = judge_part(self._runner, request, part)
        context = Context(part.stage, part.role, conversation=before, judge=judge)
        return _Text(part, key, screen=self._open_screen(part.stage, context))

    async def _push(self, text: _Text) -> None:
        if text.screen is not None:
            step = await text.screen.push(Piece(text.part.text), final=True)
            text.blocked, text.released = step.then == "stop", step.release.text

    async def _refuse(self, text: _Text) -> NoReturn:
        verdict = await text.verdict()
        rule = self._policy.rule(verdict.rule or "")
        raise PromptBlocked(text.part.path, verdict, rule.say if rule else {})

    def _is_old(self, part: Part) -> bool:
        """Whether the policy's `history` answers for it, not the rule alone."""
        return (
            self._policy.history != "block"
            and part.path[0] == "messages"
            and int(part.path[1]) < self._current
            and part.role in {"user", "assistant", "tool"}
        )

    def _mended(self, text: _Text) -> str:
        if self._policy.history == "ignore":
            return text.part.text
        if text.part.path[-1] == "arguments":
            return "{}"  # half an argument list is no JSON
        return text.released + REMOVED


def _current_turn(request: GenerateRequest) -> int:
    """Index of the first message of the newest turn: behind the last answer that is not continued.

    Answers that the client sends back are the client's word; nothing tells whether we gave them.
    """
    messages = request.messages or ()
    answers = [n for n, m in enumerate(messages[:-1]) if m.role == "assistant" and not m.tool_calls]
    return answers[-1] + 1 if answers else 0
