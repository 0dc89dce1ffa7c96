"""What the engine is told where an answer is written anew."""

from __future__ import annotations

from filters.types import Context
from gateway.languages import spoken
from policies.types import Revision


def note(revision: Revision, context: Context) -> str | None:
    """The rule's note in the answer's language, ready for its place.

    In the assistant's voice it ends as the kept text does, so that what follows joins on.
    """
    told = revision.steer.note
    if not told:
        return None
    said = told[_language(revision, context)]
    if revision.steer.place == "instruction":
        return said
    kept = revision.kept
    tail = kept[len(kept.rstrip()) :]
    if not kept.strip():
        return f"{said}\n"
    return f"{said}{tail}" if tail else f" {said}"


def _language(revision: Revision, context: Context) -> str:
    """A key of the note: the context's language, or the one of the text, or else the first."""
    known = tuple(revision.steer.note)
    if context.language and context.language[:2].lower() in known:
        return context.language[:2].lower()
    asked = [turn.text for turn in context.conversation if turn.role == "user"]
    return spoken(f"{asked[-1] if asked else ''} {revision.kept}", known)
