"""OPEN (RFC 4271 §4.2) and its capabilities (RFC 5492).

version u8 | my AS u16 | hold time u16 | BGP identifier u32 | parameters: length u8, then type u8, length u8, value
extended parameters (RFC 9072): 255 | 255 | length u16, then type u8, length u16, value
"""

import struct
from collections.abc import Iterator
from typing import Final

from gatepost.codec.bgp.message import HEADER, Broken, Code, Kind, frame
from gatepost.codec.bgp.types import AS_TRANS, Afi, Capabilities, Local, Opening, Peer, Restart

VERSION: Final = 4

MULTIPROTOCOL: Final = 1  # RFC 4760 §8
ROUTE_REFRESH: Final = 2  # RFC 2918
GRACEFUL_RESTART: Final = 64  # RFC 4724
FOUR_OCTET_AS: Final = 65  # RFC 6793

_CAPABILITIES: Final = 2  # the parameter type (RFC 5492 §4)
_EXTENDED: Final = 255  # RFC 9072 §2
_UNICAST: Final = 1
_RESTARTING: Final = 0x8000
_NOTIFICATION: Final = 0x4000  # RFC 8538 §2
_FIXED: Final = struct.Struct(">BHHIB")
_FAMILY: Final = struct.Struct(">HBB")


def write_open(local: Local) -> bytes:
    """Return our OPEN."""
    parameters = b""
    if local.capabilities:
        capabilities = b"".join(_offers(local))
        parameters = bytes((_CAPABILITIES, len(capabilities))) + capabilities
    asn = local.asn if local.asn <= 0xFFFF else AS_TRANS
    fixed = _FIXED.pack(VERSION, asn, local.hold_time, local.bgp_id, len(parameters))
    return frame(Kind.OPEN, fixed + parameters)


def read_open(body: bytes) -> Opening:
    """Read the body of an OPEN; raises Broken (RFC 4271 §6.2)."""
    version, asn, hold_time, bgp_id, size = _FIXED.unpack_from(body)
    if version != VERSION:
        raise Broken(Code.OPEN, 1, VERSION.to_bytes(2), f"version {version}")
    capabilities = _read_capabilities(_parameters(body, size))
    if capabilities.four_octet_as is not None:
        asn = capabilities.four_octet_as
    return Opening(asn, hold_time, bgp_id, capabilities)


def check_open(theirs: Opening, local: Local, peer: Peer) -> frozenset[Afi]:
    """Return the families that both ends speak; raises Broken where the two do not fit (RFC 4271 §6.2)."""
    if theirs.asn != peer.asn or theirs.asn == 0:
        raise Broken(Code.OPEN, 2, text=f"it is AS {theirs.asn}, not {peer.asn}")
    if theirs.bgp_id == 0 or (theirs.bgp_id == local.bgp_id and peer.asn == local.asn):  # RFC 6286 §2.2
        raise Broken(Code.OPEN, 3, text=f"the identifier {theirs.bgp_id:#010x}")
    if 0 < theirs.hold_time < max(3, local.hold_min):
        raise Broken(Code.OPEN, 6, text=f"{theirs.hold_time} s")
    if not (local.capabilities and theirs.capabilities.multiprotocol):
        return frozenset({Afi.IPV4})  # and all that it may mean without saying
    common = theirs.capabilities.families & frozenset(local.families)
    if not common:
        wanted = b"".join(_multiprotocol(local))  # RFC 5492 §5: the data lists what is missed
        raise Broken(Code.OPEN, 7, wanted, "it speaks none of our address families")
    return common


def _offers(local: Local) -> Iterator[bytes]:
    """Make our capabilities. Of graceful restart we know how to wait; we have no routes of our own to keep."""
    yield from _multiprotocol(local)
    yield bytes((ROUTE_REFRESH, 0))
    yield bytes((GRACEFUL_RESTART, 2)) + _NOTIFICATION.to_bytes(2)
    yield bytes((FOUR_OCTET_AS, 4)) + local.asn.to_bytes(4)


def _multiprotocol(local: Local) -> Iterator[bytes]:
    for afi in local.families:
        yield bytes((MULTIPROTOCOL, 4)) + _FAMILY.pack(afi, 0, _UNICAST)


def _parameters(body: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Walk the optional parameters (RFC 4271 §4.2, RFC 9072 §2): type and value of each."""
    at, width = _FIXED.size, 1
    if size and body[at : at + 1] == bytes((_EXTENDED,)):
        # RFC 9072 §2: the type 255 says it; the one-octet length then means nothing, but that it is not 0
        size = int.from_bytes(body[at + 1 : at + 3])
        at, width = at + 3, 2
    if at + size != len(body):
        raise _malformed(f"{size} octets of parameters in an OPEN of {HEADER + len(body)}")
    while at < len(body):
        if at + 1 + width > len(body):
            raise _malformed("a parameter beyond the end")
        kind, length = body[at], int.from_bytes(body[at + 1 : at + 1 + width])
        at += 1 + width
        if at + length > len(body):
            raise _malformed("a parameter beyond the end")
        yield kind, body[at : at + length]
        at += length


def _read_capabilities(parameters: Iterator[tuple[int, bytes]]) -> Capabilities:
    """Read all capabilities; those unknown or of a wrong length are left out (RFC 5492 §3)."""
    families: set[Afi] = set()
    multiprotocol = refresh = False
    asn: int | None = None
    restart: Restart | None = None
    codes: list[int] = []
    for code, value in _walk(parameters):
        codes.append(code)
        if code == MULTIPROTOCOL and len(value) == 4:
            multiprotocol = True
            families |= _families(value)
        elif code == ROUTE_REFRESH and not value:
            refresh = True
        elif code == FOUR_OCTET_AS and len(value) == 4:
            asn = int.from_bytes(value)
        elif code == GRACEFUL_RESTART and len(value) % 4 == 2:
            restart = _restart(value)
    return Capabilities(frozenset(families), multiprotocol, refresh, asn, restart, tuple(codes))


def _walk(parameters: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for kind, octets in parameters:
        if kind != _CAPABILITIES:
            raise Broken(Code.OPEN, 4, text=f"the parameter {kind}")
        at = 0
        while at < len(octets):
            if at + 2 > len(octets) or at + 2 + octets[at + 1] > len(octets):
                raise _malformed("a capability beyond the end of its parameter")
            end = at + 2 + octets[at + 1]
            yield octets[at], octets[at + 2 : end]
            at = end


def _families(value: bytes) -> set[Afi]:
    afi, _, safi = _FAMILY.unpack(value)
    return {Afi(afi)} if afi in (1, 2) and safi == _UNICAST else set()


def _restart(value: bytes) -> Restart:
    flags = int.from_bytes(value[:2])
    kept = {
        Afi(afi)
        for afi, safi, _ in (_RESTARTED.unpack_from(value, at) for at in range(2, len(value), 4))
        if afi in (1, 2) and safi == _UNICAST
    }
    return Restart(flags & 0x0FFF, bool(flags & _RESTARTING), bool(flags & _NOTIFICATION), frozenset(kept))


_RESTARTED: Final = struct.Struct(">HBB")  # AFI, SAFI, flags: another order than in MULTIPROTOCOL


def _malformed(text: str) -> Broken:
    return Broken(Code.OPEN, 0, text=text)  # RFC 4271 §6.2: recognised but malformed is subcode 0
