"""Made-up entities for benchmarks/packs.py: every number has its check digits, and is nobody's."""

from __future__ import annotations

import base64
import ipaddress
import json
import zlib
from collections.abc import Callable
from itertools import pairwise
from random import Random

from faker import Faker

from filters.validators import card as is_card
from filters.validators import itin, nir, phone, siret, ssn

Make = Callable[[Random], str]

_62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_64 = _62 + "+/"
_URL = _62 + "-_"
_HEX = "0123456789abcdef"
_32 = "abcdefghijklmnopqrstuvwxyz234567"
_UP = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PLATE = "ABCDEFGHJKLMNPQRTVWXYZ"

FR, US, GB = Faker("fr_FR"), Faker("en_US"), Faker("en_GB")
IBANS = [Faker(x) for x in ("fr_FR", "de_DE", "en_GB", "es_ES", "it_IT", "nl_NL", "pl_PL", "pt_PT")]


def seed(number: int) -> None:
    """Seed every Faker; `Random`s are handed in."""
    Faker.seed(number)


def drawn(random: Random, size: int, letters: str = _62) -> str:
    return "".join(random.choices(letters, k=size))


def until(check: Callable[[str], bool], make: Callable[[], str]) -> str:
    while not check(made := make()):
        pass
    return made


def form(random: Random, pattern: str) -> str:
    """`pattern` with a digit for every #."""
    return "".join(str(random.randrange(10)) if c == "#" else c for c in pattern)


def email(r: Random) -> str:
    name = r.choice([FR, US, GB]).user_name()
    tag = r.choice(["", "", "+news", ".pro", "_2", "-rh"])
    house = r.choice(
        ["example.org", "example.com", "mail.example.fr", "exemple.gouv.fr", "x.example"]
    )
    return f"{name}{tag}@{r.choice([house, FR.free_email_domain(), US.domain_name()])}"


def phone_general(r: Random) -> str:
    pairs = [f"0{r.randint(1, 9)}", *(form(r, "##") for _ in range(4))]
    forms = [
        lambda: r.choice([" ", ".", "-", "", "\u00a0"]).join(pairs),
        lambda: "+33 " + " ".join([pairs[0][1], *pairs[1:]]),
        lambda: "+33" + "".join(pairs)[1:],
        lambda: "0033 " + " ".join([pairs[0][1], *pairs[1:]]),
        lambda: form(r, "+44 20 7946 0###"),
        lambda: form(r, "+1 415-555-01##"),
        lambda: form(r, "+1 (212) 555-01##"),
        lambda: form(r, "+49 30 5####-##"),
        lambda: form(r, "+32 2 5## ## ##"),
        lambda: form(r, "+41 44 6## ## ##"),
    ]
    return until(phone_or_national, lambda: r.choice(forms)())


def phone_or_national(text: str) -> bool:
    return phone(text) or text.startswith("0")


def card(r: Random) -> str:
    kind = r.choice(["visa16", "mastercard", "amex", "discover", "jcb16", "diners"])
    # Faker's JCB go beyond that network's range.
    digits = until(is_card, lambda: US.credit_card_number(card_type=kind))
    cut = {15: (4, 10), 14: (4, 10), 16: (4, 8, 12)}.get(len(digits))
    if cut is None or r.random() < 0.4:
        return digits
    edges = [0, *cut, len(digits)]
    groups = (digits[a:b] for a, b in pairwise(edges))
    return r.choice([" ", "-"]).join(groups)


def iban(r: Random) -> str:
    made = r.choice(IBANS).iban()
    if r.random() < 0.6:
        made = " ".join(made[i : i + 4] for i in range(0, len(made), 4))
    return made


def ip(r: Random) -> str:
    if r.random() < 0.6:
        return US.ipv4_public()
    groups = [r.choice(["2001:db8", "2a01:e0a", "2606:4700", "fd12:3456"])]
    groups += [r.choice(["0", drawn(r, r.randint(1, 4), _HEX)]) for _ in range(6)]
    address = ipaddress.ip_address(":".join(groups))
    return r.choice([address.compressed, address.exploded])


def mac(r: Random) -> str:
    pairs = [drawn(r, 2, _HEX) for _ in range(6)]
    text = r.choice(
        [
            ":".join(pairs),
            "-".join(pairs),
            ".".join(f"{a}{b}" for a, b in zip(pairs[::2], pairs[1::2], strict=True)),
        ]
    )
    return r.choice([text, text.upper()])


def nir_(r: Random) -> str:
    place = r.choice([f"{r.randint(1, 95):02d}", "2A", "2B", "99"])
    place = "19" if place == "20" else place
    body = f"{r.randint(1, 2)}{r.randint(20, 99)}{r.randint(1, 12):02d}{place}" + form(r, "######")
    digits = int(body.replace("2A", "19").replace("2B", "18"))
    key = f"{97 - digits % 97:02d}"
    parts = [body[0], body[1:3], body[3:5], body[5:7], body[7:10], body[10:], key]
    return until(nir, lambda: r.choice(["", " ", "\u00a0", "."]).join(parts))


def siren_(r: Random) -> str:
    digits = FR.siren().replace(" ", "")
    return r.choice([digits, f"{digits[:3]} {digits[3:6]} {digits[6:]}"])


def siret_(r: Random) -> str:
    digits = until(siret, FR.siret).replace(" ", "")
    if r.random() < 0.5:
        return digits
    return f"{digits[:3]} {digits[3:6]} {digits[6:9]} {digits[9:]}"


def plate(r: Random) -> str:
    def two() -> str:
        return until(lambda t: t != "SS", lambda: drawn(r, 2, _PLATE))

    new = [two(), form(r, "###"), two()]
    return r.choice(["-", "-", " "]).join(new)


def old_plate(r: Random) -> str:
    if r.random() < 0.3:
        return plate(r).replace("-", "").replace(" ", "")
    old = [str(r.randint(1, 9999)), drawn(r, r.randint(2, 3), _PLATE)]
    old.append(r.choice(["75", "13", "69", "2A", "2B", "974", "33"]))
    return r.choice(["-", " "]).join(old)


def address(r: Random) -> str:
    street = FR.street_address()
    while not street[0].isdigit():
        street = FR.street_address()
    town = f"{FR.postcode()} {FR.city()}"
    bis = r.choice(["", "", "", " bis", " ter"])
    number, _, rest = street.partition(",")
    street = f"{number}{bis}{r.choice([',', ''])}{rest}"
    return r.choice([street, f"{street}, {town}", f"{street}\n{town}", f"{street} {town}"])


def ssn_(r: Random) -> str:
    return until(ssn, lambda: form(r, "###-##-####"))


def itin_(r: Random) -> str:
    return until(itin, lambda: form(r, "9##-##-####"))


def phone_us(r: Random) -> str:
    area = f"{r.randint(2, 9)}{r.choice('023456789')}{r.randrange(10)}"
    forms = ["({}) 555-01##", "{}-555-01##", "{}.555.01##", "1-{}-555-01##", "+1 {} 555 01##"]
    tail = r.choice(["", "", "", " x###", " ext. ##"])
    return form(r, r.choice(forms).format(area) + tail)


def birth_en(r: Random) -> str:
    day = US.date_of_birth(minimum_age=1, maximum_age=99)
    nth = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}.get(day.day, "th")
    forms = ["%d %B %Y", "%B %d, %Y", "%m/%d/%Y", "%d/%m/%Y", "%Y-%m-%d", "%d %b %Y", "%d.%m.%Y"]
    return r.choice([day.strftime(r.choice(forms)), f"{day:%B} {day.day}{nth}, {day:%Y}"])


def birth_fr(r: Random) -> str:
    months = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre"
    day = FR.date_of_birth(minimum_age=1, maximum_age=99)
    month = months.split()[day.month - 1]
    number = "1er" if day.day == 1 else str(day.day)
    forms = [f"{day:%d/%m/%Y}", f"{day:%d-%m-%Y}", f"{day:%d.%m.%Y}", f"{number} {month} {day:%Y}"]
    return r.choice([*forms, f"{number} {month} {day:%Y}"])


def checked(prefix: str) -> Make:
    def make(r: Random) -> str:
        body, tail = drawn(r, 30), ""
        crc = zlib.crc32(body.encode())
        for _ in range(6):
            crc, digit = divmod(crc, 62)
            tail = _62[digit] + tail
        return prefix + body + tail

    return make


def b64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def github(r: Random) -> str:
    if r.random() < 0.3:
        return f"github_pat_{drawn(r, 22)}_{drawn(r, 59)}"
    return checked(r.choice(["ghp_", "gho_", "ghu_", "ghs_", "ghr_"]))(r)


def slack(r: Random) -> str:
    kind = r.choice(["xoxb", "xoxp", "xoxa", "xoxs"])
    return f"{kind}-{form(r, '############')}-{form(r, '############')}-{drawn(r, 24)}"


def discord(r: Random) -> str:
    return (
        f"{b64url(form(r, '1#################').encode())}.{drawn(r, 6, _URL)}.{drawn(r, 38, _URL)}"
    )


def twilio(r: Random) -> str:
    return r.choice([f"SK{drawn(r, 32, _HEX)}", f"SG.{drawn(r, 22, _URL)}.{drawn(r, 43, _62)}"])


def model_key(r: Random) -> str:
    return r.choice(
        [
            f"sk-proj-{drawn(r, 74)}T3BlbkFJ{drawn(r, 74)}",
            f"sk-{drawn(r, 20)}T3BlbkFJ{drawn(r, 20)}",
            f"sk-ant-api03-{drawn(r, 93)}AA",
            f"hf_{drawn(r, 34, _62[10:])}",
            f"gsk_{drawn(r, 52)}",
        ]
    )


def gardefou(r: Random) -> str:
    body = "gf_" + drawn(r, 48, _32)
    return body + f"{zlib.crc32(body.encode()):08x}"


def jwt(r: Random) -> str:
    head = {"alg": r.choice(["HS256", "RS256", "ES256"]), "typ": "JWT"}
    claims = {"sub": form(r, "########"), "name": US.name(), "iat": r.randint(10**9, 2 * 10**9)}
    parts = [b64url(json.dumps(x).encode()) for x in (head, claims)]
    return ".".join([*parts, drawn(r, 43, _62)])


def pem(r: Random) -> str:
    kind = r.choice(["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
    lines = [drawn(r, 64, _64) for _ in range(r.choice([3, 12, 26, 40]))]
    lines.append(drawn(r, r.randint(4, 60), _64) + "==")
    ends = f"-----BEGIN {kind}PRIVATE KEY-----", f"-----END {kind}PRIVATE KEY-----"
    return r.choice(["\n", "\n", "\\n"]).join([ends[0], *lines, ends[1]])


def connection(r: Random) -> str:
    kind = r.choice(["postgres", "postgresql", "mysql", "mongodb+srv", "rediss", "amqp"])
    user = r.choice(["", "app", US.user_name()])
    host = r.choice(["db.example.org:5432", "192.0.2.7", "cluster0.example.net"])
    return f"{kind}://{user}:{drawn(r, r.randint(8, 20))}@{host}/{r.choice(['app', 'prod', '0'])}"


def password(r: Random) -> str:
    made = US.password(length=r.randint(10, 24), special_chars=r.random() < 0.5)
    return made.translate(str.maketrans("()", "!7"))


def aws(r: Random) -> str:
    return r.choice(["AKIA", "ASIA"]) + drawn(r, 16, _UP + "234567")


def azure(r: Random) -> str:
    return f"{drawn(r, 3)}8Q~{drawn(r, 34)}"


def google(r: Random) -> str:
    return r.choice([f"AIza{drawn(r, 35, _URL[:-2])}", f"GOCSPX-{drawn(r, 28)}"])


def gitlab(r: Random) -> str:
    return r.choice(["glpat-", "glrt-", "gldt-", "glptt-"]) + drawn(r, 20)


ENTITIES: dict[str, tuple[Make, Make]] = {
    "email": (email, email),
    "phone": (phone_general, phone_general),
    "card": (card, card),
    "iban": (iban, iban),
    "ip": (ip, ip),
    "mac": (mac, mac),
    "date_of_birth": (birth_en, birth_fr),
    "nir": (nir_, nir_),
    "siren": (siren_, siren_),
    "siret": (siret_, siret_),
    "plate": (plate, plate),
    "plate_old": (old_plate, old_plate),
    "postal_address": (address, address),
    "ssn": (ssn_, ssn_),
    "itin": (itin_, itin_),
    "phone_us": (phone_us, phone_us),
    "aws_key": (aws, aws),
    "azure_key": (azure, azure),
    "google_key": (google, google),
    "github_token": (github, github),
    "gitlab_token": (gitlab, gitlab),
    "npm_token": (checked("npm_"), checked("npm_")),
    "pypi_token": (lambda r: f"pypi-AgEIcHlwaS5vcmc{drawn(r, 140, _62)}",) * 2,
    "docker_token": (lambda r: f"dckr_pat_{drawn(r, 27)}",) * 2,
    "slack_token": (slack, slack),
    "discord_token": (discord, discord),
    "telegram_token": (lambda r: f"{form(r, '1########')}:AA{drawn(r, 33)}",) * 2,
    "twilio_key": (twilio, twilio),
    "stripe_key": (lambda r: f"{r.choice(['sk_test_', 'rk_test_', 'sk_live_'])}{drawn(r, 24)}",)
    * 2,
    "model_key": (model_key, model_key),
    "gardefou_key": (gardefou, gardefou),
    "jwt": (jwt, jwt),
    "private_key": (pem, pem),
    "connection_string": (connection, connection),
    "password": (password, password),
}
