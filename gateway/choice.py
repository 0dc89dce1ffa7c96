"""One choice on its way out: the engine's deltas in, what may leave out.

Every channel has a screen of its own. A tool call leaves whole, once its verdict is known.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from filters.types import Context, Piece, Stage
from gateway.json_texts import screened_json
from gateway.judging import AnswerJudges
from gateway.logprobs import HeldLogprobs
from gateway.offsets import Offsets
from gateway.revising import note
from model_runner.errors import BadRequest
from model_runner.types import (
    CONTENT,
    Channel,
    Delta,
    FinishReason,
    Generation,
    TokenLogprob,
    ToolHead,
    Usage,
)
from policies.screen import StreamScreen
from policies.types import Hit, Release, Revision, Step, Verdict

OpenScreen = Callable[[Stage, Context], StreamScreen]
Shown = Callable[[TokenLogprob], Awaitable[TokenLogprob]]  # with alternatives that may be told


@dataclass(frozen=True, slots=True)
class Event:
    """What one choice sends: text of a channel, or, last of all, why it ended.

    offsets: where in the channel's released text the text of each of `logprobs` begins.
    signals, checked: what rules that signal found in text that left before, and how far they read,
        by offsets in the channel's released text.
    """

    index: int
    channel: Channel = CONTENT
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    offsets: tuple[int, ...] = ()
    tool: ToolHead | None = None
    finish_reason: FinishReason | None = None
    signals: tuple[Hit, ...] = ()
    checked: int = 0


@dataclass(slots=True)
class _Stream:
    """A channel: its screen, and what waits for its verdict."""

    screen: StreamScreen
    asides: list[StreamScreen] = field(default_factory=list)  # of a call's id, name and strings
    logprobs: HeldLogprobs = field(default_factory=HeldLogprobs)
    offsets: Offsets = field(default_factory=Offsets)
    tool: ToolHead | None = None
    said: list[str] = field(default_factory=list)  # beside the content: as the model wrote it
    waiting: list[str] = field(default_factory=list)  # and as its screen released them
    ended: bool = False


class _Blocked(Exception):
    """A tool call's id, name or a string in its arguments is blocked."""


class Choice:
    """Screens one generation. Iterate `events()` once; then read `verdicts` and `usage`."""

    def __init__(
        self,
        index: int,
        generation: Generation,
        open_screen: OpenScreen,
        context: Context,
        judges: AnswerJudges | None = None,
        shown: Shown | None = None,
    ) -> None:
        self.index = index
        self.verdicts: list[tuple[Stage, Verdict]] = []
        self.usage: Usage | None = None
        self.completion_tokens = 0
        self.blocked = False
        self.most_held = 0
        self._writes = True  # the engine has more to say
        self._finish: FinishReason = "stop"
        self._generation = generation
        self._open_screen = open_screen
        self._context = context
        self._judges = judges
        self._shown = shown
        self._streams: dict[Channel, _Stream] = {}

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield what may leave. Raises RunnerError if the engine fails."""
        try:
            while self._writes:
                self._writes = False
                async with aclosing(self._generation.deltas()) as deltas:  # type: ignore[type-var]
                    async for delta in deltas:
                        self._count(delta)
                        self._finish = delta.finish_reason or self._finish
                        async for event in self._delta(delta):
                            yield event
                        if self.blocked:
                            break
                if CONTENT in self._streams and not self.blocked:
                    async for event in self._end(CONTENT):
                        yield event
            async for event in self._ends():
                yield event
            reason: FinishReason = "content_filter" if self.blocked else self._finish
            yield Event(self.index, finish_reason=reason)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Cancel the generation and let go of the screens. Safe at any time, and again."""
        await self._generation.close()
        for stream in self._streams.values():
            for screen in (stream.screen, *stream.asides):
                await screen.aclose()

    @property
    def refused(self) -> bool:
        """Whether a rule blocked it: what it says did, not a filter's fault."""
        screens = [s for one in self._streams.values() for s in (one.screen, *one.asides)]
        return self.blocked and not any(screen.failed for screen in screens)

    async def judge(self) -> None:
        """Collect the verdicts of all channels; for after the events."""
        for channel, stream in self._streams.items():
            self.verdicts.append((_stage(channel), await stream.screen.verdict()))
            for aside in stream.asides:
                self.verdicts.append((_stage(channel), await aside.verdict()))

    def _count(self, delta: Delta) -> None:
        self.completion_tokens += len(delta.token_ids) or len(delta.logprobs) or bool(delta.text)
        if delta.usage is not None:
            self.usage = delta.usage
            self.completion_tokens = delta.usage.completion_tokens

    async def _delta(self, delta: Delta) -> AsyncIterator[Event]:
        if not (delta.text or delta.tool or delta.logprobs):
            return
        stream = self._stream(delta.channel)
        if delta.tool is not None:
            stream.tool = delta.tool
        if delta.channel != CONTENT:
            stream.said.append(delta.text)
        stream.logprobs.add(delta)
        step = await stream.screen.push(Piece(delta.text, delta.signals))
        self.most_held = max(self.most_held, stream.screen.held)
        async for event in self._taken(delta.channel, stream, step):
            yield event

    async def _ends(self) -> AsyncIterator[Event]:
        """The tails: text first, then tool calls, each whole, and none once anything is blocked.

        A block cuts the other channels short too: what they hold may be the beginning of what their
        screens would have found, so that it must not leave as if the text ended there.
        """
        ordered = sorted(self._streams.items(), key=lambda item: item[0].kind == "tool_call")
        for channel, stream in ordered:
            if self.blocked:
                return
            async for event in self._end(channel):
                yield event
            if channel.kind == "tool_call" and not self.blocked:
                try:
                    yield await self._call(channel, stream)
                except _Blocked:
                    self.blocked = True

    async def _end(self, channel: Channel) -> AsyncIterator[Event]:
        """The tail of one channel. The content's may be written anew instead."""
        stream = self._streams[channel]
        if stream.ended:
            return
        step = await stream.screen.push(Piece(""), final=True)
        async for event in self._taken(channel, stream, step):
            yield event
        self._writes = step.then == "rewind" and not self.blocked
        stream.ended = not self._writes

    async def _taken(self, channel: Channel, stream: _Stream, step: Step) -> AsyncIterator[Event]:
        """Do what the screen says."""
        for event in self._events(channel, stream, step):
            yield await self._told(event)
        if step.then == "stop":
            self.blocked = stream.ended = True
        elif step.revision is not None:
            await self._rewind(stream, step.revision)

    async def _rewind(self, stream: _Stream, revision: Revision) -> None:
        """Have the content written anew from where it was released. No room: it is blocked."""
        steer = revision.steer
        if self.blocked:  # by another channel
            stream.screen.give_up()
            return
        told = note(revision, self._context)
        try:
            await self._generation.rewind(
                revision.to, note=told, place=steer.place, ban=revision.bad
            )
        except BadRequest:
            stream.screen.give_up()
            self.blocked = stream.ended = True
            return
        await stream.screen.rewind()
        stream.logprobs.rewind(revision.to)
        self._finish = "stop"
        # Calls are written behind the content, and none has left.
        for channel in [c for c in self._streams if c.kind == "tool_call"]:
            await self._streams.pop(channel).screen.aclose()

    async def _call(self, channel: Channel, stream: _Stream) -> Event:
        """A tool call, whole: its id, name and the strings in its arguments are screened too."""

        async def screened(text: str) -> str:
            aside = replace(self._aside("tool_arguments"), fragment=True)
            screen = self._open_screen("tool_arguments", aside)
            screen.give_up()
            stream.asides.append(screen)
            step = await screen.push(Piece(text), final=True)
            if step.then == "stop":
                raise _Blocked
            return step.release.text

        head = stream.tool
        if head is not None:
            head = ToolHead(await screened(head.id), await screened(head.name))
        said, released = "".join(stream.said), "".join(stream.waiting)
        arguments = await screened_json(said, released, screened)
        return Event(self.index, channel, arguments, tool=head)

    def _events(self, channel: Channel, stream: _Stream, step: Step) -> Iterator[Event]:
        if event := self._event(channel, stream, step.release):
            yield event
        if step.signals:
            signals = tuple(map(stream.offsets.hit, step.signals))
            checked = stream.offsets.checked(step.checked)
            yield Event(self.index, channel, signals=signals, checked=checked)

    async def _told(self, event: Event) -> Event:
        """With those alternatives to its tokens alone that may be told."""
        if self._shown is None or not event.logprobs:
            return event
        return replace(event, logprobs=tuple([await self._shown(t) for t in event.logprobs]))

    def _event(self, channel: Channel, stream: _Stream, release: Release) -> Event | None:
        logprobs = stream.logprobs.take(release)
        stream.offsets.add(release)
        if channel.kind == "tool_call":
            stream.waiting.append(release.text)
            return None
        if not release.text and not logprobs:
            return None
        tokens = tuple(token for token, _ in logprobs)
        offsets = tuple(offset for _, offset in logprobs)
        return Event(self.index, channel, release.text, tokens, offsets)

    def _stream(self, channel: Channel) -> _Stream:
        if channel not in self._streams:
            stage, said = _stage(channel), list[str]()
            context = self._context if channel == CONTENT else self._aside(stage)
            if channel != CONTENT and self._judges is not None:
                judge = self._judges.of(stage, lambda: "".join(said), lambda: self._head(channel))
                context = replace(context, judge=judge)
            screen = self._open_screen(stage, context)
            if channel != CONTENT:
                screen.give_up()  # an engine goes back in its content alone
            self._streams[channel] = _Stream(screen, said=said)
        return self._streams[channel]

    def _head(self, channel: Channel) -> str:
        """What a judge reads before a call's arguments: the function's name."""
        tool = self._streams[channel].tool
        return f"{tool.name} " if tool is not None else ""

    def _aside(self, stage: Stage) -> Context:
        """For all but the content: what precedes, and the generation's offsets, are its own."""
        return replace(self._context, stage=stage, preceding="", judge=None)


def _stage(channel: Channel) -> Stage:
    return "tool_arguments" if channel.kind == "tool_call" else "output"
