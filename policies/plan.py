"""A policy as it runs: for each stage the filters that act, those that only watch, the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from filters.types import Stage
from policies.chain import Link
from policies.rules import Rule, Rules
from policies.types import Action, OnError

Mode = Literal["enforce", "monitor"]
#: What becomes of a message of an earlier turn that a rule blocks.
History = Literal["block", "redact", "ignore"]


#: One role under two names: engines write what either says as the system's.
_ALIKE: Mapping[str, frozenset[str]] = dict.fromkeys(
    ("system", "developer"), frozenset({"system", "developer"})
)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What runs at one stage.

    acting: filters of rules that redact or block; text waits for them. Empty in monitor mode.
    signalling: filters of rules that say `release: signal`: text does not wait for them; what they
        find follows it, and may end it late.
    watching: filters of all other rules; nothing waits for them. These two read what was released.
    rules, signal_rules, watch_rules: the rules of each.
    """

    acting: tuple[Link, ...]
    signalling: tuple[Link, ...]
    watching: tuple[Link, ...]
    rules: Rules
    signal_rules: Rules
    watch_rules: Rules
    mode: Mode
    policy: str
    version: str

    @property
    def reads_conversation(self) -> bool:
        """Whether what is said of a text depends on the turns before it."""
        return any(
            link.filter.scope == "conversation"
            for link in (*self.acting, *self.signalling, *self.watching)
        )

    def at_once(self) -> StagePlan:
        """Only what acts and never suspends, patterns and lists: for what is asked very often."""
        quick = tuple(link for link in self.acting if link.filter.immediate and link.gate is None)
        return replace(self, acting=quick, signalling=(), watching=())


@dataclass(frozen=True, slots=True)
class Policy:
    """A loaded policy. Immutable: an edit makes a new one.

    version: of the YAML and of all that it includes; changes when they do.
    source: where it was read from. files: lists that it also reads.
    """

    name: str
    version: str
    mode: Mode
    source: str
    links: Mapping[str, Link]
    stages: Mapping[Stage, tuple[Rule, ...]]
    overflow: OnError = "block"
    history: History = "redact"
    files: tuple[Path, ...] = ()
    # A plan takes 40 us to make, and a prompt of thousands of texts asks for one each.
    _plans: dict[tuple[Stage, str | None, str | None], StagePlan] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def plan(self, stage: Stage, *, role: str | None = None, only: str | None = None) -> StagePlan:
        """What runs at `stage` on a text of `role`; with `only`, that one rule alone."""
        asked = (stage, role, only)
        if (known := self._plans.get(asked)) is None:
            known = self._plans[asked] = self._plan(stage, role, only)
        return known

    def _plan(self, stage: Stage, role: str | None, only: str | None) -> StagePlan:
        chosen = tuple(
            rule
            for rule in self.stages[stage]
            if (only is None or rule.id == only)
            and (
                role is None
                or not rule.roles
                or not _ALIKE.get(role, {role}).isdisjoint(rule.roles)
            )
        )
        enforce = self.mode == "enforce"
        signalling = [r for r in chosen if enforce and r.signal]
        acting = [r for r in chosen if enforce and not r.signal and r.action >= Action.REDACT]
        watching = [r for r in chosen if r not in acting and r not in signalling]
        overflow = Action.BLOCK if self.overflow == "block" else Action.ALLOW
        rules, watch_rules = Rules(acting, overflow), Rules(watching, Action.ALLOW)
        signal_rules = Rules(signalling, overflow)
        if not enforce:
            watch_rules = Rules(watching, overflow)
        return StagePlan(
            acting=self._chain(rules),
            signalling=self._chain(signal_rules),
            watching=self._chain(watch_rules),
            rules=rules,
            signal_rules=signal_rules,
            watch_rules=watch_rules,
            mode=self.mode,
            policy=self.name,
            version=self.version,
        )

    def _chain(self, rules: Rules) -> tuple[Link, ...]:
        """The filters that the rules ask, and their gates, each behind its own."""
        chain: dict[str, Link] = {}
        for name in rules.filters:
            wanted: list[str] = []
            asked: str | None = name
            while asked is not None and asked not in chain:
                wanted.append(asked)
                gate = self.links[asked].gate
                asked = gate.name if gate else None
            chain |= {one: self.links[one] for one in reversed(wanted)}
        least = [(rule.filter, rule.at) for rule in rules.rules]
        least += [(link.gate.name, link.gate.low) for link in chain.values() if link.gate]
        return tuple(
            replace(link, least=min(at for of, at in least if of == name))
            for name, link in chain.items()
        )

    def enforced(self) -> Policy:
        """The same policy in force, whatever its mode: for those who ask what it finds."""
        return self if self.mode == "enforce" else replace(self, mode="enforce")

    def rule(self, rule_id: str) -> Rule | None:
        """The rule of that id, whatever its stage."""
        every = (rule for rules in self.stages.values() for rule in rules)
        return next((rule for rule in every if rule.id == rule_id), None)
