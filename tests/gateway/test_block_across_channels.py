"""A block in one channel cuts the others short; what they hold by then must not leave."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from filters.regex import RegexFilter
from filters.registry import Resources
from filters.types import Context, Stage
from gateway.choice import Choice
from model_runner.script import replay
from model_runner.scripted import ScriptedRunner
from model_runner.types import (
    CONTENT,
    REASONING,
    REFUSAL,
    Channel,
    Delta,
    GenerateRequest,
    Message,
)
from policies.chain import Link
from policies.plan import Policy
from policies.rules import Rule
from policies.screen import StreamScreen
from policies.types import Action

SECRET = "kestrel-4711-osprey"
CHANNELS = (CONTENT, REASONING, REFUSAL)


def policy(action: Action) -> Policy:
    found_by = RegexFilter.from_options("re", {"secret": SECRET, "bad": "badword"}, Resources())
    rules = (
        Rule("secret", "re", action, frozenset({"secret"})),
        Rule("bad", "re", Action.BLOCK, frozenset({"bad"})),
    )
    stages: dict[Stage, tuple[Rule, ...]] = {"output": rules, "tool_arguments": rules}
    return Policy("test", "1", "enforce", "-", {"re": Link(found_by)}, stages)


async def said(loaded: Policy, deltas: list[Delta]) -> tuple[dict[Channel, str], bool]:
    [generation] = await ScriptedRunner(replay(deltas)).open(
        GenerateRequest(messages=(Message("user", "?"),))
    )

    def open_screen(stage: Stage, context: Context) -> StreamScreen:
        return StreamScreen(loaded.plan(stage), context)

    choice = Choice(0, generation, open_screen, Context("output", "assistant"))
    sent: dict[Channel, str] = {}
    async for event in choice.events():
        sent[event.channel] = sent.get(event.channel, "") + event.text
    await choice.judge()
    return sent, choice.blocked


def leaked(text: str) -> int:
    """The longest beginning of the secret in it, in characters."""
    return max((n for n in range(len(SECRET) + 1) if SECRET[:n] in text), default=0)


@pytest.mark.parametrize(
    ("held", "blocks"), list(permutations(CHANNELS, 2)), ids=lambda channel: channel.kind
)
async def test_what_is_held_when_another_channel_is_blocked_stays_held(
    held: Channel, blocks: Channel
) -> None:
    deltas = [
        Delta(channel=held, text="it is kestrel-4711-osp"),
        Delta(channel=blocks, text=" badword "),
        Delta(channel=held, text="rey."),
    ]
    sent, blocked = await said(policy(Action.BLOCK), deltas)
    assert blocked
    assert leaked(sent.get(held, "")) <= 1, sent  # the "k" of "it is k…" may be any word's


@pytest.mark.parametrize("action", [Action.BLOCK, Action.REDACT])
@pytest.mark.parametrize("seed", range(60))
async def test_a_secret_in_every_channel_leaves_by_none(action: Action, seed: int) -> None:
    """Cut at random and interleaved, now and then with something that blocks among it."""
    chance = Random(seed)
    left = {channel: f"so {SECRET} ends here. " * chance.randint(1, 2) for channel in CHANNELS}
    if chance.random() < 0.5:
        left[chance.choice(CHANNELS)] += "badword"
    deltas = []
    while waiting := [channel for channel, text in left.items() if text]:
        channel = chance.choice(waiting)
        size = chance.randint(1, 9)
        deltas.append(Delta(channel=channel, text=left[channel][:size]))
        left[channel] = left[channel][size:]
    sent, _ = await said(policy(action), deltas)
    for channel, text in sent.items():
        assert leaked(text) <= 3, (channel, text)
