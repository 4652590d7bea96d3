"""A mail is made fit for what the next hop offers, or returned; BDAT where it is wished for."""

from dataclasses import replace
from email import message_from_bytes

import pytest

from gatepost.relay.deliver import Relay
from gatepost.relay.model import Fate, Result
from gatepost.relay.settings import RelaySettings
from tests.relay.world import QUICK, consignment, relay
from tests.support.loop import run
from tests.support.nexthop import DROP, NextHop

EIGHT = "From: <ann@here.example>\r\nSubject: x\r\n\r\n.fünf\r\n".encode()
CHUNKING = replace(QUICK, chunking=True)


def deliver(hop: NextHop, *to: str, settings: RelaySettings = QUICK, **more: object) -> tuple[Result, ...]:
    """Deliver one mail to a hop and return the results."""

    async def play() -> tuple[Result, ...]:
        async with hop:
            sender: Relay = relay(hop.port, settings=settings)
            try:
                return await sender.deliver(consignment(*to, **more))  # type: ignore[arg-type]  # fields by name
            finally:
                sender.close()

    return run(play())


@pytest.mark.parametrize("lines", [1, 20_000])
def test_8_bit_mail_is_recoded_where_8bitmime_is_missing(lines: int) -> None:
    hop = NextHop(extensions=("SIZE",))
    body = ".fünf von vielen Wörtern\r\n".encode() * lines
    (result,) = deliver(hop, content=b"From: <ann@here.example>\r\n\r\n" + body, eight_bit=True)
    assert (result.fate, result.changed) == (Fate.DELIVERED, "recoded to 7 bits")
    (taken,) = hop.mails
    unstuffed = taken.octets.replace(b"\r\n..", b"\r\n.")
    assert unstuffed.isascii()
    assert message_from_bytes(unstuffed).get_payload(decode=True) == body
    assert taken.sender == b"<ann@here.example> SIZE=%d" % len(unstuffed)


def test_that_a_signature_breaks_is_told() -> None:
    (result,) = deliver(NextHop(extensions=()), content=b"DKIM-Signature: v=1\r\n" + EIGHT)
    assert "signature does not hold any more" in result.changed


def test_8_bit_mail_that_must_not_be_changed_is_returned_with_the_reason() -> None:
    content = b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nf\xc3\xbcnf\r\n--s--\r\n"
    hop = NextHop(extensions=())
    (result,) = deliver(hop, content=content)
    assert (result.fate, result.reply.enhanced) == (Fate.FAILED, "5.6.3")
    assert "multipart/signed must not be changed" in result.reply.text
    assert not any(line.startswith(b"MAIL") for line in hop.commands)


def test_the_size_that_counts_is_that_after_recoding() -> None:
    body = "ü" * 300 + "\r\n"
    content = b"Subject: x\r\n\r\n" + body.encode()
    (result,) = deliver(NextHop(extensions=("SIZE 700",)), content=content)
    assert result.reply.enhanced == "5.3.4"
    assert deliver(NextHop(extensions=("SIZE 700", "8BITMIME")), content=content)[0].fate is Fate.DELIVERED


def test_a_mail_declared_smtputf8_goes_without_it_where_nothing_of_it_needs_it() -> None:
    hop = NextHop(extensions=("8BITMIME",))
    (result,) = deliver(hop, content=EIGHT, smtputf8=True, eight_bit=True)
    assert (result.fate, result.changed) == (Fate.DELIVERED, "")
    assert hop.mails[0].sender == b"<ann@here.example> BODY=8BITMIME"


@pytest.mark.parametrize(
    "content",
    [
        "Subject: fünf\r\n\r\nx\r\n".encode(),
        'Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\nContent-Disposition: x; filename="ü"\r\n\r\n'
        "x\r\n--m--\r\n".encode(),
    ],
)
def test_other_letters_in_any_header_need_smtputf8(content: bytes) -> None:
    (result,) = deliver(NextHop(extensions=("8BITMIME",)), content=content, smtputf8=True)
    assert (result.fate, result.reply.enhanced) == (Fate.FAILED, "5.6.7")
    assert deliver(NextHop(extensions=("8BITMIME", "SMTPUTF8")), content=content)[0].fate is Fate.DELIVERED


@pytest.mark.parametrize("lead", [b"", b"DKIM-Signature: v=1\r\n"])
def test_long_lines_are_recoded_where_no_signature_breaks(lead: bytes) -> None:
    hop = NextHop()
    content = lead + b"From: <ann@here.example>\r\n\r\n" + b"y" * 1_500 + b"\r\n"
    (result,) = deliver(hop, content=content)
    assert result.fate is Fate.DELIVERED
    assert (hop.mails[0].octets == content) is bool(lead)
    assert message_from_bytes(hop.mails[0].octets).get_payload(decode=True) == b"y" * 1_500 + b"\r\n"


@pytest.mark.parametrize("size", [0, 10, 65_536, 200_000])
def test_bdat_sends_the_mail_in_one_counted_chunk(size: int) -> None:
    content = b"Subject: x\r\n\r\n.dots\r\n" + b"line\r\n" * (size // 6)
    for extensions in (("PIPELINING", "CHUNKING"), ("CHUNKING",)):
        hop = NextHop(extensions=extensions)
        (result,) = deliver(hop, settings=CHUNKING, content=content)
        assert result.fate is Fate.DELIVERED
        assert hop.mails[0].octets == content
        assert b"BDAT %d LAST\r\n" % len(content) in hop.commands
        assert b"DATA\r\n" not in hop.commands


@pytest.mark.row("SMG-18")
@pytest.mark.parametrize("bad", [b"\n.\n", b"\r.\r", b"\r\n.\n"])
def test_bdat_sends_no_bare_line_end(bad: bytes) -> None:
    hop = NextHop(extensions=("CHUNKING",))
    deliver(hop, settings=CHUNKING, content=b"Subject: a\r\n\r\nx" + bad + b"end")
    octets = hop.mails[0].octets
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    assert octets.endswith(b"end\r\n")


def test_without_a_recipient_nothing_is_chunked() -> None:
    for extensions in (("PIPELINING", "CHUNKING"), ("CHUNKING",)):
        hop = NextHop(extensions=extensions, answers={"RCPT": b"550 5.1.1 who?\r\n"})
        (result,) = deliver(hop, settings=CHUNKING)
        assert result.fate is Fate.FAILED
        assert not any(line.startswith(b"BDAT") for line in hop.commands)


def test_a_connection_lost_after_the_last_chunk_leaves_the_mail_in_doubt() -> None:
    (result,) = deliver(NextHop(extensions=("CHUNKING",), answers={"END": DROP}), settings=CHUNKING)
    assert (result.fate, result.in_doubt) == (Fate.DEFERRED, True)
