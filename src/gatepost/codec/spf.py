"""SPF records and macros (RFC 7208): text in, terms out; `judge/spf.py` asks the DNS.

A record is read whole before any of it is evaluated, so a syntax error anywhere is a permerror (§4.6).
"""

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Ip = IPv4Address | IPv6Address

RECORD_MAX: Final = 4096  # far above what fits an answer that DNS carries well (§3.4)
_VERSION: Final = re.compile(r"v=spf1(?: |$)", re.IGNORECASE)
_MODIFIER: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
_MECHANISM: Final = re.compile(
    r"([-+?~]?)([A-Za-z][A-Za-z0-9_.-]*)(?:(:)([^/]*(?:/(?![0-9/])[^/]*)*))?((?:/.*)?)", re.DOTALL
)
_CIDR: Final = re.compile(r"(?:/(0|[1-9][0-9]{0,2}))?(?://(0|[1-9][0-9]{0,2}))?")
_MACRO: Final = re.compile(r"%(?:%|_|-|\{([A-Za-z])([0-9]{0,3})([rR]?)([.+,/_=-]*)\})")
_TOP_LABEL: Final = re.compile(r"[A-Za-z0-9-]*[A-Za-z][A-Za-z0-9-]*|[A-Za-z0-9]+-[A-Za-z0-9-]*[A-Za-z0-9]")
_MACRO_LETTERS: Final = frozenset("slodiphcrtv")
_EXP_ONLY: Final = frozenset("crt")  # §7.2: c, r and t stand only in explanations
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Qualifier(Enum):
    """What a match means (§4.6.2); the values are results of RFC 8601."""

    PASS = "pass"  # noqa: S105  (a result, not a password)
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"


_QUALIFIERS: Final = {"": Qualifier.PASS, "+": Qualifier.PASS, "-": Qualifier.FAIL, "~": Qualifier.SOFTFAIL}
_QUALIFIERS["?"] = Qualifier.NEUTRAL


class BadRecord(ValueError):
    """A record that cannot be read: permerror; the text says why."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One mechanism: `name` all include a mx ptr ip4 ip6 exists; `domain` still holds its macros."""

    name: str
    qualifier: Qualifier
    domain: str = ""
    prefix4: int = 32
    prefix6: int = 128
    network: IPv4Network | IPv6Network | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A record's mechanisms in order, its redirect and where its explanation stands (empty for none)."""

    mechanisms: tuple[Mechanism, ...]
    redirect: str = ""
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Macros:
    """What macros expand to (§7.2). `validated` is the p macro's value, `unknown` unless somebody looked.

    `receiver` is our name and `moment` the seconds since 1970: only explanations tell them.
    """

    ip: Ip
    sender_local: str
    sender_domain: str
    helo: str
    domain: str
    validated: str = "unknown"
    receiver: str = "unknown"
    moment: int = 0


def is_spf(text: str) -> bool:
    """Tell whether a TXT record is an SPF record (§4.5): the version must be followed by a blank or the end."""
    return _VERSION.match(text) is not None


def parse(text: str) -> Record:
    """Read a record; BadRecord says what is wrong with it."""
    if len(text) > RECORD_MAX:
        raise BadRecord("the record is too long")
    if not text.isascii():
        raise BadRecord("the record is not ASCII")
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, str] = {}
    for term in text[6:].split(" "):
        if not term:
            continue
        modifier = _MODIFIER.fullmatch(term)
        if modifier is None:
            mechanisms.append(_mechanism(term))
            continue
        name, value = modifier[1].lower(), modifier[2]
        if name in ("redirect", "exp"):
            if name in modifiers:
                raise BadRecord(f"{name}= stands twice")
            _check_domain(value, term)
            modifiers[name] = value
        else:
            _check_macros(value, term)
    return Record(tuple(mechanisms), modifiers.get("redirect", ""), modifiers.get("exp", ""))


def expand(text: str, macros: Macros) -> str:
    """Expand a domain-spec (§7.3), cut from the left to 253 characters; the text was checked by `parse`."""
    name = _MACRO.sub(lambda found: _expansion(found, macros), text)
    while len(name) > 253 and "." in name:
        name = name.partition(".")[2]
    return name


def explain(text: str, macros: Macros) -> str:
    """Expand what a domain says to those it refuses (§6.2); BadRecord where it makes no sense."""
    if not text.isascii() or len(text) > RECORD_MAX:
        raise BadRecord("the explanation is not ASCII, or too long")
    _check_macros(text, "the explanation", explaining=True)
    return _MACRO.sub(lambda found: _expansion(found, macros), text)


def _mechanism(term: str) -> Mechanism:
    found = _MECHANISM.fullmatch(term)
    if found is None:
        raise BadRecord(f"{term!r} is no mechanism")
    qualifier, name, colon, domain, cidr = found[1], found[2].lower(), found[3], found[4] or "", found[5]
    how = _QUALIFIERS[qualifier]
    match name:
        case "all":
            if colon or cidr:
                raise BadRecord("all takes no argument")
            return Mechanism(name, how)
        case "include" | "exists":
            if cidr or not domain:
                raise BadRecord(f"{name} takes a domain and nothing else")
            _check_domain(domain, term)
            return Mechanism(name, how, domain)
        case "ptr":
            if cidr or (colon and not domain):
                raise BadRecord("ptr takes a domain or nothing")
            if domain:
                _check_domain(domain, term)
            return Mechanism(name, how, domain)
        case "a" | "mx":
            if colon and not domain:
                raise BadRecord(f"{name} has a colon and no domain")
            if domain:
                _check_domain(domain, term)
            four, six = _prefixes(cidr, term)
            return Mechanism(name, how, domain, four, six)
        case "ip4" | "ip6":
            return Mechanism(name, how, network=_network(name, term[len(qualifier) + 4 :], colon, term))
        case _:
            raise BadRecord(f"{name!r} is no mechanism that is known")


def _prefixes(cidr: str, term: str) -> tuple[int, int]:
    found = _CIDR.fullmatch(cidr)
    if found is None:
        raise BadRecord(f"{term!r} has a bad prefix length")
    four = int(found[1]) if found[1] is not None else 32
    six = int(found[2]) if found[2] is not None else 128
    if four > 32 or six > 128:
        raise BadRecord(f"{term!r} has a prefix length that is too long")
    return four, six


def _network(name: str, text: str, colon: str | None, term: str) -> IPv4Network | IPv6Network:
    address, slash, length = text.partition("/")
    if not colon or (slash and re.fullmatch(r"0|[1-9][0-9]{0,2}", length) is None):
        raise BadRecord(f"{term!r} is no network")
    try:
        network = ip_network(f"{address}/{length}" if slash else address, strict=False)
    except ValueError as wrong:
        raise BadRecord(f"{term!r} is no network") from wrong
    if network.version != int(name[-1]) or "%" in address:
        raise BadRecord(f"{term!r} is of the other family")
    return network


def _check_domain(text: str, term: str) -> None:
    """Check a domain-spec: macros, and an end that is a macro or a top label (§7.1)."""
    _check_macros(text, term)
    if not text:
        raise BadRecord(f"{term!r} has no domain")
    if _ends_in_macro(text):
        return
    label = text.removesuffix(".").rpartition(".")[2]
    if (
        "." not in text.removesuffix(".")
        or _TOP_LABEL.fullmatch(label) is None
        or label[-1:] == "-"
        or label[:1] == "-"
    ):
        raise BadRecord(f"{term!r} does not end in a top-level label")


def _ends_in_macro(text: str) -> bool:
    return any(found.end() == len(text) for found in _MACRO.finditer(text))


def _check_macros(text: str, term: str, *, explaining: bool = False) -> None:
    at = 0
    for found in _MACRO.finditer(text):
        _check_literal(text[at : found.start()], term, explaining=explaining)
        at = found.end()
        if found[1] is None:
            continue
        letter = found[1].lower()
        if letter not in _MACRO_LETTERS or (letter in _EXP_ONLY and not explaining):
            raise BadRecord(f"{term!r} has a macro that may not stand there")
        if found[2] and int(found[2]) == 0:
            raise BadRecord(f"{term!r} keeps no label of a macro")
    _check_literal(text[at:], term, explaining=explaining)


def _check_literal(text: str, term: str, *, explaining: bool = False) -> None:
    first = " " if explaining else "!"
    if "%" in text or any(not first <= character <= "~" for character in text):
        raise BadRecord(f"{term!r} has a character that may not stand there")


def _expansion(found: re.Match[str], macros: Macros) -> str:
    if found[1] is None:
        return {"%%": "%", "%_": " ", "%-": "%20"}[found[0]]
    value = _value(found[1].lower(), macros)
    labels = re.split("[" + re.escape(found[4] or ".") + "]", value)
    if found[3]:
        labels.reverse()
    if found[2]:
        labels = labels[-int(found[2]) :]
    text = ".".join(labels)
    if found[1].isupper():
        return "".join(c if c in _UNRESERVED else "".join(f"%{o:02X}" for o in c.encode()) for c in text)
    return text


def _value(letter: str, macros: Macros) -> str:
    match letter:
        case "s":
            return f"{macros.sender_local}@{macros.sender_domain}"
        case "l":
            return macros.sender_local
        case "o":
            return macros.sender_domain
        case "d":
            return macros.domain
        case "i":
            return dotted(macros.ip)
        case "p":
            return macros.validated
        case "h":
            return macros.helo
        case "c":
            return str(macros.ip)
        case "r":
            return macros.receiver
        case "t":
            return str(macros.moment)
        case _:
            return "in-addr" if macros.ip.version == 4 else "ip6"


def dotted(ip: Ip) -> str:
    """Return the i macro's form: dotted quads, or 32 nibbles with dots, in capitals as openspf's suite has them."""
    if isinstance(ip, IPv4Address):
        return str(ip)
    return ".".join(f"{int(ip):032X}")


def parse_ip(text: str) -> Ip:
    """Read an address; one that maps IPv4 into IPv6 counts as IPv4 (§5)."""
    ip = ip_address(text)
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
