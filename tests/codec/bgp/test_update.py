"""UPDATEs: prefixes and paths, and what RFC 7606 wants done with broken ones."""

import pytest

from gatepost.codec.bgp.types import Afi, Complaint, Ended, EndOfRib, Event, Local, Path, Peer, State, Update
from tests.codec.bgp.messages import (
    KEEPALIVE,
    LOCAL,
    MP4,
    NEXT_HOP,
    ORIGIN,
    PEER,
    USUAL,
    as_path,
    attribute,
    communities,
    established,
    message,
    notification,
    opening,
    prefix,
    prefixes,
    reach,
    told,
    unreach,
    update,
)

HOST = prefix("5.6.7.8/32")
SIX = prefix("2a00:1::/48")
PATH = Path(0, (65066, 65043), "65066 65043", b"\xc0\x00\x02\x07")


def path_of(attributes: bytes, opened: bytes | None = None, peer: Peer = PEER, local: Local = LOCAL) -> Path:
    """Return the path that attributes make."""
    [event] = told(update(attributes, HOST), established(opened, local, peer))
    assert isinstance(event, Update)
    assert event.path is not None, event
    return event.path


def test_prefixes_come_and_go() -> None:
    nlri = prefixes("5.6.7.8/32", "5.6.0.0/17", "6.0.0.0/8", "0.0.0.0/0")
    [event] = told(update(USUAL, nlri, prefixes("9.9.9.9/32", "9.8.0.0/15")))
    assert event == Update(
        Afi.IPV4,
        (HOST, b"\x11\x05\x06\x00", b"\x08\x06", b"\x00"),
        (prefix("9.9.9.9/32"), b"\x0f\x09\x08"),
        PATH,
    )
    assert told(update(withdrawn=HOST)) == [Update(Afi.IPV4, (), (HOST,), None)]


def test_bits_beyond_the_length_are_made_zero() -> None:
    [event] = told(update(USUAL, b"\x11\x05\x06\xff" + b"\x04\xff" + b"\x18\x05\x06\x07"))
    assert isinstance(event, Update)
    assert event.announced == (b"\x11\x05\x06\x80", b"\x04\xf0", b"\x18\x05\x06\x07")


def test_everything_that_a_path_carries() -> None:
    attributes = (
        attribute(0x40, 1, b"\x02")
        + as_path(65066, 4_200_000_000)
        + NEXT_HOP
        + attribute(0x80, 4, b"\x00\x00\x00\x05")
        + attribute(0x40, 5, b"\x00\x00\x00\xc8")
        + attribute(0x40, 6, b"")
        + attribute(0xC0, 7, b"\x00\x00\xfe\x2a\x05\x06\x07\x08")
        + communities((65066, 42), (65535, 666))
        + attribute(0xC0, 16, b"\x00\x02\xfe\x2a\x00\x00\x00\x2a" * 2)
        + attribute(0xC0, 32, b"\x00\x00\xfe\x2a\x00\x00\x00\x01\x00\x00\x00\x2a")
        + attribute(0xE0, 99, b"whatever")
    )
    assert path_of(attributes) == Path(
        2,
        (65066, 4_200_000_000),
        "65066 4200000000",
        b"\xc0\x00\x02\x07",
        med=5,
        communities=(65066 << 16 | 42, 65535 << 16 | 666),
        large_communities=((65066, 1, 42),),
        extended_communities=(b"\x00\x02\xfe\x2a\x00\x00\x00\x2a",) * 2,
    )
    inside = path_of(attributes, opening(MP4, b"\x41\x04\x00\x00\xff\xdc", asn=65500), Peer(65500))
    assert inside.local_pref == 200  # RFC 7606 §7.5: of an external neighbour it is discarded
    assert inside.next_hop_text == "192.0.2.7"


def test_equal_attributes_are_one_path_object() -> None:
    session = established()
    first, second = (session.receive(update(USUAL, prefix(text)), 0.0)[0] for text in ("1.0.0.0/8", "2.0.0.0/8"))
    assert isinstance(first, Update)
    assert isinstance(second, Update)
    assert first.path is second.path
    one, two = (session.receive(update(USUAL + reach(prefix(text))), 0.0)[0] for text in ("2a00::/32", "2a01::/32"))
    assert isinstance(one, Update)
    assert isinstance(two, Update)
    assert one.path is two.path


def test_what_is_kept_of_attributes_is_bounded() -> None:
    session = established()
    for number in range(1500):
        more = attribute(0xC0, 99, number.to_bytes(3800))
        [event] = session.receive(update(USUAL + more, HOST), 0.0)
        assert isinstance(event, Update)
        assert event.path == PATH
    assert session._updates._known_size <= 4 << 20
    assert len(session._updates._known) < 1100
    assert session._updates._forgotten == {}


def test_ipv6_prefixes_come_by_mp_reach() -> None:
    for next_hop in (b"\x20\x01" + bytes(14), b"\x20\x01" + bytes(14) + b"\xfe\x80" + bytes(14)):
        octets = update(ORIGIN + as_path(65066, 65043) + reach(SIX + prefix("2a00:2::/32"), next_hop))
        [event] = told(octets)
        assert isinstance(event, Update)
        assert (event.afi, event.announced) == (Afi.IPV6, (SIX, prefix("2a00:2::/32")))
        assert event.path is not None
        assert (event.path.next_hop, event.path.next_hop_text) == (next_hop, "2001::")
    assert told(update(unreach(SIX))) == [Update(Afi.IPV6, (), (SIX,), None)]


def test_both_families_in_one_message_are_two_events() -> None:
    events = told(update(unreach(prefix("2a00:9::/32")) + USUAL + reach(SIX), HOST, prefix("9.9.9.9/32")))
    [four, six] = events
    assert isinstance(four, Update)
    assert isinstance(six, Update)
    assert (four.afi, four.announced, four.withdrawn, four.path) == (
        Afi.IPV4,
        (HOST,),
        (prefix("9.9.9.9/32"),),
        PATH,
    )
    assert (six.afi, six.announced, six.withdrawn) == (Afi.IPV6, (SIX,), (prefix("2a00:9::/32"),))


def test_ipv4_prefixes_may_come_by_mp_reach_too() -> None:
    [event] = told(update(ORIGIN + as_path(65066) + reach(HOST, b"\x05\x06\x07\x09", afi=1)))
    assert isinstance(event, Update)
    assert (event.afi, event.announced) == (Afi.IPV4, (HOST,))
    assert told(update(unreach(HOST, afi=1))) == [Update(Afi.IPV4, (), (HOST,), None)]


def test_end_of_rib_of_each_family() -> None:
    assert told(update()) == [EndOfRib(Afi.IPV4)]
    assert told(update(unreach(b""))) == [EndOfRib(Afi.IPV6)]
    assert told(update(unreach(b"", afi=1))) == [EndOfRib(Afi.IPV4)]
    assert told(update(unreach(b"") + USUAL, HOST)) == [Update(Afi.IPV4, (HOST,), (), PATH)]


def test_sets_are_shown_as_bgpctl_does() -> None:
    value = b"\x02\x02\x00\x00\xfe\x2a\x00\x00\x00\x07" + b"\x01\x02\x00\x00\x00\x01\x00\x00\x00\x02"
    path = path_of(ORIGIN + attribute(0x40, 2, value) + NEXT_HOP)
    assert (path.as_path, path.as_path_text) == ((65066, 7, 1, 2), "65066 7 { 1 2 }")


def test_attributes_with_a_long_length_are_read() -> None:
    path = path_of(
        USUAL + attribute(0xC0, 8, bytes(4) * 100) + attribute(0xD0, 32, bytes(12))[:2] + b"\x00\x0c" + bytes(12)
    )
    assert len(path.communities) == 100
    assert path.large_communities == ((0, 0, 0),)


# --- two-octet neighbours (RFC 6793) ------------------------------------------------------------------------

OLD = opening(MP4)


def old_path(*attributes: bytes) -> str:
    return path_of(ORIGIN + b"".join(attributes) + NEXT_HOP, OLD).as_path_text


def as4_path(*numbers: int, kind: int = 2) -> bytes:
    return attribute(0xC0, 17, bytes((kind, len(numbers))) + b"".join(each.to_bytes(4) for each in numbers))


def test_as4_path_takes_the_place_of_what_it_stands_for() -> None:
    short = as_path(65066, 23_456, 23_456, width=2)
    assert old_path(short) == "65066 23456 23456"
    assert old_path(short, as4_path(70_000, 80_000)) == "65066 70000 80000"
    assert old_path(short, as4_path(65066, 70_000, 80_000)) == "65066 70000 80000"
    assert old_path(short, as4_path(1, 65066, 70_000, 80_000)) == "65066 23456 23456"  # longer: ignored
    with_set = attribute(0x40, 2, b"\x02\x02\xfe\x2a\x5b\xa0\x01\x02\x00\x01\x00\x02")
    assert old_path(with_set, as4_path(9, kind=1)) == "65066 23456 { 9 }"


def test_as4_path_is_ignored_where_somebody_aggregated_without_knowing_of_it() -> None:
    short = as_path(65066, 23_456, width=2)
    aggregated = attribute(0xC0, 7, b"\x00\x07\x05\x06\x07\x08")
    through = attribute(0xC0, 7, b"\x5b\xa0\x05\x06\x07\x08")
    assert old_path(short, aggregated, as4_path(70_000)) == "65066 23456"
    assert old_path(short, through, as4_path(70_000)) == "65066 70000"


def test_a_malformed_as4_path_is_discarded() -> None:
    events = told(
        update(ORIGIN + as_path(65066, width=2) + NEXT_HOP + attribute(0xC0, 17, b"\x02\x02\x00"), HOST),
        established(OLD),
    )
    assert isinstance(events[0], Complaint)
    assert "AS4_PATH is discarded" in events[0].text
    assert isinstance(events[1], Update)
    assert events[1].announced == (HOST,)


def test_a_four_octet_neighbour_must_not_send_as4_path() -> None:
    assert path_of(USUAL + as4_path(70_000)).as_path == (65066, 65043)


# --- RFC 7606 -----------------------------------------------------------------------------------------------

AS_65066 = as_path(65066)
WITHDRAWN = {
    "ORIGIN 7": attribute(0x40, 1, b"\x07") + AS_65066 + NEXT_HOP,
    "ORIGIN of 2 octets": attribute(0x40, 1, b"\x00\x00") + AS_65066 + NEXT_HOP,
    "ORIGIN empty": attribute(0x40, 1, b"") + AS_65066 + NEXT_HOP,
    "ORIGIN missing": AS_65066 + NEXT_HOP,
    "AS_PATH missing": ORIGIN + NEXT_HOP,
    "NEXT_HOP missing": ORIGIN + AS_65066,
    "no attributes": b"",
    "ORIGIN optional": b"\xc0" + ORIGIN[1:] + AS_65066 + NEXT_HOP,
    "ORIGIN not transitive": b"\x00" + ORIGIN[1:] + AS_65066 + NEXT_HOP,
    "AS_PATH segment of type 5": ORIGIN + as_path(65066, kind=5) + NEXT_HOP,
    "AS_PATH of a confederation": ORIGIN + as_path(65066, kind=3) + NEXT_HOP,
    "AS_PATH overrun": ORIGIN + attribute(0x40, 2, b"\x02\x02\x00\x00\xfe\x2a") + NEXT_HOP,
    "AS_PATH underrun": ORIGIN + attribute(0x40, 2, b"\x02\x01\x00\x00\xfe\x2a\x02") + NEXT_HOP,
    "AS_PATH with an empty segment": ORIGIN + attribute(0x40, 2, b"\x02\x01\x00\x00\xfe\x2a\x02\x00") + NEXT_HOP,
    "AS_PATH with AS 0": ORIGIN + as_path(65066, 0) + NEXT_HOP,
    "AS_PATH empty": ORIGIN + as_path() + NEXT_HOP,
    "AS_PATH of another AS": ORIGIN + as_path(65043) + NEXT_HOP,
    "AS_PATH with our own AS": ORIGIN + as_path(65066, 65500) + NEXT_HOP,
    "NEXT_HOP of 5 octets": ORIGIN + AS_65066 + attribute(0x40, 3, bytes(5)),
    "MED of 3 octets": USUAL + attribute(0x80, 4, bytes(3)),
    "MED transitive": USUAL + attribute(0xC0, 4, bytes(4)),
    "COMMUNITIES of 5 octets": USUAL + attribute(0xC0, 8, bytes(5)),
    "COMMUNITIES empty": USUAL + attribute(0xC0, 8, b""),
    "COMMUNITIES not transitive": USUAL + attribute(0x80, 8, bytes(4)),
    "EXTENDED_COMMUNITIES of 9 octets": USUAL + attribute(0xC0, 16, bytes(9)),
    "LARGE_COMMUNITY of 11 octets": USUAL + attribute(0xC0, 32, bytes(11)),
    "LARGE_COMMUNITY empty": USUAL + attribute(0xC0, 32, b""),
    "half of an attribute's head": USUAL + b"\x40\x01",
    "half of a long head": USUAL + b"\x50\x01\x00",
    "an attribute beyond the end": USUAL + b"\xc0\x08\x05\x00\x00\x00\x00",
}


@pytest.mark.row("BGP-03", "BGP-04")
@pytest.mark.parametrize("name", WITHDRAWN)
def test_prefixes_with_a_malformed_attribute_are_withdrawn_and_the_session_lives(name: str) -> None:
    session = established()
    for _ in range(2):  # the second time from what was kept
        events = told(update(WITHDRAWN[name], HOST + prefix("6.0.0.0/8"), prefix("9.9.9.9/32")), session)
        assert isinstance(events[0], Complaint)
        assert events[0].text.startswith("treated as withdrawn: ")
        assert events[1:] == [
            Update(Afi.IPV4, (), (prefix("9.9.9.9/32"), HOST, prefix("6.0.0.0/8")), None),
        ]
    assert told(update(USUAL, HOST) + KEEPALIVE, session) == [Update(Afi.IPV4, (HOST,), (), PATH)]
    assert session.state is State.ESTABLISHED
    assert session.output() == b""


def test_malformed_attributes_of_an_internal_neighbour_are_treated_as_withdrawn_too() -> None:
    inside = opening(MP4, b"\x41\x04\x00\x00\xff\xdc", asn=65500)
    for wrong in (attribute(0x40, 5, bytes(3)), attribute(0x80, 9, bytes(3)), attribute(0x80, 10, b"")):
        octets = update(ORIGIN + as_path() + NEXT_HOP + wrong, HOST)
        events = told(octets, established(inside, peer=Peer(65500)))
        assert events[1] == Update(Afi.IPV4, (), (HOST,), None)
        outside = told(update(USUAL + wrong, HOST))
        assert outside == [Update(Afi.IPV4, (HOST,), (), PATH)]  # §7.5, §7.9, §7.10: discarded


@pytest.mark.parametrize(
    "more",
    [
        attribute(0x40, 6, b"\x00"),
        attribute(0xC0, 7, bytes(6)),
        attribute(0xC0, 7, bytes(4) + b"\x05\x06\x07\x08"),
        attribute(0xC0, 18, bytes(7)),
        ORIGIN,
        attribute(0x40, 1, b"\x09"),
    ],
)
def test_what_does_not_matter_is_discarded(more: bytes) -> None:
    events = told(update(USUAL + more, HOST))
    assert isinstance(events[0], Complaint)
    assert events[1:] == [Update(Afi.IPV4, (HOST,), (), PATH)]


def test_route_servers_need_not_prepend() -> None:
    path = path_of(ORIGIN + as_path(65043) + NEXT_HOP, peer=Peer(65066, enforce_first_as=False))
    assert path.as_path == (65043,)


BROKEN = {
    "withdrawn beyond the message": (message(2, b"\x00\x05\x20\x05"), b"\x03\x01"),
    "withdrawn eat the attributes' length": (message(2, b"\x00\x01\x00\x00"), b"\x03\x01"),
    "attributes beyond the message": (message(2, b"\x00\x00\x00\x01"), b"\x03\x01"),
    "attributes far beyond the message": (message(2, b"\x00\x00\xff\xff" + USUAL), b"\x03\x01"),
    "prefix of 33 bits": (update(USUAL, b"\x21" + bytes(5)), b"\x03\x0a"),
    "prefix of 255 bits": (update(USUAL, b"\xff" + bytes(32)), b"\x03\x0a"),
    "half of a prefix": (update(USUAL, HOST + b"\x20\x05"), b"\x03\x0a"),
    "withdrawn prefix of 33 bits": (update(withdrawn=b"\x21" + bytes(5)), b"\x03\x0a"),
    "IPv6 prefix of 129 bits": (update(USUAL + reach(b"\x81" + bytes(17))), b"\x03\x09"),
    "half of an IPv6 prefix": (update(unreach(SIX[:-1])), b"\x03\x09"),
    "MP_REACH_NLRI too short": (update(USUAL + attribute(0x80, 14, b"\x00\x02\x01\x10")), b"\x03\x09"),
    "next hop beyond MP_REACH_NLRI": (
        update(USUAL + attribute(0x80, 14, b"\x00\x02\x01\x10" + bytes(15))),
        b"\x03\x09",
    ),
    "MP_UNREACH_NLRI too short": (update(attribute(0x80, 15, b"\x00\x02")), b"\x03\x09"),
    "MP_REACH_NLRI twice": (update(USUAL + reach(SIX) + reach(SIX)), b"\x03\x01"),
    "MP_UNREACH_NLRI twice": (update(unreach(SIX) + unreach(SIX)), b"\x03\x01"),
    "unknown well-known": (update(USUAL + attribute(0x40, 99, b"a"), HOST), b"\x03\x02\x40\x63\x01a"),
    "malformed and no prefixes": (update(attribute(0x40, 1, b"\x07") + AS_65066), b"\x03\x01"),
    "overrun and no prefixes": (update(b"\xc0\x08\x05\x00"), b"\x03\x01"),
    "malformed, IPv6 withdrawn only": (update(unreach(SIX) + attribute(0x40, 1, b"\x07")), b"\x03\x01"),
}


@pytest.mark.row("BGP-04")
@pytest.mark.parametrize("name", BROKEN)
def test_where_prefixes_cannot_be_found_the_session_ends(name: str) -> None:
    octets, answer = BROKEN[name]
    session = established()
    events = told(update(USUAL, HOST) + octets + update(USUAL, HOST), session)
    assert events[0] == Update(Afi.IPV4, (HOST,), (), PATH)
    [ended] = events[1:]
    assert isinstance(ended, Ended)
    assert (ended.by_us, ended.code, ended.subcode) == (True, answer[0], answer[1])
    assert notification(session.output()) == answer


def test_mp_reach_with_a_next_hop_of_a_wrong_length_is_treated_as_withdrawn() -> None:
    events = told(update(USUAL + reach(SIX, bytes(4))))
    assert isinstance(events[0], Complaint)
    assert events[1] == Update(Afi.IPV6, (), (SIX,), None)


def test_malformed_attributes_withdraw_the_prefixes_of_both_families() -> None:
    events = told(update(attribute(0x40, 1, b"\x07") + as_path(65066) + NEXT_HOP + reach(SIX), HOST))
    gone: list[Event] = [each for each in events if isinstance(each, Update)]
    assert gone == [Update(Afi.IPV4, (), (HOST,), None), Update(Afi.IPV6, (), (SIX,), None)]


def test_families_that_were_not_agreed_on_are_ignored() -> None:
    for octets in (reach(b"\x18\x05\x06\x07", afi=1, safi=2), unreach(b"whatever", afi=25, safi=65)):
        events = told(update(USUAL + octets, HOST))
        assert isinstance(events[0], Complaint)
        assert events[1:] == [Update(Afi.IPV4, (HOST,), (), PATH)]
    session = established(opening(MP4, b"\x41\x04\x00\x00\xfe\x2a"))
    events = told(update(USUAL + reach(SIX)), session)
    assert [type(each) for each in events] == [Complaint]
    assert told(update(USUAL, HOST), session) == [Update(Afi.IPV4, (HOST,), (), PATH)]
