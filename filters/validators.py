"""Checks on what a pattern matched, by name: digits that add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def luhn(text: str) -> bool:
    """Payment card numbers: 12 to 19 digits with a right check digit (ISO/IEC 7812-1, annex B)."""
    digits = [int(c) for c in text if c.isdecimal()]
    if not 12 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits[::-1])]
    return sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """International bank account numbers: remainder 1 modulo 97 (ISO 13616, ISO 7064)."""
    compact = "".join(c for c in text if c.isalnum()).upper()
    if not (15 <= len(compact) <= 34 and compact.isascii()):
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


VALIDATORS: Mapping[str, Callable[[str], bool]] = {"luhn": luhn, "iban": iban}
