"""The PROXY protocol, versions 1 and 2: what a balancer says of its client before the client's first octet.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt (§2.1 text, §2.2 binary), the receiver's side.

    opening = Opening()
    while (origin := opening.receive(octets)) is None: ...   # more is needed; Malformed: hang up
    opening.rest                                             # what the client itself has sent already

Strict: a header is known by its first octets or refused by them, an address has one spelling, a port no leading
zero, a TLV ends within the header, a CRC-32C must be right (§2.2.5). The type-length-values are otherwise only
walked: nothing here believes a balancer about TLS or names.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

V1_MAX: Final = 107  # octets, CRLF included (§2.1)
V2_HEAD: Final = 16
V2_MAX: Final = V2_HEAD + 4096  # ours: addresses take 36 octets, all TLVs that HAProxy makes fit
SIGNATURE_1: Final = b"PROXY "
SIGNATURE_2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
PORT_MAX: Final = 65_535
UNIQUE_ID_MAX: Final = 128  # §2.2.6

_VERSION: Final = 2
_LOCAL: Final = 0
_PROXY: Final = 1
_UNSPEC: Final = 0
_INET: Final = 1
_INET6: Final = 2
_UNIX: Final = 3
_STREAM: Final = 1
_CRC32C: Final = 0x03
_UNIQUE_ID: Final = 0x05
_ADDRESSES: Final = {_INET: struct.Struct("!4s4sHH"), _INET6: struct.Struct("!16s16sHH")}


class Malformed(ValueError):
    """Octets that are no PROXY header; its text is for the log."""


@dataclass(frozen=True, slots=True)
class Proxied:
    """A client that the balancer speaks for, and where it connected to; a v4-mapped address is the IPv4 one."""

    ip: str
    port: int
    local_ip: str
    local_port: int


@dataclass(frozen=True, slots=True)
class Local:
    """The balancer speaks for itself (a health check), or cannot tell who its client is."""


Origin = Proxied | Local
LOCAL: Final = Local()


class Opening:
    """The first octets of one connection, until its header is whole. At most V2_MAX are kept."""

    __slots__ = ("_octets", "rest")

    def __init__(self) -> None:
        self._octets = b""
        self.rest = b""
        """What came behind the header."""

    def receive(self, octets: bytes) -> Origin | None:
        """Take what came; return the origin once the header is whole. Raises Malformed; then call no more."""
        held = self._octets = self._octets + octets
        if held[: len(SIGNATURE_1)] == SIGNATURE_1[: len(held)]:
            size, binary = _v1_size(held), False
        elif held[: len(SIGNATURE_2)] == SIGNATURE_2[: len(held)]:
            size, binary = _v2_size(held), True
        else:
            raise Malformed("it does not begin with a PROXY header")
        if size is None or len(held) < size:
            return None
        self._octets, self.rest = b"", held[size:]
        return _read_v2(held[:size]) if binary else _read_v1(held[:size])


def _v1_size(held: bytes) -> int | None:
    end = held.find(b"\r\n", 0, V1_MAX)
    if end >= 0:
        return end + 2
    if len(held) >= V1_MAX:
        raise Malformed(f"no end of line within {V1_MAX} octets")
    return None


def _read_v1(line: bytes) -> Origin:
    """Read a whole line (§2.1): `PROXY TCP4 192.0.2.9 198.51.100.1 56324 25`, or UNKNOWN and anything."""
    words = line[:-2].split(b" ")
    family = words[1]
    if family == b"UNKNOWN":
        return LOCAL
    if family not in (b"TCP4", b"TCP6"):
        raise Malformed(f"the family {family[:16]!r}")
    if len(words) != 6:
        raise Malformed(f"{len(words)} words instead of 6")
    ip, local_ip = (_address(word, six=family == b"TCP6") for word in words[2:4])
    port, local_port = (_port(word) for word in words[4:])
    return Proxied(ip, port, local_ip, local_port)


def _address(word: bytes, *, six: bool) -> str:
    try:
        text = word.decode("ascii")
        if six and "%" not in text:
            return plain(IPv6Address(text))
        if not six:
            return str(IPv4Address(text))
    except ValueError:
        pass
    raise Malformed(f"the address {word[:40]!r}")


def _port(word: bytes) -> int:
    if word.isdigit() and len(word) <= 5 and (word == b"0" or not word.startswith(b"0")):
        port = int(word)
        if port <= PORT_MAX:
            return port
    raise Malformed(f"the port {word[:8]!r}")


def _v2_size(held: bytes) -> int | None:
    if len(held) < V2_HEAD:
        return None
    size = V2_HEAD + int.from_bytes(held[14:16])
    if size > V2_MAX:
        raise Malformed(f"a header of {size} octets")
    return size


def _read_v2(header: bytes) -> Origin:
    """Read a whole binary header (§2.2)."""
    version, command = header[12] >> 4, header[12] & 15
    family, transport = header[13] >> 4, header[13] & 15
    if version != _VERSION or command not in (_LOCAL, _PROXY):
        raise Malformed(f"version and command {header[12]:#04x}")
    if command == _LOCAL:
        return LOCAL  # "discard the protocol block including the family which is ignored"
    if family not in (_UNSPEC, _INET, _INET6, _UNIX) or transport not in (_UNSPEC, _STREAM):
        raise Malformed(f"family and transport {header[13]:#04x}")
    if family in (_UNSPEC, _UNIX) or transport == _UNSPEC:
        return LOCAL
    layout = _ADDRESSES[family]
    if len(header) < V2_HEAD + layout.size:
        raise Malformed("addresses beyond the header's end")
    source, destination, port, local_port = layout.unpack_from(header, V2_HEAD)
    _check_values(header, V2_HEAD + layout.size)
    make = IPv4Address if family == _INET else IPv6Address
    return Proxied(plain(make(source)), port, plain(make(destination)), local_port)


def _check_values(header: bytes, at: int) -> None:
    """Walk the TLVs (§2.2.1); the checksum may stand once and must be right."""
    checked = False
    while at < len(header):
        if at + 3 > len(header):
            raise Malformed("a value beyond the header's end")
        kind, size = header[at], int.from_bytes(header[at + 1 : at + 3])
        at += 3
        if at + size > len(header):
            raise Malformed("a value beyond the header's end")
        if kind == _CRC32C:
            if checked or size != 4:
                raise Malformed("a checksum that is none")
            checked = True
            if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(header[at : at + 4]):
                raise Malformed("the checksum is wrong")
        elif kind == _UNIQUE_ID and size > UNIQUE_ID_MAX:
            raise Malformed("a unique id that is too long")
        at += size


def plain(address: IPv4Address | IPv6Address) -> str:
    """Write an address; a v4-mapped IPv6 address is the IPv4 one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def crc32c(octets: bytes) -> int:
    """Return the Castagnoli CRC (RFC 3720 §B.4 has test vectors)."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()
