"""OPEN and capabilities: what we offer, what fits, and what is refused with which octets."""

from dataclasses import replace

import pytest

from gatepost.codec.bgp.session import Session
from gatepost.codec.bgp.types import Afi, Ended, Established, Local, Peer, Restart, State
from tests.codec.bgp.messages import (
    KEEPALIVE,
    LOCAL,
    MP4,
    MP6,
    PEER,
    REFRESH,
    as4,
    established,
    message,
    notification,
    opening,
    raw_open,
    restart,
    split,
    usual_open,
)


def test_our_open_octet_by_octet() -> None:
    octets = Session(LOCAL, PEER, 0.0).output()
    capabilities = MP4 + MP6 + REFRESH + b"\x40\x02\x40\x00" + b"\x41\x04\x00\x00\xff\xdc"
    assert octets == message(1, b"\x04\xff\xdc\x00\x5a\x0a\x00\x00\x01\x1a\x02\x18" + capabilities)


def test_a_four_octet_as_is_as_trans_in_the_old_field() -> None:
    octets = Session(replace(LOCAL, asn=4_200_000_000), PEER, 0.0).output()
    assert octets[20:22] == (23_456).to_bytes(2)
    assert octets.endswith(b"\x41\x04" + (4_200_000_000).to_bytes(4))


def test_without_capabilities_there_are_no_parameters() -> None:
    octets = Session(replace(LOCAL, capabilities=False), PEER, 0.0).output()
    assert octets == raw_open(asn=65500, bgp_id=LOCAL.bgp_id)


def test_what_both_ends_speak_is_agreed_on() -> None:
    session = Session(LOCAL, PEER, 0.0)
    kept = restart(120, b"\x00\x01\x01\x80", b"\x00\x02\x01\x00", flags=0xC)
    assert session.receive(usual_open(kept), 1.0) == []
    assert session.state is State.OPEN_CONFIRM
    [up] = session.receive(KEEPALIVE, 2.0)
    assert isinstance(up, Established)
    assert (up.hold_time, up.remote_id, up.families) == (90, 0x0A000002, frozenset(Afi))
    theirs = up.peer_capabilities
    assert theirs.restart == Restart(120, True, True, frozenset(Afi))
    assert (theirs.route_refresh, theirs.four_octet_as, theirs.codes) == (True, 65066, (1, 1, 2, 65, 64))
    assert theirs.names == (
        "Multiprotocol extensions: IPv4 unicast",
        "Multiprotocol extensions: IPv6 unicast",
        "Route Refresh",
        "Graceful Restart: 120 s",
        "4-byte AS numbers",
    )
    assert [kind for kind, _ in split(session.output())] == [1, 4, 2, 2]  # OPEN, KEEPALIVE, two End-of-RIB


def test_an_old_neighbour_without_capabilities_speaks_ipv4() -> None:
    session = Session(LOCAL, PEER, 0.0)
    [up] = session.receive(opening() + KEEPALIVE, 1.0)
    assert isinstance(up, Established)
    assert up.families == {Afi.IPV4}
    assert up.peer_capabilities.four_octet_as is None


def test_a_four_octet_as_of_the_neighbour_is_that_of_its_capability() -> None:
    session = Session(LOCAL, Peer(4_200_000_001), 0.0)
    [up] = session.receive(opening(MP4, as4(4_200_000_001), asn=23_456) + KEEPALIVE, 1.0)
    assert isinstance(up, Established)


def test_extended_parameters_are_read() -> None:
    """RFC 9072 §2: 255, then 255 and a length of two octets; each parameter has such a length too."""
    capabilities = MP4 + MP6 + as4(65066) + bytes((200, 250)) + bytes(250)
    parameter = b"\x02" + len(capabilities).to_bytes(2) + capabilities
    body = b"\x04\xfe\x2a\x00\x5a\x0a\x00\x00\x02" + b"\xff\xff" + len(parameter).to_bytes(2) + parameter
    session = Session(LOCAL, PEER, 0.0)
    [up] = session.receive(message(1, body) + KEEPALIVE, 1.0)
    assert isinstance(up, Established)
    assert up.peer_capabilities.codes == (1, 1, 65, 200)
    assert up.families == {Afi.IPV4, Afi.IPV6}


def test_hold_time_is_the_shorter_one_and_0_is_for_ever() -> None:
    for theirs, ours, agreed in ((30, 90, 30), (180, 90, 90), (0, 90, 0), (3, 90, 3)):
        session = established(opening(MP4, hold=theirs), replace(LOCAL, hold_time=ours))
        assert session.hold_time == agreed
    assert established(opening(MP4, hold=0)).deadline is None


def test_capabilities_of_a_wrong_length_are_left_out() -> None:
    session = established(opening(MP4, b"\x02\x01\x00", b"\x41\x02\xfe\x2a", b"\x40\x01\x00", b"\x01\x02\x00\x01"))
    assert not session.capabilities.route_refresh
    assert session.capabilities.four_octet_as is None
    assert session.capabilities.restart is None
    assert session.families == {Afi.IPV4}


REFUSED = {
    "version 3": (opening(MP4, version=3), b"\x02\x01\x00\x04"),
    "wrong AS": (opening(MP4, asn=65067), b"\x02\x02"),
    "wrong AS in the capability": (opening(MP4, as4(65067)), b"\x02\x02"),
    "AS 0": (opening(MP4, asn=0), b"\x02\x02"),
    "identifier 0": (opening(MP4, bgp_id=0), b"\x02\x03"),
    "hold time 1": (opening(MP4, hold=1), b"\x02\x06"),
    "hold time 2": (opening(MP4, hold=2), b"\x02\x06"),
    "capability beyond its parameter": (opening(MP4, b"\x41\x05\x00\x00\xfe\x2a"), b"\x02\x00"),
    "half of a capability": (opening(MP4, b"\x41"), b"\x02\x00"),
    "parameter beyond the end": (raw_open(b"\x02\x07" + MP4), b"\x02\x00"),
    "parameters shorter than the message": (message(1, opening(MP4)[19:] + b"\0"), b"\x02\x00"),
    "half of a parameter": (raw_open(b"\x02"), b"\x02\x00"),
    "extended parameters beyond the end": (raw_open(b"\xff\x00\x09\x02\x00\x01"), b"\x02\x00"),
    "half of an extended length": (raw_open(b"\xff\x00"), b"\x02\x00"),
    "authentication": (raw_open(b"\x01\x01\x00"), b"\x02\x04"),
    "unknown parameter": (raw_open(b"\x03\x00"), b"\x02\x04"),
    "no family in common": (opening(b"\x01\x04\x00\x01\x00\x80"), b"\x02\x07" + MP4 + MP6),
}


@pytest.mark.row("BGP-02")
@pytest.mark.parametrize("name", REFUSED)
def test_an_open_that_does_not_fit_is_refused(name: str) -> None:
    octets, answer = REFUSED[name]
    session = Session(LOCAL, PEER, 0.0)
    [ended] = session.receive(octets, 1.0)
    assert isinstance(ended, Ended)
    assert (ended.by_us, ended.code, ended.subcode) == (True, answer[0], answer[1])
    assert notification(session.output()) == answer


def test_a_hold_time_below_the_configured_least_is_refused() -> None:
    session = Session(replace(LOCAL, hold_min=30), PEER, 0.0)
    [ended] = session.receive(opening(MP4, hold=29), 1.0)
    assert isinstance(ended, Ended)
    assert notification(session.output()) == b"\x02\x06"


def test_our_own_identifier_is_refused_within_our_as_only() -> None:
    ours = opening(MP4, asn=65500, bgp_id=LOCAL.bgp_id)
    session = Session(LOCAL, Peer(65500), 0.0)
    session.receive(ours, 1.0)
    assert notification(session.output()) == b"\x02\x03"
    assert established(opening(MP4, bgp_id=LOCAL.bgp_id)).state is State.ESTABLISHED  # RFC 6286 §2.2


def test_only_wanted_families_are_agreed_on() -> None:
    local = Local(65500, 0x0A000001, families=(Afi.IPV6,))
    session = established(local=local)
    assert session.families == {Afi.IPV6}
