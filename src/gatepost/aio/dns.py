"""The few pages of DNS that a stub resolver needs, sans-IO: queries out, answers in (RFC 1035 §4, RFC 6891).

Only what the question asked for is read: records of other names are ignored, whatever section they stand in.
Names are lower-case text without the last dot; the root is "".
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from gatepost.base.address import fold_domain
from gatepost.codec.tlsa import Tlsa as Tlsa  # a record like the others, for who asks

LABEL_MAX: Final = 63  # RFC 1035 §2.3.4
NAME_MAX: Final = 255  # RFC 1035 §2.3.4, octets on the wire
CNAME_DEPTH: Final = 8
PAYLOAD: Final = 1232  # octets we take by UDP (RFC 6891 §6.2.5; the size that avoids fragments, DNS flag day 2020)
RECORDS_MAX: Final = 500  # in one answer section
_JUMPS_MAX: Final = 64
_OPT: Final = b"\x00" + struct.pack("!HHIH", 41, PAYLOAD, 0, 0)  # RFC 6891 §6.1.2
_QR: Final = 0x8000
_TC: Final = 0x0200
_RD: Final = 0x0100
_AD: Final = 0x0020  # RFC 4035 §3.2.3; in a query: we understand it (RFC 6840 §5.7)
_IN: Final = 1


class Type(IntEnum):
    """Record types we ask for or follow."""

    A = 1
    CNAME = 5
    SOA = 6
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    TLSA = 52


class Rcode(IntEnum):
    """Response codes that mean something to a stub (RFC 1035 §4.1.1)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Srv:
    """An SRV record (RFC 2782); `target` is "" where the service is not offered."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Mx:
    """An MX record; `host` is "" for the null MX (RFC 7505)."""

    preference: int
    host: str


Record = str | bytes | Mx | Srv | Tlsa
"""An address or a name as text, the joined strings of a TXT, an Mx, a Srv, a Tlsa."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer says about the question: records at the end of the alias chain, in the order they came.

    `name` is the end of the chain; `chased` tells how many aliases led there. `ttl` is the least of all records
    used, of the SOA when there are none (RFC 2308 §5), None when nothing says.
    """

    rcode: int
    truncated: bool
    authentic: bool
    name: str
    chased: int
    records: tuple[Record, ...]
    ttl: int | None


class Malformed(ValueError):
    """Octets that are no answer to our question: to be ignored, the right one may follow (CVE-2023-29483)."""


class Looping(ValueError):
    """A chain of aliases that is too long or comes back: an answer, but of no use."""


@lru_cache(maxsize=4096)
def name_octets(name: str) -> bytes:
    """Return a name as it stands in a question; ValueError when it cannot be one."""
    folded = fold_domain(name)
    labels = folded.encode("utf-8").split(b".") if folded else []
    if not folded.isascii() or any(not 0 < len(label) <= LABEL_MAX for label in labels):
        raise ValueError(f"{name!r} is not a domain name")
    octets = b"".join(bytes((len(label),)) + label for label in labels) + b"\x00"
    if len(octets) > NAME_MAX:
        raise ValueError(f"{name!r} is too long for a domain name")
    return octets


def query(number: int, name: str, kind: Type, *, edns: bool = True) -> bytes:
    """Return a question with recursion desired; `number` is its 16-bit id."""
    head = struct.pack("!HHHHHH", number, _RD | _AD, 1, 0, 0, int(edns))
    return head + name_octets(name) + struct.pack("!HH", kind, _IN) + (_OPT if edns else b"")


def reverse_name(ip: str) -> str:
    """Return the name of an address's PTR record (RFC 1035 §3.5, RFC 3596 §2.5)."""
    address = ip_address(ip)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.reverse_pointer


def parse_reply(octets: bytes, number: int, name: str, kind: Type) -> Reply:
    """Read the answer to `query(number, name, kind)`.

    Raises Malformed when it is not one (other id, other question, broken), Looping for its alias chain.
    """
    try:
        return _parse(octets, number, name, kind)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Malformed("cut off") from error


def _parse(octets: bytes, number: int, name: str, kind: Type) -> Reply:
    got, flags, questions, answers, authorities, others = struct.unpack_from("!HHHHHH", octets)
    if got != number or not flags & _QR or questions != 1:
        raise Malformed("not the answer to this question")
    asked, at = _name(octets, 12)
    if struct.unpack_from("!HH", octets, at) != (kind, _IN) or asked != fold_domain(name):
        raise Malformed("another question")
    truncated = bool(flags & _TC)
    authentic = bool(flags & _AD)
    rcode = flags & 15
    if truncated:
        return Reply(rcode, True, authentic, asked, 0, (), None)
    if answers > RECORDS_MAX:
        raise Malformed("more records than any answer has")
    aliases, found, at = _section(octets, at + 4, answers, kind)
    negative = _rest(octets, at, authorities + others)
    end, ttls = _chase(asked, aliases)
    records = found.get(end, [])
    ttls += [ttl for _, ttl in records] if records else negative
    return Reply(
        rcode,
        False,
        authentic,
        end,
        len(aliases) if end != asked else 0,
        tuple(record for record, _ in records),
        min(ttls, default=None),
    )


_Found = dict[str, list[tuple[Record, int]]]
_Aliases = dict[str, tuple[str, int]]


def _section(octets: bytes, at: int, count: int, kind: Type) -> tuple[_Aliases, _Found, int]:
    aliases: _Aliases = {}
    found: _Found = {}
    for _ in range(count):
        owner, at = _name(octets, at)
        its_kind, its_class, ttl, length = struct.unpack_from("!HHIH", octets, at)
        at += 10
        end = at + length
        if end > len(octets):
            raise Malformed("a record beyond the end")
        if its_class == _IN and its_kind == kind:
            found.setdefault(owner, []).append((_record(octets, at, end, kind), _ttl(ttl)))
        elif its_class == _IN and its_kind == Type.CNAME:
            aliases[owner] = (_name(octets, at)[0], _ttl(ttl))
        at = end
    return aliases, found, at


def _chase(name: str, aliases: _Aliases) -> tuple[str, list[int]]:
    ttls: list[int] = []
    while name in aliases:
        if len(ttls) == CNAME_DEPTH:
            raise Looping("too many aliases")
        name, ttl = aliases[name]
        ttls.append(ttl)
    return name, ttls


def _rest(octets: bytes, at: int, count: int) -> list[int]:
    """Walk to the end, so that no cut answer passes for whole; return how long a zone says that nothing is there.

    That is min(SOA TTL, SOA MINIMUM) (RFC 2308 §5).
    """
    if count > RECORDS_MAX:
        raise Malformed("more records than any answer has")
    ttls: list[int] = []
    for _ in range(count):
        _, at = _name(octets, at)
        its_kind, _, ttl, length = struct.unpack_from("!HHIH", octets, at)
        at += 10 + length
        if at > len(octets):
            raise Malformed("a record beyond the end")
        if its_kind == Type.SOA and length >= 20:
            ttls.append(min(_ttl(ttl), _ttl(struct.unpack_from("!I", octets, at - 4)[0])))
    return ttls


def _record(octets: bytes, at: int, end: int, kind: Type) -> Record:
    match kind:
        case Type.A if end - at == 4:
            return f"{octets[at]}.{octets[at + 1]}.{octets[at + 2]}.{octets[at + 3]}"
        case Type.AAAA if end - at == 16:
            return str(IPv6Address(octets[at:end]))
        case Type.TXT:
            return _strings(octets, at, end)
        case Type.MX if end - at > 2:
            return Mx(struct.unpack_from("!H", octets, at)[0], _name_within(octets, at + 2, end))
        case Type.SRV if end - at > 6:
            priority, weight, port = struct.unpack_from("!HHH", octets, at)
            return Srv(priority, weight, port, _name_within(octets, at + 6, end))
        case Type.PTR | Type.CNAME:
            return _name_within(octets, at, end)
        case Type.TLSA if end - at > 3:
            return Tlsa(octets[at], octets[at + 1], octets[at + 2], octets[at + 3 : end])
        case _:
            raise Malformed("a record of the wrong size")


def _strings(octets: bytes, at: int, end: int) -> bytes:
    parts: list[bytes] = []
    while at < end:
        following = at + 1 + octets[at]
        if following > end:
            raise Malformed("a string beyond its record")
        parts.append(octets[at + 1 : following])
        at = following
    return b"".join(parts)


def _name_within(octets: bytes, at: int, end: int) -> str:
    name, after = _name(octets, at)
    if after != end:
        raise Malformed("a name that does not fill its record")
    return name


def _name(octets: bytes, at: int) -> tuple[str, int]:
    """Return a name in lower case and the place after it; pointers must lead back (RFC 1035 §4.1.4)."""
    labels: list[bytes] = []
    size = 1
    after = -1
    least = at
    for _ in range(_JUMPS_MAX + 128):
        length = octets[at]
        if length == 0:
            return _text(labels), at + 1 if after < 0 else after
        if length <= LABEL_MAX:
            label = octets[at + 1 : at + 1 + length]
            size += length + 1
            if len(label) != length or size > NAME_MAX:
                raise Malformed("a name that is too long")
            labels.append(label)
            at += length + 1
            continue
        if length < 0xC0:
            raise Malformed("an unknown kind of label")
        target = (length & 0x3F) << 8 | octets[at + 1]
        if after < 0:
            after = at + 2
        if target >= least:
            raise Malformed("a pointer that does not lead back")
        at = least = target
    raise Malformed("a name of too many pieces")


def _text(labels: list[bytes]) -> str:
    name = b".".join(labels).lower()  # bytes.lower folds the ASCII letters only
    if any(b"." in label for label in labels) or not name.isascii() or not name.decode().isprintable():
        return _escaped(labels)
    return name.decode("ascii")


def _escaped(labels: list[bytes]) -> str:
    """Return labels with odd octets as \\DDD (RFC 1035 §5.1): they match no name that we ask for."""
    return ".".join(
        "".join(chr(c) if 0x21 <= c <= 0x7E and c not in b".\\" else f"\\{c:03}" for c in label.lower())
        for label in labels
    )


def _ttl(ttl: int) -> int:
    return ttl if ttl < 1 << 31 else 0  # RFC 2181 §8
