"""POP3: logins, the maildrop, dots, and numbers that attack."""

from base64 import b64encode
from dataclasses import replace

import pytest

from gatepost.store.flags import SEEN
from tests.view.test_imap_login import NAMES, no_pause, plain
from tests.view.world import MAIL, World, scene

DOTS = b"Subject: dots\r\n\r\n.\r\n..\r\n.one\r\nin . between\r\n.\r\n\r\n"


def unstuffed(answer: bytes) -> bytes:
    """Return what a client makes of a multi-line answer."""
    first, crlf, rest = answer.partition(b"\r\n")
    assert first.startswith(b"+OK")
    lines: list[bytes] = []
    while True:
        line, crlf, rest = rest.partition(b"\r\n")
        assert crlf
        if line == b".":
            assert not rest, "the end comes before the end"
            return b"".join(lines)
        lines.append(line.removeprefix(b".") + crlf)


def test_the_maildrop_is_counted_listed_and_read() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, DOTS)
        validity = (await here.mailboxes.find(here.accounts["bob"], "INBOX")).uidvalidity
        async with here.pop3() as talk:
            assert await talk.say("STAT") == b"+OK 2 %d\r\n" % (len(MAIL) + len(DOTS))
            assert await talk.say("list") == b"+OK 2 messages:\r\n1 %d\r\n2 %d\r\n.\r\n" % (len(MAIL), len(DOTS))
            assert await talk.say("LIST 2") == b"+OK 2 %d\r\n" % len(DOTS)
            assert await talk.say("UIDL 1") == b"+OK 1 00000001%08X\r\n" % validity
            shown = b"1 00000001%08X\r\n2 00000002%08X\r\n" % (validity, validity)
            assert await talk.say("UIDL") == b"+OK\r\n" + shown + b".\r\n"
            assert unstuffed(await talk.say("RETR 1")) == MAIL
            assert await talk.say("NOOP") == b"+OK\r\n"
            assert await talk.say("QUIT") == b"+OK Logging out.\r\n"
            assert talk.wire.closed
        assert await here.flags() == {1: SEEN, 2: 0}

    scene(play)


def test_what_is_deleted_goes_at_quit() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL, DOTS)
        async with here.pop3() as talk:
            assert await talk.say("DELE 1") == b"+OK Marked to be deleted.\r\n"
            assert await talk.say("RSET") == b"+OK\r\n"
            await talk.say("DELE 2")
            assert (await talk.say("DELE 2")).startswith(b"-ERR")
            assert (await talk.say("RETR 2")).startswith(b"-ERR")
            assert (await talk.say("LIST")).startswith(b"+OK 2 messages:\r\n1 ")
            assert await talk.say("STAT") == b"+OK 2 %d\r\n" % (len(MAIL) + len(DOTS))
            assert len(await here.mails()) == 3
            assert await talk.say("QUIT") == b"+OK Logging out, messages deleted.\r\n"
        assert list(await here.mails()) == [1, 3]

    scene(play)


@pytest.mark.row("POP-01")
@pytest.mark.parametrize(
    "number", ["-1", "0", "99999999999", "1_0", "1 1", "\u0661", "+1", "1.0", "01x", "2", " 1", ""]
)
def test_what_is_no_number_is_refused(number: str) -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.pop3() as talk:
            for verb in ("RETR {}", "DELE {}", "TOP {} 1", "UIDL {}", "LIST {}"):
                if not number and verb in ("UIDL {}", "LIST {}"):
                    continue
                assert (await talk.say(verb.format(number))).startswith(b"-ERR")
            if number != "2":
                assert (await talk.say(f"TOP 1 {number}")).startswith(b"+OK" if number == "0" else b"-ERR") or (
                    number == "99999999999"
                )
            assert await talk.say("NOOP") == b"+OK\r\n"
            await talk.say("QUIT")
        assert len(await here.mails()) == 1

    scene(play)


@pytest.mark.row("POP-02")
@pytest.mark.parametrize(
    "raw",
    [DOTS, b".Subject: dot\r\n\r\n.\r\n", b"Subject: x\r\n\r\n" + b".\r\n" * 50, b"\r\n.\r\n", b"Subject: x\r\n"],
)
def test_dots_are_stuffed_once(raw: bytes) -> None:
    async def play(here: World) -> None:
        await here.deliver(raw)
        async with here.pop3() as talk:
            assert unstuffed(await talk.say("RETR 1")) == raw
            assert unstuffed(await talk.say("TOP 1 1000")) == raw
            assert (await talk.say("RETR 1")).startswith(b"+OK %d octets\r\n" % len(raw))

    scene(play)


def test_a_message_without_a_last_line_end_gets_one() -> None:
    async def play(here: World) -> None:
        await here.deliver(b"Subject: x\r\n\r\nno end.")
        async with here.pop3() as talk:
            assert unstuffed(await talk.say("RETR 1")) == b"Subject: x\r\n\r\nno end.\r\n"

    scene(play)


@pytest.mark.row("POP-02")
def test_top_shows_the_header_and_some_lines() -> None:
    async def play(here: World) -> None:
        await here.deliver(DOTS)
        async with here.pop3() as talk:
            assert unstuffed(await talk.say("TOP 1 0")) == b"Subject: dots\r\n\r\n"
            assert unstuffed(await talk.say("TOP 1 2")) == b"Subject: dots\r\n\r\n.\r\n..\r\n"
            assert (await talk.say("TOP 1")).startswith(b"-ERR")

    scene(play)


@pytest.mark.row("POP-03")
def test_what_was_marked_stays_when_the_client_leaves_without_quit() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL)
        async with here.pop3() as talk:
            await talk.say("DELE 1")
        async with here.pop3() as talk:
            await talk.say("DELE 1")
            talk.wire.break_off()
        async with here.pop3() as talk:
            await talk.say("DELE 1")
            assert await talk.wait(600.0) == b"-ERR [SYS/TEMP] Disconnected for inactivity.\r\n"
        assert await here.flags() == {1: 0, 2: 0}

    scene(play)


@pytest.mark.row("POP-03")
def test_what_another_session_expunged_is_no_error() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, DOTS)
        async with here.pop3() as talk, here.imap(select="INBOX") as other:
            await talk.say("DELE 1")
            await other.ok(r"STORE 1:2 +FLAGS.SILENT (\Deleted)")
            await other.ok("EXPUNGE")
            assert (await talk.say("RETR 2")).startswith(b"-ERR")
            assert here.log.events("body_damaged") == []
            assert await talk.say("QUIT") == b"+OK Logging out, messages deleted.\r\n"
        assert await here.mails() == {}

    scene(play)


def test_a_session_shows_the_maildrop_as_it_was() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.pop3() as talk:
            await here.deliver()
            assert (await talk.say("STAT")).startswith(b"+OK 1 ")
            await talk.say("DELE 1")
            await talk.say("QUIT")
        assert list(await here.mails()) == [2]

    scene(play)


@pytest.mark.row("TLS-02")
@pytest.mark.parametrize("behind", [b"CAPA\r\n", b"USER bob@here.example\r\n", b"C"])
def test_a_command_behind_stls_is_never_run(behind: bytes) -> None:
    async def play(here: World) -> None:
        async with here.pop3("", tls=False) as talk:
            assert await talk.send(b"STLS\r\n" + behind) == b"-ERR Plaintext behind STLS.\r\n"
            assert talk.wire.closed
            assert talk.wire.contexts == []

    scene(play)


def test_stls_forgets_what_was_said_and_changes_the_capabilities() -> None:
    async def play(here: World) -> None:
        async with here.pop3("", tls=False) as talk:
            said = await talk.say("CAPA")
            assert b"\r\nSTLS\r\n" in said
            assert b"USER" not in said
            assert b"SASL" not in said
            assert (await talk.say("STLS")).startswith(b"+OK")
            said = await talk.say("CAPA")
            assert b"\r\nUSER\r\nSASL PLAIN\r\n" in said
            assert b"STLS" not in said
            assert (await talk.say("STLS")).startswith(b"-ERR")
            assert await talk.say("AUTH") == b"+OK\r\nPLAIN\r\n.\r\n"

    scene(play)


@pytest.mark.row("TLS-06")
def test_a_password_in_the_clear_is_not_looked_at() -> None:
    async def play(here: World) -> None:
        async with here.pop3("", tls=False) as talk:
            for line in ("USER bob@here.example", "PASS secret", f"AUTH PLAIN {plain('bob@here.example')}"):
                assert (await talk.say(line)).startswith(b"-ERR [AUTH] Plaintext")
            assert await talk.say("AUTH") == b"+OK\r\n.\r\n"
            assert here.log.events("login", "login_failed") == []

    scene(play)


def test_auth_plain_comes_with_its_response_or_waits_for_it() -> None:
    async def play(here: World) -> None:
        good = plain("bob@here.example")
        async with here.pop3("") as talk:
            assert await talk.say(f"AUTH PLAIN {good}") == b"+OK Logged in.\r\n"
        async with here.pop3("") as talk:
            assert await talk.say("AUTH PLAIN") == b"+ \r\n"
            assert (await talk.say("*")).startswith(b"-ERR")
            assert (await talk.say("AUTH GSSAPI")).startswith(b"-ERR")
            assert (
                await talk.send(f"AUTH PLAIN\r\n{good}\r\nSTAT\r\n".encode())
                == b"+ \r\n+OK Logged in.\r\n+OK 0 0\r\n"
            )

    scene(play)


@pytest.mark.row("AUTH-01")
def test_wrong_passwords_slow_down_and_end_the_session() -> None:
    async def play(here: World) -> None:
        async with here.pop3("") as talk:
            begun = here.clock.steady()
            assert (await talk.say("PASS secret")).startswith(b"-ERR")
            await talk.say("USER bob@here.example")
            for late in (2.0, 6.0, 14.0):
                assert await talk.say("PASS no") == b"-ERR [AUTH] Authentication failed.\r\n"
                assert here.clock.steady() - begun == late
            assert talk.wire.closed

    scene(play)


@pytest.mark.row("AUTH-01")
def test_an_address_with_too_many_wrong_passwords_is_not_heard() -> None:
    async def play(here: World) -> None:
        here.services = replace(here.services, pause=no_pause)
        for _ in range(10):
            async with here.pop3("", ip="198.51.100.7") as talk:
                await talk.send(b"USER bob@here.example\r\nPASS no\r\n")
        async with here.pop3("", ip="198.51.100.7") as talk:
            said = await talk.send(b"USER bob@here.example\r\nPASS secret\r\n")
            assert said.startswith(b"+OK\r\n-ERR [SYS/TEMP] Too many")
            assert talk.wire.closed

    scene(play)


@pytest.mark.row("AUTH-06")
@pytest.mark.parametrize("response", [b"a*b", b"====", b"AGJvYg", b"AGJv\xff"])
def test_a_response_that_is_not_base64_harms_nobody_else(response: bytes) -> None:
    async def play(here: World) -> None:
        async with here.pop3("") as talk:
            assert (await talk.send(b"AUTH PLAIN " + response + b"\r\n")).startswith(b"-ERR")
            async with here.pop3() as other:
                assert await other.say("NOOP") == b"+OK\r\n"

    scene(play)


@pytest.mark.row("AUTH-07")
def test_nobody_acts_as_somebody_else() -> None:
    async def play(here: World) -> None:
        async with here.pop3("") as talk:
            response = b64encode(b"alice@here.example\0bob@here.example\0secret").decode()
            assert (await talk.say(f"AUTH PLAIN {response}")).startswith(b"-ERR [AUTH]")
            assert (await talk.say("STAT")).startswith(b"-ERR")

    scene(play)


@pytest.mark.row("AUTH-08")
@pytest.mark.parametrize("name", [each for each in NAMES if each and b"\r\n" not in each])
def test_a_strange_name_is_nobody(name: bytes) -> None:
    async def play(here: World) -> None:
        async with here.pop3("") as talk:
            said = await talk.send(b"USER %b\r\nPASS secret\r\n" % name)
            assert said == b"+OK\r\n-ERR [AUTH] Authentication failed.\r\n"

    scene(play)


def test_commands_of_the_other_state_and_nonsense_are_refused() -> None:
    async def play(here: World) -> None:
        async with here.pop3("") as talk:
            for line in ("STAT", "RETR 1", "GET / HTTP/1.1", "", "XYZZY"):
                assert (await talk.say(line)).startswith(b"-ERR")
            assert await talk.say("QUIT") == b"+OK Logging out\r\n"
        async with here.pop3() as talk:
            for _ in range(20):
                assert (await talk.say("USER x")).startswith(b"-ERR")
            assert talk.wire.closed

    scene(play)


def test_a_line_without_an_end_ends_the_session() -> None:
    async def play(here: World) -> None:
        async with here.pop3("") as talk:
            assert await talk.send(b"A" * 20_000) == b"-ERR Line too long.\r\n"
            assert talk.wire.closed

    scene(play)


def test_a_client_that_dawdles_before_login_is_sent_away() -> None:
    async def play(here: World) -> None:
        async with here.pop3("") as talk:
            for _ in range(6):
                assert await talk.wait(29.0) == b""
                await talk.say("CAPA")
            assert await talk.wait(6.0) == b"-ERR [SYS/TEMP] Disconnected for inactivity.\r\n"
        async with here.pop3("") as talk:
            for letter in b"CA":
                await talk.send(bytes((letter,)))
                assert await talk.wait(14.0) == b""
            assert await talk.wait(2.0) == b"-ERR [SYS/TEMP] Disconnected for inactivity.\r\n"
        async with here.pop3("", tls=False) as talk:
            await talk.say("STLS")
            assert await talk.wait(59.0) == b""
            assert await talk.wait(1.0) == b"-ERR [SYS/TEMP] Disconnected for inactivity.\r\n"

    scene(play)


def test_octet_by_octet_is_whole() -> None:
    async def play(here: World) -> None:
        await here.deliver(DOTS)
        octets = (
            b"CAPA\r\nUSER bob@here.example\r\nPASS secret\r\nSTAT\r\nLIST\r\nTOP 1 1\r\nRETR 1\r\nNOOP\r\nQUIT\r\n"
        )
        async with here.pop3("") as whole:
            said = await whole.send(octets)
        async with here.pop3("") as dripped:
            assert await dripped.drip(octets) == said

    scene(play)
