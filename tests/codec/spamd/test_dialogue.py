"""spamd's dialogue against its transcripts, whole and octet by octet, and its limits."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.spamd.dialogue import (
    HEADER_LINES_MAX,
    INBOX_MAX,
    LINE_MAX,
    VALUE_MAX,
    Dialogue,
    Flooded,
    Offer,
    Say,
    TooEarly,
)
from gatepost.codec.spamd.message import black_reply, expand
from tests.codec.spamd.conversation import DATE, Transcript, converse, transcripts, without_body


@pytest.mark.row("GR-01", "GR-04", "SMTP-24")
@pytest.mark.parametrize("transcript", transcripts(), ids=lambda each: each.name)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_transcript(transcript: Transcript, size: int | None) -> None:
    assert without_body(converse(transcript.dialogue(), transcript.said, size)) == transcript.heard


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
    heard: list[object] = [dialogue.greet(DATE), *dialogue.said()]
    for at in range(0, len(octets), step):
        events = dialogue.receive(octets[at : at + step])
        while events:
            heard += events
            events = dialogue.said() if isinstance(events[-1], Say) and not events[-1].close else []
    return heard


def _ready(*, black: bool = False) -> Dialogue:
    dialogue = Dialogue("h", ip="192.0.2.1", messages=["no"], black=black)
    dialogue.greet(DATE)
    dialogue.said()
    return dialogue


def test_a_client_is_answered_one_command_at_a_time() -> None:
    dialogue = _ready()
    first = dialogue.receive(b"NOOP\r\nHELO x\r\n")
    assert [type(event) for event in first] == [Say]
    assert dialogue.receive(b"QUIT\r\n") == []
    assert b"Hello" in _octets(dialogue.said())
    assert b"221" in _octets(dialogue.said())


def _octets(events: Sequence[object]) -> bytes:
    return b"".join(event.octets for event in events if isinstance(event, Say))


def test_an_endless_line_is_cut_into_commands() -> None:
    dialogue = _ready()
    assert dialogue.receive(b"x" * (LINE_MAX - 1)) == []
    assert b"500" in _octets(dialogue.receive(b"x"))


def test_a_client_that_does_not_wait_costs_no_more_than_the_inbox() -> None:
    dialogue = _ready()
    dialogue.receive(b"NOOP\r\n")
    assert dialogue.receive(b"x" * INBOX_MAX) == []
    assert dialogue.receive(b"x") == [Flooded()]
    assert dialogue.receive(b"QUIT\r\n") == []


def test_who_speaks_before_the_banner_was_said_is_told_of_once() -> None:
    dialogue = Dialogue("h", ip="192.0.2.1")
    dialogue.greet(DATE)
    assert dialogue.receive(b"EHLO x\r\n") == [TooEarly()]
    assert dialogue.receive(b"MAIL FROM:<a@b>\r\n") == []
    assert b"Hello" in _octets(dialogue.said())


def test_who_speaks_too_early_can_be_refused() -> None:
    dialogue = Dialogue("h", ip="192.0.2.1")
    dialogue.greet(DATE)
    dialogue.receive(b"EHLO x\r\n")
    dialogue.refuse_early()
    [said] = dialogue.said()
    assert isinstance(said, Say)
    assert said.close
    assert said.octets.startswith(b"554 ")


def test_values_are_cut_to_spamds_buffers() -> None:
    dialogue = _ready()
    dialogue.receive(b"HELO " + b"h" * 2000 + b"\r\n")
    dialogue.said()
    dialogue.receive(b"MAIL FROM:" + b"m" * 2000 + b"\r\n")
    dialogue.said()
    offers = [event for event in dialogue.receive(b"RCPT TO:" + b"r" * 2000 + b"\r\n") if isinstance(event, Offer)]
    assert [len(value) for value in (offers[0].helo, offers[0].sender, offers[0].recipient)] == [VALUE_MAX] * 3


def test_a_header_without_end_is_ended() -> None:
    dialogue = _ready(black=True)
    dialogue.receive(b"DATA\r\n")
    dialogue.said()
    events = dialogue.receive(b"x: y\r\n" * (HEADER_LINES_MAX - 1))
    assert events == []
    assert _octets(dialogue.receive(b"x: y\r\n")) == b"450 no\r\n"


@pytest.mark.row("GR-04")
def test_a_message_is_expanded_as_spamd_does() -> None:
    assert expand(r'"a %A %% \\ \" \n%x\t"', "192.0.2.1") == 'a 192.0.2.1 % \\ " \n%x\\t'


def test_lists_without_a_message_say_nothing_and_without_any_spamds_words_are_said() -> None:
    assert black_reply(["", "no\n"], "192.0.2.1") == b"450 no\r\n"
    assert black_reply([""], "192.0.2.1", 550).split(b"\r\n")[:3] == [
        b"550-Sorry 192.0.2.1",
        b"550-You are trying to send mail from an address listed by one",
        b"550 or more IP-based registries as being a SPAM source.",
    ]


def test_a_message_cannot_end_its_reply() -> None:
    assert black_reply(["a\r\n250 ok\x1b[2J"], "192.0.2.1") == b"450-a\r\n450 250 ok[2J\r\n"
