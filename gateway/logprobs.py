"""Log probabilities: held back until the text that they belong to is out, whole and unchanged.

What the engine might have written instead is no text that a screen has read; it is read here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import replace

from filters.types import Context, Piece
from model_runner.types import Delta, TokenLogprob
from policies.plan import StagePlan
from policies.screen import StreamScreen
from policies.types import Release


class Alternatives:
    """Which alternatives may be told: those that no pattern and no list acts on, read alone.

    Classifiers and critiques are not asked: they judge sentences, not tokens. A vocabulary is soon
    known by heart: of the `limit` tokens asked about last, what was said is remembered.
    """

    def __init__(self, limit: int = 200_000) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[str, str, str], bool] = OrderedDict()

    async def shown(self, plan: StagePlan, token: TokenLogprob) -> TokenLogprob:
        """The token without alternatives that may not be told; itself it has been released.

        plan: `StagePlan.at_once`.
        """
        kept = [
            one
            for one in token.top
            if one.bytes == token.bytes or await self._passes(plan, one.text)
        ]
        return token if len(kept) == len(token.top) else replace(token, top=tuple(kept))

    async def _passes(self, plan: StagePlan, text: str) -> bool:
        key = plan.policy, plan.version, text
        if key not in self._known:
            screen = StreamScreen(plan, Context("output", "assistant", fragment=True))
            screen.give_up()
            step = await screen.push(Piece(text), final=True)
            await screen.aclose()
            self._known[key] = step.then != "stop" and step.release.text == text
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


BEHIND = 4096  # characters that a token may lag behind the text that it is of


class HeldLogprobs:
    """The log probabilities of one channel, in units that have text of their own.

    A token that ends in the middle of a code point leaves with the token that completes it. A token
    that says what the released text does not say never leaves, whatever place its engine gives it.
    """

    def __init__(self) -> None:
        self._units: deque[tuple[int, int, list[TokenLogprob]]] = deque()
        self._open: list[TokenLogprob] = []
        self._end = 0  # where the last unit ended
        self._cut = 0  # where the last placeholder's original text ended
        self._moves: deque[tuple[int, int]] = deque()  # from where on placeholders move text
        self._moved = 0
        self._seen = ""  # the end of what was released

    def add(self, delta: Delta) -> None:
        if not delta.logprobs:
            return  # ends of tokens that nobody asked about
        for token, end in zip(delta.logprobs, delta.token_ends, strict=True):
            self._open.append(token)
            if end > self._end:
                self._units.append((self._end, end, self._open))
                self._open, self._end = [], end

    def rewind(self, to: int) -> None:
        """The text from `to` on is written anew: what was held belongs to none any more."""
        self._units.clear()
        self._open, self._end = [], to

    def take(self, release: Release) -> list[tuple[TokenLogprob, int]]:
        """Those whose text has left by now, each with the offset in the released text at which its
        own begins; those that a placeholder touches are dropped.
        """
        out: list[tuple[TokenLogprob, int]] = []
        if self._units:
            seen = (self._seen + release.text).encode("utf-8", "surrogatepass")
        self._seen = (self._seen + release.text)[-BEHIND:]
        cuts = list(release.cuts)
        for cut, placeholder in zip(cuts, release.placeholders, strict=True):
            self._moves.append((cut.end, len(placeholder) - len(cut)))
        while self._units and self._units[0][1] <= release.end:
            start, end, tokens = self._units.popleft()
            while self._moves and self._moves[0][0] <= start:
                self._moved += self._moves.popleft()[1]
            if start >= self._cut and not any(c.start < end and start < c.end for c in cuts):
                out += [(t, start + self._moved) for t in tokens if t.bytes.strip(b" ") in seen]
        if cuts:
            self._cut = cuts[-1].end
        return out
