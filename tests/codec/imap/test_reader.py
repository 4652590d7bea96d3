"""The reader cuts commands, whatever the split of the input."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.imap.reader import AFTER_LOGIN, Bounds, Event, GoOn, Message, Piece, Reader, TooBig, Whole

SMALL = Bounds(line=20, literal=10, total=40, literals=3, append=60)
PIECES = st.sampled_from(
    [
        b"a NOOP\r\n",
        b"a LOGIN {3}\r\n",
        b"a LOGIN {3+}\r\nbob",
        b"a LOGIN {0+}\r\n",
        b" {2+}\r\n\r\n",
        b"a APPEND x {30+}\r\n",
        b"a append x {5}\r\n",
        b"a APPEND {1+}\r\nx",
        b"b uid x {11}\r\n",
        b"{11+}\r\n",
        b"{99999999999999999999}\r\n",
        b"x" * 10,
        b"y" * 20,
        b"\r\n",
        b"\r",
        b"\n",
        b"~{1+}\r\n\0",
        b'"{3}"\r\n',
    ]
)


def read(reader: Reader, *pieces: bytes) -> list[Event]:
    """Return all events of a stream."""
    found: list[Event] = []
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next()) is not None:
            if isinstance(event, Piece) and found and isinstance(found[-1], Piece):
                event = Piece(found.pop().octets + event.octets)  # type: ignore[union-attr]  # it was looked at
            found.append(event)
    return found


@settings(max_examples=50)
@given(st.lists(PIECES, max_size=12))
def test_octet_by_octet_is_whole(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    dripped = read(Reader(SMALL), *[stream[at : at + 1] for at in range(len(stream))])
    assert dripped == read(Reader(SMALL), stream)


def test_commands_with_and_without_literals() -> None:
    assert read(Reader(), b"a NOOP\r\nb LOGIN {3}\r\nbob {2+}\r\n\r\n\r\nc X\r\n") == [
        Whole(b"a NOOP"),
        GoOn(),
        Whole(b"b LOGIN {3}\r\nbob {2+}\r\n\r\n"),
        Whole(b"c X"),
    ]


def test_a_command_is_read_only_when_it_is_asked_for() -> None:
    reader = Reader()
    reader.feed(b"a STARTTLS\r\nb NOOP\r\n")
    assert reader.next() == Whole(b"a STARTTLS")
    assert reader.pending
    assert reader.take_line() == b"b NOOP"
    assert not reader.pending


@pytest.mark.row("IMAP-04")
def test_a_line_is_as_long_as_it_may_be() -> None:
    assert read(Reader(SMALL), b"y" * 20 + b"\r\n") == [Whole(b"y" * 20)]
    assert read(Reader(SMALL), b"y" * 20, b"\r", b"\n") == [Whole(b"y" * 20)]
    assert read(Reader(SMALL), b"y" * 21) == [TooBig(b"*", "line too long", True)]
    assert read(Reader(SMALL), b"y" * 20 + b"\rx") == [TooBig(b"*", "line too long", True)]


@pytest.mark.row("IMAP-01")
@pytest.mark.parametrize("size", [b"11", b"4294967296", b"9" * 20, b"9" * 21, b"1" + b"0" * 12])
def test_a_literal_that_is_too_big(size: bytes) -> None:
    bounds = Bounds(line=100, literal=10, total=40, literals=3)
    refused = read(Reader(bounds), b"a LOGIN {%b}\r\nb NOOP\r\n" % size)
    assert refused == [TooBig(b"a", "literal too big", False), Whole(b"b NOOP")]
    ended = read(Reader(bounds), b"a LOGIN {%b+}\r\nb NOOP\r\n" % size)
    assert ended == [TooBig(b"a", "literal too big", True)]


@pytest.mark.row("IMAP-02")
def test_a_command_has_so_many_literals_and_octets() -> None:
    assert read(Reader(SMALL), b"a X" + b"{0+}\r\n" * 4) == [TooBig(b"a", "literal too big", True)]
    assert read(Reader(SMALL), b"a X {9+}\r\n123456789 {9+}\r\n123456789 {9+}\r\n")[-1] == TooBig(
        b"a", "literal too big", True
    )
    many = read(Reader(AFTER_LOGIN), b"a X " + b"{1+}\r\nx" * 1000 + b"\r\n")
    assert many == [Whole(b"a X " + b"{1+}\r\nx" * 1000)]


@pytest.mark.row("IMAP-09")
def test_only_append_has_a_large_literal() -> None:
    assert read(Reader(SMALL), b"a APPEND x {60+}\r\n" + b"m" * 60 + b"\r\n") == [
        Message(b"a", 60, False),
        Piece(b"m" * 60),
        Whole(b"a APPEND x {60+}\r\n"),
    ]
    assert read(Reader(SMALL), b"a append x {61}\r\n") == [TooBig(b"a", "literal too big", False)]
    assert read(Reader(SMALL), b"a COPY x {60}\r\n") == [TooBig(b"a", "literal too big", False)]


def test_the_mailbox_of_an_append_may_be_a_literal_and_is_bounded_as_such() -> None:
    assert read(Reader(SMALL), b"a APPEND {2}\r\nxy (f) {20}\r\n" + b"m" * 20 + b"\r\n") == [
        GoOn(),
        Message(b"a", 20, True),
        Piece(b"m" * 20),
        Whole(b"a APPEND {2}\r\nxy (f) {20}\r\n"),
    ]
    assert read(Reader(SMALL), b"a APPEND {11}\r\n") == [TooBig(b"a", "literal too big", False)]


def test_a_second_literal_behind_a_message_is_an_ordinary_one() -> None:
    said = read(Reader(SMALL), b"a APPEND x {20+}\r\n" + b"m" * 20 + b" {2+}\r\nhi\r\n")
    assert said[1:] == [Piece(b"m" * 20), Whole(b"a APPEND x {20+}\r\n {2+}\r\nhi")]
    ended = read(Reader(SMALL), b"a APPEND x {20+}\r\n" + b"m" * 20 + b" {11+}\r\n")
    assert ended[2:] == [TooBig(b"a", "literal too big", True)]


def test_before_login_append_is_a_command_like_others() -> None:
    assert read(Reader(), b"a APPEND x {5000}\r\n") == [TooBig(b"a", "literal too big", False)]


def test_a_refused_message_is_not_waited_for() -> None:
    reader = Reader(SMALL)
    assert read(reader, b"a APPEND x {20}\r\n") == [Message(b"a", 20, True)]
    reader.refuse()
    assert read(reader, b"b NOOP\r\n") == [Whole(b"b NOOP")]


def test_a_message_is_not_held() -> None:
    reader = Reader(AFTER_LOGIN)
    read(reader, b"a APPEND x {1000000+}\r\n")
    for _ in range(10):
        assert read(reader, b"m" * 100_000) == [Piece(b"m" * 100_000)]
        assert reader.held == 0
    assert read(reader, b"\r\n") == [Whole(b"a APPEND x {1000000+}\r\n")]


def test_lines_that_are_no_commands_are_taken_as_they_are() -> None:
    reader = Reader()
    reader.feed(b"DO")
    assert reader.take_line() is None
    assert reader.held == 2
    reader.feed(b"NE {5}\r\n")
    assert reader.take_line() == b"DONE {5}"
