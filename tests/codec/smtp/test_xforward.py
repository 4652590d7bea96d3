"""What XFORWARD and XCLIENT may say, octet by octet, and how we say XFORWARD ourselves."""

import pytest

from gatepost.base.reply import Refusal
from gatepost.codec.smtp.xforward import XFORWARD, Forwarded, Source, learn, parse_introduction, xforward

ALL = frozenset(XFORWARD)


def read(verb: str, rest: bytes) -> dict[str, str]:
    return dict(parse_introduction(verb, rest).given)


def refused(verb: str, rest: bytes) -> str:
    with pytest.raises(Refusal) as caught:
        parse_introduction(verb, rest)
    assert (caught.value.reply.code, caught.value.reply.enhanced) == (501, "5.5.4")
    return caught.value.reply.text


@pytest.mark.parametrize(
    ("rest", "given"),
    [
        (b"NAME=client.example ADDR=192.0.2.9", {"NAME": "client.example", "ADDR": "192.0.2.9"}),
        (b"name=client.example addr=IPv6:2001:DB8::9", {"NAME": "client.example", "ADDR": "2001:db8::9"}),
        (b"ADDR=2001:db8::9", {"ADDR": "2001:db8::9"}),
        (b"ADDR=IPV6:::ffff:192.0.2.9", {"ADDR": "192.0.2.9"}),
        (b"HELO=[UNAVAILABLE] NAME=[TEMPUNAVAIL] ADDR=[unavailable]", {"HELO": "", "NAME": "", "ADDR": ""}),
        (b"HELO=a+3Db+2Bc", {"HELO": "a=b+c"}),
        (b"HELO=[192.0.2.9] PORT=25 PROTO=ESMTP IDENT=4F2A SOURCE=local",
         {"HELO": "[192.0.2.9]", "PORT": "25", "PROTO": "ESMTP", "IDENT": "4F2A", "SOURCE": "LOCAL"}),
    ],
)  # fmt: skip
def test_attributes_are_decoded_and_normalised(rest: bytes, given: dict[str, str]) -> None:
    assert read("XFORWARD", rest) == given


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (b"", "Syntax: XFORWARD attribute=value..."),
        (b"ADDR=", "Syntax: XFORWARD attribute=value..."),
        (b"ADDR 192.0.2.9", "Syntax: XFORWARD attribute=value..."),
        (b"WHO=me", "Bad XFORWARD attribute name"),
        (b"ADDR=192.0.2.9 ADDR=192.0.2.8", "ADDR was given twice"),
        (b"ADDR=192.0.2.999", "Bad ADDR value"),
        (b"ADDR=IPV6:192.0.2.9", "Bad ADDR value"),
        (b"ADDR=fe80::1%eth0", "Bad ADDR value"),
        (b"PORT=0", "Bad PORT value"),
        (b"PORT=65536", "Bad PORT value"),
        (b"PORT=2x", "Bad PORT value"),
        (b"NAME=a..b", "Bad NAME value"),
        (b"NAME=-a.example", "Bad NAME value"),
        (b"NAME=" + b"a" * 64, "Bad NAME value"),
        (b"PROTO=" + b"x" * 65, "Bad PROTO value"),
        (b"SOURCE=moon", "Bad SOURCE value"),
        (b"HELO=a+0D+0ARCPT", "Bad HELO value"),
        (b"HELO=a+C3+A4", "Bad HELO value"),
        (b"HELO=a+0d", "Bad HELO value"),
        (b"HELO=a+", "Bad HELO value"),
        (b"HELO=" + b"a" * 256, "Bad HELO value"),
        (b"HELO=a\x00b", "Syntax: XFORWARD attribute=value..."),
        (b"IDENT=a+20b", "Bad IDENT value"),
    ],
)
def test_what_is_wrong_is_named(rest: bytes, text: str) -> None:
    assert refused("XFORWARD", rest) == text


def test_each_verb_has_attributes_of_its_own() -> None:
    assert read("XCLIENT", b"LOGIN=bob@here.example DESTADDR=192.0.2.1 DESTPORT=25 PROTO=smtp") == {
        "LOGIN": "bob@here.example",
        "DESTADDR": "192.0.2.1",
        "DESTPORT": "25",
        "PROTO": "SMTP",
    }
    assert refused("XFORWARD", b"LOGIN=bob") == "Bad XFORWARD attribute name"
    assert refused("XCLIENT", b"IDENT=1") == "Bad XCLIENT attribute name"
    assert refused("XCLIENT", b"PROTO=UUCP") == "Bad PROTO value"
    assert refused("XCLIENT", b"ADDR=[UNAVAILABLE]") == "ADDR must be known"
    assert refused("XCLIENT", b"DESTADDR=[TEMPUNAVAIL]") == "DESTADDR must be known"


def test_commands_add_up() -> None:
    known = learn(learn(None, {"ADDR": "192.0.2.9", "HELO": "a"}), {"HELO": "", "PORT": "25", "SOURCE": "LOCAL"})
    assert known == Forwarded(ip="192.0.2.9", port=25, source=Source.LOCAL)


def test_we_say_what_was_offered_and_that_we_do_not_know() -> None:
    known = Forwarded("client.example", "2001:db8::9", 25, "ESMTP", "a=b c", "m-1", Source.REMOTE)
    (line,) = xforward(known, ALL)
    assert line.startswith(
        b"XFORWARD NAME=client.example ADDR=IPV6:2001:db8::9 PORT=25 PROTO=ESMTP HELO=a+3Db+20c "
    )
    assert line.endswith(b" IDENT=m-1 SOURCE=REMOTE\r\n")
    assert xforward(Forwarded(ip="192.0.2.9"), frozenset(("NAME", "ADDR", "NEW"))) == (
        b"XFORWARD NAME=[UNAVAILABLE] ADDR=192.0.2.9\r\n",
    )
    assert xforward(known, frozenset()) == ()


def test_a_long_introduction_is_said_in_lines_of_512_octets() -> None:
    name = ".".join(["n" * 50] * 5)
    lines = xforward(Forwarded(name, "192.0.2.9", helo="h" * 250, ident="=" * 150), ALL)
    assert len(lines) == 3
    assert all(len(line) <= 512 for line in lines)
    known = None
    for line in lines:
        known = learn(known, read("XFORWARD", line.removeprefix(b"XFORWARD ").removesuffix(b"\r\n")))
    assert known == Forwarded(name, "192.0.2.9", helo="h" * 250, ident="=" * 150)
