"""One streamed answer: its bytes read once, its choices handed to generations."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from model_runner.errors import BadRequest, EngineFailed, Unsupported
from model_runner.openai.choice import ChoiceReader
from model_runner.openai.chunks import DONE, Chunk, ChunkUsage, read_chunk
from model_runner.openai.scoring import Scorer
from model_runner.openai.sse import Parser, TooLong
from model_runner.types import Delta, Place, Usage

QUEUED: Final = 64  # deltas that wait, of all choices, before we read no further
UNREAD: Final = 4 * 1024 * 1024  # size that one choice may leave unread for another's sake
DRAIN: Final = 1.0  # seconds for the connection to end, so that it can be used again


@dataclass(frozen=True, slots=True)
class Limits:
    """idle: seconds between two chunks. total: seconds for the whole answer, None for no limit."""

    idle: float
    total: float | None


class UpstreamGeneration:
    """One choice. What it has received and nobody has taken yet waits in its queue."""

    def __init__(self, stream: Stream, reader: ChoiceReader) -> None:
        self.reader = reader
        self.queue: deque[Delta] = deque()
        self._unread = 0
        self.ended = False  # nothing more will be queued
        self.closed = False
        self.waiting = False
        self._failure: str | None = None
        self._stream = stream
        self._ready = asyncio.Event()
        self._iterated = False

    async def deltas(self) -> AsyncIterator[Delta]:
        if self._iterated:
            raise RuntimeError("a generation is iterated once")
        self._iterated = True
        while not self.closed:
            if self.queue:
                delta = self.queue.popleft()
                self._unread -= _size(delta)
                self._stream.wanted.set()
                yield delta
            elif self._failure is not None:
                raise EngineFailed(self._failure)
            elif self.ended:
                return
            else:
                await self._wait()

    async def score(self, suffix: str, labels: Sequence[str], *, at: int) -> Mapping[str, float]:
        written = self.reader.written
        if self._stream.scorer is None:
            raise Unsupported("this engine does not score")
        if not 0 <= at <= written.length:
            raise BadRequest("the text to score ends where there is none")
        prompt = await self._stream.prompt_ids()
        ids, tail = written.cut(at)
        salt = self._stream.salt
        return await self._stream.scorer.score([*prompt, *ids], tail, suffix, labels, salt=salt)

    async def rewind(
        self,
        to: int,  # noqa: ARG002
        *,
        note: str | None = None,  # noqa: ARG002
        place: Place = "assistant",  # noqa: ARG002
        ban: Sequence[str] = (),  # noqa: ARG002
    ) -> None:
        raise Unsupported("an upstream engine does not rewind")

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.queue.clear()
        self._ready.set()
        self._stream.wanted.set()
        await self._stream.leave()

    def put(self, delta: Delta) -> None:
        if self.closed or self.ended:
            return
        self.queue.append(delta)
        self._unread += _size(delta)
        if self._unread > UNREAD:
            self.fail("the choice was left unread")
        self._ready.set()

    def fail(self, why: str) -> None:
        if not self.ended:
            self._failure = why
            self.end()

    def end(self) -> None:
        self.ended = True
        self._ready.set()

    async def _wait(self) -> None:
        self._ready.clear()
        self.waiting = True
        self._stream.wanted.set()
        try:
            await self._ready.wait()
        finally:
            self.waiting = False


class Stream:
    """Reads a response in a task of its own and hands each choice its deltas.

    The response is read no further while enough deltas wait, unless a reader waits for a choice
    that has none: so memory is bounded, a slow client slows the engine (through TCP), and choices
    may still be read one after another.

    The upstream tells the usage of all choices together, and last. So the last delta of every
    choice waits for it; completion tokens are shared out in proportion to the tokens seen, their
    sum being exact. Where the upstream tells none, `prompt_tokens` and the tokens seen stand in.

    failed: told why a choice that is still read has failed through the upstream.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        n: int,
        logprobs: bool,
        prompt_tokens: int,
        limits: Limits,
        failed: Callable[[str], None],
        scorer: Scorer | None = None,
        salt: str = "",
    ) -> None:
        self.generations = [
            UpstreamGeneration(self, ChoiceReader(logprobs=logprobs)) for _ in range(n)
        ]
        self.scorer = scorer
        self.salt = salt
        self._prompt_ids: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.wanted = asyncio.Event()
        self._response = response
        self._prompt_tokens = prompt_tokens
        self._limits = limits
        self._failed = failed
        self._closing = False  # by us: what fails then is no fault of the upstream
        self._usage: ChunkUsage | None = None
        self._done = False
        self.task = asyncio.create_task(self._run(), name="upstream answer")

    async def prompt_ids(self) -> list[int]:
        """What the engine read, once it has told. Raises EngineFailed if it ends without."""
        return await asyncio.shield(self._prompt_ids)

    async def leave(self) -> None:
        """A choice was closed: once no open one still writes, the connection is given up."""
        if not self._done and not self._writing():
            # Others may only wait for the usage; it would come when the closed ones end.
            self._finish()
            await self.abort()

    async def abort(self) -> None:
        self._closing = True
        self.task.cancel()
        if self.task is not asyncio.current_task():
            await asyncio.wait([self.task])
        self._end("the upstream answer was closed")  # a task that never ran has not

    def _writing(self) -> list[UpstreamGeneration]:
        return [
            g
            for g in self.generations
            if not (g.closed or g.ended) and g.reader.finish_reason is None
        ]

    async def _run(self) -> None:
        why = "the upstream broke off its answer"
        try:
            async with asyncio.timeout(self._limits.total):
                await self._read()
            self._finish()
            if self._complete():
                await self._drain()
        except EngineFailed as error:
            why = str(error)
        except TooLong:
            why = "the upstream sent a frame that is too long"
        except TimeoutError:
            why = "the upstream sent nothing for too long"
        except (aiohttp.ClientError, OSError):
            pass
        finally:
            self._end(why)

    def _end(self, why: str) -> None:
        if not self._done:
            self._finish(why)
        if not self._prompt_ids.done():
            self._prompt_ids.set_exception(EngineFailed("the upstream does not tell its tokens"))
            self._prompt_ids.exception()  # nobody may ever have asked
        self._response.close()  # a no-op where the connection has gone back to the pool

    async def _read(self) -> None:
        parser = Parser()
        while True:
            await self._room()
            async with asyncio.timeout(self._limits.idle):
                data = await self._response.content.readany()
            for event in parser.feed(data) if data else parser.finish():
                if self._handle(event.data):
                    return
            if not data:
                return

    async def _room(self) -> None:
        while sum(len(g.queue) for g in self.generations) >= QUEUED and not any(
            g.waiting and not g.queue for g in self.generations
        ):
            self.wanted.clear()
            await self.wanted.wait()

    def _handle(self, data: str) -> bool:
        """Whether that was the last event."""
        if data.strip() == DONE:
            return True
        chunk = read_chunk(data)
        if chunk.prompt_token_ids and not self._prompt_ids.done():
            self._prompt_ids.set_result(chunk.prompt_token_ids)
        if chunk.usage is not None:
            self._usage = chunk.usage
        self._deliver(chunk)
        if self._complete():
            return chunk.usage is not None and not chunk.choices
        return not self._writing()  # those that still write upstream have been closed here

    def _complete(self) -> bool:
        return all(g.reader.finish_reason for g in self.generations)

    def _deliver(self, chunk: Chunk) -> None:
        for choice in chunk.choices or ():
            if choice.index >= len(self.generations):
                raise EngineFailed("the upstream sent a choice that nobody asked for")
            generation = self.generations[choice.index]
            try:
                deltas = generation.reader.read(choice)
            except EngineFailed as error:
                self._fail(generation, str(error))  # the other choices may yet be well
                continue
            for delta in deltas:
                generation.put(delta)

    def _finish(self, why: str = "the upstream ended without a finish_reason") -> None:
        """Give every choice its last delta; one that has no finish_reason has failed."""
        self._done = True
        shares = self._shares()
        told = self._usage.prompt_tokens if self._usage else None
        prompt = self._prompt_tokens if told is None else told
        for generation, tokens in zip(self.generations, shares, strict=True):
            reason = generation.reader.finish_reason
            if reason is None:
                self._fail(generation, why)
                continue
            generation.put(Delta(finish_reason=reason, usage=Usage(prompt, tokens)))
            generation.end()

    def _fail(self, generation: UpstreamGeneration, why: str) -> None:
        if not (self._closing or generation.closed or generation.ended):
            self._failed(why)
        generation.fail(why)

    def _shares(self) -> list[int]:
        seen = [g.reader.tokens for g in self.generations]
        told = self._usage.completion_tokens if self._usage else None
        return seen if told is None else share(told, seen)

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while await self._response.content.readany():
                    pass


def _size(delta: Delta) -> int:
    """A measure of the memory that it takes."""
    return 1 + len(delta.text) + sum(16 * (1 + len(t.top)) for t in delta.logprobs)


def share(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to `weights` that sum to `total` (largest remainders)."""
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    shares = [total * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares
