"""Framing (RFC 4271 §6.1), and the octets of NOTIFICATIONs."""

import pytest

from gatepost.codec.bgp.message import code_text, notification_text, shutdown_data
from gatepost.codec.bgp.session import Session
from gatepost.codec.bgp.types import Ended, State
from tests.codec.bgp.messages import KEEPALIVE, LOCAL, PEER, established, message, notification, usual_open


def header(size: int, kind: int) -> bytes:
    return b"\xff" * 16 + size.to_bytes(2) + bytes((kind,))


@pytest.mark.row("BGP-01")
@pytest.mark.parametrize(
    ("octets", "answer"),
    [
        (b"\xff" * 15 + b"\xfe" + KEEPALIVE[16:], b"\x01\x01"),
        (bytes(16) + KEEPALIVE[16:], b"\x01\x01"),
        (header(18, 4), b"\x01\x02\x00\x12"),
        (header(0, 4), b"\x01\x02\x00\x00"),
        (header(4097, 2), b"\x01\x02\x10\x01"),
        (header(65535, 2), b"\x01\x02\xff\xff"),
        (header(19, 0), b"\x01\x03\x00"),
        (header(19, 6), b"\x01\x03\x06"),
        (header(19, 255), b"\x01\x03\xff"),
        (header(28, 1), b"\x01\x02\x00\x1c"),
        (header(22, 2), b"\x01\x02\x00\x16"),
        (header(20, 3), b"\x01\x02\x00\x14"),
        (header(20, 4), b"\x01\x02\x00\x14"),
        (header(22, 5), b"\x01\x02\x00\x16"),
    ],
)
def test_a_bad_header_ends_the_session_with_its_notification(octets: bytes, answer: bytes) -> None:
    fresh = Session(LOCAL, PEER, 0.0)
    for session in (fresh, established()):
        events = session.receive(octets, 1.0)
        assert len(events) == 1
        assert isinstance(events[0], Ended)
        assert (events[0].by_us, events[0].code, events[0].subcode) == (True, answer[0], answer[1])
        assert notification(session.output()) == answer
        assert session.state is State.IDLE
        assert session.receive(usual_open(), 1.0) == []
        assert session.output() == b""


def test_a_message_of_4096_octets_is_taken() -> None:
    session = established()
    withdrawn = b"\x20\x05\x06\x07\x08" * 814 + b"\x10\x05\x06"
    octets = message(2, len(withdrawn).to_bytes(2) + withdrawn + bytes(2))
    assert len(octets) == 4096
    assert not any(isinstance(each, Ended) for each in session.receive(octets, 1.0))


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("bye", b"\x03bye"),
        ("x" * 255, b"\xff" + b"x" * 255),
        ("x" * 256, b"\xff" + b"x" * 255),
        ("x" * 254 + "é", b"\xfe" + b"x" * 254),
    ],
)
def test_a_shutdown_text_is_cut_at_255_octets_of_whole_letters(text: str, data: bytes) -> None:
    assert shutdown_data(text) == data


def test_a_shutdown_text_is_read_and_made_harmless() -> None:
    assert notification_text(6, 2, b"\x05maint") == "maint"
    assert notification_text(6, 4, b"\x04a\nb\x1b") == "a?b?"
    assert notification_text(6, 2, b"\x09short") == "0973686f7274"
    assert notification_text(6, 9, b"\x06\x02\x03bye") == "Cease, administrative shutdown: bye"
    assert notification_text(1, 2, b"\x00\x12") == "0012"


def test_codes_that_nobody_knows_have_a_text_too() -> None:
    assert code_text(4, 0) == "Hold Timer Expired"
    assert code_text(2, 7) == "OPEN Message Error, unsupported capability"
    assert code_text(99, 3) == "error 99, subcode 3"
