r"""spamd's configuration channel (spamd(8), spamd-setup(8)): a line replaces a list, or clears it.

    NAME;"MESSAGE";inet;COUNT;a.b.c.d/len;...;inet6;COUNT;...   what spamd-setup sends
    NAME;"MESSAGE";a.b.c.d/len;...                              the form of spamd 5.6 and before
    NAME;                                                       the list has nobody any more

In a message a quote is \", a line's end is \n; %A and other escapes are left as they are, for they are read when
the message is said (`message.expand`). A line with any mistake in it is bogus and changes nothing.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

NAME_MAX: Final = 31  # a list is a table: PF_TABLE_NAME_SIZE without its NUL
MESSAGE_MAX: Final = 8192
_LINE: Final = re.compile(rb'([^;]*);(?:"((?:[^"\\]|\\.)*)";(.*))?', re.DOTALL)
_NAME: Final = re.compile(rb"[!-:<-~]{1,%d}" % NAME_MAX)
_COUNT: Final = re.compile(rb"[0-9]{1,9}")
_FOUR: Final = re.compile(rb"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})/([0-9]{1,2})")
_TOKEN: Final = re.compile(r'\\[^\n]|["\n\\]')
_WIDTHS: Final = {b"inet": 32, b"inet6": 128}


class Bogus(ValueError):
    """A line that is not understood; the text says why."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """A list's whole content; networks are `number << 8 | length`, in the order in which they were sent."""

    name: str
    message: str
    four: "array[int]" = field(default_factory=lambda: array("Q"))
    six: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Cleared:
    """A list that has nobody any more."""

    name: str


Change = Replaced | Cleared


def parse(octets: bytes) -> Iterator[Change | Bogus]:
    """Read all lines that a connection brought; the last one needs no end."""
    for line in octets.split(b"\n"):
        if line:
            try:
                yield parse_line(line)
            except Bogus as bogus:
                yield bogus


def parse_line(line: bytes) -> Change:
    """Read a line without its end; raises Bogus."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise Bogus('not of the form NAME;"MESSAGE";addresses')
    name, message, rest = match.groups()
    if not _NAME.fullmatch(name):
        raise Bogus(f"a list's name has 1 to {NAME_MAX} printable letters and no blank")
    if message is None:
        return Cleared(name.decode("ascii"))
    if len(message) > MESSAGE_MAX:
        raise Bogus(f"a message of more than {MESSAGE_MAX} octets")
    fields = rest.removesuffix(b";").split(b";") if rest else []
    four, six = _families(fields) if fields and fields[0] in _WIDTHS else (_fours(fields), ())
    if not four and not six:
        raise Bogus("no addresses")
    return Replaced(name.decode("ascii"), message.decode("utf-8", "replace"), four, six)


def _families(fields: Sequence[bytes]) -> tuple["array[int]", Sequence[int]]:
    four, six = array("Q"), list[int]()
    seen: set[bytes] = set()
    at = 0
    while at < len(fields):
        family = fields[at]
        if family not in _WIDTHS:
            raise Bogus(f"{_shown(family)} is neither inet nor inet6, or a count is wrong")
        if family in seen:
            raise Bogus(f"duplicate {family.decode('ascii')}")
        seen.add(family)
        count = fields[at + 1] if at + 1 < len(fields) else b""
        if not _COUNT.fullmatch(count) or at + 2 + int(count) > len(fields):
            raise Bogus(f"{_shown(count)} is not how many addresses there are")
        networks = fields[at + 2 : at + 2 + int(count)]
        if family == b"inet":
            four = _fours(networks)
        else:
            six = [_six(each) for each in networks]
        at += 2 + int(count)
    return four, six


def _fours(fields: Iterable[bytes]) -> "array[int]":
    found = array("Q")
    for each in fields:
        match = _FOUR.fullmatch(each)
        if match is None:
            raise Bogus(f"{_shown(each)} is no network")
        one, two, three, last, length = map(int, match.groups())
        if max(one, two, three, last) > 255 or not 0 < length <= 32:
            raise Bogus(f"{_shown(each)} is no network")
        number = one << 24 | two << 16 | three << 8 | last
        shift = 32 - length
        found.append((number >> shift << shift) << 8 | length)
    return found


def _six(octets: bytes) -> int:
    address, slash, bits = octets.partition(b"/")
    try:
        number = int(IPv6Address(address.decode("ascii")))
    except (AddressValueError, UnicodeDecodeError):
        raise Bogus(f"{_shown(octets)} is no network") from None
    if not slash or not _COUNT.fullmatch(bits) or not 0 < int(bits) <= 128:
        raise Bogus(f"{_shown(octets)} is no network")
    shift = 128 - int(bits)
    return (number >> shift << shift) << 8 | int(bits)


def _shown(octets: bytes) -> str:
    return repr(octets[:60].decode("ascii", "replace"))


# --- writing --------------------------------------------------------------------------------------------------


def line(change: Change) -> bytes:
    """Write a change as spamd-setup sends it, with the line's end; a list without networks is cleared."""
    if isinstance(change, Cleared) or not (change.four or change.six):
        return f"{change.name};\n".encode()
    parts = [change.name, quoted(change.message)]
    if change.four:
        parts += ["inet", str(len(change.four))]
        parts += [f"{IPv4Address(each >> 8)}/{each & 255}" for each in change.four]
    if change.six:
        parts += ["inet6", str(len(change.six))]
        parts += [f"{IPv6Address(each >> 8)}/{each & 255}" for each in change.six]
    return (";".join(parts) + "\n").encode()


def quoted(message: str) -> str:
    r"""Write a message as one line within quotes; it is said by spamd as it was before.

    spamd-setup leaves every backslash alone, so that a last one swallows the quote; here it is doubled.
    """
    words = {'"': r"\"", "\n": r"\n", "\\": r"\\"}
    return '"' + _TOKEN.sub(lambda found: words.get(found[0], found[0]), message) + '"'
