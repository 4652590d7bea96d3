"""Lists of addresses: every line's meaning, and the algebra against an oracle that looks at each address."""

import time
from array import array
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.spamd import addresses
from gatepost.codec.spamd.addresses import (
    END,
    LINE_MAX,
    REMARKS_MAX,
    Range,
    address,
    blocks,
    collapse,
    parse,
    parse_text,
    subtract,
    text,
)


def one(line: str) -> list[Range]:
    return list(parse_text(line.encode()).ranges)


def number(quad: str) -> int:
    found = address(quad.encode())
    assert found is not None
    return found


def span(first: str, last: str) -> list[Range]:
    return [(number(first), number(last) + 1)]


def networks(black: str, white: str = "") -> list[str]:
    """Collapse lists, shown as spamd-setup prints them."""
    found = collapse(parse_text(black.encode()).ranges, parse_text(white.encode()).ranges)
    return [f"{text(each >> 8)}/{each & 255}" for each in found]


@pytest.mark.parametrize(
    ("line", "first", "last"),
    [
        ("10.2/16", "10.2.0.0", "10.2.255.255"),
        ("10.0.0.5/24", "10.0.0.5", "10.0.1.4"),
        ("192.0.2.9/32 why", "192.0.2.9", "192.0.2.9"),
        ("0/0", "0.0.0.0", "255.255.255.255"),
        ("255.255.255.5/24", "255.255.255.5", "255.255.255.255"),
        ("192.0.2.0 - 192.0.2.5", "192.0.2.0", "192.0.2.5"),
        ("192.0.2.0-192.0.2.5", "192.0.2.0", "192.0.2.5"),
        ("192.0.2.0 192.0.2.5", "192.0.2.0", "192.0.2.5"),
        ("   192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7 is bad", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7\r", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7;spam", "192.0.2.7", "192.0.2.7"),
        ("10.1", "10.1.0.0", "10.1.0.0"),
    ],
)
def test_a_line_says_what_it_says_to_spamd_setup(line: str, first: str, last: str) -> None:
    assert one(line) == span(first, last)


@pytest.mark.parametrize(
    "line",
    [
        *("", "# 192.0.2.1", "   # 192.0.2.1", "\t192.0.2.1", "mail.example.org", "2001:db8::1", "192.0.2.0/33"),
        *("1.2.3.4.5", "256.1.1.1", "1..2", ".", "192.0.2.0/99999999999", "1.2.3.", "<html>", "-", "/24", "\0"),
    ],
)
def test_what_is_no_address_is_passed_over(line: str) -> None:
    found = parse_text(line.encode())
    assert len(found) == 0
    assert not found.remarks


def test_lines_that_were_passed_over_are_counted_but_comments_and_empty_ones_are_not() -> None:
    found = parse_text(b"# list\n\n  \nnobody\n192.0.2.1\n2001:db8::/32")
    assert (len(found), found.ignored, found.lines) == (1, 2, 6)


def test_a_count_behind_an_address_lists_no_millions_of_hosts() -> None:
    found = parse_text(b"1.2.3.4 5 hits")
    assert list(found.ranges) == span("1.2.3.4", "1.2.3.4")
    assert "two full addresses; only 1.2.3.4 was taken" in found.remarks[0].text


@pytest.mark.parametrize("line", ["10.1 - 10.2", "10 11"])
def test_a_range_of_short_addresses_is_left_out_with_a_remark(line: str) -> None:
    found = parse_text(b"\n" + line.encode())
    assert len(found) == 0
    assert (found.remarks[0].line, found.ignored) == (2, 1)


def test_a_reversed_range_is_left_out_with_a_remark() -> None:
    found = parse_text(b"192.0.2.9 - 192.0.2.1")
    assert len(found) == 0
    assert "ends before it begins" in found.remarks[0].text


def test_remarks_are_bounded() -> None:
    found = parse(b"192.0.2.9-192.0.2.1" for _ in range(REMARKS_MAX + 1))
    assert len(found.remarks) == REMARKS_MAX
    assert found.ignored == REMARKS_MAX + 1


def test_only_the_beginning_of_a_very_long_line_is_looked_at() -> None:
    assert one(" " * (LINE_MAX - 9) + "192.0.2.7") == span("192.0.2.7", "192.0.2.7")
    assert one(" " * LINE_MAX + "192.0.2.7") == []


# --- algebra --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("black", "white", "result"),
    [
        (
            "10.0.0.0/24\n192.168.20.0-192.168.20.5\n1.2.3.4 txt",
            "10.0.0.128/26",
            ["1.2.3.4/32", "10.0.0.0/25", "10.0.0.192/26", "192.168.20.0/30", "192.168.20.4/31"],
        ),
        ("10.0.0.0/25\n10.0.0.128/25\n10.0.0.7", "", ["10.0.0.0/24"]),
        ("0.0.0.0/0", "", ["0.0.0.0/0"]),
        ("255.255.255.254 - 255.255.255.255", "", ["255.255.255.254/31"]),
        ("0.0.0.0\n9.9.9.9", "", ["0.0.0.0/32", "9.9.9.9/32"]),
        ("10.0.0.5/24", "",
         [*("10.0.0.5/32", "10.0.0.6/31", "10.0.0.8/29", "10.0.0.16/28", "10.0.0.32/27"),
          *("10.0.0.64/26", "10.0.0.128/25", "10.0.1.0/30", "10.0.1.4/32")]),
        ("192.0.2.1", "192.0.2.0/24", []),
        ("", "192.0.2.0/24", []),
    ],
)  # fmt: skip
@pytest.mark.row("LS-01")
def test_black_less_white_as_networks(black: str, white: str, result: list[str]) -> None:
    assert networks(black, white) == result


@pytest.mark.row("LS-01")
def test_an_address_out_of_the_middle_of_a_large_network() -> None:
    found = networks("10.0.0.0/8", "10.1.2.3")
    assert found[:5] == ["10.0.0.0/16", "10.1.0.0/23", "10.1.2.0/31", "10.1.2.2/32", "10.1.2.4/30"]
    assert len(found) == 24


SMALL = 1 << 10


@st.composite
def few_ranges(draw: st.DrawFn, base: int) -> list[Range]:
    """Ranges within SMALL addresses from `base`."""
    pairs = draw(st.lists(st.tuples(st.integers(0, SMALL), st.integers(0, SMALL)), max_size=12))
    return [(base + min(pair), base + max(pair)) for pair in pairs if pair[0] != pair[1]]


BASES = st.sampled_from((0, number("10.0.0.0") - SMALL // 2, (1 << 31) - 500, END - SMALL))


def brute(black: list[Range], white: list[Range]) -> set[int]:
    def members(ranges: list[Range]) -> set[int]:
        return {each for start, behind in ranges for each in range(start, behind)}

    return members(black) - members(white)


def check_against_each_address(black: list[Range], white: list[Range]) -> None:
    spans = list(subtract(black, white))
    assert {each for start, behind in spans for each in range(start, behind)} == brute(black, white)
    assert all(left[1] < right[0] for left, right in pairwise(spans))  # ascending, with gaps
    found = list(blocks(spans))
    at = 0
    for start, behind in spans:  # networks tile each range, aligned, each as large as it can be
        while start < behind:
            size = 1 << 32 - (found[at] & 255)
            assert found[at] >> 8 == start
            assert start % size == 0
            assert start + size <= behind
            assert start % (size * 2) != 0 or start + size * 2 > behind
            start, at = start + size, at + 1
    assert at == len(found)


@given(st.data(), BASES)
@settings(max_examples=100)
def test_the_algebra_is_that_of_single_addresses(data: st.DataObject, base: int) -> None:
    check_against_each_address(data.draw(few_ranges(base)), data.draw(few_ranges(base)))


@pytest.mark.deep
@given(st.data(), BASES)
@settings(max_examples=5_000, deadline=None)
def test_the_algebra_is_that_of_single_addresses_thousands_of_times(data: st.DataObject, base: int) -> None:
    check_against_each_address(data.draw(few_ranges(base)), data.draw(few_ranges(base)))


WORDS = st.sampled_from(
    (
        *(b" ", b"\t", b"#", b"/", b"-", b" - ", b".", b"0", b"8", b"24", b"32", b"33", b"10", b"255", b"256"),
        *(b"192.0.2.1", b"192.0.2.9", b"10.1", b"255.255.255.255", b"0.0.0.0", b"2001:db8::1", b"x", b"\n", b"\0"),
    )
)
LINES = st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=60).map(b"".join))


def check_any_octets(octets: bytes) -> None:
    found = parse_text(octets)
    assert all(0 <= start < behind <= END for start, behind in found.ranges)
    assert len(found) + found.ignored <= found.lines
    shown = "\n".join(text(each >> 8, each & 255) for each in collapse(found.ranges))
    again = parse_text(shown.encode())
    assert list(subtract(again.ranges)) == list(subtract(found.ranges))


@given(LINES)
def test_any_octets_give_ranges_that_survive_being_written(octets: bytes) -> None:
    check_any_octets(octets)


@pytest.mark.deep
@given(LINES)
@settings(max_examples=20_000, deadline=None)
def test_many_octets_give_ranges_that_survive_being_written(octets: bytes) -> None:
    check_any_octets(octets)


def test_two_hundred_thousand_lines_are_read_and_collapsed_in_seconds() -> None:
    random = Random(7)
    octets = "\n".join(text(random.getrandbits(32)) for _ in range(200_000)).encode()
    white = array("Q", [0, 1 << 30])
    begun = time.process_time()
    found = parse_text(octets)
    left = collapse(found.ranges, [(white[0], white[1])])
    assert time.process_time() - begun < 6  # 1.5 s on the machine this was written on
    assert 140_000 < len(left) < 160_000
    assert addresses.text(left[0] >> 8).startswith("64.")
