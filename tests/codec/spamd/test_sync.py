"""spamd's sync on the wire: the vectors of an OpenBSD-derived sync.c, a captured packet, and what is dropped."""

import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec.spamd.sync import (
    DATAGRAM_MAX,
    Entry,
    Grey,
    NotUnderstood,
    Told,
    TooLong,
    Trapped,
    White,
    key_of,
    pack,
    parse,
)

CAPTURED = Path(__file__).parents[2] / "conformance" / "sync"
KEY = key_of(b"gatepost test key\n")
NOW = 1_700_000_000
GREY = Grey("203.0.113.7", b"mail.example.net", b"<a@b.example>", b"<joe@example.com>")
WHITE = White("203.0.113.9", NOW + 3_110_400)
TRAPPED = Trapped("203.0.113.66", NOW + 86_400)
# Made by a sync.c derived from OpenBSD's 1.14, compiled: counter 7, the time NOW, the key above or none.
VECTORS: list[tuple[Entry, bytes, str]] = [
    (
        GREY,
        KEY,
        (
            "0202007400000007c71120abe8a305380157a084a44ee6a7251e8e1800000000000100506553f100cb007107000e0012"
            "00113c6140622e6578616d706c653e003c6a6f65406578616d706c652e636f6d3e006d61696c2e6578616d706c652e6e"
            "6574000000000000000000000000000000000004"
        ),
    ),
    (
        WHITE,
        KEY,
        "0202003400000007f0e17c443874b4024543654798f83e7f558225ab00000000000200106553f10065836700cb00710900000004",
    ),
    (
        TRAPPED,
        KEY,
        "02020034000000077d0b0cd0f0ba3a1ed6c8d7a7274c9e711c2ae7b900000000000300106553f10065554280cb00714200000004",
    ),
    (
        WHITE,
        key_of(None),
        "0202003400000007136e5e3405e385b3065c5e98736df739d21bea7000000000000200106553f10065836700cb00710900000004",
    ),
]


def signed(octets: bytes, key: bytes = KEY) -> bytes:
    """Sign a datagram that somebody changed."""
    return octets[:8] + hmac.digest(key, octets[:8] + bytes(20) + octets[28:], "sha1") + octets[28:]


def resized(octets: bytes) -> bytes:
    """Set the length of a datagram that somebody changed, and sign it."""
    return signed(octets[:2] + len(octets).to_bytes(2) + octets[4:])


@pytest.mark.row("SY-01", "SY-03", "SY-05", "BM-04")
@pytest.mark.parametrize(("entry", "key", "wire"), VECTORS)
def test_datagrams_are_those_of_openbsds_own_code(entry: Entry, key: bytes, wire: str) -> None:
    """SY-03, BM-04: 4.9 and 5.7 speak this version; a real OpenBSD host cannot run here, its code's octets can."""
    octets = bytes.fromhex(wire)
    assert pack([entry], 7, key, NOW) == octets
    assert parse(octets, key) == Told(7, (entry,))


@pytest.mark.row("SY-03", "SY-05", "BM-04")
def test_a_packet_captured_from_a_spamd_is_understood_with_its_key_file() -> None:
    octets = (CAPTURED / "grey-v2.bin").read_bytes()
    told = parse(octets, key_of((CAPTURED / "key").read_bytes()))
    assert told == Told(0, (Grey("127.0.0.1", b"a.example.net", b"alice@example.net", b"bob@example.org"),))
    with pytest.raises(NotUnderstood, match="another key"):
        parse(octets, KEY)


def test_several_entries_in_one_datagram_are_read_and_octets_behind_it_are_not() -> None:
    octets = pack([GREY, WHITE, TRAPPED], 1, KEY, NOW)
    assert parse(octets + b"more", KEY).entries == (GREY, WHITE, TRAPPED)


def version_1(octets: bytes) -> bytes:
    """Make a datagram one of version 1: counter before length, 2 octets of zero for 4."""
    older = b"\1\2" + octets[4:8] + (len(octets) - 2).to_bytes(2) + bytes(22) + octets[32:]
    return older[:8] + hmac.digest(KEY, older, "sha1") + older[28:]


def test_version_1_is_heard_only_where_it_was_asked_for() -> None:
    older = version_1(pack([GREY, TRAPPED], 9, KEY, NOW))
    assert parse(older, KEY, accept_v1=True) == Told(9, (GREY, TRAPPED))
    assert parse(pack([WHITE], 9, KEY, NOW), KEY, accept_v1=True) == Told(9, (WHITE,))
    for octets, accept, why in (
        (older, False, "version 1"),
        (older[:29], True, "no datagram"),
        (older[:-1], True, "truncated"),
        (older[:40] + b"x" + older[41:], True, "another key"),
    ):
        with pytest.raises(NotUnderstood, match=why):
            parse(octets, KEY, accept_v1=accept)


@pytest.mark.row("SYNC-01")
@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "no datagram"),
        (pack([WHITE], 0, KEY, NOW)[:31], "no datagram"),
        (pack([WHITE], 0, KEY, NOW)[:-1], "truncated"),
        (b"\xff" + pack([WHITE], 0, KEY, NOW)[1:], "version 255"),
        (b"\x01" + pack([WHITE], 0, KEY, NOW)[1:], "version 1"),
        (b"\x02\x18" + pack([WHITE], 0, KEY, NOW)[2:], "address family 24"),
        (pack([WHITE], 0, b"other", NOW), "another key"),
        (bytes(65_507), "version 0"),
        (b"\x02\x02\x00\x1f" + bytes(28), "truncated"),
    ],
)
def test_what_is_not_ours_is_dropped_whole(octets: bytes, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        parse(octets, KEY)


WHOLE = pack([WHITE, GREY], 0, KEY, NOW)
TAIL = b"\0\0\0\4"


@pytest.mark.row("SYNC-01")
@pytest.mark.parametrize(
    ("octets", "flaw"),
    [
        (resized(WHOLE[:-4]), "no END"),
        (resized(WHOLE[:-4] + b"\0\4\0\x10" + bytes(12) + TAIL), "invalid type: 4"),
        (resized(WHOLE[:-4] + b"\0\1\0\0" + TAIL), "an entry of 0 octets"),
        (resized(WHOLE[:-4] + b"\0\2\0\x40" + bytes(12) + TAIL), "an entry of 64 octets"),
        (resized(WHOLE[:-4] + b"\0\2\0\x14" + bytes(16) + TAIL), "malformed"),
        (resized(WHOLE[:-4] + b"\0\1\0\x12" + bytes(8) + b"\0\xff" * 3 + TAIL), "malformed"),
        (
            resized(WHOLE[:-4] + b"\0\1\0\x20" + bytes(8) + b"\0\2\0\2\0\2" + b"ab\0c\0d" + bytes(8) + TAIL),
            "malformed",
        ),
        (resized(WHOLE[:-4] + b"\0\0\0\5"), "END of 5"),
    ],
)
def test_entries_before_a_flaw_count(octets: bytes, flaw: str) -> None:
    told = parse(octets, KEY)
    assert told.entries == (WHITE, GREY)
    assert flaw in told.flaw


def test_a_word_with_a_line_feed_cannot_part_a_key() -> None:
    bad = Grey("192.0.2.1", b"x\n<y>", b"<a>", b"<b>")
    assert parse(pack([bad], 0, KEY, NOW), KEY) == Told(0, (), "a malformed entry")


def test_what_no_receiver_would_read_is_not_written() -> None:
    most = (DATAGRAM_MAX - 32 - 4) // 16 * 16 - 18 - 3  # an entry is a multiple of 16
    for length, fits in ((most, True), (most + 1, False), (3_000, False)):
        entry = Grey("192.0.2.1", b"", b"", b"r" * length)
        if fits:
            assert len(pack([entry], 0, KEY, NOW)) <= DATAGRAM_MAX
        else:
            with pytest.raises(TooLong):
                pack([entry], 0, KEY, NOW)


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_octets_are_understood_or_refused(octets: bytes, start: bool, older: bool) -> None:
    given_octets = resized(WHOLE[:32] + octets) if start else octets
    if older and start:
        given_octets = version_1(given_octets)
    try:
        told = parse(given_octets, KEY, accept_v1=older)
    except NotUnderstood:
        return
    assert len(told.entries) * 16 <= len(given_octets)
