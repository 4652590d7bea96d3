"""Every UPDATE of real routers (conformance/bgp) is read, and its prefixes come out as they stood."""

import struct
from collections import Counter

from gatepost.codec.bgp.types import Complaint, Peer, Update
from tests.codec.bgp.messages import DUMPS, MP4, established, opening, real_updates

AS_0 = Complaint("AGGREGATOR is discarded: AS 0")  # RFC 7607 came in 2015; the routes are taken all the same


def rebuilt(octets: bytes, event: Update) -> bytes:
    """Return an UPDATE with the prefixes of `event` and the attributes of `octets`."""
    gone = b"".join(event.withdrawn)
    at = 21 + struct.unpack(">H", octets[19:21])[0]
    attributes = octets[at : at + 2 + struct.unpack(">H", octets[at : at + 2])[0]]
    return octets[:19] + len(gone).to_bytes(2) + gone + attributes + b"".join(event.announced)


def test_all_updates_of_real_routers_are_read() -> None:
    session = established(opening(MP4), peer=Peer(65066, enforce_first_as=False))
    seen: Counter[str] = Counter()
    for octets in real_updates():
        events = session.receive(octets, 0.0)
        event = events.pop()
        assert events in ([], [AS_0]), events
        assert isinstance(event, Update)
        assert rebuilt(octets, event) == octets
        assert (event.path is not None) == bool(event.announced)
        seen["messages"] += 1
        seen["announced"] += len(event.announced)
        seen["withdrawn"] += len(event.withdrawn)
        seen["complaints"] += len(events)
    assert len(list(DUMPS.glob("*.gz"))) == 5
    assert seen == {"messages": 46_357, "announced": 125_460, "withdrawn": 2_206, "complaints": 61}
    assert session.received.updates == seen["messages"]
