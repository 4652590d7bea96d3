"""DNS lists of addresses (RFC 5782): the name to ask for, and what an answer means.

Only an answer within 127.0.0.0/8 says "listed" (RFC 5782 §2.1: "the contents of the A record"); one within
127.255.255.0/24 is the list's complaint about us (a public resolver, too many queries), and any other address is
a parked domain or a wildcard. `Answers` is postscreen's filter: `127.0.0.[2..11;20]`.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

LISTED_TEST: Final = "127.0.0.2"  # RFC 5782 §5: "IPv4-based DNSxLs MUST contain an entry for 127.0.0.2"
UNLISTED_TEST: Final = "127.0.0.1"  # "and MUST NOT contain an entry for 127.0.0.1"
ERRORS: Final = "127.255.255."
_LISTED: Final = "127."
_PART: Final = re.compile(r"[0-9]{1,3}|\[([^\]]*)\]")
_RANGE: Final = re.compile(r"([0-9]{1,3})(?:\.\.([0-9]{1,3}))?")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_ZONE_MAX: Final = 253 - 64  # the reversed nibbles of an IPv6 address stand before it


@dataclass(frozen=True, slots=True)
class Answers:
    """Which of a list's answers count: for each octet the values that match."""

    octets: tuple[frozenset[int], ...]

    def match(self, address: str) -> bool:
        """Tell whether an answer counts; `listed` has let it through."""
        return all(int(each) in octet for each, octet in zip(address.split("."), self.octets, strict=True))


ALL: Final = Answers((frozenset(range(256)),) * 4)


def parse_answers(text: str) -> Answers:
    """Read `127.0.0.4`, `=127.0.0.[2..11]` or `127.0.[0..255].[1;3]`; raises ValueError."""
    parts, at = [], 0
    wanted = text.removeprefix("=")
    while at <= len(wanted):
        part = _PART.match(wanted, at)
        if part is None:
            break
        parts.append(_values(part))
        at = part.end() + 1
        if at <= len(wanted) and wanted[at - 1] != ".":
            break
    if len(parts) != 4 or at != len(wanted) + 1 or not all(parts):
        raise ValueError(f"{text!r} is no answer of a list (write 127.0.0.2 or 127.0.0.[2..11;20])")
    if 127 not in parts[0]:
        raise ValueError(f"{text!r} can never match: only answers within 127.0.0.0/8 count")
    return Answers(tuple(parts))


def parse_zone(text: str) -> str:
    """Return a list's domain, folded; raises ValueError."""
    zone = text.lower().removesuffix(".")
    if not 0 < len(zone) <= _ZONE_MAX or not all(_LABEL.fullmatch(label) for label in zone.split(".")):
        raise ValueError(f"{text!r} is not the domain of a list")
    return zone


def query_name(ip: str, zone: str) -> str:
    """Return the name to ask for: octets (RFC 5782 §2.1) or nibbles (§2.4) reversed; ValueError for no address."""
    address: IPv4Address | IPv6Address | None = ip_address(ip)
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    assert address is not None
    return f"{address.reverse_pointer.removesuffix('.arpa').rpartition('.')[0]}.{zone}"


def listed(address: str) -> bool:
    """Tell whether an A record says that the address is on the list."""
    return address.startswith(_LISTED) and not address.startswith(ERRORS)


def complaint(address: str) -> bool:
    """Tell whether an A record says that the list does not serve us."""
    return address.startswith(ERRORS)


def _values(part: "re.Match[str]") -> frozenset[int]:
    """Return the values of one octet, none for what is none."""
    if part[1] is None:
        return frozenset((int(part[0]),)) if int(part[0]) < 256 else frozenset()
    values: set[int] = set()
    for piece in part[1].split(";"):
        found = _RANGE.fullmatch(piece)
        if found is None:
            return frozenset()
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < 256:
            return frozenset()
        values.update(range(first, last + 1))
    return frozenset(values)
