"""One choice of a request, as the engine thread sees it: its tokens, its text, its end."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from functools import cached_property

from model_runner.errors import BadRequest
from model_runner.transformers import prefix, sampling
from model_runner.transformers.codec import Codec
from model_runner.transformers.stops import StopScanner
from model_runner.transformers.text import Detokenizer
from model_runner.types import (
    Alternative,
    Delta,
    FinishReason,
    Sampling,
    TokenLogprob,
    Usage,
)


@dataclass(frozen=True)
class Prompt:
    """What the choices of a request answer. primer: ids of the text that goes on, if one does."""

    ids: Ids[int]
    primer: Ids[int] = ()

    @cached_property
    def array(self) -> prefix.Ids:
        return prefix.array(self.ids)

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Spec:
    """What a choice is asked to be. `index`: which of the request's choices; `seed`: its own."""

    sampling: Sampling
    max_tokens: int
    seed: int
    index: int


@dataclass(frozen=True, slots=True)
class Rewind:
    """See `Generation.rewind`. note: ids behind the kept text. prompt: in place of the head."""

    to: int
    note: Ids[int] = ()
    banned: frozenset[int] = frozenset()
    prompt: Ids[int] | None = None


@dataclass(slots=True)
class Token:
    """A token of the text. `position`: how many ids of the sequence end with it.

    `end`: offset in the text up to which its code points go; None while bytes are missing.
    `cut`: the same, save that a token that ends inside a code point has here the offset at which
    the text is next whole, since tokens cannot be cut before.
    """

    id: int
    position: int
    end: int | None = None
    cut: int = sys.maxsize
    logprob: TokenLogprob | None = None
    probed: Mapping[str, float] | None = None


class Sequence:
    """Lives on the engine thread; nothing here is safe to call from another.

    ids: all that the model reads: the prompt, what was written, notes. head: those of them that
    stand before the answer: the prompt, until a rewind puts a note in it.
    """

    def __init__(self, codec: Codec, prompt: Prompt, spec: Spec, *, positions: int) -> None:
        self.prompt = prompt
        self.spec = spec
        self.ids = list(prompt.ids)
        self.head = prompt.array
        self.finish_reason: FinishReason | None = None
        self._codec = codec
        self._positions = positions
        self._tokens: list[Token] = []
        self._unsent = 0  # index of the first token that no delta has carried
        self._text = ""
        self._sent = 0  # offset up to which deltas have carried the text ...
        self._released = 0  # ... and may carry it: past it, a stop string may have begun
        self._detokenizer = Detokenizer(codec, prompt.primer)
        self._stops = StopScanner(spec.sampling.stop)
        self._banned: frozenset[int] = frozenset()  # until there is more than white space ...
        self._bans_from = 0  # ... in the text from here on
        self._drawn: frozenset[int] = frozenset()  # there, in tries that were taken back
        self._sampled = 0
        self._probes: tuple[str, ...] = ()  # names

    # writing

    @property
    def full(self) -> bool:
        """Whether no token may follow."""
        return len(self._tokens) >= self.spec.max_tokens or len(self.ids) >= self._positions

    def draw(self) -> sampling.Draw:
        """How its next token is to be chosen."""
        spec = self.spec
        written: tuple[int, ...] = ()
        if sampling.remembers(spec.sampling):
            written = tuple(token.id for token in self._tokens)
        return sampling.Draw(
            spec.sampling,
            seed=spec.seed,
            choice=spec.index,
            position=len(self._tokens),
            read=self.prompt.ids,
            written=written,
            banned=self._banned,
        )

    def write(
        self,
        token: int,
        logprob: sampling.Logprob | None,
        *,
        end: bool,
        probed: Mapping[str, float] | None = None,
    ) -> Delta | None:
        """Take its next token; the delta, if there is anything to tell. end: it ends the answer.

        probed: what each probe says of it.
        """
        self._sampled += 1
        if end:
            return self.finish("stop")
        self.ids.append(token)
        told = self._logprob(token, logprob)
        self._tokens.append(Token(token, len(self.ids), logprob=told, probed=probed))
        self._probes = tuple(probed or ())
        self._grow(self._detokenizer.push(token))
        if self._stops.stopped:
            return self.finish("stop")
        return self.finish("length") if self.full else self._delta()

    def _logprob(self, token: int, found: sampling.Logprob | None) -> TokenLogprob | None:
        if found is None:
            return None
        own = self._alternative(token, found[0])
        alternatives = tuple(self._alternative(i, value) for i, value in found[1])
        return TokenLogprob(own.text, own.logprob, own.bytes, alternatives)

    def _alternative(self, token: int, logprob: float) -> Alternative:
        raw = self._codec.bytes_of(token)
        name = self._codec.decoder.id_to_token(token) if token in self._codec.special else None
        return Alternative(name or raw.decode("utf-8", "replace"), logprob, raw)

    def _grow(self, text: str) -> None:
        """Text that the last token gave; all tokens now end somewhere unless bytes are missing."""
        self._text += text
        if self._banned and self._text[self._bans_from :].strip():
            self._banned = frozenset()
        self._released += len(self._stops.push(text))
        if not self._detokenizer.pending:
            self._settle()

    def _settle(self) -> None:
        first = len(self._tokens)
        while first and self._tokens[first - 1].end is None:
            first -= 1
        begin = self._tokens[first - 1].cut if first else 0
        raw = b""
        for token in self._tokens[first:]:
            raw += self._codec.bytes_of(token.id)
            begun = sum(byte & 0xC0 != 0x80 for byte in raw)
            token.end, token.cut = min(begin + begun, len(self._text)), len(self._text)
        if self._tokens:
            self._tokens[-1].end = len(self._text)

    def _delta(self) -> Delta | None:
        first, text = self._unsent, self._text[self._sent : self._released]
        while self._unsent < len(self._tokens) and self._tokens[self._unsent].cut <= self._released:
            self._unsent += 1
        self._sent = self._released
        delta = self._report(text, self._tokens[first : self._unsent])
        return delta if text or delta.token_ids else None

    def finish(self, reason: FinishReason) -> Delta:
        """End it; the last delta."""
        self._grow(self._detokenizer.flush())
        self._settle()
        if self._stops.stopped:
            reason = "stop"
            # tokens that lie wholly in what was cut off are no part of the answer
            keep = 1 + bisect_left(self._tokens, self._released, key=_cut)
            del self._tokens[keep:]
        self._released += len(self._stops.flush())
        first, text = self._unsent, self._text[self._sent : self._released]
        self._text = self._text[: self._released]
        self._unsent, self._sent = len(self._tokens), self._released
        self.finish_reason = reason
        usage = Usage(self.prompt.length, self._sampled)
        return replace(self._report(text, self._tokens[first:]), finish_reason=reason, usage=usage)

    def _report(self, text: str, tokens: list[Token]) -> Delta:
        return Delta(
            text=text,
            token_ids=tuple(token.id for token in tokens),
            token_ends=tuple(token.end or 0 for token in tokens),
            logprobs=tuple(token.logprob for token in tokens if token.logprob is not None),
            signals=self._signals(self._sent - len(text), tokens) if self._probes else None,
        )

    def _signals(self, begin: int, tokens: list[Token]) -> Mapping[str, object]:
        """For each probe its scores of `tokens`, each with its end in the text from `begin` on."""
        ends = [max(0, (token.end or 0) - begin) for token in tokens]
        scores = {
            name: tuple(
                (end, token.probed[name])
                for end, token in zip(ends, tokens, strict=True)
                if token.probed is not None
            )
            for name in self._probes
        }
        return {"probes": scores}

    # looking aside, and going back

    def aside(self, at: int, suffix: Ids[int]) -> tuple[int, list[int]]:
        """Where `suffix` behind text[:at] begins in `ids`, and what is to be read there.

        At least one id: without a suffix, the last before it once more. Raises BadRequest.
        """
        position, piece = self._cut(at)
        ids = [*piece, *suffix]
        if position + len(ids) > self._positions:
            raise BadRequest("text and suffix are longer than the model can read")
        return (position, ids) if ids else (position - 1, [self.ids[position - 1]])

    def rewind(self, back: Rewind) -> int:
        """See `Generation.rewind`. Returns how many of the ids stay as they are.

        Raises BadRequest.
        """
        position, piece = self._cut(back.to)
        ids = [*self.ids[:position], *piece, *back.note]
        longer = 0
        if back.prompt is not None:
            longer = len(back.prompt) - len(self.head)
            ids[: len(self.head)] = back.prompt
        if len(ids) >= self._positions:
            raise BadRequest("text and note are longer than the model can read")
        kept = prefix.common(prefix.array(self.ids), prefix.array(ids))
        if back.to != self._bans_from:
            self._drawn = frozenset()
        if back.banned and not piece:
            self._drawn |= self._first_drawn(back.to)
        if back.prompt is not None:
            self.head = prefix.array(back.prompt)
        del self._tokens[bisect_right(self._tokens, back.to, key=_cut) :]
        for kept_token in self._tokens:
            kept_token.position += longer
        for number, token in enumerate(piece, start=position + longer + 1):
            self._tokens.append(Token(token, number, end=back.to, cut=back.to))
        self.ids = ids
        self._unsent = len(self._tokens)
        self._text = self._text[: back.to]
        self._sent = self._released = back.to
        self._detokenizer = Detokenizer(
            self._codec, [token.id for token in self._tokens] or self.prompt.primer
        )
        self._stops = StopScanner(self.spec.sampling.stop, seen=self._text)
        self._banned, self._bans_from = back.banned and back.banned | self._drawn, back.to
        self.finish_reason = None
        return kept

    def _first_drawn(self, at: int) -> frozenset[int]:
        """The token that began the text at `at`, white space left out.

        A tokenizer may begin the same text with another one than the model did: bans by text alone
        would let it write that text again.
        """
        for token in self._tokens[bisect_right(self._tokens, at, key=_cut) :]:
            if self._codec.bytes_of(token.id).strip():
                return frozenset({token.id})
        return frozenset()

    def _cut(self, at: int) -> tuple[int, list[int]]:
        """Where to cut the context for text[:at], and the ids of a split token's first part."""
        if at > len(self._text):
            raise BadRequest("the offset lies past the text")
        kept = bisect_right(self._tokens, at, key=_cut)
        position, start = len(self.head), 0
        if kept:
            position, start = self._tokens[kept - 1].position, self._tokens[kept - 1].cut
        if start == at:
            return position, []
        begins = start == 0 and not self.prompt.primer
        encode = self._codec.encode if begins else self._codec.extend
        return position, encode(self._text[start:at])


def _cut(token: Token) -> int:
    return token.cut
