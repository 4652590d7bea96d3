"""The catalogue's SMTP rows against a whole server over TCP, in one piece and octet by octet."""

import asyncio
import os
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from email import message_from_bytes
from functools import partial
from itertools import product

import pytest

from gatepost.accounts import verbs
from gatepost.accounts.model import AccountRefusal
from gatepost.base.clock import Instant
from gatepost.base.ids import Minter
from gatepost.codec.smtp.server import Terms
from gatepost.gate.verbs import add_spamtraps
from gatepost.intake import mx, terms
from gatepost.logs import text_line
from tests.catalogue.server import (
    ALIVE_S,
    HEAD,
    PLAIN_BOB,
    Client,
    House,
    code,
    codes,
    house,
    relaying,
    scene,
    until,
    until_so,
)
from tests.support.loop import run
from tests.support.nexthop import NextHop

SLOW_BODY = b"x" * 65_536
NOW = Instant(1_795_420_800_000_000)

both_paces = pytest.mark.parametrize("one_by_one", [False, True], ids=["whole", "octets"])


# --- malformed arguments ------------------------------------------------------------------------------------

SHELL = (
    (b"MAIL FROM:<;sleep 5;@x>", "501 5.1.7"),
    (b"MAIL FROM:<`id`@x>", "501 5.1.7"),
    (b"MAIL FROM:<a\nb@x>", "501 5.1.7"),
    (b"MAIL FROM:<$(id)@x>", "501 5.1.7"),
    (b"MAIL FROM:<a@x;sleep 5>", "501 5.1.7"),
    (b"MAIL FROM:<|/bin/sh@x>", "250 2.1.0"),  # | is an atom's letter (RFC 5322 §3.2.3): a name like any other
    (b"RCPT TO:<;sleep 5;@here.example>", "501 5.1.3"),
    (b"RCPT TO:<`id`@here.example>", "501 5.1.3"),
    (b"RCPT TO:<|/bin/sh@here.example>", "550 5.1.1"),
    (b'RCPT TO:<"|sleep 5"@here.example>', "550 5.1.1"),
    (b"RCPT TO:<bob+|sleep@here.example>", "250 2.1.5"),  # bob, with a detail
)
LINE_ENDS = (
    (b"RCPT TO:<bob\n@here.example>", "501 5.1.3"),
    (b"RCPT TO:<bob@here.example\n>", "501 5.1.3"),
    (b"RCPT TO:<bob@here.example>\n", "501 5.5.4"),
    (b"RCPT TO:<bob\r@here.example>", "501 5.1.3"),
    (b'RCPT TO:<"bob\n"@here.example>', "501 5.1.3"),
    (b"MAIL FROM:<a@sender.example\n>", "501 5.1.7"),
    (b"EHLO client.example\n", "501 5.5.2"),
    (b"NOOP\n", "500 5.5.1"),
)
SIZES = (
    (b"SIZE=99999999999", "552 5.3.4"),
    (b"SIZE=52428801", "552 5.3.4"),
    (b"SIZE=52428800", "250 2.1.0"),
    *(
        (b"SIZE=" + each, "501 5.5.4")
        for each in (b"1_0", b"", b"-1", b"+1", b"0x10", b"1e3", b"\xd9\xa3", b"9" * 21)
    ),
    (b"SIZE", "501 5.5.4"),
)
WISHES = (
    (b"RCPT TO:<bob@here.example> NOTIFY=NEVER,FAILURE", "501 5.5.4"),
    (b"RCPT TO:<bob@here.example> NOTIFY=NEVER,NEVER", "501 5.5.4"),
    (b"RCPT TO:<bob@here.example> NOTIFY=", "501 5.5.4"),
    (b"RCPT TO:<bob@here.example> NOTIFY=SUCCESS NOTIFY=DELAY", "501 5.5.4"),
    (b"RCPT TO:<bob@here.example> ORCPT=bob@here.example", "501 5.5.4"),
    (b"MAIL FROM:<a@x> RET=BOGUS", "501 5.5.4"),
    (b"MAIL FROM:<a@x> RET=FULL RET=HDRS", "501 5.5.4"),
    (b"MAIL FROM:<a@x> ENVID=a+0Db", "501 5.5.4"),
    (b"MAIL FROM:<a@x> ENVID=a+0Ab", "501 5.5.4"),
    (b"MAIL FROM:<a@x> ENVID=" + b"a" * 101, "501 5.5.4"),
    (b"MAIL FROM:<a@x> SIZE=1 SIZE=1", "501 5.5.4"),
)
NOT_ASCII = (
    (b"MAIL FROM:<\xff\xfe@x>", "501 5.1.7"),
    (b"MAIL FROM:<\xff\xfe@x> SMTPUTF8", "501 5.1.7"),
    (b"MAIL FROM:<b\xc3\xb6b@x>", "553 5.6.7"),
    (b"MAIL FROM:<a@x> ENVID=\xff", "501 5.5.4"),
    (b"RCPT TO:<b\xc3\xb6b@here.example>", "553 5.6.7"),
    (b"RCPT TO:<bob@\xff\xfe>", "501 5.1.3"),
    (b"EHLO \xff\xfe", "501 5.5.2"),
    (b"\xff\xfe", "500 5.5.1"),
    (b"AUTH \xff", "501 5.5.4"),
)


async def each_line(here: House, lines: tuple[tuple[bytes, str], ...], *, one_by_one: bool) -> None:
    """Say each line in a session of its own."""
    for line, expected in lines:
        async with here.client() as client:
            if line.startswith(b"RCPT"):
                await client.say("MAIL FROM:<a@sender.example>")
            assert code(await client.ask(line + b"\r\n", one_by_one=one_by_one)) == expected, line


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever starts a process."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen", "execv", "execve"):
        monkeypatch.setattr(os, name, never)
    monkeypatch.setattr(subprocess, "Popen", never)


@pytest.mark.row("SMTP-01")
@both_paces
@pytest.mark.usefixtures("no_children")
def test_an_address_never_reaches_a_shell(one_by_one: bool) -> None:
    scene(partial(each_line, lines=SHELL, one_by_one=one_by_one))


@pytest.mark.row("SMTP-02")
@both_paces
def test_a_line_end_is_part_of_no_name(one_by_one: bool) -> None:
    scene(partial(each_line, lines=LINE_ENDS, one_by_one=one_by_one))


@pytest.mark.row("SMTP-02")
def test_a_name_with_a_line_end_cannot_be_made() -> None:
    async def play(here: House) -> None:
        mail, hasher = here.databases.mail, here.worker._directory._hasher
        with pytest.raises(AccountRefusal):
            await verbs.add_domain(mail, "there.example\n", NOW)
        for name in ("eve\n@here.example", "eve@here.example\n"):
            with pytest.raises(AccountRefusal):
                await verbs.add_user(mail, hasher, Minter(2), name, b"x", NOW)
            with pytest.raises(AccountRefusal):
                await verbs.add_alias(mail, name, ("bob@here.example",), NOW)

    scene(play)


@pytest.mark.row("SMTP-03")
@both_paces
def test_a_line_end_in_xtext_is_refused_and_what_is_taken_stays_escaped(one_by_one: bool) -> None:
    async def whole() -> None:
        async with NextHop() as hop, house(relaying(hop.port)) as here:
            async with here.client("submissions") as client:
                await client.say(PLAIN_BOB)
                for line in (
                    b"MAIL FROM:<bob@here.example> AUTH=a+0Ab\r\n",
                    b"MAIL FROM:<bob@here.example> ENVID=a+0D+0ADATA\r\n",
                ):
                    assert code(await client.ask(line, one_by_one=one_by_one)) == "501 5.5.4"
                await client.say("MAIL FROM:<bob@here.example> AUTH=bob+2Bx@here.example ENVID=a+2Bb")
                for orcpt in (b"rfc822;a+0D+0Ab", b"rfc822;a+0Ab", b"rfc822;a\nb", b"rfc822;a+0", b"rfc822;a+0ab"):
                    line = b"RCPT TO:<joe@far.example> ORCPT=" + orcpt + b"\r\n"
                    assert code(await client.ask(line, one_by_one=one_by_one)) == "501 5.5.4"
                assert await here.queued() == []
                rcpt = "RCPT TO:<joe@far.example> ORCPT=rfc822;joe+2Bx+20y@far.example"
                assert await client.say(rcpt, "DATA") == ["250 2.1.5", "354"]
                assert code(await client.ask(b"From: bob@here.example\r\n\r\n.\r\n")) == "250 2.0.0"
            await until(lambda: hop.mails)
            assert hop.mails[0].sender.endswith(b" ENVID=a+2Bb")
            assert hop.addresses() == [b"<joe@far.example> ORCPT=rfc822;joe+2Bx+20y@far.example"]

    run(whole())


@pytest.mark.row("SMTP-04")
@both_paces
def test_a_size_is_a_number_within_the_limit(one_by_one: bool) -> None:
    lines = tuple((b"MAIL FROM:<a@x> " + size, expected) for size, expected in SIZES)
    scene(partial(each_line, lines=lines, one_by_one=one_by_one))


@pytest.mark.row("SMTP-19")
@both_paces
def test_octets_that_are_no_ascii_are_refused_as_such(one_by_one: bool) -> None:
    scene(partial(each_line, lines=NOT_ASCII, one_by_one=one_by_one), intake={"mx_auth": True})


@pytest.mark.row("SMTP-28")
@both_paces
def test_wishes_that_contradict_themselves_are_refused(one_by_one: bool) -> None:
    scene(partial(each_line, lines=WISHES, one_by_one=one_by_one))


# --- too much -----------------------------------------------------------------------------------------------


LENGTHS = (
    (b"NOOP " + b"x" * 505, "250 2.0.0"),  # 512 with its CRLF
    (b"NOOP " + b"x" * 506, "500 5.5.2"),
    (b"MAIL FROM:<a@x> ENVID=" + b"e" * 100 + b" " * 1924, "250 2.1.0"),  # 2,048: it has parameters
    (b"MAIL FROM:<a@x> ENVID=" + b"e" * 100 + b" " * 1925, "500 5.5.2"),
    (b"NOOP " + b"x" * 2041, "500 5.5.2"),
)


@pytest.mark.row("SMTP-05")
@both_paces
def test_a_line_above_its_limit_ends_the_session(one_by_one: bool) -> None:
    async def play(here: House) -> None:
        for line, expected in LENGTHS:
            async with here.client() as client:
                answer = code(await client.ask(line + b"\r\n", one_by_one=one_by_one))
                assert answer == expected, (len(line), line[:20])
                if expected[0] == "5":
                    assert await client.rest() == b""

    scene(play)


@pytest.mark.row("SMTP-05")
def test_ten_megabytes_without_a_line_end_take_no_memory() -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            piece = b"x" * 16_384
            tracemalloc.start()
            try:
                for _ in range(640):
                    await client.send(piece)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 1 << 20
            assert await client.rest() == b"500 5.5.2 Line too long\r\n"

    scene(play)


@pytest.mark.row("SMTP-06")
def test_recipients_beyond_the_limit_are_put_off_and_then_the_session_ends() -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            await client.say("MAIL FROM:<a@sender.example>")
            said = asyncio.ensure_future(client.rest())
            for at in range(0, 5000, 100):
                rcpts = (f"RCPT TO:<u{number}@here.example>\r\n" for number in range(at, at + 100))
                await client.send("".join(rcpts).encode())
            replies = codes(await said)
        assert replies[:1000] == ["250 2.1.5"] * 1000
        assert replies[1000:-1] == ["452 4.5.3"] * 1001
        assert replies[-1] == "421 4.7.0"
        assert await here.mails() == []

    scene(play, aliases={"@here.example": "bob@here.example"})


@pytest.mark.row("SMTP-06")
def test_a_mail_to_all_the_recipients_allowed_is_taken() -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            rcpts = [f"u{number}@here.example" for number in range(1001)]
            said = await client.say("MAIL FROM:<a@sender.example>", *(f"RCPT TO:<{each}>" for each in rcpts))
            assert said[1:] == ["250 2.1.5"] * 1000 + ["452 4.5.3"]
            assert await client.say("DATA") == ["354"]
            assert code(await client.ask(HEAD + b".\r\n")) == "250 2.0.0"

    scene(play, aliases={"@here.example": "bob@here.example"})


@pytest.mark.row("SMTP-10")
def test_junk_ends_a_session() -> None:
    async def play(here: House) -> None:
        async with here.client(hello=False) as client:
            await client.hello("x")
            await client.send(b"NOOP\r\n" * 101)
            assert codes(await client.rest()) == ["250 2.0.0"] * 50 + ["421 4.7.0"]
        async with here.client() as client:
            await client.mail()
            assert await client.say(*["NOOP"] * 50) == ["250 2.0.0"] * 50  # a mail makes up for it

    scene(play)


@pytest.mark.row("SMTP-10")
@both_paces
def test_errors_are_answered_later_and_later_and_end_a_session(one_by_one: bool) -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            for _ in range(9):
                assert code(await client.ask(b"FOO\r\n", one_by_one=one_by_one)) == "500 5.5.1"
            assert here.pauses == [1.0] * 4  # the first five cost nothing
            await client.send(b"FOO\r\n" * 16)
            assert codes(await client.rest()) == ["500 5.5.1", "421 4.7.0"]

    scene(play)


@pytest.mark.row("SMTP-25")
@pytest.mark.parametrize(
    ("length", "expected"), [(998, "250 2.0.0"), (1001, "250 2.0.0"), (65_536, "250 2.0.0"), (65_537, "552 5.6.0")]
)
def test_a_long_line_is_kept_whole_or_refused(length: int, expected: str) -> None:
    async def play(here: House) -> None:
        line = (b"x" + b"." * 997) * 66  # a dot everywhere a line might be cut
        async with here.client() as client:
            assert await client.mail(HEAD + line[:length] + b"\r\n") == expected
        assert [each.endswith(b"\r\n\r\n" + line[:length] + b"\r\n") for each in await here.mails()] == [True] * (
            expected[0] == "2"
        )

    scene(play)


@pytest.mark.row("SMTP-25")
def test_a_long_line_goes_out_in_short_ones_that_mean_the_same_and_none_of_them_ends_the_mail() -> None:
    async def whole() -> None:
        line = (b"x" + b"." * 997) * 4
        async with NextHop() as hop, house(relaying(hop.port)) as here:
            async with here.client("submissions") as client:
                await client.say(PLAIN_BOB)
                mail = b"From: bob@here.example\r\n\r\n" + line + b"\r\n"
                assert await client.mail(mail, "<bob@here.example>", "joe@far.example") == "250 2.0.0"
            await until(lambda: hop.mails)
            octets = hop.mails[0].octets
            assert max(map(len, octets.split(b"\r\n"))) <= 998
            assert b"\r\n.\r\n" not in octets
            sent = message_from_bytes(octets.replace(b"\r\n..", b"\r\n."))
            assert sent.get_payload(decode=True) == line + b"\r\n"

    run(whole())


@pytest.mark.row("SMTP-25")
def test_twenty_megabytes_without_a_line_end_are_refused_at_their_end() -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            await client.begin()
            await client.send(HEAD)
            for _ in range(320):
                await client.send(SLOW_BODY)
            assert code(await client.ask(b"\r\n.\r\n")) == "552 5.6.0"
            assert await client.mail() == "250 2.0.0"
        assert len(await here.mails()) == 1

    scene(play)


def many_fields() -> list[bytes]:
    """10,001 fields."""
    return [b"X-A: b\r\n" * 10_001]


def one_field() -> list[bytes]:
    """A field of 10 MB in folded lines."""
    return [b"X-A: y\r\n", *[b" " + b"y" * 900 + b"\r\n"] * 11_000]


def one_line() -> list[bytes]:
    """A field of 10 MB in one line."""
    return [b"X-A: ", *[SLOW_BODY] * 160, b"\r\n"]


def whole_header() -> list[bytes]:
    """A header of nearly 50 MB."""
    return [(b"X-A: " + b"y" * 900 + b"\r\n") * 100] * 550


@pytest.mark.row("SMTP-29")
@pytest.mark.parametrize(
    ("head", "expected"),
    [(many_fields, "552 5.3.4"), (one_field, "552 5.3.4"), (one_line, "552 5.6.0"), (whole_header, "552 5.3.4")],
)
def test_a_header_beyond_its_limits_is_refused(head: Callable[[], list[bytes]], expected: str) -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            await client.begin()
            for piece in head():
                await client.send(piece)
            assert code(await client.ask(HEAD + b"body\r\n.\r\n")) == expected
            assert await client.mail() == "250 2.0.0"
        assert len(await here.mails()) == 1

    scene(play)


# --- not in order -------------------------------------------------------------------------------------------


@pytest.mark.row("SMTP-07")
@both_paces
def test_a_browser_is_shown_the_door_at_its_first_line(one_by_one: bool) -> None:
    verbs = (b"GET / HTTP/1.1", b"POST /secret-word HTTP/1.1", b"CONNECT here:25 HTTP/1.0")

    async def play(here: House) -> None:
        for kind, verb in product(("mx", "submission", "lmtp"), verbs):
            async with here.client(kind, hello=False) as client:
                await client.send(verb + b"\r\nHost: x\r\n\r\n", one_by_one=one_by_one)
                assert await client.rest() == b"421 4.7.0 This is a mail server\r\n"

    scene(play)


@pytest.mark.row("SMTP-08")
@pytest.mark.parametrize("settings", [{}, {"greet_wait": 0.5}])
def test_who_does_not_wait_for_the_greeting_is_no_mail_server(settings: dict[str, object]) -> None:
    async def play(here: House) -> None:
        reader, writer = await here.connect("mx")
        client = Client(reader, writer, here.heard, "mx")
        await client.send(b"EHLO x\r\nMAIL FROM:<a@x>\r\n")
        assert codes(await client.rest())[-1] == "554 5.5.0"
        writer.close()

    scene(play, intake=settings)


@pytest.mark.row("SMTP-08")
@pytest.mark.parametrize("action", ["tarpit", "refuse", "ignore"])
def test_the_gate_counts_who_speaks_first_and_does_as_it_is_told(action: str) -> None:
    gate = {"mode": "spamd", "greylist": True, "exempt": ["203.0.113.0/24"], "too_early": action, "scale": 400.0}

    async def play(here: House) -> None:
        reader, writer = await here.connect("mx", ip="198.51.100.7")
        client = Client(reader, writer, here.heard, "mx")
        await client.send(b"EHLO x\r\nMAIL FROM:<a@x>\r\n")
        await until(lambda: here.worker._gate.counts().too_early == 1)
        assert (await client.line()).startswith(b"220 mx.example ESMTP")
        if action == "refuse":
            assert (await client.rest()).startswith(b"554 5.5.1 ")
        else:
            await client.line()
            await client.send(b"RCPT TO:<bob@here.example>\r\nDATA\r\n")
            assert codes(await client.rest())[-1].startswith("451")
        writer.close()
        await here.worker._gate.flush()
        assert len(await here.rows("SELECT key FROM grey", gate=True)) == (action == "ignore")

    scene(play, gate=gate)


@pytest.mark.row("SMTP-11")
@both_paces
def test_commands_have_their_order_and_a_reset_forgets(one_by_one: bool) -> None:
    dialogue = (
        ("RCPT TO:<bob@here.example>", "503 5.5.1"),
        ("HELO one.example", "250"),
        ("HELO two.example", "250"),
        ("RCPT TO:<bob@here.example>", "503 5.5.1"),
        ("MAIL FROM:<a@x>", "250 2.1.0"),
        ("MAIL FROM:<b@x>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("RSET", "250 2.0.0"),
        ("RCPT TO:<bob@here.example>", "503 5.5.1"),
        ("MAIL FROM:<a@x>", "250 2.1.0"),
        ("RCPT TO:<bob@here.example>", "250 2.1.5"),
        ("EHLO three.example", "250"),
        ("DATA", "503 5.5.1"),
        ("RCPT TO:<bob@here.example>", "503 5.5.1"),
        ("MAIL FROM:<c@sender.example>", "250 2.1.0"),
        ("RCPT TO:<alice@here.example>", "250 2.1.5"),
        ("DATA", "354"),
    )

    async def play(here: House) -> None:
        async with here.client(hello=False) as client:
            for line, expected in dialogue:
                assert code(await client.ask(f"{line}\r\n".encode(), one_by_one=one_by_one)) == expected, line
            assert code(await client.ask(HEAD + b".\r\n")) == "250 2.0.0"
        assert await here.mails("bob") == []
        (stored,) = await here.mails("alice")
        assert stored.startswith(b"Return-Path: <c@sender.example>\r\nReceived: from three.example ")

    scene(play)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.row("SMTP-12")
@both_paces
@pytest.mark.parametrize("greylist", [False, True], ids=["server", "gate"])
def test_a_strange_hello_is_shown_nowhere_as_it_came(greylist: bool, one_by_one: bool) -> None:
    names = (b"x\0y", b"<script>", b"\x1b[31mred", b"a\nb", b"\xff", b"a\rb", b"[127.0.0.1\x07]", b"x" * 300)

    async def play(here: House) -> None:
        for name in names:
            async with here.client(ip="198.51.100.7", hello=False) as client:
                said = await client.ask(b"EHLO " + name + b"\r\n", one_by_one=one_by_one)
                assert b"\x1b" not in said
                if greylist:
                    await client.say("MAIL FROM:<a@x>", "RCPT TO:<bob@here.example>", "DATA")
                else:
                    assert code(said) == "501 5.5.2"
                    assert code(await client.ask(b"HELO [192.0.2.1]\r\n")) == "250"
                    assert await client.mail() == "250 2.0.0"
        for stored in await here.mails():
            assert stored[: stored.index(b"From: Ann")].replace(b"\r\n\t", b"").replace(b"\r\n", b"").isascii()
            assert stored.startswith(b"Return-Path: <a@sender.example>\r\nReceived: from [192.0.2.1] (unknown ")
        for level, event, fields in here.log.lines:
            stamp = {"at": "2026-11-23T08:00:00", "level": level, "process": "w0", "event": event}
            line = text_line({**stamp, **fields})
            assert line.isascii(), line
            assert line.isprintable(), line

    gate = {
        "mode": "spamd",
        "greylist": greylist,
        "exempt": ["203.0.113.0/24"],
        "stutter": 0,
        "source_connections": 0,
    }
    scene(play, gate=gate)


@pytest.mark.row("SMTP-12")
def test_a_hello_of_a_megabyte_is_too_long() -> None:
    async def play(here: House) -> None:
        async with here.client(hello=False) as client:
            await client.send(b"EHLO " + b"x" * 1_000_000 + b"\r\n")
            assert await client.rest() == b"500 5.5.2 Line too long\r\n"

    scene(play)


@pytest.mark.row("SMTP-13")
def test_vrfy_and_expn_say_and_take_the_same_for_everybody() -> None:
    async def play(here: House) -> None:
        times: dict[str, list[float]] = {"bob": [], "root": []}
        async with here.client() as client:
            for _ in range(24):
                for user, taken in times.items():
                    begun = time.perf_counter()
                    said = await client.ask(f"VRFY {user}\r\n".encode())
                    taken.append(time.perf_counter() - begun)
                    assert said == b"252 2.5.2 Cannot VRFY: try RCPT to attempt delivery\r\n"
        bob, root = (statistics.median(taken) for taken in times.values())
        assert abs(bob - root) < 0.005
        async with here.client() as client:
            assert await client.ask(b"EXPN team\r\n") == await client.ask(b"EXPN nobody\r\n")
            assert await client.say("EXPN list") == ["502 5.5.1"]

    scene(play, aliases={"team@here.example": "bob@here.example"})


@pytest.mark.row("SMTP-16")
@pytest.mark.parametrize(("most", "second"), [(1, "452 4.5.3"), (2, "250 2.1.5")])
def test_a_mail_without_a_sender_has_as_many_recipients_as_the_settings_say(most: int, second: str) -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            rcpts = ("RCPT TO:<bob@here.example>", "RCPT TO:<alice@here.example>")
            assert await client.say("MAIL FROM:<>", *rcpts) == ["250 2.1.0", "250 2.1.5", second]
            assert await client.say("DATA") == ["354"]
            assert code(await client.ask(HEAD + b".\r\n")) == "250 2.0.0"
        assert (await here.mails())[0].startswith(b"Return-Path: <>\r\n")
        assert len(await here.mails("alice")) == most - 1

    scene(play, intake={"null_sender_recipients": most})


@pytest.mark.row("SMTP-16")
def test_a_mail_without_a_sender_that_fails_is_answered_by_nobody() -> None:
    async def whole() -> None:
        refusing = NextHop(answers={"RCPT": b"550 5.1.1 nobody\r\n"})
        aliases = {"away@here.example": "out@far.example"}
        async with refusing as hop, house(relaying(hop.port, anyones=True), aliases=aliases) as here:
            async with here.client() as client:
                assert await client.mail(HEAD, "<>", "away@here.example") == "250 2.0.0"
            await until(lambda: hop.commands and any(b"RCPT" in each for each in hop.commands))

            async def done() -> bool:
                return await here.queued() == []

            await until_so(done)
            assert hop.mails == []
            assert [each for each in hop.commands if each.startswith(b"MAIL")] == [
                each for each in hop.commands if each.startswith(b"MAIL FROM:<>")
            ]
            assert await here.mails("bob") == []

    run(whole())


ELSEWHERE = (
    '"bob@other.example"@here.example',
    "bob%other.example@here.example",
    "bob!other.example@here.example",
    "other.example!bob@here.example",
    "bob@other.example",
    "@here.example:bob@other.example",
    "@other.example:bob@other.example",
    "bob@[127.0.0.1]",
    "bob@[192.0.2.1]",
    "bob@here.example@other.example",
    "bob",
    '"bob@here.example"',
)


@pytest.mark.row("SMTP-17")
@both_paces
def test_no_trick_of_addressing_makes_us_relay(one_by_one: bool) -> None:
    async def whole() -> None:
        async with NextHop() as hop, house(relaying(hop.port)) as here:
            for recipient in ELSEWHERE:
                async with here.client(ip="198.51.100.7") as client:
                    await client.say("MAIL FROM:<a@sender.example>")
                    said = code(await client.ask(f"RCPT TO:<{recipient}>\r\n".encode(), one_by_one=one_by_one))
                    assert said.startswith(("550 5", "501 5", "553 5")), recipient
                    assert await client.say("DATA") == ["503 5.5.1"]
            async with here.client(ip="198.51.100.7") as client:
                route = "@a.example,@b.example:bob@here.example"
                assert await client.mail(HEAD, "<a@sender.example>", route) == "250 2.0.0"
            (stored,) = await here.mails()
            assert b"for <bob@here.example>" in stored
            assert await here.queued() == []
            assert hop.commands == []

    run(whole())


@pytest.mark.row("SMTP-21")
@both_paces
def test_a_stranger_cannot_claim_another_address_by_proxy(one_by_one: bool) -> None:
    headers = (b"TCP4 127.0.0.1 127.0.0.1 1 25", b"TCP6 ::1 ::1 1 25", b"UNKNOWN")

    async def play(here: House) -> None:
        for kind, header in product(("mx", "submission", "lmtp"), headers):
            async with here.client(kind, ip="198.51.100.7", hello=False) as client:
                await client.send(b"PROXY " + header + b"\r\nEHLO x\r\n", one_by_one=one_by_one)
                assert await client.rest() == b"421 4.7.0 This is a mail server\r\n"
        await here.settled()
        assert {fields["ip"] for fields in here.log.events("session_closed")} == {"198.51.100.7"}

    scene(play)


@pytest.mark.row("SMTP-21")
def test_a_binary_proxy_header_is_no_more_than_noise() -> None:
    async def play(here: House) -> None:
        async with here.client(ip="198.51.100.7", hello=False) as client:
            await client.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1\0\1\0\x19\r\n")
            assert [await client.reply() for _ in range(4)] == [b"500 5.5.1 Command unrecognized\r\n"] * 4
            await client.hello()
            said = await client.say("MAIL FROM:<a@sender.example>", "RCPT TO:<joe@far.example>", "RSET")
            assert said == ["250 2.1.0", "550 5.7.1", "250 2.0.0"]
            assert await client.mail() == "250 2.0.0"
        assert b"[198.51.100.7]" in (await here.mails())[0]

    scene(play)


@pytest.mark.row("SMTP-23")
@both_paces
@pytest.mark.parametrize("kind", ["mx", "submission", "lmtp"])
def test_a_stranger_cannot_claim_another_address_by_xclient(kind: str, one_by_one: bool) -> None:
    async def play(here: House) -> None:
        async with here.client(kind, ip="198.51.100.7", hello=False) as client:
            offered = await client.hello()
            assert b"XCLIENT" not in offered
            assert b"XFORWARD" not in offered
            for line in (b"XCLIENT ADDR=127.0.0.1 LOGIN=bob@here.example\r\n", b"XFORWARD ADDR=127.0.0.1\r\n"):
                assert code(await client.ask(line, one_by_one=one_by_one)) == "550 5.7.0"
            if kind == "submission":
                assert await client.say("MAIL FROM:<bob@here.example>") == ["530 5.7.0"]
                return
            said = await client.say("MAIL FROM:<a@sender.example>", "RCPT TO:<joe@far.example>", "RSET")
            assert said == ["250 2.1.0", "550 5.7.1", "250 2.0.0"]
            assert await client.mail() == "250 2.0.0"
            assert b"[198.51.100.7]" in (await here.mails())[0]

    scene(play)


QUOTES = rb"a\'; DROP TABLE queue;--"


@pytest.mark.row("SMTP-24")
@both_paces
def test_quotes_are_text_for_the_server_and_its_databases(one_by_one: bool) -> None:
    async def play(here: House) -> None:
        tables = "SELECT COUNT(*) FROM sqlite_schema"
        before = await here.rows(tables)
        async with here.client() as client:
            for line, expected in (
                (b"ETRN #q;DROP--", "502 5.5.1"),
                (b"HELO " + QUOTES, "501 5.5.2"),
                (b'MAIL FROM:<"\'; DROP TABLE flags;--"@x.example>', "250 2.1.0"),
                (b'RCPT TO:<"\'; DROP TABLE mailbox;--"@here.example>', "550 5.1.1"),
                (b"RCPT TO:<bob+'or''='--@here.example>", "250 2.1.5"),
                (b"DATA", "354"),
            ):
                assert code(await client.ask(line + b"\r\n", one_by_one=one_by_one)) == expected, line
            assert code(await client.ask(HEAD + b"'; DROP TABLE message;--\r\n.\r\n")) == "250 2.0.0"
        assert (await here.mails())[0].endswith(b"\r\n\r\n'; DROP TABLE message;--\r\n")
        assert await here.rows(tables) == before

    scene(play)


@pytest.mark.row("SMTP-24")
@both_paces
def test_quotes_in_a_greylisted_tuple_are_kept_as_they_came(one_by_one: bool) -> None:
    helo, sender = rb"a\';DROP/**/TABLE/**/grey;--", b"<');DELETE/**/FROM/**/grey;--@x>"
    recipient = b'<"\'OR/**/1=1--"@here.example>'

    async def play(here: House) -> None:
        tables = "SELECT COUNT(*) FROM sqlite_schema"
        before = await here.rows(tables, gate=True)
        async with here.client(ip="198.51.100.7", hello=False) as client:
            lines = (b"HELO " + helo, b"MAIL FROM:" + sender, b"RCPT TO:" + recipient)
            for line in lines:
                assert code(await client.ask(line + b"\r\n", one_by_one=one_by_one)).startswith("250"), line
            assert code(await client.ask(b"DATA\r\n")).startswith("451")
        await here.worker._gate.flush()
        ((key,),) = await here.rows("SELECT key FROM grey", gate=True)
        assert key == b"\n".join((b"198.51.100.7", helo, sender, recipient))
        assert await here.rows(tables, gate=True) == before

    scene(play, gate={"mode": "spamd", "greylist": True, "exempt": ["203.0.113.0/24"], "stutter": 0})


@pytest.mark.row("GR-10")
def test_a_grey_client_that_writes_to_a_trap_is_black_from_then_on() -> None:
    async def play(here: House) -> None:
        await add_spamtraps(here.databases.gate, ["trap@here.example"], here.clock.now())
        await until(lambda: here.worker._gate._spamtraps)
        async with here.client(ip="198.51.100.7", hello=False) as client:
            await client.say("HELO x", "MAIL FROM:<a@x>", "RCPT TO:<Trap@Here.Example>", "DATA")
        await here.worker._gate.flush()
        await here.worker._gate.scan(here.clock.now())
        await until(lambda: here.worker._gate.decide("198.51.100.7", "mx").verdict.value == "black")
        async with here.client(ip="198.51.100.7", hello=False) as client:
            await client.say("HELO x", "MAIL FROM:<a@x>", "RCPT TO:<bob@here.example>")
            await client.send(b"DATA\r\n.\r\n")
            assert b"450 Your address 198.51.100.7 has mailed to spamtraps here\r\n" in await client.rest()

    scene(play, gate={"mode": "spamd", "greylist": True, "exempt": ["203.0.113.0/24"], "stutter": 0})


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.row("SMTP-14")
def test_a_command_that_trickles_in_has_one_deadline() -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            begun = time.monotonic()
            said = asyncio.ensure_future(client.rest())
            while not said.done():
                await client.send(b"N")
                await asyncio.wait((said,), timeout=0.05)
            assert await said == b"421 4.4.2 Timeout\r\n"
            assert 0.9 < time.monotonic() - begun < 3.0

    assert Terms("").command_time == 300.0
    scene(play, intake={"command_time": 1})


@pytest.mark.row("SMTP-14")
def test_a_body_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = terms.terms_of
    monkeypatch.setattr(mx, "terms_of", lambda *args, **given: replace(usual(*args, **given), body_grace=1.0))

    async def play(here: House) -> None:
        async with here.client() as client:
            await client.begin()
            begun = time.monotonic()
            said = asyncio.ensure_future(client.rest())
            while not said.done():
                await client.send(b"x")
                await asyncio.wait((said,), timeout=0.05)
            assert await said == b"421 4.4.2 Timeout\r\n"
            assert 0.9 < time.monotonic() - begun < 3.0
        assert await here.mails() == []

    assert (Terms("").body_rate, Terms("").body_grace) == (500, 60.0)
    scene(play)


@pytest.mark.row("SMTP-14")
def test_trickling_sessions_take_nothing_from_others() -> None:
    async def play(here: House) -> None:
        slow = [await here.connect("mx") for _ in range(100)]
        for _, writer in slow:
            writer.write(b"EHL")
        begun = time.monotonic()
        async with here.client() as client:
            assert await client.mail() == "250 2.0.0"
        assert time.monotonic() - begun < ALIVE_S
        for _, writer in slow:
            writer.close()

    scene(play)
