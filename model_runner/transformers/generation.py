"""One choice, as its reader sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from model_runner.errors import BadRequest, EngineFailed, RunnerError
from model_runner.transformers.codec import Codec, check_text
from model_runner.transformers.engine import Choice, Engine
from model_runner.types import Delta


class LocalGeneration:
    """A `Generation` on the engine thread. Closes itself when nobody holds it any more."""

    def __init__(self, engine: Engine, codec: Codec, choice: Choice) -> None:
        self._engine = engine
        self._codec = codec
        self._choice = choice
        self._read = 0  # offset up to which the reader has the text
        self._finished = False

    async def deltas(self) -> AsyncIterator[Delta]:
        """After a rewind of a finished choice, iterate on, or anew."""
        while not self._finished:
            item = await self._choice.outlet.get()
            if item is None:
                return
            if isinstance(item, RunnerError):
                self._finished = True
                raise item
            self._read += len(item.text)
            self._finished = item.finish_reason is not None
            yield item

    async def score(self, suffix: str, labels: Sequence[str], *, at: int) -> Mapping[str, float]:
        self._check_open()
        if at < 0:
            raise BadRequest("the offset is negative")
        check_text(suffix, "suffix")
        tokens = {label: self._single(label) for label in labels}
        ids = self._codec.extend(suffix) if suffix else []
        sequence = self._choice.sequence
        return await self._engine.call(lambda: sequence.score(ids, tokens, at=at))

    async def rewind(self, to: int, *, note: str | None = None, ban: Sequence[str] = ()) -> None:
        self._check_open()
        if not 0 <= to <= self._read:
            raise BadRequest("the offset lies past the text that was read")
        for part in (note or "", *ban):
            check_text(part, "note")
        ids = self._codec.extend(note) if note else []
        banned = {
            ids[0]
            for text in ban
            for ids in (self._codec.encode(text), self._codec.extend(text))
            if ids
        }
        choice = self._choice

        def reread() -> None:
            self._read, self._finished = to, False

        def work() -> None:
            choice.sequence.rewind(to, note=ids, banned=banned)
            choice.outlet.reset(reread)
            self._engine.resume(choice)

        await self._engine.call(work)

    async def close(self) -> None:
        if not self._choice.closed:
            self._choice.closed = True
            self._choice.outlet.end()
            self._engine.free(self._choice)

    def __del__(self) -> None:
        self._choice.closed = True

    def _check_open(self) -> None:
        if self._choice.closed:
            raise BadRequest("the generation is closed")
        if self._choice.failed:
            raise EngineFailed("the engine failed on this request")

    def _single(self, label: str) -> int:
        check_text(label, "labels")
        ids = self._codec.extend(label) if label else []
        if len(ids) != 1:
            raise BadRequest(f"a label must be one token, this one is {len(ids)}")
        return ids[0]
