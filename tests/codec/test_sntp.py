"""Time questions and answers have the layout of RFC 4330 §4, and an answer to another question is none."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec.sntp import SIZE, BadAnswer, answer, question

NOW = 1_795_420_800.25
SINCE_1900 = 2_208_988_800


def stamp(moment: float) -> bytes:
    """Return a time as NTP writes it."""
    whole = int(moment // 1)
    return struct.pack("!II", (whole + SINCE_1900) % 2**32, int((moment % 1) * 2**32))


def reply(asked: bytes, received: float, sent: float, *, stratum: int = 2, flags: int = 0x24) -> bytes:
    """Return a server's answer."""
    head = struct.pack("!BBBb3I", flags, stratum, 6, -20, 0, 0, 0x7F000001)
    return head + stamp(received) + asked[40:48] + stamp(received) + stamp(sent)


def test_a_question_is_of_version_4_and_has_the_time_in_its_last_field() -> None:
    asked = question(NOW)
    assert len(asked) == SIZE
    assert asked[0] == 0b00_100_011
    assert asked[40:] == stamp(NOW)
    assert not any(asked[1:40])


@given(st.floats(-1e6, 1e6), st.floats(0, 2), st.floats(0, 2))
def test_offset_and_delay_are_those_of_the_rfc(offset: float, there: float, back: float) -> None:
    received = NOW + there + offset
    told = answer(reply(question(NOW), received, received), NOW, NOW + there + back)
    assert told.offset == pytest.approx(offset + (there - back) / 2, abs=1e-5)
    assert told.delay == pytest.approx(there + back, abs=1e-5)


def test_after_2036_the_seconds_begin_anew_and_nothing_changes() -> None:
    then = 2**32 - SINCE_1900 + 1000.0
    told = answer(reply(question(then), then + 5, then + 5), then, then)
    assert told.offset == pytest.approx(5, abs=1e-5)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "0 octets"),
        (reply(question(NOW), NOW, NOW)[:47], "47 octets"),
        (reply(question(NOW + 1), NOW, NOW), "another question"),
        (reply(question(NOW), NOW, NOW, flags=0x23), "another question"),
        (reply(question(NOW), NOW, NOW, flags=0xE4), "does not know the time"),
        (reply(question(NOW), NOW, NOW, stratum=0), "does not know the time"),
        (reply(question(NOW), NOW, NOW, stratum=16), "does not know the time"),
    ],
)
def test_what_does_not_tell_the_time_is_refused(octets: bytes, why: str) -> None:
    with pytest.raises(BadAnswer, match=why):
        answer(octets, NOW, NOW)
