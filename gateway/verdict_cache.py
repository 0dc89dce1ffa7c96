"""Remembers what a policy said of a text, so that a conversation's history is paid for once.

Keys are HMACs under a secret of this process over tenant, policy version, stage, role and text
(for filters that read the conversation, all that they read beside it too): tenants share nothing,
and a key tells nothing. Texts that were changed are kept as released; unchanged ones are not kept
at all.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from secrets import token_bytes

from gateway.conversation import Part
from policies.plan import StagePlan
from policies.types import Verdict


class VerdictCache:
    """A bounded map from texts to verdicts; the least recently used are forgotten first.

    characters: of released texts and hits that are kept at most, a verdict counting 200 more.
    """

    def __init__(self, characters: int = 32 * 1024 * 1024) -> None:
        self._secret = token_bytes(32)
        self._limit = characters
        self._size = 0
        self._known: OrderedDict[bytes, tuple[Verdict, bool]] = OrderedDict()

    def key(self, tenant: str, plan: StagePlan, part: Part, beside: Sequence[str]) -> bytes:
        """The key of one text of one request.

        beside: what the plan's filters and judges may read besides the text.
        """
        digest = hmac.new(self._secret, digestmod=sha256)
        said = (tenant, plan.policy, plan.version, part.stage, part.role, part.text, *beside)
        for field in said:
            raw = field.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8) + raw)
        return digest.digest()

    def get(self, key: bytes, text: str) -> Verdict | None:
        """What was said of `text`, whose key this is."""
        found = self._known.get(key)
        if found is None:
            return None
        self._known.move_to_end(key)
        verdict, unchanged = found
        return replace(verdict, text=text) if unchanged else verdict

    def put(self, key: bytes, text: str, verdict: Verdict) -> None:
        """Remember a verdict; one that a fault made is no function of the text, and is not kept."""
        if verdict.faults or key in self._known:
            return
        unchanged = verdict.text == text
        kept = replace(verdict, text="" if unchanged else verdict.text, timings={})
        self._known[key] = kept, unchanged
        self._size += _cost(kept)
        while self._size > self._limit:
            _, (old, _) = self._known.popitem(last=False)
            self._size -= _cost(old)


def _cost(verdict: Verdict) -> int:
    return 200 + len(verdict.text) + 200 * len(verdict.hits)
