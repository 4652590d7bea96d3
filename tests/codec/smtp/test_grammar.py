"""SMTP's commands, paths and parameters (RFC 5321 §4.1, RFC 1870, 3461, 4954, 6531)."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.address import Address
from gatepost.base.envelope import Notify
from gatepost.base.reply import Refusal
from gatepost.codec.smtp import grammar
from gatepost.codec.smtp.grammar import (
    Auth,
    BadAddress,
    Bdat,
    Data,
    Hello,
    Mail,
    Plain,
    Rcpt,
    StartTls,
    Turn,
    parse_command,
    parse_mailbox,
    parse_path,
    path_text,
    xtext_decode,
    xtext_encode,
)


def refusal_of(line: bytes, *, utf8: bool = False) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        parse_command(line, utf8=utf8)
    return caught.value.reply.code, caught.value.reply.enhanced


BOB = Address("bob", "here.example")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"EHLO mx.example.org", Hello("EHLO", "mx.example.org")),
        (b"helo [192.0.2.1]", Hello("HELO", "[192.0.2.1]")),
        (b"LHLO my_host", Hello("LHLO", "my_host")),
        (b"MAIL FROM:<>", Mail(None)),
        (b"mail from:<bob@here.example>", Mail(BOB)),
        (b"MAIL FROM: <bob@here.example> ", Mail(BOB)),
        (
            b"MAIL FROM:<bob@here.example> SIZE=5120 BODY=8BITMIME SMTPUTF8 RET=hdrs ENVID=QQ+2B1 AUTH=<>",
            Mail(BOB, size=5120, eight_bit=True, smtputf8=True, ret="HDRS", envid="QQ+1"),
        ),
        (b"MAIL FROM:<bob@here.example> AUTH=e+3Dmc2@example.com", Mail(BOB)),
        (b"RCPT TO:<bob@here.example>", Rcpt(BOB)),
        (b"RCPT TO:<Postmaster>", Rcpt(Address("Postmaster", ""))),
        (b"RCPT TO:<@a.example,@b.example:bob@here.example>", Rcpt(BOB)),
        (b'RCPT TO:<"bob@other"@here.example>', Rcpt(Address("bob@other", "here.example"))),
        (b'RCPT TO:<"b\\"o> b"@here.example>', Rcpt(Address('b"o> b', "here.example"))),
        (
            b"RCPT TO:<bob@here.example> NOTIFY=SUCCESS,failure ORCPT=rfc822;Bob+40here",
            Rcpt(BOB, notify=frozenset((Notify.SUCCESS, Notify.FAILURE)), orcpt="rfc822;Bob+40here"),
        ),
        (b"RCPT TO:<bob@here.example> NOTIFY=NEVER", Rcpt(BOB, notify=frozenset((Notify.NEVER,)))),
        (b"DATA", Data()),
        (b"BDAT 20 LAST", Bdat(20, last=True)),
        (b"BDAT 0", Bdat(0, last=False)),
        (b"AUTH plain =", Auth("PLAIN", b"=")),
        (b"AUTH LOGIN", Auth("LOGIN", None)),
        (b"StartTLS", StartTls()),
        (b"NOOP whatever", Plain("NOOP")),
        (b"VRFY root", Plain("VRFY")),
        (b"ETRN #q;DROP--", Turn(b"#q;DROP--")),
    ],
)
def test_a_command_is_read(line: bytes, command: object) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", (500, "5.5.1")),
        (b"FOO", (500, "5.5.1")),
        (b"MAIL", (501, "5.5.4")),
        (b"MAIL FROM:bob@here.example", (501, "5.5.4")),
        (b"MAIL FROM:<bob@here.example>SIZE=1", (501, "5.5.4")),
        (b"MAIL FROM:<bob>", (501, "5.1.7")),
        (b"MAIL FROM:<bob@-x.example>", (501, "5.1.7")),
        (b"MAIL FROM:<bob@x..example>", (501, "5.1.7")),
        (b"MAIL FROM:<.bob@x.example>", (501, "5.1.7")),
        (b"MAIL FROM:<bob@[192.0.2.300]>", (501, "5.1.7")),
        (b"MAIL FROM:<bob@[IPv6:fe80::1%eth0]>", (501, "5.1.7")),
        (b"MAIL FROM:<" + b"l" * 65 + b"@x.example>", (501, "5.1.7")),
        (b"MAIL FROM:<bob@x.example> FUTURE=1", (555, "5.5.4")),
        (b"RCPT TO:<>", (501, "5.1.3")),
        (b"RCPT TO:<bob@here.example> SIZE=1", (555, "5.5.4")),
        (b"DATA now", (501, "5.5.4")),
        (b"BDAT", (501, "5.5.4")),
        (b"BDAT -1", (501, "5.5.4")),
        (b"BDAT 1 FIRST", (501, "5.5.4")),
        (b"EHLO", (501, "5.5.2")),
        (b"AUTH", (501, "5.5.4")),
        (b"MAIL FROM:<a@x> BODY=BINARYMIME", (501, "5.5.4")),
    ],
)
def test_what_is_no_command_is_refused_with_its_code(line: bytes, code: tuple[int, str]) -> None:
    assert refusal_of(line) == code


@pytest.mark.row("SMTP-01")
@pytest.mark.parametrize("path", [b"<;sleep 5;@x>", b"<`id`@x>", b"<a\nb@x>", b'<"`id`"@x>', b'<"a\nb"@x>'])
def test_a_path_that_a_shell_could_run_is_refused(path: bytes) -> None:
    assert refusal_of(b"MAIL FROM:" + path) == (501, "5.1.7")


@pytest.mark.row("SMTP-02")
@pytest.mark.parametrize("path", [b"<bob\n@here>", b"<bob@here\n>", b"<bob@here>\n", b"<bob@here>\r"])
def test_a_line_feed_in_a_recipient_is_refused(path: bytes) -> None:
    assert refusal_of(b"RCPT TO:" + path)[0] == 501


@pytest.mark.row("SMTP-03")
@pytest.mark.parametrize(
    "line",
    [
        b"MAIL FROM:<a@x> AUTH=a+0Ab",
        b"MAIL FROM:<a@x> ENVID=a+0Ab",
        b"RCPT TO:<b@x> ORCPT=rfc822;a+0D+0Ab",
        b"RCPT TO:<b@x> ORCPT=rfc822;a+0d",
        b"RCPT TO:<b@x> ORCPT=rfc822",
        b"RCPT TO:<b@x> ORCPT=rfc822;" + b"x" * 500,
        "RCPT TO:<b@x> ORCPT=utf-8;bøb".encode(),
    ],
)
def test_a_line_end_in_xtext_is_refused(line: bytes) -> None:
    assert refusal_of(line) == (501, "5.5.4")


@pytest.mark.row("SMTP-04")
@pytest.mark.parametrize("value", [b"1_0", b"", b"-1", b"+1", b"1" * 21, b"\xd9\xa1"])
def test_a_malformed_size_is_refused(value: bytes) -> None:
    assert refusal_of(b"MAIL FROM:<a@x> SIZE=" + value) == (501, "5.5.4")


@pytest.mark.row("SMTP-28")
@pytest.mark.parametrize(
    "line",
    [
        b"RCPT TO:<b@x> NOTIFY=NEVER,FAILURE",
        b"RCPT TO:<b@x> NOTIFY=",
        b"RCPT TO:<b@x> NOTIFY=SOMETIMES",
        b"MAIL FROM:<a@x> RET=BOGUS",
        b"MAIL FROM:<a@x> ENVID=a+0Db",
        b"MAIL FROM:<a@x> SIZE=1 SIZE=1",
        b"MAIL FROM:<a@x> SIZE=1 size=2",
    ],
)
def test_bad_dsn_and_doubled_parameters_are_refused(line: bytes) -> None:
    assert refusal_of(line) == (501, "5.5.4")


@pytest.mark.row("SMTP-19")
def test_other_letters_need_smtputf8_and_must_be_utf8() -> None:
    assert refusal_of(b"MAIL FROM:<\xff\xfe@x>")[0] == 501
    assert refusal_of(b"MAIL FROM:<\xff\xfe@x> SMTPUTF8")[0] == 501
    assert refusal_of("RCPT TO:<böb@here>".encode()) == (553, "5.6.7")
    assert parse_command("RCPT TO:<böb@bücher.example>".encode(), utf8=True) == Rcpt(
        Address("böb", "bücher.example")
    )
    assert parse_command("MAIL FROM:<böb@here> SMTPUTF8".encode()) == Mail(Address("böb", "here"), smtputf8=True)


@pytest.mark.row("SMTP-12")
@pytest.mark.parametrize("name", [b"x\0y", b"<script>", b"\x1b[31m", b"a b", b"x" * 256, "é".encode()])
def test_a_hello_name_is_printable_and_short(name: bytes) -> None:
    assert refusal_of(b"EHLO " + name) == (501, "5.5.2")


@pytest.mark.row("SMTP-05")
def test_each_command_has_its_line_limit() -> None:
    assert parse_command(b"NOOP " + b"x" * 505) == Plain("NOOP")
    assert refusal_of(b"NOOP " + b"x" * 506) == (500, "5.5.2")
    assert refusal_of(b"FOO " + b"x" * 507) == (500, "5.5.2")
    padding = b"MAIL FROM:<a@x> ENVID=" + b"x" * 100
    assert isinstance(parse_command(padding + b" " * (2046 - len(padding))), Mail)
    assert refusal_of(padding + b" " * (2047 - len(padding))) == (500, "5.5.2")


@pytest.mark.parametrize(
    ("octets", "address"),
    [
        (b"bob@here", Address("bob", "here")),
        (b"a.b+c@x-y.example", Address("a.b+c", "x-y.example")),
        (b"bob@[192.0.2.1]", Address("bob", "[192.0.2.1]")),
        (b"bob@[IPv6:2001:db8::1]", Address("bob", "[IPv6:2001:db8::1]")),
        (b'"b b"@here', Address("b b", "here")),
        (b'""@here', Address("", "here")),
        (b"bob@my_host.example", Address("bob", "my_host.example")),
    ],
)
def test_a_mailbox_is_read_and_written_alike(octets: bytes, address: Address) -> None:
    assert parse_mailbox(octets) == address
    assert path_text(address) == f"<{octets.decode()}>"
    assert parse_path(path_text(address).encode()) == address


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"bob",
        b"@here",
        b"bob@",
        b"bob@here.",
        b"b b@here",
        b'"bob@here',
        b"bob@" + b"x" * 64,
        b"a@" + b"x." * 130,
    ],
)
def test_what_is_no_mailbox_is_refused(octets: bytes) -> None:
    with pytest.raises(BadAddress):
        parse_mailbox(octets)


@given(st.binary(max_size=60))
@settings(max_examples=150)
def test_xtext_goes_both_ways(octets: bytes) -> None:
    assert xtext_decode(xtext_encode(octets)) == octets


@given(
    st.sampled_from([b"FROM:", b"From:", b"FROM: "]),
    st.text("ab.-_+@", max_size=8),
    st.text("x.-1_", max_size=8),
    st.sampled_from([b"", b" SIZE=1", b" SIZE=1 BODY=8BITMIME", b" BODY=8BITMIME", b" BODY=8BITMIME SIZE=2", b" "]),
)
@settings(max_examples=200)
def test_the_fast_way_to_read_mail_agrees_with_the_long_one(
    keyword: bytes, local: str, domain: str, parameters: bytes
) -> None:
    rest = keyword + f"<{local}@{domain}>".encode() + parameters
    assert outcome(lambda: grammar._mail(rest, False)) == outcome(lambda: grammar._any_mail(rest))


def outcome(parse: Callable[[], object]) -> object:
    try:
        return parse()
    except Refusal as refusal:
        return refusal.reply


@given(st.binary(max_size=80), st.booleans())
@settings(max_examples=300)
def test_any_line_is_a_command_or_a_refusal(tail: bytes, utf8: bool) -> None:
    for verb in (b"", b"MAIL FROM:<", b"RCPT TO:", b"MAIL FROM:<a@x> ", b"AUTH ", b"BDAT ", b"EHLO "):
        try:
            command = parse_command(verb + tail, utf8=utf8)
        except Refusal:
            continue
        match command:
            case Mail(sender=Address() as address) | Rcpt(address=address):
                assert str(address).isprintable()
            case _:
                pass
