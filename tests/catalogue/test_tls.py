"""The catalogue's TLS rows against a whole server over TCP: before, beside and instead of a handshake."""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from gatepost.aio import drive
from gatepost.aio.listen import Limits, Listener
from gatepost.aio.tls import Pair, TlsUnusable, self_signed, write_pair
from gatepost.base.clock import DAY, Instant
from gatepost.relay.settings import RelaySettings
from tests.catalogue.server import (
    ALIVE_S,
    HOST,
    PLAIN_BOB,
    Client,
    House,
    Table,
    house,
    relaying,
    scene,
    until,
    until_so,
)
from tests.support.loop import run
from tests.support.nexthop import DROP, NextHop
from tests.support.peers import program

STRANGER = "198.51.100.7"
NOW = Instant(time.time_ns() // 1000)
ALERT = 21  # RFC 8446 §5.1: the record types
HANDSHAKE = 22
FATAL = 2

both_paces = pytest.mark.parametrize("one_by_one", [False, True], ids=["whole", "octets"])


# --- injection ----------------------------------------------------------------------------------------------

STARTTLS = {
    "mx": (b"STARTTLS\r\n", b"220 2.0.0 "),
    "submission": (b"STARTTLS\r\n", b"220 2.0.0 "),
    "lmtp": (b"STARTTLS\r\n", b"220 2.0.0 "),
    "imap": (b"a STARTTLS\r\n", b"a OK "),
    "pop3": (b"STLS\r\n", b"+OK "),
}
REFUSED = {
    "mx": b"554 5.5.0 ",
    "submission": b"554 5.5.0 ",
    "lmtp": b"554 5.5.0 ",
    "imap": b"a BAD ",
    "pop3": b"-ERR ",
}
INJECTED = {
    "mx": b"NOOP injected\r\n",
    "submission": PLAIN_BOB.encode() + b"\r\n",
    "lmtp": b"NOOP injected\r\n",
    "imap": b"b NOOP\r\n",
    "pop3": b"CAPA\r\n",
}
INSIDE = {
    "mx": b"NOOP\r\n",
    "submission": b"NOOP\r\n",
    "lmtp": b"NOOP\r\n",
    "imap": b"c NOOP\r\n",
    "pop3": b"CAPA\r\n",
}


@pytest.mark.row("TLS-01", "TLS-02")
@pytest.mark.parametrize("whole", [True, False], ids=["a command", "half a command"])
def test_what_stands_behind_starttls_in_one_segment_ends_the_session(whole: bool) -> None:
    async def play(here: House) -> None:
        for kind, (command, _) in STARTTLS.items():
            injected = INJECTED[kind] if whole else INJECTED[kind][:3]
            async with here.client(kind) as client:
                assert (await client.ask(command + injected)).startswith(REFUSED[kind]), kind
                assert (await client.rest())[:6] == (b"* BYE " if kind == "imap" else b""), kind
        assert here.hashed == []

    scene(play)


@pytest.mark.row("TLS-01", "TLS-02")
@both_paces
def test_what_comes_between_go_ahead_and_handshake_is_answered_with_an_alert_at_most(one_by_one: bool) -> None:
    async def play(here: House) -> None:
        for kind, (command, yes) in STARTTLS.items():
            async with here.client(kind) as client:
                assert (await client.ask(command, one_by_one=one_by_one)).startswith(yes), kind
                await client.send(INJECTED[kind], one_by_one=one_by_one)
                client.writer.write_eof()
                said = await client.rest()
                assert said == b"" or (said[0], len(said)) == (ALERT, 7), kind
        assert here.hashed == []

    scene(play)


@pytest.mark.row("TLS-01", "TLS-02")
def test_the_first_answer_inside_tls_is_to_the_first_command_inside() -> None:
    async def play(here: House) -> None:
        for kind, (command, yes) in STARTTLS.items():
            async with here.client(kind, hello=False, tls=True) as client:
                first = await client.ask(INSIDE[kind])
                assert first.startswith({"imap": b"c OK", "pop3": b"+OK"}.get(kind, b"250 2.0.0")), kind
            async with here.client(kind, tls=True) as client:
                await client.send(command + INJECTED[kind])  # once more, now inside
                assert not (await client.reply()).startswith(yes), kind

    scene(play)


# --- what was said before -----------------------------------------------------------------------------------


@pytest.mark.row("TLS-04")
@pytest.mark.parametrize("kind", ["mx", "lmtp"])
def test_nothing_that_was_said_in_the_clear_counts_inside(kind: str) -> None:
    async def play(here: House) -> None:
        async with here.client(kind, hello=False) as client:
            await client.hello("evil.example")
            lines = ("MAIL FROM:<a@x>", "STARTTLS", "RSET", "STARTTLS")  # not in the middle of a transaction
            assert await client.say(*lines) == ["250 2.1.0", "503 5.5.1", "250 2.0.0", "220 2.0.0"]
            await client.shake()
            inside = ("RCPT TO:<bob@here.example>", "DATA", "MAIL FROM:<a@x>")
            assert await client.say(*inside) == ["503 5.5.1"] * 3
            assert b"STARTTLS" not in await client.hello("good.example")
            assert await client.say("RCPT TO:<bob@here.example>") == ["503 5.5.1"]
            assert await client.mail() == "250 2.0.0"
        (stored,) = await here.mails()
        assert b"from good.example (" in stored
        assert b"evil" not in stored

    scene(play)


@pytest.mark.row("TLS-04")
def test_who_logged_in_in_the_clear_cannot_hand_the_session_over_to_who_shakes_hands() -> None:
    async def play(here: House) -> None:
        async with here.client("imap") as client:
            assert (await client.command("a LOGIN bob@here.example secret"))[-1].startswith(b"a OK")
            assert (await client.command("b STARTTLS"))[-1].startswith(b"b BAD")
        async with here.client("pop3") as client:
            assert await client.ask(b"USER bob@here.example\r\n") == b"+OK\r\n"
            await client.secure()
            assert (await client.ask(b"PASS secret\r\n")).startswith(b"-ERR")

    scene(play)  # from this machine itself, the only place where a password in the clear is taken


@pytest.mark.row("TLS-05")
@pytest.mark.parametrize("kind", ["submission", "submissions"])
def test_starttls_is_no_answer_to_a_challenge_and_is_not_said_twice(kind: str) -> None:
    async def play(here: House) -> None:
        async with here.client(kind, tls=True) as client:
            assert b"STARTTLS" not in await client.hello()
            assert await client.say("AUTH PLAIN", "STARTTLS") == ["334", "501 5.5.2"]
            assert await client.say("AUTH LOGIN", "STARTTLS") == ["334", "501 5.5.2"]
            assert await client.say("STARTTLS", PLAIN_BOB, "STARTTLS") == ["503 5.5.1", "235 2.7.0", "503 5.5.1"]

    scene(play)


@pytest.mark.row("TLS-05")
def test_readers_do_not_shake_hands_twice() -> None:
    async def play(here: House) -> None:
        for kind in ("imap", "imaps"):
            async with here.client(kind, tls=True) as client:
                assert b"STARTTLS" not in (await client.command("a CAPABILITY"))[0]
                assert (await client.command("b STARTTLS"))[-1].startswith(b"b BAD")
                assert await client.ask(b"c AUTHENTICATE PLAIN\r\n") == b"+ \r\n"
                assert (await client.ask(b"d STARTTLS\r\n")).startswith(b"c BAD")
        for kind in ("pop3", "pop3s"):
            async with here.client(kind, tls=True) as client:
                assert (await client.ask(b"STLS\r\n")).startswith(b"-ERR")
                assert await client.ask(b"AUTH PLAIN\r\n") == b"+ \r\n"
                assert (await client.ask(b"STLS\r\n")).startswith(b"-ERR")

    scene(play)


# --- passwords in the clear ---------------------------------------------------------------------------------


@pytest.mark.row("TLS-06")
@pytest.mark.parametrize("password", ["secret", "wrong"])
def test_a_password_in_the_clear_is_refused_unseen(password: str) -> None:
    async def play(here: House) -> None:
        for kind in ("submission", "mx"):
            async with here.client(kind, ip=STRANGER, hello=False) as client:
                assert b"AUTH" not in await client.hello()
                assert await client.say(PLAIN_BOB, "AUTH PLAIN", "AUTH LOGIN Ym9i") == ["538 5.7.11"] * 3
        async with here.client("submission", ip=STRANGER) as client:
            assert await client.say("MAIL FROM:<bob@here.example>") == ["530 5.7.0"]
        async with here.client("imap", ip=STRANGER) as client:
            (offered, _) = await client.command("a CAPABILITY")
            assert b" LOGINDISABLED" in offered
            assert b"AUTH=" not in offered
            said = await client.command(f"b LOGIN bob@here.example {password}")
            assert said[-1].startswith(b"b NO [PRIVACYREQUIRED] ")
            said = await client.command("c AUTHENTICATE PLAIN AGJvYkBoZXJlLmV4YW1wbGUAc2VjcmV0")
            assert said[-1].startswith(b"c NO [PRIVACYREQUIRED] ")
        async with here.client("pop3", ip=STRANGER) as client:
            capable = await client.listed("CAPA")
            assert b"STLS\r\n" in capable
            assert not any(line.startswith((b"USER", b"SASL")) for line in capable)
            for line in ("USER bob@here.example", f"PASS {password}", "AUTH PLAIN AGJvYgBzZWNyZXQ="):
                assert (await client.ask(line.encode() + b"\r\n")).startswith(b"-ERR ")
        assert here.hashed == []

    scene(play, intake={"mx_auth": True})


# --- next hops ----------------------------------------------------------------------------------------------


async def submit(here: House, recipient: str) -> None:
    """Let bob send a mail."""
    async with here.client("submissions") as client:
        await client.say(PLAIN_BOB)
        mail = b"From: bob@here.example\r\n\r\nx\r\n"
        assert await client.mail(mail, "<bob@here.example>", recipient) == "250 2.0.0"


async def deferred(here: House) -> str:
    """Wait until somebody in the queue was tried; return why it failed."""
    tried = "SELECT last_error FROM queue_rcpt WHERE attempts > 0 AND owner = 0"

    async def known() -> bool:
        return bool(await here.rows(tried))

    await until_so(known)
    ((reason,),) = await here.rows(tried)
    return str(reason)


async def only(here: House, recipient: str) -> bool:
    """Tell whether nobody else waits in the queue."""
    return await here.queued() == [recipient]


def data_of(hop: NextHop) -> list[bytes]:
    """Return what a next hop was told of any mail."""
    return [each for each in hop.commands if each[:4].upper() in (b"MAIL", b"RCPT", b"DATA", b"BDAT")]


@pytest.mark.row("TLS-07")
@pytest.mark.parametrize("manner", ["require", "verify"])
def test_where_tls_is_demanded_a_stripped_starttls_defers_the_mail(manner: str) -> None:
    async def whole() -> None:
        async with NextHop() as hop, house(relaying(hop.port, manner)) as here:
            await submit(here, "joe@far.example")
            assert "4.7.4" in await deferred(here)
            assert await here.queued() == ["joe@far.example"]
            assert data_of(hop) == []
            assert await here.mails() == []  # no bounce

    run(whole())


@pytest.mark.row("TLS-07")
def test_where_it_is_not_a_stripped_starttls_is_noted() -> None:
    async def whole() -> None:
        async with NextHop() as hop, house(relaying(hop.port)) as here:
            await submit(here, "joe@far.example")
            await until(lambda: here.log.events("delivered"))
            assert [each["tls"] for each in here.log.events("delivered")] == [""]
            assert len(hop.mails) == 1

    run(whole())


def two_hops(slow: int, quick: int, manner: str) -> dict[str, Table]:
    """Return settings by which mail for slow.example goes to one next hop, with TLS, and all other to another."""
    settings = relaying(quick)
    slowly = {"do": "relay", "host": "127.0.0.1", "port": slow, "tls": manner}
    policy = settings["policy"]
    actions, rules = policy["actions"], policy["rules"]
    assert isinstance(actions, dict)
    assert isinstance(rules, list)
    first = {"match": {"from": "any", "auth": True, "for": "slow.example"}, "action": "slowly"}
    settings["policy"] = {"actions": {**actions, "slowly": slowly}, "rules": [first, *rules]}
    settings["relay"] = {"allow_loopback": True, "tls_time": 2}
    return settings


@asynccontextmanager
async def mute_hop(heard: list[bytes]) -> AsyncIterator[int]:
    """Run a next hop that says 220 to STARTTLS and nothing more; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"220 mute.example\r\n", b"250-mute.example\r\n250 STARTTLS\r\n"):
            writer.write(answer)
            heard.append(await reader.readline())
        writer.write(b"220 go\r\n")
        heard.append(await reader.read(65_536))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.row("TLS-09")
def test_a_handshake_that_hangs_holds_nobody_else_up() -> None:
    async def whole() -> None:
        heard: list[bytes] = []
        async with (
            mute_hop(heard) as slow,
            NextHop() as quick,
            house(two_hops(slow, quick.port, "require")) as here,
        ):
            await submit(here, "joe@slow.example")
            await until(lambda: len(heard) == 3)
            begun = time.monotonic()
            await submit(here, "ann@far.example")
            await until(lambda: quick.mails)
            assert time.monotonic() - begun < ALIVE_S
            assert (await deferred(here)).startswith("4")
            assert time.monotonic() - begun < 2 * 2
            await until_so(partial(only, here, "joe@slow.example"))
            assert [each[:8] for each in heard[:2]] == [b"EHLO mx.", b"STARTTLS"]
            assert heard[2][0] == HANDSHAKE  # a ClientHello, and nothing in the clear

    assert RelaySettings().tls_time <= 300.0
    run(whole())


@pytest.mark.row("TLS-09")
@pytest.mark.parametrize("manner", ["require", "verify"])
@pytest.mark.parametrize("answer", [b"220 go\r\ngarbage\r\n", b"454 4.7.0 not now\r\n", DROP])
def test_a_next_hop_that_fails_the_handshake_gets_no_mail(answer: bytes | str, manner: str) -> None:
    async def whole() -> None:
        script = NextHop(answers={"STARTTLS": answer}, extensions=("STARTTLS",))
        async with script, NextHop() as quick, house(two_hops(script.port, quick.port, manner)) as here:
            await submit(here, "joe@slow.example")
            assert (await deferred(here)).startswith("4")
            await submit(here, "ann@far.example")
            await until(lambda: quick.mails)
            await until_so(partial(only, here, "joe@slow.example"))
            assert data_of(script) == []

    run(whole())


@pytest.mark.row("TLS-09")
@pytest.mark.parametrize(("name", "why"), [("127.0.0.1", ""), ("wrong.example", "4.7.5"), ("127.0.0.2", "4.7.5")])
def test_a_certificate_of_another_name_is_no_certificate(tmp_path: Path, name: str, why: str) -> None:
    pair = pair_of(tmp_path, name)
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_cert_chain(pair.certificate, pair.key)

    async def whole() -> None:
        async with (
            NextHop(tls=certificate) as hop,
            house(relaying(hop.port, "verify"), authorities=pair.certificate) as here,
        ):
            await submit(here, "joe@far.example")
            if not why:
                await until(lambda: hop.mails)
                assert hop.mails[0].tls
                return
            assert why in await deferred(here)
            assert data_of(hop) == []

    run(whole())


# --- suites -------------------------------------------------------------------------------------------------

TLS12 = 0x0303
ECDHE_ECDSA_AES128_GCM = 0xC02B
CHACHA = 0xCCA9
OLD_SUITES = {
    "RC4": (0x0004, 0x0005, 0xC007, 0xC011),
    "3DES": (0x000A, 0x0016, 0xC008, 0xC012),
    "CBC": (0xC009, 0xC00A, 0xC013, 0xC014, 0xC023, 0xC024, 0xC027, 0xC028, 0x002F, 0x0035, 0x003C, 0x003D),
    "anonymous": (0x0018, 0x0034, 0x006C, 0x00A6, 0xC018, 0xC019),
    "export": (0x0003, 0x0006, 0x0008, 0x0014, 0x0017, 0x0019),
    "NULL": (0x0000, 0x0001, 0x0002, 0x003B, 0xC006, 0xC010),
    "RSA key exchange": (0x009C, 0x009D, 0xC09C, 0xC0A0),
    "DHE": (0x009E, 0x009F, 0xCCAA, 0x0033, 0x0039),
}
SSL2_HELLO = (
    bytes.fromhex("802e 0100 02 0015 0000 0010 010080 020080 030080 040080 050080 060040 0700c0") + b"c" * 16
)


def client_hello(version: int, suites: tuple[int, ...]) -> bytes:
    """Return a ClientHello in one record, for TLS 1.2 and below (RFC 5246 §7.4.1.2)."""

    def extension(kind: int, body: bytes) -> bytes:
        return struct.pack("!HH", kind, len(body)) + body

    groups = struct.pack("!HHHH", 6, 0x001D, 0x0017, 0x0018)
    signatures = struct.pack("!H6H", 12, 0x0403, 0x0503, 0x0804, 0x0401, 0x0203, 0x0201)
    extensions = extension(10, groups) + extension(11, b"\x01\x00") + extension(13, signatures)
    body = struct.pack("!H", version) + b"r" * 32 + b"\0"
    body += struct.pack(f"!H{len(suites) + 1}H", 2 * len(suites) + 2, *suites, 0x00FF)  # RFC 5746 §3.3
    body += b"\x01\x00" + struct.pack("!H", len(extensions)) + extensions
    return struct.pack("!BHHB", HANDSHAKE, 0x0301, len(body) + 4, 1) + len(body).to_bytes(3, "big") + body


async def answer_to(here: House, hello: bytes, kind: str) -> bytes:
    """Say a ClientHello on a connection of its own; return the first record (type, version, length, body)."""
    reader, writer = await here.connect(kind, silent=True)
    if kind == "mx":
        client = Client(reader, writer, here.heard, kind)
        await client.reply()
        await client.hello()
        await client.ask(b"STARTTLS\r\n")
    writer.write(hello)
    async with asyncio.timeout(10):
        record = await reader.read(7)
    writer.close()
    return record


def accepted(record: bytes) -> bool:
    """Tell whether a record is a ServerHello; what is none is a fatal alert or the end."""
    if record[:1] == bytes([HANDSHAKE]):
        return True
    assert record == b"" or (record[0], record[5]) == (ALERT, FATAL)
    return False


@pytest.mark.row("TLS-10")
@pytest.mark.parametrize("kind", ["submissions", "imaps", "pop3s", "mx"])
def test_what_is_not_aead_with_ephemeral_keys_is_not_spoken(kind: str) -> None:
    async def play(here: House) -> None:
        for suite in (ECDHE_ECDSA_AES128_GCM, CHACHA):
            assert accepted(await answer_to(here, client_hello(TLS12, (suite,)), kind))
        for name, suites in OLD_SUITES.items():
            assert not accepted(await answer_to(here, client_hello(TLS12, suites), kind)), name
        for version in (0x0300, 0x0301, 0x0302):
            hello = client_hello(version, (ECDHE_ECDSA_AES128_GCM, 0xC009, 0xC00A))
            assert not accepted(await answer_to(here, hello, kind)), hex(version)
        assert not accepted(await answer_to(here, SSL2_HELLO, kind))

    scene(play)


@pytest.mark.row("TLS-10")
def test_a_client_cannot_renegotiate() -> None:
    openssl = program("openssl")

    async def play(here: House) -> None:
        process = await asyncio.create_subprocess_exec(
            *(openssl, "s_client", "-connect", f"127.0.0.1:{here.ports['submissions']}", "-tls1_2"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(10):
            said = await process.stdout.readuntil(b"220 mx.example")
            process.stdin.write(b"R\n")  # s_client's command: renegotiate
            said += await process.stdout.read()
            await process.wait()
        assert b"RENEGOTIATING" in said
        assert b"no renegotiation" in said

    scene(play)


# --- silence ------------------------------------------------------------------------------------------------


def strict(here: House) -> list[Listener]:
    """Let loopback addresses count like any other; return the listeners."""
    for listener in here.worker._listeners:
        limits = listener._limits
        listener._limits = Limits(limits.total, limits.per_peer, limits.per_peer_minute, loopback_exempt=False)
    return here.worker._listeners


async def silent(here: House, kind: str, sources: list[str]) -> list[socket.socket]:
    """Connect from each source and say nothing."""
    loop, sockets = asyncio.get_running_loop(), []
    for source in sources:
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((source, 0))
        await loop.sock_connect(sock, ("127.0.0.1", here.ports[kind]))
        sockets.append(sock)
    return sockets


@pytest.mark.row("TLS-13")
@pytest.mark.parametrize(("kind", "places"), [("submissions", 20), ("imaps", 30)])
def test_a_thousand_who_say_nothing_get_the_places_of_one(kind: str, places: int) -> None:
    async def play(here: House) -> None:
        (listener,) = (each for each in strict(here) if each.name == kind)
        before = listener.open
        quiet = await silent(here, kind, ["127.0.0.2"] * 1000)
        await until(lambda: listener.refused == 1000 - places)
        assert listener.open == before + places
        begun = time.monotonic()
        async with here.client(kind) as client:
            assert (await client.ask(b"a NOOP\r\n")).startswith((b"a OK", b"500 5.5.1"))
        assert time.monotonic() - begun < ALIVE_S
        for sock in quiet:
            sock.close()

    scene(play)


@pytest.mark.row("TLS-13")
@pytest.mark.parametrize("kind", ["submissions", "imaps"])
def test_who_says_nothing_is_cut_off_and_the_others_are_served(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drive.HANDSHAKE_TIME <= 30.0
    monkeypatch.setattr(drive, "HANDSHAKE_TIME", 0.5)

    async def play(here: House) -> None:
        (listener,) = (each for each in strict(here) if each.name == kind)
        before = listener.open
        quiet = await silent(here, kind, [f"127.0.{at // 200}.{10 + at % 200}" for at in range(900)])
        begun = time.monotonic()
        async with here.client(kind) as client:
            assert (await client.ask(b"a NOOP\r\n")).startswith((b"a OK", b"500 5.5.1"))
        assert time.monotonic() - begun < ALIVE_S
        await until(lambda: listener.open == before, within=4)
        for sock in quiet:
            sock.close()

    scene(play)


# --- another certificate ------------------------------------------------------------------------------------


def pair_of(folder: Path, *names: str, made: Instant = NOW) -> Pair:
    """Write a new certificate for names, made ten years before it ends; return its files."""
    pair = Pair(folder / "cert.pem", folder / "cert.key")
    write_pair(pair, *self_signed(names, made))
    return pair


async def shown(here: House, kind: str = "imaps") -> bytes:
    """Return the certificate that a new client is shown."""
    _, writer = await here.connect(kind)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(found, bytes)
    return found


def spoil(pair: Pair, fault: str) -> None:
    """Put a pair in the place of one that cannot be used."""
    certificate, key = self_signed([HOST], Instant(NOW - 4000 * DAY) if fault == "expired" else NOW)
    pair.certificate.write_bytes(certificate[: len(certificate) // 2] if fault == "truncated" else certificate)
    if fault != "mismatching":
        pair.key.write_bytes(key)


@pytest.mark.row("TLS-15")
@pytest.mark.parametrize(
    ("fault", "says"),
    [("mismatching", "does not belong"), ("expired", "expired"), ("truncated", "cut off")],
)
def test_a_pair_that_cannot_be_used_is_refused_and_the_old_one_serves_on(
    tmp_path: Path, fault: str, says: str
) -> None:
    pair = pair_of(tmp_path, HOST)
    given = [{"certificate": str(pair.certificate), "key": str(pair.key)}]

    async def play(here: House) -> None:
        old, intake = await shown(here), here.worker._intake
        async with here.client("submissions") as open_before:
            spoil(pair, fault)
            with pytest.raises(TlsUnusable, match=says) as refused:
                await here.worker.reload(here.config)
            assert str(tmp_path) in str(refused.value)  # which one, for the operator
            assert here.worker._intake is intake
            assert await shown(here) == old
            assert await open_before.say(PLAIN_BOB) == ["235 2.7.0"]
            write_pair(pair, *self_signed([HOST], NOW))
            await here.worker.reload(here.config)
            assert await shown(here) not in (old, b"")
            assert await open_before.say("NOOP") == ["250 2.0.0"]

    scene(play, tls={"certificates": given})
