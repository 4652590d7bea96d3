"""IMAP before a mailbox is selected: greeting, capabilities, STARTTLS, passwords, limits."""

from base64 import b64encode
from dataclasses import replace

import pytest

from tests.view.world import World, responses, scene

IN = (
    b"IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE NAMESPACE CHILDREN UNSELECT UIDPLUS MOVE SPECIAL-USE"
    b" CONDSTORE ESEARCH STATUS=SIZE LIST-EXTENDED LIST-STATUS"
)


def plain(user: str, password: str = "secret", acting_as: str = "") -> str:
    """Return PLAIN's response."""
    return b64encode(f"{acting_as}\0{user}\0{password}".encode()).decode()


def test_capabilities_follow_the_state() -> None:
    async def play(here: World) -> None:
        async with here.imap("", tls=False) as talk:
            assert await talk.do("CAPABILITY") == [
                b"* CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE STARTTLS LOGINDISABLED",
                b"OK CAPABILITY completed",
            ]
            assert await talk.do("STARTTLS") == [b"OK Begin TLS negotiation now"]
            assert (await talk.do("CAPABILITY"))[0] == (
                b"* CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE AUTH=PLAIN"
            )
            said = IN + b" APPENDLIMIT=52428800"
            assert await talk.no("LOGIN bob@here.example secret") == b"OK [CAPABILITY %b] Logged in" % said
            assert (await talk.do("CAPABILITY"))[0] == b"* CAPABILITY " + said

    scene(play)


def test_a_command_of_another_state_is_bad() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            for command in ("SELECT INBOX", "FETCH 1 FLAGS", "IDLE"):
                assert await talk.no(command) == b"BAD Not now"
        async with here.imap() as talk:
            for command in ("LOGIN a b", "STARTTLS", "FETCH 1 FLAGS", "EXPUNGE", "CHECK", "CLOSE", "UNSELECT"):
                assert await talk.no(command) == b"BAD Not now"

    scene(play)


def test_id_enable_namespace_noop_and_logout() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            assert await talk.ok('ID ("name" "mutt" "version" NIL)') == [b'* ID ("name" "gatepost")']
            assert await talk.ok("ID NIL") == [b'* ID ("name" "gatepost")']
            assert await talk.ok("ENABLE QRESYNC") == [b"* ENABLED"]
            assert await talk.ok("ENABLE QRESYNC condstore") == [b"* ENABLED CONDSTORE"]
            assert await talk.ok("NAMESPACE") == [b'* NAMESPACE (("" "/")) NIL NIL']
            assert await talk.ok("noop") == []
            assert await talk.do("LOGOUT") == [b"* BYE Logging out", b"OK Logout completed"]
            assert talk.wire.closed

    scene(play)


def test_a_password_comes_as_atom_string_or_literal() -> None:
    async def play(here: World) -> None:
        for password in (b"secret", b'"secret"', b"{6+}\r\nsecret"):
            async with here.imap("") as talk:
                assert (await talk.no(b"LOGIN bob@here.example " + password)).startswith(b"OK [CAPABILITY")
        async with here.imap("") as talk:
            assert await talk.send(b"a LOGIN {16}\r\n") == b"+ OK\r\n"
            assert await talk.send(b"bob@here.example {6}\r\n") == b"+ OK\r\n"
            assert (await talk.send(b"secret\r\n")).startswith(b"a OK")

    scene(play)


def test_authenticate_plain_comes_with_its_response_or_waits_for_it() -> None:
    async def play(here: World) -> None:
        good = plain("bob@here.example")
        async with here.imap("") as talk:
            assert (await talk.no(f"AUTHENTICATE PLAIN {good}")).startswith(b"OK")
        async with here.imap("") as talk:
            assert await talk.say("a AUTHENTICATE plain") == b"+ \r\n"
            assert (await talk.say(good)).startswith(b"a OK")
        async with here.imap("") as talk:
            assert await talk.say("a AUTHENTICATE PLAIN") == b"+ \r\n"
            assert await talk.say("*") == b"a BAD Authentication cancelled\r\n"
            assert await talk.no("AUTHENTICATE GSSAPI") == b"NO [CANNOT] Unsupported authentication mechanism"

    scene(play)


def test_a_response_that_follows_authenticate_at_once_is_no_command() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            octets = f"a AUTHENTICATE PLAIN\r\n{plain('bob@here.example')}\r\nb NOOP\r\n".encode()
            said = responses(await talk.send(octets))
            assert said[0] == b"+ "
            assert said[1].startswith(b"a OK [CAPABILITY ")
            assert said[2:] == [b"b OK Completed"]

    scene(play)


def test_a_response_without_an_end_ends_the_session() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            await talk.say("a AUTHENTICATE PLAIN")
            for _ in range(9):
                if talk.wire.closed:
                    break
                said = await talk.send(b"A" * 2048)
            assert said == b"* BYE [TOOBIG] line too long\r\n"
            assert talk.wire.closed

    scene(play)


def test_what_follows_login_at_once_has_the_limits_of_a_session() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            raw = b"Subject: long\r\n\r\n" + b"x" * 20_000 + b"\r\n"
            append = b"b APPEND INBOX {%d+}\r\n%b\r\n" % (len(raw), raw)
            said = responses(await talk.send(b"a LOGIN bob@here.example secret\r\n" + append))
            assert [each[:4] for each in said] == [b"a OK", b"b OK"]
            assert list((await here.mails()).values()) == [raw]

    scene(play)


@pytest.mark.row("TLS-02", "IMAP-15")
def test_a_command_behind_starttls_is_never_run() -> None:
    async def play(here: World) -> None:
        for behind in (b"b NOOP\r\n", b"b LOGIN bob@here.example secret\r\n", b"b", b"\r\n"):
            async with here.imap("", tls=False) as talk:
                said = responses(await talk.send(b"a STARTTLS\r\n" + behind))
                assert said == [b"a BAD Plaintext behind STARTTLS", b"* BYE Plaintext behind STARTTLS"]
                assert talk.wire.closed
                assert talk.wire.contexts == []

    scene(play)


def test_starttls_comes_once() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            assert await talk.no("STARTTLS") == b"BAD TLS is active or not offered"
        here.services = replace(here.services, certificates=None)
        async with here.imap("", tls=False) as talk:
            assert b"STARTTLS" not in (await talk.do("CAPABILITY"))[0]
            assert await talk.no("STARTTLS") == b"BAD TLS is active or not offered"

    scene(play)


@pytest.mark.row("TLS-06")
def test_a_password_in_the_clear_is_not_looked_at() -> None:
    async def play(here: World) -> None:
        async with here.imap("", tls=False) as talk:
            for command in ("LOGIN bob@here.example secret", f"AUTHENTICATE PLAIN {plain('bob@here.example')}"):
                alert, answer = await talk.do(command)
                assert alert.startswith(b"* BAD [ALERT] ")
                assert answer.startswith(b"NO [PRIVACYREQUIRED] ")
            assert here.log.events("login", "login_failed") == []

    scene(play)


@pytest.mark.row("AUTH-01", "IMAP-24")
def test_wrong_passwords_slow_down_and_end_the_session() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            begun = here.clock.steady()
            wrong = b"NO [AUTHENTICATIONFAILED] Authentication failed."
            assert await talk.no("LOGIN bob@here.example no") == wrong
            assert here.clock.steady() - begun == 2.0
            assert await talk.no(f"AUTHENTICATE PLAIN {plain('nobody@here.example')}") == wrong
            assert here.clock.steady() - begun == 6.0
            said = responses(await talk.say("a LOGIN bob@here.example no"))
            assert said == [b"a " + wrong, b"* BYE Authentication failed."]
            assert here.clock.steady() - begun == 14.0
            assert talk.wire.closed

    scene(play)


async def no_pause(passed: float) -> None:
    """Answer at once."""


@pytest.mark.row("AUTH-01", "IMAP-24")
def test_an_address_with_too_many_wrong_passwords_is_not_heard() -> None:
    async def play(here: World) -> None:
        here.services = replace(here.services, pause=no_pause)
        for _ in range(10):
            async with here.imap("", ip="198.51.100.7") as talk:
                await talk.say("a LOGIN bob@here.example no")
        async with here.imap("", ip="198.51.100.7") as talk:
            said = responses(await talk.say("a LOGIN bob@here.example secret"))
            assert said[0].startswith(b"a NO [UNAVAILABLE] ")
            assert said[1].startswith(b"* BYE ")
        async with here.imap(ip="203.0.113.5") as talk:
            await talk.ok("NOOP")

    scene(play)


@pytest.mark.row("IMAP-24")
def test_a_user_has_so_many_sessions_from_one_address() -> None:
    async def play(here: World) -> None:
        async with here.imap() as first, here.imap():
            async with here.imap("") as third:
                said = responses(await third.say("a LOGIN bob@here.example secret"))
                assert said[0].startswith(b"a NO [LIMIT] ")
                assert said[1].startswith(b"* BYE ")
            async with here.imap("alice"), here.imap(ip="192.0.2.10"):
                pass
            await first.do("LOGOUT")
            async with here.imap() as again:
                await again.ok("NOOP")

    scene(play, sessions_per_user=2)


@pytest.mark.row("AUTH-06")
@pytest.mark.parametrize("response", [b"a*b", b"====", b"AGJvYg", b"AGJv\xff", b"AGJvYkBoZXJlLmV4YW1wbGU="])
def test_a_response_that_is_not_base64_harms_nobody_else(response: bytes) -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            assert (await talk.no(b"AUTHENTICATE PLAIN " + response)).startswith(b"BAD ")
            assert await talk.say("a AUTHENTICATE PLAIN") == b"+ \r\n"
            assert (await talk.send(response + b"\r\n")).startswith(b"a BAD ")
            async with here.imap() as other:
                await other.ok("NOOP")

    scene(play)


@pytest.mark.row("AUTH-07")
def test_nobody_acts_as_somebody_else() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            response = plain("bob@here.example", acting_as="alice@here.example")
            assert (await talk.no(f"AUTHENTICATE PLAIN {response}")).startswith(b"NO [AUTHENTICATIONFAILED]")
            assert (await talk.no("NAMESPACE")).startswith(b"BAD")
            response = plain("bob@here.example", acting_as="bob@here.example")
            assert (await talk.no(f"AUTHENTICATE PLAIN {response}")).startswith(b"OK")

    scene(play)


NAMES = [
    b"bob@here.example\n",
    b"bob@here.example\r\n",
    b"../bob@here.example",
    b"bob%u{x}@here.example",
    b"bob*",
    b"bob@here.example' OR 1=1--",
    b"*)(uid=*",
    b"\xffbob@here.example",
    b"",
]


@pytest.mark.row("AUTH-08")
@pytest.mark.parametrize("name", NAMES)
def test_a_strange_name_is_nobody(name: bytes) -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            answer = await talk.no(b"LOGIN {%d+}\r\n%b secret" % (len(name), name))
            assert answer == b"NO [AUTHENTICATIONFAILED] Authentication failed."

    scene(play)


@pytest.mark.row("AUTH-08")
def test_a_name_with_nul_is_nobody() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            answer = await talk.no(b"LOGIN {18+}\r\nbob@here.example\0x secret")
            assert answer == b"NO [AUTHENTICATIONFAILED] Authentication failed."

    scene(play)


@pytest.mark.row("IMAP-01")
def test_a_literal_that_is_too_big_is_refused_before_it_comes() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            for size in (b"4097", b"4294967296", b"9" * 20, b"9" * 5000):
                assert await talk.send(b"a LOGIN {%b}\r\n" % size) == b"a NO [TOOBIG] literal too big\r\n"
            assert await talk.ok("NOOP") == []
        for size in (b"4097", b"9" * 20, b"9" * 5000):
            async with here.imap("") as talk:
                assert await talk.send(b"a LOGIN {%b+}\r\n" % size) == b"* BYE [TOOBIG] literal too big\r\n"
                assert talk.wire.closed

    scene(play)


@pytest.mark.row("IMAP-02")
@pytest.mark.parametrize("literal", [b"{100+}\r\n" + b"x" * 100, b"{0+}\r\n"])
def test_a_command_of_many_literals_ends_the_session_before_login(literal: bytes) -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            assert await talk.send(b"a LOGIN " + literal * 1000) == b"* BYE [TOOBIG] literal too big\r\n"
            assert talk.wire.closed

    scene(play)


@pytest.mark.row("IMAP-02")
def test_a_thousand_literals_are_read_after_login() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            assert (await talk.no(b"LOGIN " + b"{0+}\r\n" * 1000)).startswith(b"BAD")

    scene(play)


@pytest.mark.row("IMAP-04")
def test_a_line_without_an_end_ends_the_session() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            assert await talk.send(b"a" * 8192) == b""
            assert await talk.send(b"a") == b"* BYE [TOOBIG] line too long\r\n"
            assert talk.wire.closed

    scene(play)


@pytest.mark.row("IMAP-05")
def test_parentheses_before_login_cost_nothing() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            assert (await talk.no(b"AUTHENTICATE " + b"(" * 8000)).startswith(b"BAD")
            said = await talk.send(b"a AUTHENTICATE " + b"(" * 1_000_000)
            assert said == b"* BYE [TOOBIG] line too long\r\n"

    scene(play)


def test_nonsense_ends_the_session_soon_before_login() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            for _ in range(4):
                assert (await talk.say("GET / HTTP/1.1")).endswith(b"\r\n")
            assert b"* BYE " in await talk.say("Host: mx.example")
            assert talk.wire.closed

    scene(play)


def test_a_mistake_now_and_then_ends_no_session() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            for _ in range(30):
                assert (await talk.no("XYZZY")) == b"BAD Unknown command"
                await talk.ok("NOOP")

    scene(play)


def test_silence_before_login_ends_the_session() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            assert await talk.wait(29.0) == b""
            await talk.ok("NOOP")
            assert await talk.wait(29.0) == b""
            assert await talk.wait(1.0) == b"* BYE Autologout; idle for too long\r\n"
            assert talk.wire.closed

    scene(play)


def test_letters_before_login_win_no_time() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            for letter in b"a NO":
                await talk.send(bytes((letter,)))
                assert await talk.wait(7.0) == b""
            await talk.send(b"O")
            assert await talk.wait(2.0) == b"* BYE Autologout; idle for too long\r\n"

    scene(play)


def test_commands_before_login_win_three_minutes_at_most() -> None:
    async def play(here: World) -> None:
        async with here.imap("") as talk:
            for _ in range(7):
                await talk.ok("NOOP")
                assert await talk.wait(25.0) == b""
            await talk.ok("NOOP")
            assert await talk.wait(5.0) == b"* BYE Autologout; idle for too long\r\n"

    scene(play)


def test_a_tls_handshake_may_take_a_minute() -> None:
    async def play(here: World) -> None:
        async with here.imap("", tls=False) as talk:
            await talk.ok("STARTTLS")
            assert await talk.wait(59.0) == b""
            await talk.ok("NOOP")
            assert await talk.wait(30.0) == b"* BYE Autologout; idle for too long\r\n"

    scene(play)


def test_silence_after_login_is_borne_for_half_an_hour() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            assert await talk.wait(1799.0) == b""
            assert await talk.wait(1.0) == b"* BYE Autologout; idle for too long\r\n"

    scene(play)


def test_a_session_leaves_with_a_word_when_the_server_does() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            talk.wire.dismiss()
            assert (await talk.hear()).startswith(b"* BYE The server is going down")

    scene(play)
