"""Addresses and networks as numbers: what tables are looked up by, and what counts as one sender."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

WIDTHS: Final = {4: 32, 6: 128}
SENDER_LENGTHS: Final = {4: 32, 6: 64}  # an IPv6 customer has a /64 at least: one sender
NET_LENGTHS: Final = {4: 24, 6: 48}
_MAPPED: Final = 0xFFFF << 32
_FOUR: Final = int(AF_INET)  # these two at hand: each connection is looked up by its number
_from_bytes: Final = int.from_bytes
_LENGTH: Final = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True, slots=True, order=True)
class Prefix:
    """A network: family 4 or 6, length in bits, and the address as a number with no host bits."""

    version: int
    length: int
    number: int

    @property
    def host(self) -> bool:
        """Tell whether it is one address."""
        return self.length == WIDTHS[self.version]

    @property
    def text(self) -> str:
        """Write it as pfctl does: a full host without its length."""
        address = address_text(self.version, self.number)
        return address if self.host else f"{address}/{self.length}"

    def holds(self, version: int, number: int) -> bool:
        """Tell whether an address, as a number, lies in it."""
        shift = WIDTHS[self.version] - self.length
        return version == self.version and number >> shift == self.number >> shift


def number_of(ip: str) -> tuple[int, int]:
    """Return (family, number) of an address; one mapped into IPv6 is IPv4's. ValueError where it is none."""
    try:
        if ":" not in ip:
            return 4, _from_bytes(inet_pton(_FOUR, ip))
        number = _from_bytes(inet_pton(AF_INET6, ip))
    except (OSError, ValueError) as wrong:
        raise ValueError(f"{ip!r} is no address") from wrong
    return (4, number & 0xFFFFFFFF) if number >> 32 == _MAPPED >> 32 else (6, number)


def address_text(version: int, number: int) -> str:
    """Write an address."""
    return inet_ntop(AF_INET, number.to_bytes(4)) if version == 4 else inet_ntop(AF_INET6, number.to_bytes(16))


def cut(version: int, number: int, length: int) -> Prefix:
    """Return the network of `length` bits around an address."""
    shift = WIDTHS[version] - length
    return Prefix(version, length, number >> shift << shift)


def parse_prefix(text: str) -> Prefix:
    """Read `192.0.2.1`, `192.0.2.0/24`, `10.2/16` or `2001:db8::/32`; host bits are dropped. Raises ValueError."""
    address, slash, bits = text.partition("/")
    if (slash and "." in address and ":" not in address) or (slash and address.isdecimal()):
        address += ".0" * (3 - address.count("."))
    raw_version = 6 if ":" in address else 4
    version, number = number_of(address)
    if not slash:
        return Prefix(version, WIDTHS[version], number)
    if not _LENGTH.fullmatch(bits) or not (length := int(bits)) <= WIDTHS[raw_version]:
        raise ValueError(f"{text!r} is no network")
    if raw_version != version:  # ::ffff:192.0.2.0/120
        length -= 96
        if length < 0:
            raise ValueError(f"{text!r} is no network")
    return cut(version, number, length)


def sender_prefix(version: int, number: int) -> Prefix:
    """Return what counts as one sender: an IPv4 address, or the /64 of an IPv6 one."""
    return cut(version, number, SENDER_LENGTHS[version])


def senders_within(network: Prefix, senders: Collection[str]) -> list[str]:
    """Return those of some senders (`sender_prefix`, as text) that lie in a network."""
    if network.length == SENDER_LENGTHS[network.version]:
        return [network.text] if network.text in senders else []
    return [each for each in senders if network.holds(*number_of(each.partition("/")[0]))]
