"""Checks on what a pattern matched, by name: digits that add up, and those of secret_checks."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping

import regex

from filters.secret_checks import SECRET_CHECKS

# Issuer ranges with their lengths, as the networks publish them (Visa, Mastercard, American
# Express, Diners, Discover, JCB, UnionPay, Maestro); of the last not the lengths 13 to 15, which
# are rare, and those of bar codes.
_CARDS = regex.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|62\d{14,17}|(?:5[0678]|6\d)(?:\d{10}|\d{14,17})"
)
_LA_POSTE = "356000000"
# Printed in advertisements or issued by mistake: never anybody's (Social Security Administration).
_SSN_NEVER = frozenset({"078051120", "219099999"})


def luhn(text: str) -> bool:
    """12 to 19 digits with a right check digit (ISO/IEC 7812-1, annex B)."""
    digits = _digits(text)
    return 12 <= len(digits) <= 19 and len(set(digits)) > 1 and _luhn(digits)


def card(text: str) -> bool:
    """Payment card numbers: an issuer's range and length, and Luhn's check digit."""
    return luhn(text) and _CARDS.fullmatch(_digits(text)) is not None


def iban(text: str) -> bool:
    """International bank account numbers: remainder 1 modulo 97 (ISO 13616, ISO 7064)."""
    compact = "".join(c for c in text if c.isalnum()).upper()
    if not (15 <= len(compact) <= 34 and compact.isascii()):
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def phone(text: str) -> bool:
    """8 to 15 digits, country code included (ITU-T E.164); not one digit over and over."""
    digits = _digits(text).removeprefix("00")
    return 8 <= len(digits) <= 15 and len(set(digits[3:])) > 1


def ip(text: str) -> bool:
    """IPv4, and IPv6 of networks or links (global 2000::/3, fc00::/7, fe80::/10; RFC 4291).

    Unspecified, loopback and broadcast addresses are nobody's.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 4:
        return not (address.is_unspecified or address.is_loopback or text == "255.255.255.255")
    first = text.partition(":")[0].lower()
    return len(first) == 4 and (first[0] in "23" or first[:2] in {"fc", "fd", "fe"})


def nir(text: str) -> bool:
    """French social security numbers: 13 characters and the key 97 - (number modulo 97).

    In Corsica the department is 2A or 2B, counted as 19 and 18 (INSEE, arrêté of 1996-10-01).
    """
    compact = "".join(c for c in text.upper() if c.isdecimal() or c in "AB")  # not « clé »
    number, key = compact[:-2].replace("2A", "19").replace("2B", "18"), compact[-2:]
    if len(compact) != 15 or not (number + key).isdecimal() or not compact.isascii():
        return False
    return int(key) == 97 - int(number) % 97


def siren(text: str) -> bool:
    """French companies: 9 digits with Luhn's check digit (INSEE, SIRENE)."""
    digits = _digits(text)
    return len(digits) == 9 and int(digits) > 0 and _luhn(digits)


def siret(text: str) -> bool:
    """French establishments: a SIREN and 5 digits, all under Luhn's check digit.

    La Poste has more establishments than Luhn leaves it: its digits add up to a multiple of 5.
    """
    digits = _digits(text)
    if len(digits) != 14 or not siren(digits[:9]):
        return False
    return _luhn(digits) or (digits[:9] == _LA_POSTE and sum(map(int, digits)) % 5 == 0)


def ssn(text: str) -> bool:
    """US social security numbers: not area 000, 666 or 9xx, group 00, serial 0000 (SSA, 2011)."""
    digits = _digits(text)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if len(digits) != 9 or digits in _SSN_NEVER or len(set(digits)) == 1:
        return False
    return area not in {"000", "666"} and area[0] != "9" and group != "00" and serial != "0000"


def itin(text: str) -> bool:
    """US taxpayer numbers: 9xx, and a group of 50-65, 70-88, 90-92 or 94-99 (IRS)."""
    digits = _digits(text)
    if len(digits) != 9 or digits[0] != "9":
        return False
    group = int(digits[3:5])
    return 50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isascii() and c.isdecimal())


def _luhn(digits: str) -> bool:
    doubled = (
        int(d) if i % 2 == 0 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(digits[::-1])
    )
    return sum(doubled) % 10 == 0


VALIDATORS: Mapping[str, Callable[[str], bool]] = {
    "luhn": luhn,
    "card": card,
    "iban": iban,
    "phone": phone,
    "ip": ip,
    "nir": nir,
    "siren": siren,
    "siret": siret,
    "ssn": ssn,
    "itin": itin,
    **SECRET_CHECKS,
}
