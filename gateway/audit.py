"""The audit log: what was decided of whose texts, one JSON object a line, and never the text.

A line is written for each text that a rule answered, or on which a filter failed. It is written by
a thread of its own, so that no disk holds up an answer, and it is with the system once written: the
end of the process loses none. A file that was moved away is made anew, as `logrotate` wants it.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import QueueListener, WatchedFileHandler
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any

from filters.types import Stage
from gateway.conversation import Place
from gateway.errors import SettingsInvalid
from gateway.metrics import Metrics
from policies.types import Action, Verdict

log = logging.getLogger("gardefou.audit")

#: The id of the request that is being served.
REQUEST: ContextVar[str] = ContextVar("request", default="")


@dataclass(frozen=True, slots=True)
class Screened:
    """A text that was screened. place: where it stands in the request or its answer, if known.

    text: as it came; None where it is not kept.
    """

    stage: Stage
    role: str
    place: Place = ()
    text: str | None = None


class AuditLog:
    """key: of the hashes by which equal texts are told; without one there are none."""

    def __init__(self, records: SimpleQueue[logging.LogRecord], key: bytes) -> None:
        self._records = records
        self._key = key

    def add(
        self, policy: str, mode: str, caller: str, request: str, of: Screened, verdict: Verdict
    ) -> None:
        """Write it down, if there is anything to tell."""
        if verdict.action is Action.ALLOW and not (verdict.faults or verdict.rewinds):
            return
        told: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": request or None,
            "key": caller,
            "policy": policy,
            "version": verdict.policy_version,
            "mode": mode,
            "stage": of.stage,
            "role": of.role,
            "place": dotted(of.place) or None,
            "action": verdict.action.word,
            "rule": verdict.rule,
            "hits": [
                {
                    "rule": hit.rule,
                    "action": hit.action.word,
                    "filter": hit.finding.filter,
                    "category": hit.finding.category,
                    "start": hit.finding.span.start,
                    "end": hit.finding.span.end,
                    "score": round(hit.finding.score, 4),
                }
                for hit in verdict.hits
            ],
            "faults": [
                {"filter": fault.filter, "reason": fault.reason, "on_error": fault.on_error}
                for fault in verdict.faults
            ],
            "rewinds": verdict.rewinds,
        }
        if of.text is not None:
            told["characters"] = len(of.text)
            if self._key:
                said = b"audit\0" + of.text.encode("utf-8", "surrogatepass")
                told["hash"] = hmac.digest(self._key, said, "sha256").hex()[:16]
        line = json.dumps(told, ensure_ascii=False)
        self._records.put(logging.makeLogRecord({"msg": line}))


@contextmanager
def audit_log(path: Path, key: bytes, metrics: Metrics) -> Iterator[AuditLog]:
    """Appends to the file at `path`, which only its owner may read. All is written at the end.

    Raises SettingsInvalid if it cannot be written to.
    """
    try:
        file = _File(path, metrics)
    except OSError as error:
        raise SettingsInvalid(f"--audit: cannot write to {path}: {error.strerror}") from error
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    listener = QueueListener(records, file)
    listener.start()
    try:
        yield AuditLog(records, key)
    finally:
        listener.stop()
        file.close()


class _File(WatchedFileHandler):
    """Counts what it could not write, and says so once a second at most."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._metrics = metrics
        self._said = float("-inf")
        super().__init__(path, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, "a", encoding="utf-8", opener=private)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # from looking whether the file is still there
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002
        self._metrics.audit_lost.inc()
        if monotonic() - self._said >= 1:
            self._said = monotonic()
            why = sys.exc_info()[1]
            log.error("a decision could not be written to %s: %s", self.baseFilename, why)


def dotted(path: Place) -> str:
    """As `messages[0].content`."""
    written = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(written).lstrip(".")
