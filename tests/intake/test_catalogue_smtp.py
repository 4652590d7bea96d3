"""Attacks on the SMTP session (hardening catalogue: SMG, SMTP, OUT), each against the whole intake in memory."""

import pytest

from gatepost.base.address import Address
from gatepost.codec.smtp.data import BareLines
from gatepost.gate.friendly import Say, Standing
from gatepost.intake import mx
from tests.intake.world import PLAIN_BOB, World, code, world
from tests.support.loop import run
from tests.support.wire import MemoryWire

HEAD = b"From: Ann <a@sender.example>\r\nSubject: x\r\n\r\n"
SMUG = b"MAIL FROM:<smug@evil.example>\r\nRCPT TO:<bob@here.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n"


async def alive(here: World) -> None:
    """See that another client is served, and that nothing unforeseen happened."""
    async with here.client(ip="198.51.100.7") as talk:
        assert await talk.say("NOOP") == ["250 2.0.0"]
    assert here.log.events("intake_failed") == []


def python_free(said: bytes) -> bool:
    """Tell whether a reply shows nothing of how we are made."""
    return not any(word in said for word in (b"Traceback", b"Error:", b".py", b"Exception"))


@pytest.mark.row("SMG-01", "SMG-02", "SMG-03", "SMG-04")
@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r"])
def test_a_smuggled_second_mail_is_refused_with_the_first(end: bytes) -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client() as talk:
                await talk.begin()
                said = await talk.send(HEAD + b"a" + end + SMUG + b"\r\n.\r\nQUIT\r\n")
                assert said.startswith(b"554 5.5.2 Bare CR or LF in message\r\n")
                assert b"354" not in said
                assert await here.mails("bob") == []
            await alive(here)

    run(scene())


@pytest.mark.row("SMG-01", "SMG-02", "SMG-03", "SMG-04")
@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r"])
def test_where_line_ends_are_mended_a_smuggled_mail_is_text_of_the_first(end: bytes) -> None:
    async def scene() -> None:
        async with world(bare_lines=BareLines.NORMALIZE) as here, here.client() as talk:
            await talk.begin()
            body = SMUG.replace(b"\r\n.\r\n", b"\r\n..\r\n")
            assert code(await talk.send(HEAD + b"a" + end + body + b"\r\n.\r\n")) == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert SMUG in stored
            assert not any(octet in stored.replace(b"\r\n", b"") for octet in (b"\r", b"\n"))

    run(scene())


@pytest.mark.row("SMG-10")
def test_an_end_of_data_in_five_segments_is_one_end() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            await talk.begin()
            await talk.send(HEAD + b"body")
            for octet in (b"\r", b"\n", b".", b"\r"):
                assert await talk.send(octet) == b""
            assert code(await talk.send(b"\n")) == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert stored.endswith(HEAD + b"body\r\n")

    run(scene())


@pytest.mark.row("SMG-12")
def test_dots_are_unstuffed_and_a_first_dot_is_an_empty_mail() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            await talk.begin()
            assert code(await talk.send(HEAD + b"..\r\n.a\r\n...\r\n.\r\n")) == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert stored.endswith(HEAD + b".\r\na\r\n..\r\n")
            await talk.begin()
            assert code(await talk.send(b".\r\n")) == "554 5.6.0"  # it ended, and an empty mail has no author

    run(scene())


@pytest.mark.row("SMG-13")
def test_a_chunk_that_never_fills_stores_nothing() -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client() as talk:
                await talk.say("MAIL FROM:<a@sender.example>", "RCPT TO:<bob@here.example>")
                assert await talk.send(b"BDAT 20 LAST\r\nabcdefgQUIT\r\n") == b""
            assert await here.mails("bob") == []
            assert here.budget.memory == 64 << 20

    run(scene())


@pytest.mark.row("SMG-15")
def test_data_after_bdat_is_refused_and_the_session_lives() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            await talk.say("MAIL FROM:<a@sender.example>", "RCPT TO:<bob@here.example>")
            assert code(await talk.send(b"BDAT 10\r\n0123456789")) == "250 2.0.0"
            assert await talk.say("DATA", "RSET") == ["503 5.5.1", "250 2.0.0"]
            assert await talk.mail(HEAD) == "250 2.0.0"
            assert len(await here.mails("bob")) == 1
            assert here.budget.memory == 64 << 20

    run(scene())


def test_a_mail_in_chunks_is_stored_as_it_is() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            await talk.say("MAIL FROM:<a@sender.example>", "RCPT TO:<bob@here.example>")
            body = HEAD + b".\r\n..\r\nend"
            group = b"BDAT %d\r\n" % (len(body) - 3) + body[:-3] + b"BDAT 3 LAST\r\nend"
            assert code(await talk.send(group)) == "250 2.0.0"
            assert (await here.mails("bob"))[0].endswith(body)

    run(scene())


@pytest.mark.row("SMG-18")
def test_what_a_user_submits_is_queued_with_crlf_only() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            await talk.say(PLAIN_BOB)
            await talk.begin("<bob@here.example>", "bob@here.example")
            body = b"From: bob@here.example\r\n\r\na\n.\nb\r.\rc\r\n.\r\n"
            assert code(await talk.send(body)) == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert stored.endswith(b"\r\n\r\na\r\n.\r\nb\r\n.\r\nc\r\n")
            assert not any(octet in stored.replace(b"\r\n", b"") for octet in (b"\r", b"\n"))

    run(scene())


@pytest.mark.row("SMTP-01", "SMTP-02", "SMTP-03", "SMTP-04", "SMTP-19", "SMTP-28")
def test_malformed_arguments_are_refused_by_their_code() -> None:
    async def scene() -> None:
        async with world() as here:
            for line, expected in MALFORMED:
                async with here.client() as talk:
                    if line.startswith(b"RCPT"):
                        await talk.say("MAIL FROM:<a@sender.example>")
                    said = await talk.send(line + b"\r\n")
                    assert code(said) == expected, line
                    assert python_free(said)
            await alive(here)

    run(scene())


MALFORMED = (
    (b"MAIL FROM:<;sleep 5;@x>", "501 5.1.7"),
    (b"MAIL FROM:<`id`@x>", "501 5.1.7"),
    (b"MAIL FROM:<a\nb@x>", "501 5.1.7"),
    (b"RCPT TO:<bob\n@here.example>", "501 5.1.3"),
    (b"MAIL FROM:<a@x> AUTH=a+0Ab", "501 5.5.4"),
    (b"RCPT TO:<bob@here.example> ORCPT=rfc822;a+0D+0Ab", "501 5.5.4"),
    (b"MAIL FROM:<a@x> SIZE=99999999999", "552 5.3.4"),
    (b"MAIL FROM:<a@x> SIZE=1_0", "501 5.5.4"),
    (b"MAIL FROM:<a@x> SIZE=", "501 5.5.4"),
    (b"MAIL FROM:<a@x> SIZE=-1", "501 5.5.4"),
    (b"MAIL FROM:<\xff\xfe@x>", "501 5.1.7"),
    (b"RCPT TO:<b\xc3\xb6b@here.example>", "553 5.6.7"),
    (b"RCPT TO:<bob@here.example> NOTIFY=NEVER,FAILURE", "501 5.5.4"),
    (b"MAIL FROM:<a@x> RET=BOGUS", "501 5.5.4"),
    (b"MAIL FROM:<a@x> ENVID=a+0Db", "501 5.5.4"),
    (b"MAIL FROM:<a@x> SIZE=1 SIZE=1", "501 5.5.4"),
)


@pytest.mark.row("SMTP-05")
def test_an_endless_command_line_ends_the_session() -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client() as talk:
                assert await talk.say(b"NOOP " + b"x" * 505) == ["250 2.0.0"]
                assert await talk.say(b"NOOP " + b"x" * 506) == ["500 5.5.2"]
                assert talk.wire.closed
            async with here.client() as talk:
                for _ in range(32):
                    said = await talk.send(b"x" * 1024)
                    if said:
                        break
                assert code(said) == "500 5.5.2"
                assert talk.wire.closed
            await alive(here)

    run(scene())


@pytest.mark.row("SMTP-06")
def test_recipients_beyond_the_limit_are_told_to_come_later() -> None:
    async def scene() -> None:
        async with world(max_recipients=100) as here, here.client() as talk:
            await talk.say("MAIL FROM:<a@sender.example>")
            said = await talk.send(b"RCPT TO:<bob@here.example>\r\n" * 1500)
            replies = said.split(b"\r\n")[:-1]
            assert [line[:9] for line in replies[:100]] == [b"250 2.1.5"] * 100
            assert {line[:9] for line in replies[100:-1]} == {b"452 4.5.3"}
            assert len(replies) == 100 + 1001 + 1
            assert replies[-1].startswith(b"421 4.7.0")
            assert talk.wire.closed

    run(scene())


@pytest.mark.row("SMTP-07", "SMTP-21")
@pytest.mark.parametrize("port", ["mx", "submission", "lmtp"])
@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\nEHLO x\r\n"]
)
def test_other_protocols_are_shown_the_door_without_an_echo(port: str, request_: bytes) -> None:
    async def scene() -> None:
        async with world() as here, here.client(port, hello=False) as talk:
            assert await talk.send(request_) == b"421 4.7.0 This is a mail server\r\n"
            assert talk.wire.closed

    run(scene())


@pytest.mark.row("SMTP-08")
def test_who_speaks_before_the_greeting_is_refused() -> None:
    async def scene() -> None:
        async with world() as here, here.client(hello=False) as talk:
            assert code(await talk.send(b"EHLO x\r\nMAIL FROM:<a@x>\r\n")) == "554 5.5.0"
            assert talk.wire.closed
        async with world(greet_wait=6.0) as here:
            wire = MemoryWire(here.clock)
            wire.send(b"E")
            await mx.serve(wire, here.services)
            assert code(wire.look()) == "554 5.5.0"

    run(scene())


@pytest.mark.row("SMTP-10")
def test_junk_and_errors_slow_down_and_end_a_session() -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client() as talk:
                codes = await talk.say(*["NOOP"] * 51)
                assert codes == ["250 2.0.0"] * 50 + ["421 4.7.0"]
                assert talk.wire.closed
            async with here.client() as talk:
                begun = here.clock.steady()
                assert await talk.say(*["FOO"] * 9) == ["500 5.5.1"] * 9
                assert here.clock.steady() - begun == 4.0
                assert await talk.say("FOO") == ["421 4.7.0"]
                assert talk.wire.closed

    run(scene())


@pytest.mark.row("SMTP-11")
def test_a_reset_transaction_is_gone() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.say("RCPT TO:<bob@here.example>", "DATA") == ["503 5.5.1", "503 5.5.1"]
            assert await talk.say("MAIL FROM:<a@x>", "RSET", "RCPT TO:<bob@here.example>") == [
                "250 2.1.0",
                "250 2.0.0",
                "503 5.5.1",
            ]
            assert await talk.say("MAIL FROM:<a@x>", "EHLO c", "DATA") == ["250 2.1.0", "250", "503 5.5.1"]
            assert await talk.say("MAIL FROM:<a@x>", "MAIL FROM:<b@x>") == ["250 2.1.0", "503 5.5.1"]

    run(scene())


@pytest.mark.row("SMTP-12")
@pytest.mark.parametrize("name", [b"x\0y", b"<script>", b"\x1b[31m", b"x" * 300])
def test_a_strange_hello_is_refused_and_logged_nowhere(name: bytes) -> None:
    async def scene() -> None:
        async with world() as here, here.client(hello=False) as talk:
            assert await talk.say(b"EHLO " + name) == ["501 5.5.2"]
            assert all("\x1b" not in str(fields) for _, fields in here.log.lines)

    run(scene())


@pytest.mark.row("SMTP-13")
def test_vrfy_and_expn_tell_nothing() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.send(b"VRFY bob\r\n") == await talk.send(b"VRFY nobody\r\n")
            assert await talk.say("VRFY bob", "EXPN team") == ["252 2.5.2", "502 5.5.1"]

    run(scene())


@pytest.mark.row("SMTP-14")
def test_a_command_that_trickles_has_one_deadline() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            for _ in range(33):
                assert await talk.send(b"N") == b""
                assert await talk.wait(9.0) == b""
            assert code(await talk.wait(9.0)) == "421 4.4.2"
            assert talk.wire.closed

    run(scene())


@pytest.mark.row("SMTP-14")
def test_a_body_that_trickles_is_given_up() -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client() as talk:
                await talk.begin()
                for _ in range(59):
                    assert await talk.send(b"x") == b""
                    assert await talk.wait(1.0) == b""
                assert code(await talk.wait(2.0)) == "421 4.4.2"
            assert await here.mails("bob") == []
            assert here.budget.memory == 64 << 20

    run(scene())


@pytest.mark.row("SMTP-16")
def test_a_mail_without_a_sender_has_one_recipient() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.say("MAIL FROM:<>", "RCPT TO:<bob@here.example>", "RCPT TO:<alice@here.example>") == [
                "250 2.1.0",
                "250 2.1.5",
                "452 4.5.3",
            ]
            assert code(await talk.send(b"DATA\r\n")) == "354"
            assert code(await talk.send(HEAD + b".\r\n")) == "250 2.0.0"
            assert (await here.mails("bob"))[0].startswith(b"Return-Path: <>\r\n")

    run(scene())


@pytest.mark.row("SMTP-17")
@pytest.mark.parametrize(
    "recipient",
    [
        '"bob@other.example"@here.example',
        "bob%other.example@here.example",
        "other.example!bob@here.example",
        "bob@other.example",
        "@here.example:bob@other.example",
        "bob@[192.0.2.1]",
        "bob@here.example@other.example",
    ],
)
def test_no_trick_of_addressing_relays(recipient: str) -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            (_, refused) = await talk.say("MAIL FROM:<a@sender.example>", f"RCPT TO:<{recipient}>")
            assert refused.startswith(("550", "501", "553")), refused
            assert await talk.say("RCPT TO:<@a.example,@b.example:bob@here.example>") == ["250 2.1.5"]
            assert await here.queued() == []

    run(scene())


@pytest.mark.row("SMTP-23")
def test_a_stranger_cannot_pose_as_a_proxy() -> None:
    async def scene() -> None:
        async with world() as here, here.client(hello=False) as talk:
            offered = await talk.send(b"EHLO x\r\n")
            assert b"XCLIENT" not in offered
            assert await talk.say("XCLIENT ADDR=127.0.0.1", "XFORWARD ADDR=127.0.0.1") == ["550 5.7.0"] * 2
            assert await talk.mail(HEAD) == "250 2.0.0"
            assert b"[192.0.2.9]" in (await here.mails("bob"))[0]

    run(scene())


@pytest.mark.row("SMTP-24")
def test_quotes_reach_the_database_as_text() -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client(hello=False) as talk:
                assert await talk.say("ETRN #q;DROP--", r"HELO a\'; DROP TABLE mailbox;--", "HELO a--") == [
                    "502 5.5.1",
                    "501 5.5.2",
                    "250",
                ]
                assert await talk.mail(HEAD, "<a'--;x@sender.example>".replace(";", ""), "bob@here.example") == (
                    "250 2.0.0"
                )
                sender = await talk.say('MAIL FROM:<"\'; DROP TABLE flags;--"@x.example>')
                assert sender == ["250 2.1.0"]
                assert await talk.say('RCPT TO:<"\'; DROP TABLE flags;--"@here.example>') == ["550 5.1.1"]
            assert len(await here.mails("bob")) == 1

    run(scene())


@pytest.mark.row("SMTP-25")
@pytest.mark.parametrize(("length", "expected"), [(998, "250 2.0.0"), (65_536, "250 2.0.0"), (65_537, "552 5.6.0")])
def test_long_lines_are_stored_whole_or_refused(length: int, expected: str) -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            body = HEAD + b"x" * (length - 1) + b".\r\n"
            assert await talk.mail(body) == expected
            stored = await here.mails("bob")
            assert [each.endswith(body) for each in stored] == [True] * (expected[0] == "2")

    run(scene())


@pytest.mark.row("SMTP-25")
def test_a_line_without_end_is_refused_within_the_limits_of_a_mail() -> None:
    async def scene() -> None:
        async with world(max_size=1 << 20) as here, here.client() as talk:
            await talk.begin()
            for _ in range(33):
                said = await talk.send(b"x" * 65_536)
            assert code(said) == "552 5.3.4"
            assert talk.wire.closed
            assert here.budget.memory == 64 << 20

    run(scene())


@pytest.mark.row("SMTP-29")
@pytest.mark.parametrize(
    "head",
    [
        b"X-A: b\r\n" * 10_001,
        b"X-A: " + (b"y" * 900 + b"\r\n ") * 11_000 + b"z\r\n",
        (b"X-A: " + b"y" * 900 + b"\r\n") * 300,
        b"X-A: " + b"y" * 65_531 + b"\r\n",
    ],
    ids=["fields", "one field", "block", "field"],
)
def test_a_header_beyond_its_limits_is_refused(head: bytes) -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client() as talk:
                assert await talk.mail(head + HEAD) == "552 5.3.4"
                assert await here.mails("bob") == []
            await alive(here)

    run(scene())


def test_a_mail_above_the_limit_is_refused_at_its_end() -> None:
    async def scene() -> None:
        async with world(max_size=2000) as here, here.client() as talk:
            assert await talk.mail(HEAD + b"x" * 70 + b"\r\n" * 1000) == "552 5.3.4"
            assert await talk.mail(HEAD) == "250 2.0.0"

    run(scene())


@pytest.mark.row("OUT-01")
@pytest.mark.parametrize(("hops", "expected"), [(50, "250 2.0.0"), (51, "554 5.4.6")])
def test_a_mail_that_circles_is_stopped(hops: int, expected: str) -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.mail(b"Received: from x\r\n" * hops + HEAD) == expected

    run(scene())


@pytest.mark.row("OUT-03")
def test_a_bounce_to_nobody_is_refused_and_makes_no_other() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.say("MAIL FROM:<>", "RCPT TO:<nobody@here.example>") == ["250 2.1.0", "550 5.1.1"]
            assert await here.queued() == []

    run(scene())


def test_the_gate_is_asked_at_each_recipient_but_not_about_roles() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            for user in ("bob", "postmaster", "abuse"):
                here.gate.says[Address(user, "here.example").key] = Standing(Say.DEFER, "first attempt")
            assert await talk.say(
                "MAIL FROM:<a@sender.example>",
                "RCPT TO:<bob@here.example>",
                "RCPT TO:<postmaster@here.example>",
                "RCPT TO:<abuse@here.example>",
                "RCPT TO:<Postmaster>",
            ) == ["250 2.1.0", "451 4.7.1", "250 2.1.5", "250 2.1.5", "250 2.1.5"]

    run(scene())


def test_mails_of_one_address_are_counted_by_the_minute() -> None:
    async def scene() -> None:
        async with world(mails_per_minute=2) as here:
            async with here.client() as talk:
                again = ["MAIL FROM:<a@sender.example>", "RSET"]
                assert (await talk.say(*again * 3))[::2] == ["250 2.1.0", "250 2.1.0", "450 4.7.1"]
                here.clock.move(31.0)
                assert await talk.say(again[0]) == ["250 2.1.0"]
            async with here.client(ip="127.0.0.1") as talk:
                assert (await talk.say(*again * 3))[::2] == ["250 2.1.0"] * 3

    run(scene())
