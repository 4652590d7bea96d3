"""spamd's configuration channel: the three forms of a line, what is bogus, and any octets at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.spamd.addresses import address, text
from gatepost.codec.spamd.channel import MESSAGE_MAX, NAME_MAX, Bogus, Cleared, Replaced, line, parse, parse_line
from gatepost.codec.spamd.message import expand


def shown(change: object) -> list[str]:
    """Show a list's IPv4 networks."""
    assert isinstance(change, Replaced)
    return [text(each >> 8, each & 255) for each in change.four]


@pytest.mark.parametrize(
    "line_",
    [
        b'uatraps;"Your address %A";inet;2;192.0.2.1/32;198.51.100.0/24',
        b'uatraps;"Your address %A";inet;2;192.0.2.1/32;198.51.100.0/24;',
        b'uatraps;"Your address %A";192.0.2.1/32;198.51.100.0/24;',
        b'uatraps;"Your address %A";192.0.2.1/32;198.51.100.0/24',
        b'uatraps;"Your address %A";192.0.2.1/32;198.51.100.9/24',
    ],
)
def test_a_list_is_sent_in_the_form_of_today_or_in_the_old_one(line_: bytes) -> None:
    change = parse_line(line_)
    assert isinstance(change, Replaced)
    assert (change.name, change.message) == ("uatraps", "Your address %A")
    assert shown(change) == ["192.0.2.1", "198.51.100.0/24"]


def test_families_stand_in_any_order_each_once() -> None:
    change = parse_line(b'x;"m";inet6;1;2001:db8::/32;inet;1;192.0.2.1/32')
    assert isinstance(change, Replaced)
    assert (len(change.four), change.six) == (1, [0x20010DB8 << 96 + 8 | 32])
    with pytest.raises(Bogus, match="duplicate inet6"):
        parse_line(b'x;"m";inet6;1;2001:db8::/32;inet6;1;2001:db8::/32')
    with pytest.raises(Bogus, match="duplicate inet"):
        parse_line(b'x;"m";inet;1;192.0.2.1/32;inet;1;192.0.2.2/32')


def test_a_name_alone_clears_its_list() -> None:
    assert parse_line(b"uatraps;") == Cleared("uatraps")


@pytest.mark.parametrize(
    ("line_", "why"),
    [
        (b"uatraps", "not of the form"),
        (b"uatraps;x", "not of the form"),
        (b'uatraps;"m', "not of the form"),
        (b'uatraps;"m"', "not of the form"),
        (b'uatraps;"m"x;192.0.2.1/32', "not of the form"),
        (b'uatraps;"m\\";192.0.2.1/32', "not of the form"),
        (b';"m";192.0.2.1/32', "name"),
        (b'a b;"m";192.0.2.1/32', "name"),
        (b"a\0;", "name"),
        (b'uatraps;"m";', "no addresses"),
        (b'uatraps;"m";inet;0', "no addresses"),
        (b'uatraps;"m";inet;1', "how many"),
        (b'uatraps;"m";inet;x;192.0.2.1/32', "how many"),
        (b'uatraps;"m";inet;-1;192.0.2.1/32', "how many"),
        (b'uatraps;"m";inet;3;192.0.2.1/32;192.0.2.2/32', "how many"),
        (b'uatraps;"m";inet;1;192.0.2.1/32;192.0.2.2/32', "count is wrong"),
        (b'uatraps;"m";inet', "how many"),
        (b'uatraps;"m";192.0.2.1', "no network"),
        (b'uatraps;"m";192.0.2.1/0', "no network"),
        (b'uatraps;"m";192.0.2.1/33', "no network"),
        (b'uatraps;"m";192.0.2.256/32', "no network"),
        (b'uatraps;"m";192.0.2.1/32;;192.0.2.2/32', "no network"),
        (b'uatraps;"m";192.0.2.1/32;nobody/32', "no network"),
        (b'uatraps;"m";inet6;1;2001:db8::/0', "no network"),
        (b'uatraps;"m";inet6;1;2001:db8::/129', "no network"),
        (b'uatraps;"m";inet6;1;192.0.2.1/32', "no network"),
        (b'uatraps;"m";inet6;1;\xff/32', "no network"),
    ],
)
def test_a_bogus_line_is_refused_whole(line_: bytes, why: str) -> None:
    with pytest.raises(Bogus, match=why):
        parse_line(line_)


def test_limits_are_exact() -> None:
    parse_line(b"n" * NAME_MAX + b";")
    with pytest.raises(Bogus):
        parse_line(b"n" * (NAME_MAX + 1) + b";")
    parse_line(b'n;"' + b"m" * MESSAGE_MAX + b'";192.0.2.1/32')
    with pytest.raises(Bogus):
        parse_line(b'n;"' + b"m" * (MESSAGE_MAX + 1) + b'";192.0.2.1/32')


def test_good_lines_count_beside_bogus_ones_and_the_last_needs_no_end() -> None:
    found = list(parse(b'one;"m";192.0.2.1/32\nnonsense\n\ntwo;\nthree;"m";inet;1;192.0.2.3/32'))
    assert [getattr(each, "name", None) for each in found] == ["one", None, "two", "three"]


def test_spamd_setups_line_is_written_byte_for_byte() -> None:
    change = Replaced("bgp-spamd", 'You %A are\n"listed" here\\n')
    change.four.extend([number("192.0.2.1") << 8 | 32, number("198.51.100.0") << 8 | 24])
    assert line(change) == (
        rb'bgp-spamd;"You %A are\n\"listed\" here\n";inet;2;192.0.2.1/32;198.51.100.0/24' + b"\n"
    )
    assert line(Cleared("bgp-spamd")) == line(Replaced("bgp-spamd", "m")) == b"bgp-spamd;\n"


def number(quad: str) -> int:
    found = address(quad.encode())
    assert found is not None
    return found


NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,31}", fullmatch=True)
MESSAGES = st.lists(st.sampled_from(("a", "%A", "%%", "\\", '"', "\n", "n", ";", " ")), max_size=20).map("".join)


@st.composite
def changes(draw: st.DrawFn) -> Replaced:
    lengths = draw(st.lists(st.tuples(st.integers(0, (1 << 32) - 1), st.integers(1, 32)), min_size=1, max_size=9))
    sixes = draw(st.lists(st.tuples(st.integers(0, (1 << 128) - 1), st.integers(1, 128)), max_size=3))
    change = Replaced(
        draw(NAMES),
        draw(MESSAGES),
        six=[(each >> 128 - length << 128 - length) << 8 | length for each, length in sixes],
    )
    change.four.extend((each >> 32 - length << 32 - length) << 8 | length for each, length in lengths)
    return change


@given(changes())
def test_what_is_written_is_read_as_the_same_and_said_as_the_same(change: Replaced) -> None:
    written = line(change)
    assert written.count(b"\n") == 1
    found = parse_line(written[:-1])
    assert isinstance(found, Replaced)
    assert (found.name, found.four, list(found.six)) == (change.name, change.four, list(change.six))
    assert expand(found.message, "192.0.2.7") == expand(f'"{change.message}"', "192.0.2.7")


PIECES = st.sampled_from(
    (
        *(b"x", b";", b'"', b"\\", b"inet", b"inet6", b"1", b"2", b"192.0.2.1/32", b"2001:db8::/32"),
        *(b'name;"m";inet;1;', b"\n", b"/", b" ", b"\0"),
    )
)
OCTETS = st.one_of(st.binary(max_size=80), st.lists(PIECES, max_size=25).map(b"".join))


def check_any_octets(octets: bytes) -> None:
    for change in parse(octets):
        if not isinstance(change, Bogus):
            assert parse_line(line(change)[:-1]) is not None


@given(OCTETS)
def test_any_octets_are_changes_or_bogus(octets: bytes) -> None:
    check_any_octets(octets)


@pytest.mark.deep
@given(OCTETS)
@settings(max_examples=20_000, deadline=None)
def test_many_octets_are_changes_or_bogus(octets: bytes) -> None:
    check_any_octets(octets)


def test_a_line_may_have_two_hundred_thousand_networks() -> None:
    entries = b";".join(text(each).encode() + b"/32" for each in range(200_000))
    change = parse_line(b'big;"m";inet;200000;' + entries)
    assert isinstance(change, Replaced)
    assert len(change.four) == 200_000
