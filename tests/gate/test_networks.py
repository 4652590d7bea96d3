"""Networks: what they hold, against plain sets; packed and unpacked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.gate.networks import NONE, Networks
from gatepost.gate.prefix import WIDTHS, Prefix, cut, number_of, parse_prefix


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    """Networks that often touch or overlap."""
    version = draw(st.sampled_from((4, 4, 6)))
    width = WIDTHS[version]
    number = draw(st.integers(0, 255)) << width - 8 | draw(st.integers(0, 7))
    return cut(version, number, draw(st.sampled_from((0, 1, 8, 9, width - 3, width - 1, width))))


def networks(*texts: str) -> Networks:
    """Networks of texts."""
    return Networks.of(map(parse_prefix, texts))


def holds(them: Networks, ip: str) -> bool:
    """Tell whether an address lies in them."""
    return them.holds(*number_of(ip))


@given(st.lists(prefixes()), st.lists(prefixes()))
def test_an_address_is_held_exactly_by_the_networks_around_it(given: list[Prefix], others: list[Prefix]) -> None:
    them = Networks.of(given)
    for each in (*given, *others):
        last = each.number + (1 << WIDTHS[each.version] - each.length) - 1
        for number in (each.number - 1, each.number, last, last + 1):
            if 0 <= number < 1 << WIDTHS[each.version]:
                around = [one for one in given if one.holds(each.version, number)]
                assert them.holds(each.version, number) is bool(around)
                assert them.cover(each.version, number) == max(around, key=lambda one: one.length, default=None)
        assert (each in them) is (each in given)


@given(st.lists(prefixes()))
def test_they_come_back_from_their_packed_form(given: list[Prefix]) -> None:
    them = Networks.of(given)
    again = Networks.unpack(them.pack())
    assert again == them
    assert list(again) == list(them)
    assert set(again) == set(given)
    assert len(again) == len(set(given))


@given(st.lists(prefixes()))
def test_ranges_are_disjoint_ascending_and_hold_the_same(given: list[Prefix]) -> None:
    them = Networks.of(given)
    for version in (4, 6):
        before = -2
        for first, last in them.ranges(version):
            assert before + 1 < first <= last
            assert them.holds(version, first)
            assert them.holds(version, last)
            before = last


def test_many_are_found_through_the_index() -> None:
    them = Networks.packed(((each << 12) << 8 | 32 for each in range(100_000)), ())
    assert len(them) == 100_000
    assert all(them.holds(4, each << 12) and not them.holds(4, (each << 12) + 1) for each in range(0, 100_000, 7))
    assert not them.holds(4, 0xFFFFFFFF)


def test_the_last_address_of_all_is_held() -> None:
    assert holds(networks("255.255.255.255"), "255.255.255.255")
    assert holds(networks("ffff::/16"), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
    assert holds(networks("0.0.0.0/0"), "255.255.255.255")
    assert not holds(NONE, "0.0.0.0")


@pytest.mark.parametrize("octets", [b"", b"net1", b"net2" + bytes(16), networks("192.0.2.1").pack() + b"x"])
def test_other_octets_are_refused(octets: bytes) -> None:
    with pytest.raises(ValueError, match="packed"):
        Networks.unpack(octets)
