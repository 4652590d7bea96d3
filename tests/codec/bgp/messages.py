"""BGP messages for tests, made without the codec; and the UPDATEs of real routers."""

import gzip
import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from gatepost.codec.bgp.session import Session
from gatepost.codec.bgp.types import Established, Event, Local, Peer

DUMPS: Final = Path(__file__).parents[2] / "conformance" / "bgp"
RECORD_MAX: Final = 40 + 4096  # addresses and a message
LOCAL: Final = Local(asn=65500, bgp_id=0x0A000001)
PEER: Final = Peer(asn=65066)
THEIR_ID: Final = 0x0A000002
MP4, MP6 = b"\x01\x04\x00\x01\x00\x01", b"\x01\x04\x00\x02\x00\x01"
REFRESH: Final = b"\x02\x00"

ORIGIN: Final = b"\x40\x01\x01\x00"
NEXT_HOP: Final = b"\x40\x03\x04\xc0\x00\x02\x07"


def message(kind: int, body: bytes = b"") -> bytes:
    return b"\xff" * 16 + struct.pack(">HB", 19 + len(body), kind) + body


KEEPALIVE: Final = message(4)


def as4(asn: int) -> bytes:
    return b"\x41\x04" + asn.to_bytes(4)


def restart(time: int = 120, *families: bytes, flags: int = 0) -> bytes:
    value = (flags << 12 | time).to_bytes(2) + b"".join(families)
    return bytes((64, len(value))) + value


def opening(
    *capabilities: bytes, asn: int = 65066, hold: int = 90, bgp_id: int = THEIR_ID, version: int = 4
) -> bytes:
    joined = b"".join(capabilities)
    return raw_open(bytes((2, len(joined))) + joined if joined else b"", asn, hold, bgp_id, version)


def raw_open(
    parameters: bytes = b"", asn: int = 65066, hold: int = 90, bgp_id: int = THEIR_ID, version: int = 4
) -> bytes:
    return message(1, struct.pack(">BHHIB", version, asn, hold, bgp_id, len(parameters)) + parameters)


def usual_open(*more: bytes) -> bytes:
    return opening(MP4, MP6, REFRESH, as4(65066), *more)


def prefix(text: str) -> bytes:
    network = ip_network(text)
    return bytes((network.prefixlen,)) + network.network_address.packed[: (network.prefixlen + 7) // 8]


def prefixes(*texts: str) -> bytes:
    return b"".join(map(prefix, texts))


def attribute(flags: int, kind: int, value: bytes) -> bytes:
    if len(value) > 255:
        return bytes((flags | 0x10, kind)) + len(value).to_bytes(2) + value
    return bytes((flags, kind, len(value))) + value


def as_path(*numbers: int, kind: int = 2, width: int = 4) -> bytes:
    value = bytes((kind, len(numbers))) + b"".join(each.to_bytes(width) for each in numbers)
    return attribute(0x40, 2, value if numbers else b"")


def communities(*pairs: tuple[int, int]) -> bytes:
    return attribute(0xC0, 8, b"".join(struct.pack(">HH", *pair) for pair in pairs))


def update(attributes: bytes = b"", nlri: bytes = b"", withdrawn: bytes = b"") -> bytes:
    return message(
        2, struct.pack(">H", len(withdrawn)) + withdrawn + struct.pack(">H", len(attributes)) + attributes + nlri
    )


USUAL: Final = ORIGIN + as_path(65066, 65043) + NEXT_HOP


def reach(nlri: bytes, next_hop: bytes = b"\x20\x01" + bytes(13) + b"\x01", afi: int = 2, safi: int = 1) -> bytes:
    return attribute(0x80, 14, struct.pack(">HBB", afi, safi, len(next_hop)) + next_hop + b"\0" + nlri)


def unreach(nlri: bytes, afi: int = 2, safi: int = 1) -> bytes:
    return attribute(0x80, 15, struct.pack(">HB", afi, safi) + nlri)


def established(opened: bytes | None = None, local: Local = LOCAL, peer: Peer = PEER, now: float = 0.0) -> Session:
    """Return a session that is up, its output taken."""
    session = Session(local, peer, now)
    events = session.receive((opened or usual_open()) + KEEPALIVE, now)
    assert isinstance(events[-1], Established), events
    session.output()
    return session


def told(octets: bytes, session: Session | None = None) -> list[Event]:
    """Return the events of octets in a session that is up."""
    return (session or established()).receive(octets, 0.0)


def notification(octets: bytes) -> bytes:
    """Return the body of the NOTIFICATION that octets end with: code, subcode, data."""
    messages = list(split(octets))
    kind, body = messages[-1]
    assert kind == 3, messages
    return body


def split(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Take messages apart."""
    while octets:
        assert octets[:16] == b"\xff" * 16
        size, kind = struct.unpack(">HB", octets[16:19])
        yield kind, octets[19:size]
        octets = octets[size:]


def real_updates(paths: Iterable[Path] | None = None) -> Iterator[bytes]:
    """Return the UPDATEs of the dumps, whole messages (RFC 6396: types BGP and BGP4MP)."""
    for path in sorted(DUMPS.glob("*.gz")) if paths is None else paths:
        octets = gzip.decompress(path.read_bytes())
        at = 0
        while at + 12 <= len(octets):
            _, kind, sub, size = struct.unpack_from(">IHHI", octets, at)
            record = octets[at + 12 : at + 12 + size]
            at += 12 + size
            if size > RECORD_MAX:
                break  # the collector broke off here in one of the files
            if (kind, sub) == (5, 1):
                yield message(2, record[12:])
            elif (kind, sub) == (16, 1):
                heard = record[16 if record[7] == 1 else 40 :]  # behind the addresses of both ends
                if heard[18:19] == b"\x02":
                    yield heard
