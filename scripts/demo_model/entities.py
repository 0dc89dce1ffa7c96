"""Invented personal data, codes and words: things to copy that no model has seen before."""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import partial
from random import Random


def _listed(words: str) -> list[str]:
    return words.split()


_FIRST = _listed(
    "Jean Marie Paul Anna Tom Lucas Emma Louis Chloé Hugo Léa Zoé Nina Ali Sara Omar Inès Noah "
    "Alice Peter John Kate Laura Marc Yann Élise Amélie Hélène Karim Fatima David Julia Martin "
    "Sophie Claire Nicolas Camille Arthur Rose Max Clara Simon Eva Leo Mia Oscar Ruth Grace Henry"
)
_LAST = _listed(
    "Dupont Martin Durand Petit Moreau Lefèvre Garcia Roux Fournier Girard Bonnet Lambert Smith "
    "Jones Taylor Brown Wilson Evans Walker Wright Green Hall Clark Young King Scott Baker Adams "
    "Nguyen Silva Rossi Novak Kowalski Haddad Benali Diallo Traoré Leroy Mercier Blanc Faure Roy"
)
_DOMAIN = _listed(
    "example gmail mail post outlook free orange laposte corp shop school ville bank studio web "
    "acme contoso hotel nord sud labo clinic garage maison atelier news cloud data home work"
)
_TLD = ("com", "org", "fr", "net", "example", "eu", "io", "co.uk", "be", "ch", "info", "edu")
_STREET = ("rue", "avenue", "boulevard", "place", "chemin", "Street", "Road", "Lane", "Avenue")
_CONSONANTS = [*"bcdfghjklmnprstvz", "ch", "br", "tr", "gl", "st", "qu", "ph", "x", "w", "dr"]
_VOWELS = [*"aeioua", "ou", "ai", "y", "é", "ee", "oo", "eu"]


def digits(rng: Random, n: int) -> str:
    """`n` random digits."""
    return "".join(rng.choices(string.digits, k=n))


def _letters(rng: Random, n: int) -> str:
    return "".join(rng.choices(string.ascii_uppercase, k=n))


def _grouped(rng: Random, sizes: tuple[int, ...], separator: str) -> str:
    return separator.join(digits(rng, n) for n in sizes)


def invented_word(rng: Random) -> str:
    """A word that sounds like one and is none, such as "gloubiraste"."""
    word = "".join(
        rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))
    )
    return word + rng.choice(("", "", "n", "r", "s", "x", "que", "sh"))


def name(rng: Random) -> str:
    """A first and a last name, real or invented."""
    first = rng.choice(_FIRST) if rng.random() < 0.7 else invented_word(rng).capitalize()
    last = rng.choice(_LAST) if rng.random() < 0.6 else invented_word(rng).capitalize()
    return f"{first} {last}"


def email(rng: Random) -> str:
    """An email address."""
    parts = [
        rng.choice(_FIRST).lower() if rng.random() < 0.5 else invented_word(rng),
        rng.choice(_LAST).lower() if rng.random() < 0.5 else invented_word(rng),
    ]
    shape = rng.random()
    local = rng.choice((".", ".", "_", "-", "")).join(parts) if shape < 0.7 else parts[0]
    if rng.random() < 0.25:
        local += digits(rng, rng.randint(1, 4))
    domain = rng.choice(_DOMAIN) if rng.random() < 0.6 else invented_word(rng)
    if rng.random() < 0.1:
        domain += "-" + rng.choice(_DOMAIN)
    return f"{local}@{domain}.{rng.choice(_TLD)}"


def phone(rng: Random) -> str:
    """A phone number in one of the usual French, British or American forms."""
    d = partial(digits, rng)
    return rng.choice(
        (
            lambda: f"0{rng.randint(1, 9)} " + _grouped(rng, (2, 2, 2, 2), " "),
            lambda: f"0{rng.randint(1, 9)}" + d(8),
            lambda: f"0{rng.randint(1, 9)}." + _grouped(rng, (2, 2, 2, 2), "."),
            lambda: f"+33 {rng.randint(1, 9)} " + _grouped(rng, (2, 2, 2, 2), " "),
            lambda: f"+44 20 {d(4)} {d(4)}",
            lambda: f"({d(3)}) {d(3)}-{d(4)}",
            lambda: _grouped(rng, (3, 3, 4), "-"),
        )
    )()


def card(rng: Random) -> str:
    """Sixteen digits that begin as a bank card does; the check digit is not computed."""
    number = rng.choice("3456") + digits(rng, 15)
    separator = rng.choice((" ", " ", "-", ""))
    return separator.join(number[i : i + 4] for i in range(0, 16, 4))


def iban(rng: Random) -> str:
    """A country code and groups of four digits."""
    head = rng.choice(("FR", "DE", "BE", "GB", "ES", "IT")) + digits(rng, 2)
    return " ".join([head, *(digits(rng, 4) for _ in range(rng.randint(3, 5)))])


def url(rng: Random) -> str:
    """A web address, with or without scheme and path."""
    scheme = rng.choice(("https://", "http://", "www.", ""))
    host = f"{invented_word(rng)}.{rng.choice(_TLD)}"
    path = "".join("/" + invented_word(rng) for _ in range(rng.choice((0, 0, 1, 2))))
    return scheme + host + path


def code(rng: Random) -> str:
    """A licence plate, a hexadecimal string, a reference, a password or a version."""
    letters = partial(_letters, rng)
    return rng.choice(
        (
            lambda: f"{letters(2)}-{digits(rng, 3)}-{letters(2)}",
            lambda: "".join(rng.choices("0123456789abcdef", k=rng.randint(6, 16))),
            lambda: f"{letters(rng.randint(2, 4))}{digits(rng, rng.randint(2, 6))}",
            lambda: "".join(
                rng.choices(string.ascii_letters + string.digits, k=rng.randint(6, 12))
            ),
            lambda: f"v{rng.randint(0, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 99)}",
            lambda: f"#{digits(rng, rng.randint(3, 8))}",
        )
    )()


def address(rng: Random) -> str:
    """A house number, a street and a post code."""
    street = f"{rng.randint(1, 250)} {rng.choice(_STREET)} {name(rng)}"
    return f"{street}, {digits(rng, 5)} {invented_word(rng).capitalize()}"


def quantity(rng: Random) -> str:
    """A date, an hour, an amount or a plain number."""
    return rng.choice(
        (
            lambda: f"{rng.randint(1, 31):02}/{rng.randint(1, 12):02}/{rng.randint(1930, 2030)}",
            lambda: f"{rng.randint(0, 23)}h{rng.randint(0, 59):02}",
            lambda: f"{rng.randint(1, 12)}:{rng.randint(0, 59):02} pm",
            lambda: f"{rng.randint(1, 9999)},{digits(rng, 2)} €",
            lambda: f"${rng.randint(1, 9999)}.{digits(rng, 2)}",
            lambda: digits(rng, rng.randint(1, 12)),
        )
    )()


ENTITIES: dict[str, Callable[[Random], str]] = {
    "email": email,
    "phone": phone,
    "card": card,
    "iban": iban,
    "url": url,
    "code": code,
    "name": name,
    "address": address,
    "quantity": quantity,
}
