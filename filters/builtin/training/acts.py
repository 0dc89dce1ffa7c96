"""What harmful requests ask for, as infinitives: rows may then speak of the same deeds harmlessly.

Sets of harmful requests hold nearly no harmless ones, so a network learns their topics as harmful.
Their deeds fill the slot `act` of `templates/families.restated.en.yaml`, on both sides of a pair.
(English only: the French requests at hand are too few and too long. `slots.fr.yaml` lists some.)
"""

from __future__ import annotations

from collections.abc import Iterable

import regex

from filters.builtin.training.rows import Row

_ACT = regex.compile(
    r"(?:\bhow (?:to|(?:can|do|could|would|should|might) (?:i|you|we|one|someone|people))"
    r"|\b(?:ways|methods|strategies|tricks|steps|techniques) to"
    r"|^(?=(?:develop|hack|steal|forge|spread|launder|blackmail|sabotage|fabricate)\b))"
    r"\s*(?P<act>[a-z][\w'’ ]{9,69}?)(?: - .*| \(.*)?[.?!]*$",
    regex.IGNORECASE,
)
#: Texts about a text; deeds that need their speaker; minors, who stay out of what is made up.
_UNFIT = regex.compile(
    r"\b(?:how|tutorial|guide|manual|instructions|story|scenario|article|post|caption|tweet|video"
    r"|i|i'm|we|our|us|this|these|that|it|their|them|they|child\w*|kids?|minors?|underage|teen\w*"
    r"|students?|pupils?|girls?|boys?|young|rap\w+|sex\w*|porn\w*|without)\b",
    regex.IGNORECASE,
)


def acts(rows: Iterable[Row]) -> list[str]:
    """Deeds that `rows` ask for, once each, in the order of the alphabet."""
    found = set()
    for row in rows:
        if row.language != "en" or row.labels.get("illicit", 0.0) < 0.8:
            continue
        if row.source.startswith("generated/"):
            continue
        match = _ACT.search(row.text.strip())
        if match and not _UNFIT.search(act := match["act"].strip()):
            found.add(regex.sub(r"\bmy\b", "a neighbour's", act[0].lower() + act[1:]))
    return sorted(found)
