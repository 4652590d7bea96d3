"""TLS inside the wire: STARTTLS without injection, deadlines, what is offered, certificates by name, reload."""

import asyncio
import ssl
import time
from pathlib import Path

import pytest

from gatepost.aio import drive
from gatepost.aio.clock import SystemClock
from gatepost.aio.drive import Wire, connect
from gatepost.aio.tls import TlsHolder, TlsUnusable, client_context, self_signed
from gatepost.base.clock import DAY, Instant
from tests.aio.world import holder_in, listening, pair_in, trusting, until
from tests.support.loop import run

NOW = SystemClock().now()


async def chat(wire: Wire, holder: TlsHolder, heard: list[bytes]) -> None:
    """A tiny line protocol: STARTTLS, and every other line is echoed with the word plain or tls before it."""
    buffer = b""
    wire.write(b"220 hello\r\n")
    while octets := await wire.read(time.monotonic() + 5):
        buffer += octets
        while b"\r\n" in buffer:
            line, _, buffer = buffer.partition(b"\r\n")
            heard.append(line)
            if line == b"STARTTLS":
                if buffer:
                    wire.write(b"554 5.5.0 pipelined after STARTTLS\r\n")
                    return
                wire.write(b"220 go\r\n")
                wire.start_tls(holder.context)
            else:
                wire.write((b"tls " if wire.tls else b"plain ") + line + b"\r\n")


def shake(writer_side: ssl.SSLObject, incoming: ssl.MemoryBIO, octets: bytes) -> None:
    incoming.write(octets)
    try:
        writer_side.do_handshake()
    except ssl.SSLWantReadError:
        pass


@pytest.mark.row("TLS-01")
def test_starttls_then_a_session_inside_tls(tmp_path: Path) -> None:
    holder = holder_in(tmp_path, "mx.example")
    heard: list[bytes] = []

    async def story() -> None:
        async with listening(lambda wire: chat(wire, holder, heard)) as (_, port):
            wire = await connect("127.0.0.1", port, timeout=5)
            assert await wire.read() == b"220 hello\r\n"
            wire.write(b"STARTTLS\r\n")
            assert await wire.read() == b"220 go\r\n"
            await wire.start_tls_client(client_context(False), "mx.example", 5)
            wire.write(b"NOOP\r\n")
            assert await wire.read() == b"tls NOOP\r\n"
            assert wire.tls is not None
            assert wire.tls.version == "TLSv1.3"
            assert len(wire.peer_chain()) == 1
            wire.close()

    run(story())


@pytest.mark.row("TLS-01", "TLS-02")
def test_octets_in_the_same_segment_as_starttls_are_never_answered_inside(tmp_path: Path) -> None:
    holder = holder_in(tmp_path, "mx.example")
    heard: list[bytes] = []

    async def story() -> None:
        async with listening(lambda wire: chat(wire, holder, heard)) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"STARTTLS\r\nNOOP injected\r\n")
            assert await reader.read() == b"220 hello\r\n554 5.5.0 pipelined after STARTTLS\r\n"
            writer.close()

    run(story())
    assert heard == [b"STARTTLS"]


@pytest.mark.row("TLS-01", "TLS-02")
def test_octets_that_come_before_the_switch_abort_it(tmp_path: Path) -> None:
    """The line was read alone, but more came before `start_tls`: a session that waited in between."""
    holder = holder_in(tmp_path, "mx.example")
    reads: list[bytes] = []

    async def slow(wire: Wire) -> None:
        assert await wire.read() == b"STARTTLS\r\n"
        await asyncio.sleep(0.2)
        wire.write(b"220 go\r\n")
        wire.start_tls(holder.context)
        reads.append(await wire.read())

    async def story() -> None:
        async with listening(slow) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"STARTTLS\r\n")
            await asyncio.sleep(0.05)
            writer.write(b"NOOP injected\r\n")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(story())
    assert reads == [b""]


@pytest.mark.row("TLS-01")
def test_octets_between_the_go_ahead_and_the_handshake_break_it(tmp_path: Path) -> None:
    holder = holder_in(tmp_path, "mx.example")
    heard: list[bytes] = []

    async def story() -> None:
        async with listening(lambda wire: chat(wire, holder, heard)) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readline() == b"220 hello\r\n"
            writer.write(b"STARTTLS\r\n")
            assert await reader.readline() == b"220 go\r\n"
            writer.write(b"NOOP injected\r\n")
            assert b"injected" not in await reader.read()
            writer.close()

    run(story())
    assert heard == [b"STARTTLS"]


def test_tls_octet_by_octet(tmp_path: Path) -> None:
    holder = holder_in(tmp_path, "mx.example")

    async def session(wire: Wire) -> None:
        while octets := await wire.read():
            wire.write(octets.upper())

    async def story() -> None:
        async with listening(session, tls=holder) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = trusting().wrap_bio(incoming, outgoing, server_hostname="mx.example")

            async def trickle() -> None:
                for octet in outgoing.read():
                    writer.write(bytes([octet]))
                    await asyncio.sleep(0)

            done = False
            while not done:
                try:
                    client.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    await trickle()
                    incoming.write(await reader.read(7))
            client.write(b"quit")
            await trickle()
            answer = b""
            while answer != b"QUIT":
                try:
                    answer += client.read(10)
                except ssl.SSLWantReadError:
                    incoming.write(await reader.read(7))
            with pytest.raises(ssl.SSLWantReadError):
                client.unwrap()
            await trickle()
            writer.write_eof()
            incoming.write(await reader.read())
            incoming.write_eof()
            client.unwrap()  # raises if the server's close_notify is missing
            writer.close()

    run(story())


@pytest.mark.row("TLS-13")
def test_silent_connections_to_a_tls_port_are_cut_off_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "HANDSHAKE_TIME", 0.5)
    holder = holder_in(tmp_path, "mx.example")

    async def session(wire: Wire) -> None:
        wire.write(b"hi")

    async def story() -> None:
        async with listening(session, tls=holder) as (listener, port):
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
            await until(lambda: listener.open == 50)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting())
            assert await reader.read() == b"hi"
            await until(lambda: listener.open == 0, within=2)
            writer.close()
            for _, one in silent:
                one.close()

    run(story())


def test_garbage_instead_of_a_handshake_gets_an_alert_and_the_end(tmp_path: Path) -> None:
    holder = holder_in(tmp_path, "mx.example")

    async def session(wire: Wire) -> None:
        raise AssertionError("never")

    async def story() -> None:
        async with listening(session, tls=holder) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"EHLO not.tls\r\n" * 3)
            answer = await reader.read()
            assert answer == b"" or answer[0] == 21  # alert (RFC 8446 §5.1)
            writer.close()
            await until(lambda: listener.open == 0)

    run(story())


@pytest.mark.row("TLS-10")
@pytest.mark.parametrize(
    ("newest", "ciphers", "accepted"),
    [
        (ssl.TLSVersion.TLSv1_3, None, True),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM", True),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20", True),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AES:!AESGCM:!AESCCM", False),
        (ssl.TLSVersion.TLSv1_2, "DHE+AESGCM:@SECLEVEL=0", False),
        (ssl.TLSVersion.TLSv1_2, "RSA+AESGCM", False),
        (ssl.TLSVersion.TLSv1_2, "aNULL:@SECLEVEL=0", False),
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", False),
        (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0", False),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_only_aead_with_forward_secrecy(
    tmp_path: Path, newest: ssl.TLSVersion, ciphers: str | None, accepted: bool
) -> None:
    holder = holder_in(tmp_path, "mx.example")
    client = trusting()
    client.minimum_version = min(newest, ssl.TLSVersion.TLSv1_2)
    client.maximum_version = newest
    if ciphers is not None:
        client.set_ciphers(ciphers)

    async def session(wire: Wire) -> None:
        wire.write(b"hi")

    async def story() -> None:
        async with listening(session, tls=holder) as (_, port):
            if not accepted:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.open_connection("127.0.0.1", port, ssl=client)
                return
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
            assert await reader.read() == b"hi"
            writer.close()

    run(story())


@pytest.mark.row("TLS-10")
def test_renegotiation_and_compression_are_off(tmp_path: Path) -> None:
    context = holder_in(tmp_path, "mx.example").context
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert all(
        cipher["name"].startswith("TLS_") or ("ECDHE" in cipher["name"] and cipher["aead"])
        for cipher in context.get_ciphers()
    )


def test_the_certificate_follows_the_name_asked_for(tmp_path: Path) -> None:
    holder = TlsHolder([pair_in(tmp_path, "mx.example"), pair_in(tmp_path, "*.other.example")], NOW)
    names: list[str] = []

    async def session(wire: Wire) -> None:
        assert wire.tls is not None
        names.append(wire.tls.server_name)
        wire.write(b"hi")

    async def subject(port: int, name: str) -> str:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=client_context(
                True, authorities=tmp_path / ("*.other.example.pem" if "other" in name else "mx.example.pem")
            ),
            server_hostname=name,
        )
        assert await reader.read() == b"hi"
        writer.close()
        return name

    async def story() -> None:
        async with listening(session, tls=holder) as (_, port):
            await subject(port, "mx.example")
            await subject(port, "imap.other.example")
            with pytest.raises(ssl.SSLCertVerificationError):
                await subject(port, "unknown.example")

    run(story())
    assert names[:2] == ["mx.example", "imap.other.example"]


@pytest.mark.row("TLS-15")
@pytest.mark.parametrize("fault", ["mismatch", "expired", "cut", "missing", "empty key", "future"])
def test_a_broken_pair_is_refused_and_the_old_one_serves_on(tmp_path: Path, fault: str) -> None:
    pair = pair_in(tmp_path, "mx.example")
    holder = TlsHolder([pair], NOW)
    old = holder.context
    certificate, key = self_signed(["mx.example"], NOW)
    now, says = NOW, ""
    match fault:
        case "mismatch":
            pair.certificate.write_bytes(certificate)
            says = "does not belong"
        case "expired":
            now, says = Instant(NOW + 4000 * DAY), "expired"
        case "future":
            now, says = Instant(NOW - 4000 * DAY), "not valid before"
        case "cut":
            pair.certificate.write_bytes(certificate[: len(certificate) // 2])
            says = "cut off"
        case "missing":
            pair.key.unlink()
            says = "cannot be read"
        case _:
            pair.key.write_bytes(b"")
            says = "private key"
    with pytest.raises(TlsUnusable, match=says):
        holder.reload(now)
    assert holder.context is old
    pair.certificate.write_bytes(certificate)
    pair.key.write_bytes(key)
    holder.reload(NOW)
    assert holder.context is not old


def test_a_client_that_verifies_refuses_a_stranger(tmp_path: Path) -> None:
    holder = holder_in(tmp_path, "mx.example")

    async def session(wire: Wire) -> None:
        await wire.read()

    async def story() -> None:
        async with listening(session, tls=holder) as (_, port):
            wire = await connect("127.0.0.1", port, timeout=5)
            with pytest.raises(ssl.SSLCertVerificationError):
                await wire.start_tls_client(client_context(True), "mx.example", 5)
            assert wire.closed

    run(story())


@pytest.mark.row("TLS-09")
def test_a_server_that_never_answers_the_handshake_times_out() -> None:
    async def mute(wire: Wire) -> None:
        while await wire.read():
            pass

    async def story() -> None:
        async with listening(mute) as (_, port):
            wire = await connect("127.0.0.1", port, timeout=5)
            with pytest.raises(TimeoutError):
                await wire.start_tls_client(client_context(False), None, 0.2)
            assert wire.closed

    run(story())


def test_resumption_and_rotation(tmp_path: Path) -> None:
    holder = holder_in(tmp_path, "mx.example")
    first = holder.context
    holder.rotate()
    assert holder.context is not first
    assert holder.context.num_tickets > 0
