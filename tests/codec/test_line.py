"""Lines out of octets: only CRLF ends one, and what waits is bounded."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.line import LineBuffer, LineTooLong


def lines_of(octets: bytes, size: int, limit: int = 64) -> list[bytes]:
    buffer = LineBuffer(limit)
    lines: list[bytes] = []
    for at in range(0, len(octets), size):
        buffer.feed(octets[at : at + size])
        while (line := buffer.line()) is not None:
            lines.append(line)
    return lines


def test_a_bare_lf_or_cr_ends_no_line() -> None:
    assert lines_of(b"a\nb\rc\r\nd\r\n", 100) == [b"a\nb\rc", b"d"]


@given(st.lists(st.text("ab\r\n", max_size=20)), st.integers(1, 30))
@settings(max_examples=80)
def test_lines_do_not_depend_on_packets(parts: list[str], size: int) -> None:
    octets = "\r\n".join(parts).encode() + b"\r\n"
    assert lines_of(octets, size, 4096) == lines_of(octets, len(octets), 4096)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_line_at_the_limit_is_taken_and_one_octet_more_is_not(size: int) -> None:
    assert lines_of(b"x" * 62 + b"\r\n", size) == [b"x" * 62]
    with pytest.raises(LineTooLong):
        lines_of(b"x" * 63 + b"\r\n", size)


def test_a_line_that_never_ends_is_refused_at_the_limit() -> None:
    buffer = LineBuffer(64)
    buffer.feed(b"x" * 63)
    assert buffer.line() is None
    buffer.feed(b"x")
    with pytest.raises(LineTooLong):
        buffer.line()


def test_counted_octets_and_lines_can_be_taken_in_turn() -> None:
    buffer = LineBuffer(64)
    buffer.feed(b"one\r\n12345two\r\n")
    assert buffer.line() == b"one"
    assert buffer.take(5) == b"12345"
    assert len(buffer) == 5
    assert buffer.line() == b"two"
    assert buffer.take() == b""
