"""The client's side: replies are bounded and printable, commands cannot be injected into."""

from collections.abc import Callable

import pytest

from gatepost.base.address import Address
from gatepost.base.envelope import Notify
from gatepost.codec.smtp import client
from gatepost.codec.smtp.client import Dialogue, Extensions, HeardReply, Limits, PeerBroke

BOB = Address("bob", "here.example")


def replies(octets: bytes, size: int = 1 << 20, limits: Limits | None = None) -> list[HeardReply]:
    dialogue = Dialogue(limits)
    return [event.reply for at in range(0, len(octets), size) for event in dialogue.receive(octets[at : at + size])]


@pytest.mark.parametrize("size", [1, 2, 1 << 20])
def test_replies_do_not_depend_on_packets(size: int) -> None:
    octets = b"220 mx\r\n250-mx hello\r\n250-SIZE 10\r\n250 X\r\n"
    octets += b"550 5.1.1 no such\r\n354\r\n250-2.0.0 a\r\n250 2.0.0 b\r\n"
    assert replies(octets, size) == [
        HeardReply(220, "", ("mx",)),
        HeardReply(250, "", ("mx hello", "SIZE 10", "X")),
        HeardReply(550, "5.1.1", ("no such",)),
        HeardReply(354, "", ("",)),
        HeardReply(250, "2.0.0", ("a", "b")),
    ]


def test_an_enhanced_code_of_another_class_is_text() -> None:
    assert replies(b"250 5.1.1 odd\r\n") == [HeardReply(250, "", ("5.1.1 odd",))]


@pytest.mark.parametrize(
    "octets",
    [
        b"hello\r\n",
        b"250\tx\r\n",
        b"999 x\r\n",
        b"250-a\r\n251 b\r\n",
        b"250 " + b"x" * 3000 + b"\r\n",
        b"250-x\r\n" * 101,
        (b"250-" + b"x" * 1000 + b"\r\n") * 17,
        b"x" * 3000,
    ],
)
def test_a_server_that_breaks_the_rules_is_left(octets: bytes) -> None:
    with pytest.raises(PeerBroke):
        replies(octets)


def test_what_a_server_says_is_made_printable() -> None:
    assert replies(b"550 a\rMAIL\n\x1b[31m\xff\r\n")[0].text == "a?MAIL??[31m\ufffd"


def test_a_reply_is_passed_on_without_line_ends() -> None:
    reply = replies(b"550-5.1.1 a\r\n550 5.1.1 b\r\n")[0]
    assert reply.as_reply().octets() == b"550-5.1.1 a\r\n550 5.1.1 b\r\n"
    assert str(reply) == "550 5.1.1 a b"


def test_octets_beyond_the_reply_to_starttls_are_seen() -> None:
    dialogue = Dialogue()
    dialogue.receive(b"220 go\r\n")
    assert dialogue.idle
    dialogue.receive(b"250 inj")
    assert not dialogue.idle


def test_extensions_are_read() -> None:
    lines = ("mx.example hi", "PIPELINING", "SIZE 1000", "AUTH PLAIN login", "dsn")
    (reply,) = replies("".join(f"250-{line}\r\n" for line in lines).encode() + b"250 STARTTLS\r\n")
    assert Extensions.read(reply) == Extensions(
        name="mx.example",
        pipelining=True,
        size=1000,
        dsn=True,
        starttls=True,
        mechanisms=frozenset(("PLAIN", "LOGIN")),
    )


def test_commands_are_built() -> None:
    assert client.ehlo("mx.example") == b"EHLO mx.example\r\n"
    assert client.lhlo("mx.example") == b"LHLO mx.example\r\n"
    assert client.helo("[192.0.2.1]") == b"HELO [192.0.2.1]\r\n"
    assert client.mail(None) == b"MAIL FROM:<>\r\n"
    assert (
        client.mail(BOB, size=5, eight_bit=True, smtputf8=True, ret="HDRS", envid="a+b")
        == b"MAIL FROM:<bob@here.example> SIZE=5 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb\r\n"
    )
    assert (
        client.rcpt(Address("b b", "x"), notify=(Notify.SUCCESS, Notify.FAILURE), orcpt="rfc822;b+20b")
        == b'RCPT TO:<"b b"@x> NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;b+20b\r\n'
    )
    assert client.bdat(7, last=True) == b"BDAT 7 LAST\r\n"
    assert client.auth_plain("tim", "pw") == b"AUTH PLAIN AHRpbQBwdw==\r\n"
    assert client.auth_login("tim", "pw") == (b"AUTH LOGIN\r\n", b"dGlt\r\n", b"cHc=\r\n")


@pytest.mark.parametrize(
    "build",
    [
        lambda: client.ehlo("a\r\nDATA"),
        lambda: client.mail(Address("a\r\nDATA", "x")),
        lambda: client.mail(Address("a", "x\n")),
        lambda: client.rcpt(Address("a\0", "x")),
        lambda: client.rcpt(BOB, orcpt="rfc822;a\r\nDATA"),
        lambda: client.rcpt(BOB, orcpt="rfc822;a NOTIFY=NEVER"),
    ],
)
def test_a_builder_refuses_what_would_be_a_second_command(build: Callable[[], bytes]) -> None:
    with pytest.raises(ValueError):
        build()


@pytest.mark.row("SMG-18")
def test_what_is_sent_after_data_has_crlf_only_and_stuffed_dots() -> None:
    dialogue = Dialogue()
    sent = b"".join(dialogue.data_octets(piece) for piece in (b".a\r\nb\n.\nc\r", b".\rd\r", b"\n."))
    assert sent + dialogue.data_end() == b"..a\r\nb\r\n..\r\nc\r\n..\r\nd\r\n..\r\n.\r\n"
    assert dialogue.data_octets(b"x\r\n") + dialogue.data_end() == b"x\r\n.\r\n"
    assert dialogue.data_end() == b".\r\n"
