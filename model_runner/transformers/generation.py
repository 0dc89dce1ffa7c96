"""One choice, as its reader sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

from model_runner.errors import BadRequest, EngineFailed, RunnerError
from model_runner.transformers.calls import CallReader
from model_runner.transformers.choice import Choice
from model_runner.transformers.codec import Codec, check_text
from model_runner.transformers.engine import Engine
from model_runner.transformers.sequence import Rewind
from model_runner.types import CONTENT, Delta, Place

#: The ids of the prompt with a note put in it; None where it has no messages.
Reread = Callable[[str], list[int] | None]


class LocalGeneration:
    """A `Generation` on the engine thread. Closes itself when nobody holds it any more."""

    def __init__(
        self,
        engine: Engine,
        codec: Codec,
        choice: Choice,
        reread: Reread,
        calls: CallReader | None = None,
    ) -> None:
        self._engine = engine
        self._calls = calls
        self._reread = reread
        self._codec = codec
        self._choice = choice
        self._read = 0  # offset up to which the reader has the text
        self._finished = False
        self._rewinds = 0

    async def deltas(self) -> AsyncIterator[Delta]:
        """After a rewind of a finished choice, iterate on, or anew."""
        while not self._finished:
            item = await self._choice.outlet.get()
            if item is None:
                return
            if isinstance(item, RunnerError):
                self._finished = True
                raise item
            rewinds = self._rewinds
            for delta in (item,) if self._calls is None else self._calls.read(item):
                if delta.channel == CONTENT:
                    self._read += len(delta.text)
                self._finished = delta.finish_reason is not None
                yield delta
                if self._rewinds != rewinds:
                    break  # what else there was is taken back

    async def score(self, suffix: str, labels: Sequence[str], *, at: int) -> Mapping[str, float]:
        self._check_open()
        if at < 0:
            raise BadRequest("the offset is negative")
        check_text(suffix, "suffix")
        tokens = {label: self._single(label) for label in labels}
        ids = self._codec.extend(suffix) if suffix else []
        return await self._engine.score(self._choice, ids, tokens, at)

    async def rewind(
        self,
        to: int,
        *,
        note: str | None = None,
        place: Place = "assistant",
        ban: Sequence[str] = (),
    ) -> None:
        self._check_open()
        if not 0 <= to <= self._read:
            raise BadRequest("the offset lies past the text that was read")
        for part in (note or "", *ban):
            check_text(part, "note")
        prompt = None
        if note and place == "instruction":
            prompt = await asyncio.to_thread(self._reread, note)  # long texts take long to encode
        ids = self._codec.extend(note) if note and prompt is None else []
        banned = {token for text in ban for token in self._first(text)}
        back = Rewind(to, ids, frozenset(banned), prompt)

        def restart() -> None:
            self._choice.outlet.restart()
            self._read, self._finished = to, False
            self._rewinds += 1
            if self._calls is not None:
                self._calls.rewind(to)

        await self._engine.rewind(self._choice, back, restart)

    async def close(self) -> None:
        if not self._choice.closed:
            self._choice.closed = True
            self._choice.outlet.end()
            self._engine.wake()

    def __del__(self) -> None:
        self._choice.closed = True

    def _check_open(self) -> None:
        if self._choice.closed:
            raise BadRequest("the generation is closed")
        if self._choice.failed:
            raise EngineFailed("the engine failed on this request")

    def _first(self, text: str) -> Iterator[int]:
        """The tokens that `text` may begin with, white space left out."""
        for form in (text, text.lstrip(), f" {text.lstrip()}"):
            for ids in (self._codec.encode(form), self._codec.extend(form)) if form.strip() else ():
                yield from [i for i in ids if self._codec.bytes_of(i).strip()][:1]

    def _single(self, label: str) -> int:
        check_text(label, "labels")
        ids = self._codec.extend(label) if label else []
        if len(ids) != 1:
            raise BadRequest(f"a label must be one token, this one is {len(ids)}")
        return ids[0]
