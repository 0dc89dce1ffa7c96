"""Choices that hold keys and values: what they begin with, and who gives up room for whom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from model_runner.transformers import prefix
from model_runner.transformers.batch import NoRoom, Store
from model_runner.transformers.choice import Choice
from model_runner.transformers.counts import Counts
from model_runner.transformers.fence import attempt
from model_runner.transformers.prefix import PrefixCache

AHEAD = 64  # tokens that a new row has room for behind its prompt


class Holders:
    """In the order in which they got their rows.

    running: the scheduler's own list of the choices that write, the earliest first: none of them
    gives up its row for a later one of them, but any may for one that is only read (a judge's).
    displaced: is told of each of them that had to.
    """

    def __init__(
        self,
        store: Store,
        counts: Counts,
        running: Sequence[Choice],
        displaced: Callable[[Choice], None],
    ) -> None:
        self.prefixes = PrefixCache(store)
        self._store = store
        self._counts = counts
        self._running = running
        self._displaced = displaced
        self._choices: dict[Choice, None] = {}

    def __len__(self) -> int:
        return len(self._choices)

    def __iter__(self) -> Iterator[Choice]:
        """Of a copy: they may be dropped meanwhile."""
        return iter(list(self._choices))

    def fits(self, choice: Choice) -> bool:
        """Whether a row for it finds room without another's."""
        need = self._store.size(len(choice.sequence.ids) + AHEAD)
        return need <= self._store.limit - self._store.used + self.prefixes.bytes

    def begin(self, choice: Choice, asked: Collection[Choice]) -> bool:
        """A row for it, with the longest prefix there is; False to wait for one being computed.

        asked: choices of which scores are asked: they are read as well as those that write.
        """
        ids = prefix.array(choice.sequence.ids[:-1])
        row, length = self.prefixes.find(choice.owner, ids) or (None, prefix.SHORTEST - 1)
        coming = 0
        for other in self._choices:
            if other is choice or other.row is None or other.owner != choice.owner:
                continue
            shared = prefix.common(other.sequence.head, ids)
            if min(shared, other.read) > length:
                row, length = other.row, min(shared, other.read)
            if shared > other.read and (other in self._running or other in asked):
                coming = max(coming, shared)
        if coming >= length + prefix.SHORTEST:
            return False
        room = len(choice.sequence.ids) + AHEAD
        if row is None:
            choice.row = self._store.row()
        else:
            try:
                choice.row = self._store.copy(row, length, room)
            except NoRoom:
                choice.row = self._store.row()
            else:
                self._counts.prefix_hits += 1
                self._counts.prefix_tokens += length
        self._choices[choice] = None
        return True

    def make_room(self, choice: Choice, length: int, busy: Collection[Choice]) -> bool:
        """Room for `length` tokens: that of prefixes, of choices that are over, of younger ones.

        busy: choices that keep theirs, being in the step.
        """
        assert choice.row is not None  # noqa: S101
        while True:
            try:
                self._store.reserve(choice.row, length)
            except NoRoom:
                if not (self.prefixes.evict() or self._displace(choice, busy)):
                    return False
            else:
                return True

    def _displace(self, choice: Choice, busy: Collection[Choice]) -> bool:
        others = [c for c in reversed(self._choices) if c is not choice and c not in busy]
        for other in sorted(others, key=lambda c: not c.over):
            both = other in self._running and choice in self._running
            if both and self._running.index(other) < self._running.index(choice):
                continue
            self.drop(other)
            if other in self._running:
                self._displaced(other)
            return True
        return False

    def before(self, choice: Choice) -> bool:
        """Whether there are some that give it no room, and get on without it: it can wait."""
        if choice not in self._running:
            return False
        earlier = self._running[: self._running.index(choice)]
        return any(other.row is not None for other in earlier)

    def drop(self, choice: Choice) -> None:
        """Free its row, if it has one: what was computed is lost."""
        self._choices.pop(choice, None)
        if choice.row is not None:
            self._store.free(choice.row)
            choice.row = None

    def retire(self, choice: Choice) -> None:
        """It is closed: keep its row as a prefix."""
        self._choices.pop(choice, None)
        row, choice.row = choice.row, None
        if row is None:
            return
        ids = choice.sequence.ids[: row.length]
        _, error = attempt(partial(self.prefixes.keep, choice.owner, ids, row))
        if error is not None:  # it is over anyway: only its room must not be lost
            self._counts.faults += 1
            self._store.free(row)
