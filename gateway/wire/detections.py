"""The open detector protocol of TrustyAI and the FMS guardrails: `POST /api/v1/text/contents`.

The header `detector-id` names the caller's policy, or one filter of it. So another gateway can use
our filters as a detector of its own, and our `detector` filter another gateway's.

Of a policy: what its rules answered, `detection_type` being the action. Of a filter: all that it
finds, `detection_type` being its name. Offsets count code points. Callers of role `app` get the
middle of a score's band, and `threshold` compares with that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from filters.types import OVERFLOW, Context, Finding, Piece
from gateway.errors import DetectorFailed, UnknownDetector, short
from gateway.filter_results import MIDDLE, severity
from gateway.keys import Role
from gateway.wire.dialect import Number, Strict
from policies.chain import ChainScan
from policies.plan import Policy
from policies.screen import Budget, whole

PATH = "/api/v1/text/contents"
HEADER = "detector-id"
#: Of a filter, where the request does not say: findings of less are not told.
THRESHOLD = 0.5


class DetectorParams(Strict):
    """threshold: the least score. stage: whose rules a policy applies."""

    threshold: Annotated[Number, Field(ge=0.0, le=1.0)] | None = None
    stage: Literal["input", "output"] = "input"


class DetectionRequest(Strict):
    """The request's body."""

    contents: Annotated[list[str], Field(min_length=1, max_length=256)]
    detector_params: DetectorParams = DetectorParams()


async def detect(
    policy: Policy, detector: str, request: DetectionRequest, role: Role, budget: Budget
) -> list[list[dict[str, Any]]]:
    """The answer's body. Raises UnknownDetector, DetectorFailed."""
    if detector != policy.name and detector not in policy.links:
        raise UnknownDetector(f"no detector {short(detector)!r}: it is a policy or filter of yours")
    params = request.detector_params
    answer = []
    for text in request.contents:
        if detector == policy.name:
            found = await _by_policy(policy, params, text, budget)
        else:
            found = await _by_filter(policy, detector, params, text)
        least = params.threshold
        if least is None:  # a policy's rules have thresholds of their own
            least = 0.0 if detector == policy.name else THRESHOLD
        answer.append(list(_told(found, text, role, least)))
    return answer


def form(status: int, fields: dict[str, Any]) -> dict[str, Any]:
    """The protocol's envelope of errors."""
    return {"code": status, "message": fields["message"]}


async def _by_policy(
    policy: Policy, params: DetectorParams, text: str, budget: Budget
) -> list[tuple[Finding, str]]:
    role = "user" if params.stage == "input" else "assistant"
    plan = policy.plan(params.stage, role=role)
    verdict = await whole(plan, Context(params.stage, role), text, budget=budget)
    if verdict.failed:
        raise DetectorFailed("a filter of the policy failed on this text")
    return [(hit.finding, hit.action.word) for hit in verdict.hits]


async def _by_filter(
    policy: Policy, name: str, params: DetectorParams, text: str
) -> list[tuple[Finding, str]]:
    # Asked by name it answers for itself, whatever gate it stands behind in the policy.
    scan = ChainScan([replace(policy.links[name], gate=None)], Context(params.stage))
    try:
        progress = await scan.feed(Piece(text), final=True)
    finally:
        await scan.aclose()
    if scan.faults:
        raise DetectorFailed("the filter failed on this text")
    if any(finding.category == OVERFLOW for finding in progress.findings):
        raise DetectorFailed("a match in this text is longer than the filter follows")
    return [(finding, name) for finding in progress.findings]


def _told(
    found: Iterable[tuple[Finding, str]], text: str, role: Role, least: float
) -> Iterable[dict[str, Any]]:
    for finding, kind in found:
        score = MIDDLE[severity(finding.score)] if role == "app" else finding.score
        if score >= least:
            start, end = finding.span.start, finding.span.end
            yield {
                "start": start,
                "end": end,
                "text": text[start:end],
                "detection": finding.category,
                "detection_type": kind,
                "score": score,
            }
