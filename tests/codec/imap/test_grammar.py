"""Tokens, sequence sets, and the answers that are written."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import Instant
from gatepost.codec.imap.sets import STAR, parse_set, resolved, set_text
from gatepost.codec.imap.tokens import BadSyntax, Tokens
from gatepost.codec.imap.write import astring, date_time_pattern, internal_date, literal, parse_date_time, quoted

ENDS = st.one_of(st.integers(1, 12), st.just(STAR))


def text(end: int) -> bytes:
    """Return a number of a set as it is written."""
    return b"*" if end == STAR else b"%d" % end


@pytest.mark.row("IMAP-07")
@settings(max_examples=100)
@given(st.lists(st.tuples(ENDS, ENDS), min_size=1, max_size=6), st.integers(1, 10))
def test_a_set_names_what_its_ranges_name(pairs: list[tuple[int, int]], last: int) -> None:
    found = resolved(parse_set(b",".join(text(low) + b":" + text(high) for low, high in pairs)), last)
    named = {number for low, high in found for number in range(low, high + 1)}
    expected: set[int] = set()
    for low, high in pairs:
        ends = [last if end == STAR else end for end in (low, high)]
        expected |= set(range(min(ends), max(ends) + 1))
    assert {number for number in named if number <= last} == {number for number in expected if number <= last}
    assert all(low > earlier + 1 for (_, earlier), (low, _) in pairwise(found))


def test_a_set_over_nothing_names_nothing() -> None:
    assert resolved(parse_set(b"*"), 0) == ()


@settings(max_examples=50)
@given(st.sets(st.integers(1, 40), min_size=1))
def test_numbers_are_written_as_a_set(numbers: set[int]) -> None:
    ranges = parse_set(set_text(sorted(numbers)))
    assert {number for low, high in ranges for number in range(low, high + 1)} == numbers


@pytest.mark.row("IMAP-07")
@pytest.mark.parametrize(
    "wrong", [b"", b"0", b"4294967296", b"1:", b"1,", b"-1", b"1:2:3", b"*:*:*", b"1_0", b"\xd9\xa1"]
)
def test_what_is_no_set(wrong: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_set(wrong)


@pytest.mark.row("IMAP-07")
def test_a_set_of_many_ranges_is_one_or_too_many() -> None:
    assert parse_set(b",".join([b"1:*"] * 10_000)) == ((1, STAR),)
    with pytest.raises(BadSyntax):
        parse_set(b"1," * 20_000 + b"1")


@pytest.mark.row("IMAP-23")
@settings(max_examples=100)
@given(st.binary(max_size=30))
def test_a_string_that_is_written_is_read_back(value: bytes) -> None:
    value = value.replace(b"\0", b"")
    for written in (quoted(value), literal(value), astring(value)):
        tokens = Tokens(written + b" x")
        assert tokens.astring() == value
        tokens.expect(b" x")
        tokens.end()
        outside = re.sub(rb"\A\{[0-9]+\}\r\n", b"", written) if written.startswith(b"{") else b""
        assert b"\r\n" not in written or outside == value


def test_nil_is_a_string_where_it_is_a_name() -> None:
    assert astring(b"nil") == b'"nil"'
    assert astring(b"") == b'""'
    assert literal(b"a\0b") == b"{3}\r\na\x80b"


@pytest.mark.parametrize(
    "wrong", [b'"', b'"a', b'"a\\b"', b'"a\r\nb"', b"{3}\r\nab", b"{3}ab", b"(", b"{-1}\r\n", b""]
)
def test_what_is_no_string(wrong: bytes) -> None:
    with pytest.raises(BadSyntax):
        Tokens(wrong).astring()


def test_tokens_come_from_left_to_right() -> None:
    tokens = Tokens(b'a.1 store "x\\"y" {2}\r\n)( NIL (\\Seen $Later) 12')
    assert tokens.tag() == b"a.1"
    tokens.space()
    assert tokens.word() == b"STORE"
    tokens.space()
    assert tokens.string() == b'x"y'
    tokens.space()
    assert tokens.astring() == b")("
    tokens.space()
    assert tokens.nstring() is None
    tokens.space()
    assert tokens.flags() == ["\\Seen", "$Later"]
    tokens.space()
    assert tokens.number() == 12
    assert tokens.done


@settings(max_examples=50)
@given(st.integers(0, 4_000_000_000))
def test_a_date_that_is_written_is_read_back(moment: int) -> None:
    instant = Instant(moment * 1_000_000)
    found = date_time_pattern().fullmatch(internal_date(instant))
    assert found is not None
    assert parse_date_time(found) == instant


def test_dates_with_a_zone_and_dates_that_are_none() -> None:
    def parsed(written: bytes) -> Instant | None:
        found = date_time_pattern().fullmatch(written)
        return None if found is None else parse_date_time(found)

    assert parsed(b'" 1-Jan-1970 01:30:00 +0130"') == 0
    assert parsed(b'"31-DEC-1969 23:00:00 -0100"') == 0
    for wrong in (
        b'"31-Feb-2026 00:00:00 +0000"',
        b'"01-Foo-2026 00:00:00 +0000"',
        b'"01-Jan-2026 25:00:00 +0000"',
    ):
        assert parsed(wrong) is None
