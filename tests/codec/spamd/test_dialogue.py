"""spamd's dialogue against its transcripts, whole and octet by octet, and its limits."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.spamd.dialogue import LINE_MAX, VALUE_MAX, Dialogue, Offer, Say, expand
from tests.codec.spamd.conversation import DATE, Transcript, converse, transcripts


@pytest.mark.row("GR-01", "GR-04", "SMTP-24")
@pytest.mark.parametrize("transcript", transcripts(), ids=lambda each: each.name)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_transcript(transcript: Transcript, size: int | None) -> None:
    assert tuple(converse(transcript.dialogue(), transcript.said, size)) == transcript.heard


COMMANDS = st.sampled_from(
    [
        *(
            b"HELO x\r\n",
            b"EHLO\n",
            b"MAIL FROM:<a@b>\r\n",
            b"RCPT TO:<c@d> X\r\n",
            b"RCPT\r\n",
            b"NOOP\n",
            b"RSET\r\n",
        ),
        *(
            b"DATA\r\n",
            b"\r\n",
            b".\r\n",
            b"QUIT\r\n",
            b"x" * 9000 + b"\n",
            b"To: x\r\n",
            b"\0\r\n",
            b"nul\0l\r\n",
            b"\xff",
        ),
    ]
)


@settings(max_examples=60)
@given(st.lists(COMMANDS | st.binary(max_size=20), max_size=12), st.integers(1, 40), st.booleans())
def test_what_is_heard_does_not_depend_on_packets(pieces: list[bytes], size: int, black: bool) -> None:
    octets = b"".join(pieces)

    def heard(step: int) -> list[str]:
        dialogue = Dialogue("h", ip="192.0.2.1", messages=["no"], black=black)
        return [ascii(line) for line in _raw(dialogue, octets, step)]

    assert heard(size) == heard(max(1, len(octets)))


def _raw(dialogue: Dialogue, octets: bytes, step: int) -> list[object]:
    heard: list[object] = [dialogue.greet(DATE)]
    for at in range(0, len(octets), step):
        heard += dialogue.receive(octets[at : at + step])
    return heard


def _ready(*, black: bool = False) -> Dialogue:
    dialogue = Dialogue("h", ip="192.0.2.1", messages=["no"], black=black)
    dialogue.greet(DATE)
    return dialogue


def _octets(events: Sequence[object]) -> bytes:
    return b"".join(event.octets for event in events if isinstance(event, Say))


def test_an_endless_line_is_cut_into_commands() -> None:
    dialogue = _ready()
    assert dialogue.receive(b"x" * (LINE_MAX - 1)) == []
    assert b"500" in _octets(dialogue.receive(b"x"))


def test_values_are_cut_to_spamds_buffers() -> None:
    dialogue = _ready()
    dialogue.receive(b"HELO " + b"h" * 2000 + b"\r\n")
    dialogue.receive(b"MAIL FROM:" + b"m" * 2000 + b"\r\n")
    offers = [event for event in dialogue.receive(b"RCPT TO:" + b"r" * 2000 + b"\r\n") if isinstance(event, Offer)]
    assert [len(value) for value in (offers[0].helo, offers[0].sender, offers[0].recipient)] == [VALUE_MAX] * 3


@pytest.mark.row("GR-04")
def test_a_message_is_expanded_as_spamd_does() -> None:
    assert expand(r'"a %A %% \\ \" \n%x\t"', "192.0.2.1") == 'a 192.0.2.1 % \\ " \n%x\\t'
