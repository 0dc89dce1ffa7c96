"""Requests that wait, in an order that is fair between keys."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Keys take turns; within a key, first come first served. Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._keys.values()))

    def full(self, key: str, limit: int) -> bool:
        """Whether no more of `key` may wait: `limit` do, and of its own an even share of them.

        So no key keeps the others out, and of k keys at most limit * (1 + 1/2 + ... + 1/k) wait.
        """
        with self._lock:
            waiting = sum(map(len, self._keys.values()))
            own = len(self._keys.get(key, ()))
            return waiting >= limit and own >= limit // len(self._keys.keys() | {key})

    def put(self, key: str, item: T) -> None:
        with self._lock:
            self._keys.setdefault(key, deque()).append(item)

    def put_back(self, key: str, item: T, *, turn: bool = True) -> None:
        """It was taken and has to wait again: the first of its key, and unless it had its turn, of
        all."""
        with self._lock:
            self._keys.setdefault(key, deque()).appendleft(item)
            if turn:
                self._keys.move_to_end(key, last=False)

    def take(self, may: Callable[[str], bool] = lambda _key: True) -> T | None:
        """The next, of keys that may; its key's next turn comes after those of all others."""
        with self._lock:
            key = next(filter(may, self._keys), None)
            if key is None:
                return None
            items = self._keys.pop(key)
            item = items.popleft()
            if items:
                self._keys[key] = items
            return item

    def drop(self, unwanted: Callable[[T], bool]) -> None:
        """Forget what nobody waits for any more."""
        with self._lock:
            for key in list(self._keys):
                kept = deque(item for item in self._keys[key] if not unwanted(item))
                if kept:
                    self._keys[key] = kept
                else:
                    del self._keys[key]

    def clear(self) -> list[T]:
        with self._lock:
            items = [item for items in self._keys.values() for item in items]
            self._keys.clear()
        return items
