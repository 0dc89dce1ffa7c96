"""Reading generations to their end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from model_runner.types import (
    CONTENT,
    Channel,
    Delta,
    GenerateRequest,
    Generation,
    Message,
    ModelRunner,
    Sampling,
)


@dataclass
class Answer:
    """What one choice said. `texts`: the deltas of each channel, joined."""

    deltas: list[Delta] = field(default_factory=list)

    @property
    def texts(self) -> dict[Channel, str]:
        texts: dict[Channel, str] = {}
        for delta in self.deltas:
            texts[delta.channel] = texts.get(delta.channel, "") + delta.text
        return texts

    @property
    def text(self) -> str:
        return self.texts.get(CONTENT, "")

    @property
    def last(self) -> Delta:
        return self.deltas[-1]


async def read(generation: Generation) -> Answer:
    return Answer([delta async for delta in generation.deltas()])


async def ask(runner: ModelRunner, request: GenerateRequest) -> list[Answer]:
    """All choices, read side by side."""
    return list(await asyncio.gather(*(read(g) for g in await runner.open(request))))


def user(text: str, **sampling: object) -> GenerateRequest:
    return GenerateRequest(
        messages=(Message("user", text),),
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
    )
