"""PROXY headers over real sockets: who is believed, who is not, and what then counts as the client's address."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gatepost.aio.drive import Wire
from gatepost.aio.listen import Limits, Listener
from gatepost.aio.tls import TlsHolder
from gatepost.codec.proxy import Proxied
from tests.aio.world import FREE, Journal, bound, holder_in, trusting, until
from tests.catalogue.server import House, house
from tests.codec.test_proxy import v2
from tests.support.loop import run
from tests.support.peers import program

CLIENT = Proxied("198.51.100.7", 40_000, "203.0.113.1", 25)
HEADER_1 = b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 25\r\n"
HEADERS = [HEADER_1, v2(CLIENT), v2(CLIENT, checksum=True)]
LOCALS = [b"PROXY UNKNOWN\r\n", v2(CLIENT, command=0x20)]


async def tell(wire: Wire) -> None:
    """Say who the client is thought to be, then echo."""
    wire.write(f"{wire.peer_ip} {wire.peer_port} {wire.local_ip} {wire.local_port} {wire.probe}\r\n".encode())
    while octets := await wire.read(time.monotonic() + 5):
        wire.write(octets)


@asynccontextmanager
async def balanced(
    balancers: Callable[[str], bool] = lambda _: True,
    *,
    limits: Limits = FREE,
    tls: TlsHolder | None = None,
    busy: bytes = b"",
    journal: Journal | None = None,
) -> AsyncIterator[tuple[Listener, int]]:
    """Run a listener behind balancers; gives it and its port."""
    sock = bound()
    listener = Listener(
        sock, tell, limits=limits, name="mx", log=journal or Journal(), tls=tls, busy=busy, balancers=balancers
    )
    listener.start()
    try:
        yield listener, sock.getsockname()[1]
    finally:
        await listener.drain(0)
        sock.close()


async def said(port: int, *pieces: bytes, source: str = "127.0.0.1") -> bytes:
    """Connect, send the pieces each on its own, return the first line; b"" when the connection is ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(10):
            return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("split", [False, True])
def test_the_client_is_whom_the_balancer_names(header: bytes, split: bool) -> None:
    async def story() -> None:
        async with balanced() as (_, port):
            pieces = [header[at : at + 1] for at in range(len(header))] if split else [header]
            assert await said(port, *pieces) == b"198.51.100.7 40000 203.0.113.1 25 False\r\n"

    run(story())


def test_what_stands_behind_the_header_is_the_clients() -> None:
    async def story() -> None:
        async with balanced() as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEADER_1 + b"EHLO a\r\n")
            assert await reader.readline() == b"198.51.100.7 40000 203.0.113.1 25 False\r\n"
            assert await reader.readline() == b"EHLO a\r\n"
            writer.write(HEADER_1)
            assert await reader.readline() == HEADER_1, "a second header is the client's own octets"
            writer.close()

    run(story())


def test_nothing_is_said_before_the_header() -> None:
    async def story() -> None:
        async with balanced() as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: listener.open)
            writer.write(HEADER_1[:-1])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await reader.read(1)
            writer.write(HEADER_1[-1:])
            assert await reader.readline() == b"198.51.100.7 40000 203.0.113.1 25 False\r\n"
            writer.close()

    run(story())


@pytest.mark.parametrize("header", LOCALS)
def test_a_health_check_keeps_the_balancers_address(header: bytes) -> None:
    async def story() -> None:
        async with balanced() as (_, port):
            words = (await said(port, header)).split()
            assert (words[0], words[2], words[4]) == (b"127.0.0.1", b"127.0.0.1", b"True")

    run(story())


@pytest.mark.parametrize("octets", [b"EHLO client.example\r\n", b"PROXY TCP4 1.2.3.4\r\n", b"\x16\x03\x01\x02"])
def test_a_balancer_that_sends_no_header_is_cut_off(octets: bytes) -> None:
    async def story() -> None:
        journal = Journal()
        async with balanced(journal=journal) as (listener, port):
            assert await said(port, octets) == b""
            await until(lambda: not listener.open)
        assert [event for event, _ in journal.events] == ["proxy_header_refused"]

    run(story())


def test_a_balancer_that_sends_nothing_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost.aio.drive.PREFACE_TIME", 0.2)
    monkeypatch.setattr("gatepost.aio.listen.PREFACE_TIME", 0.2)

    async def story() -> None:
        journal = Journal()
        async with balanced(journal=journal) as (listener, port):
            start = time.monotonic()
            assert await said(port, b"PROXY TCP4 ") == b""
            assert 0.2 <= time.monotonic() - start < 2
            await until(lambda: not listener.open)
        assert [event for event, _ in journal.events] == ["proxy_header_missing"]

    run(story())


def test_a_balancer_that_only_connects_is_no_event() -> None:
    async def story() -> None:
        journal = Journal()
        async with balanced(journal=journal) as (listener, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: listener.open)
            writer.close()
            await until(lambda: not listener.open)
        assert journal.events == []

    run(story())


@pytest.mark.parametrize("header", HEADERS + LOCALS)
def test_nobody_else_is_believed(header: bytes) -> None:
    async def story() -> None:
        async with balanced(lambda ip: ip == "127.0.0.9") as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            words = (await reader.readline()).split()
            assert (words[0], words[4]) == (b"127.0.0.1", b"False")
            writer.write(header)
            assert await reader.readexactly(len(header)) == header, "the octets go to the session as they are"
            writer.close()
            assert (await said(port, HEADER_1, source="127.0.0.9")).startswith(b"198.51.100.7 ")

    run(story())


def test_the_header_stands_before_tls(tmp_path: Path) -> None:
    async def story() -> None:
        async with balanced(tls=holder_in(tmp_path, "mx.example")) as (_, port):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(HEADER_1)
            sock.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=trusting(), server_hostname="mx.example")
            assert await reader.readline() == b"198.51.100.7 40000 203.0.113.1 25 False\r\n"
            writer.close()

    run(story())


def test_a_header_inside_tls_or_none_ends_it(tmp_path: Path) -> None:
    async def story() -> None:
        journal = Journal()
        async with balanced(tls=holder_in(tmp_path, "mx.example"), journal=journal) as (listener, port):
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await asyncio.open_connection("127.0.0.1", port, ssl=trusting(), server_hostname="mx.example")
            await until(lambda: not listener.open)
        assert [event for event, _ in journal.events] == ["proxy_header_refused"]

    run(story())


def test_limits_count_for_the_client_and_not_for_the_balancer() -> None:
    async def story() -> None:
        limits = Limits(total=0, per_peer=2, per_peer_minute=0, loopback_exempt=False)
        async with balanced(limits=limits, busy=b"421 busy\r\n") as (listener, port):
            async with contextlib.AsyncExitStack() as stack:

                async def come(header: bytes) -> bytes:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    stack.callback(writer.close)
                    writer.write(header)
                    return (await reader.readline())[:12]

                assert [await come(HEADER_1) for _ in range(3)] == [b"198.51.100.7"] * 2 + [b"421 busy\r\n"]
                other = HEADER_1.replace(b"100.7", b"100.8")
                assert await come(other) == b"198.51.100.8"
                assert [(await come(LOCALS[0]))[:9] for _ in range(4)] == [b"127.0.0.1"] * 4
                assert listener.refused == 1
            await until(lambda: not listener.open)
            assert listener._peers == {}
            assert not listener._uncounted
            assert (await said(port, HEADER_1))[:12] == b"198.51.100.7", "whoever left makes room"

    run(story())


@pytest.mark.parametrize("source", ["127.0.0.1", "203.0.113.1"])
def test_a_client_on_a_far_balancers_own_machine_is_not_on_ours(source: str) -> None:
    """Loopback is exempt from much, and equal ends may say passwords in the clear."""

    async def story() -> None:
        listener = Listener(bound(), tell, limits=FREE, name="mx", log=Journal(), balancers=lambda _: True)
        listener.start()
        wire = Wire(asyncio.get_running_loop())
        wire.peer_ip, wire.local_ip = "192.0.2.10", "192.0.2.1"
        listener._uncounted[wire] = 0.0
        assert listener._comes_in(wire, Proxied(source, 1, "203.0.113.1", 25))
        assert (wire.peer_ip, wire.local_ip) == ("192.0.2.10", "192.0.2.1")
        await listener.drain(0)
        listener._sock.close()

    run(story())


def test_draining_does_not_wait_for_a_header() -> None:
    async def story() -> None:
        async with balanced() as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: listener.open)
            start = time.monotonic()
            await listener.drain(0.2)
            assert time.monotonic() - start < 3
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(story())


# A whole server behind balancers


BALANCERS = {"proxy": ["127.0.0.0/8"], "address": ["127.0.0.1:0"]}
LISTEN = {
    "listen": {
        "mx": {"kind": "mx", "address": ["127.0.0.1:0"]},
        "balanced": {"kind": "mx", **BALANCERS},
        "balanced-imaps": {"kind": "imaps", **BALANCERS},
        **{each: {"kind": each, "address": ["127.0.0.1:0"]} for each in ("imap", "imaps", "pop3", "pop3s", "lmtp")},
        **{each: {"kind": each, "address": ["127.0.0.1:0"]} for each in ("submission", "submissions")},
    }
}


@asynccontextmanager
async def behind(**settings: dict[str, object]) -> AsyncIterator[tuple[House, int, int]]:
    """Run a server; gives it and the ports of its balanced mx and imaps."""
    async with house({**LISTEN, **settings}) as here:
        sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in ("balanced", "balanced-imaps")}
        for name, sock in sockets.items():
            here.worker._listen(name, [sock])
        try:
            yield here, *(sock.getsockname()[1] for sock in sockets.values())
        finally:
            for listener in here.worker._listeners:
                if listener.name in sockets:
                    listener.stop()
            for sock in sockets.values():
                sock.close()


def test_gate_session_and_mail_know_the_client_by_the_header(tmp_path: Path) -> None:
    async def story() -> None:
        banned = tmp_path / "banned"
        banned.write_text("198.51.100.66\n")
        async with behind(gate={"tables": {"bruteforce": str(banned)}}) as (here, port, _):
            assert await said(port, HEADER_1.replace(b"100.7", b"100.66")) == b""
            assert (await said(port, v2(CLIENT))).startswith(b"220 mx.example")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEADER_1)
            assert (await reader.readline()).startswith(b"220")
            writer.write(b"HELO client.example\r\n")
            assert (await reader.readline()).startswith(b"250")
            for line in (b"MAIL FROM:<a@sender.example>", b"RCPT TO:<bob@here.example>", b"DATA"):
                writer.write(line + b"\r\n")
                assert (await reader.readline())[:3] in (b"250", b"354")
            writer.write(b"From: <a@sender.example>\r\n\r\nhi\r\n.\r\n")
            assert (await reader.readline()).startswith(b"250")
            writer.close()
            assert b"[198.51.100.7]" in (await here.mails())[0]

    run(story())


def test_a_health_check_is_greeted_even_where_its_address_would_not_be() -> None:
    async def story() -> None:
        gate = {"greylist": True, "exempt": ["203.0.113.0/24"], "rates": {}}
        async with behind(gate=gate) as (_, port, _):
            for header in LOCALS:
                assert (await said(port, header)).startswith(b"220 mx.example ESMTP gatepost")

    run(story())


def test_a_wrong_network_is_told_with_its_place(tmp_path: Path) -> None:
    from gatepost.config import ConfigError, parse

    text = '[listen.mx]\nkind = "mx"\nproxy = ["192.0.2.10/32", "192.0.2.10/33"]\n'
    with pytest.raises(ConfigError) as wrong:
        parse(text, tmp_path / "gatepost.toml")
    assert wrong.value.line == 3
    assert "listen.mx.proxy.1" in str(wrong.value)
    assert "192.0.2.10/33" in str(wrong.value)


# Real programs


async def ran(*words: str | Path, good: bool = True) -> str:
    """Run a program; return what it said."""
    process = await asyncio.create_subprocess_exec(
        *map(str, words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(40):
        out, _ = await process.communicate()
    assert (process.returncode == 0) is good, out.decode()
    return out.decode()


@pytest.mark.peer("curl")
def test_curl_speaks_version_1(tmp_path: Path) -> None:
    async def story() -> None:
        mail = tmp_path / "mail"
        mail.write_bytes(b"From: <a@sender.example>\r\nSubject: by curl\r\n\r\nhi\r\n")
        words = (program("curl"), "--silent", "--show-error", "--interface", "127.0.0.44", "--insecure")
        async with behind() as (here, port, imaps):
            await ran(
                *words, "--haproxy-protocol", f"smtp://127.0.0.1:{port}", "--mail-from", "a@sender.example",
                "--mail-rcpt", "bob@here.example", "--upload-file", mail
            )  # fmt: skip
            assert b"[127.0.0.44]" in (await here.mails())[0]
            login = ("--user", "bob@here.example:secret", f"imaps://127.0.0.1:{imaps}")
            assert "INBOX" in await ran(*words, "--haproxy-protocol", *login)
            assert here.log.events("login")[-1]["ip"] == "127.0.0.44"
            await ran(*words, *login, good=False)

    run(story())


@pytest.mark.peer("swaks")
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("six", [False, True])
def test_swaks_speaks_both_versions(version: str, six: bool) -> None:
    families = {("1", False): "TCP4", ("1", True): "TCP6", ("2", False): "AF_INET", ("2", True): "AF_INET6"}
    source, destination = ("2001:db8::7", "2001:db8::1") if six else ("198.51.100.7", "203.0.113.1")

    async def story() -> None:
        async with behind() as (here, port, _):
            await ran(
                program("swaks"), "--server", "127.0.0.1", "--port", str(port), "--to", "bob@here.example",
                "--from", "a@sender.example", "--proxy-version", version, "--proxy-family",
                families[version, six], "--proxy-source", source, "--proxy-source-port", "40000",
                "--proxy-dest", destination, "--proxy-dest-port", "25"
            )  # fmt: skip
            assert f"[{'IPv6:' if six else ''}{source}]".encode() in (await here.mails())[0]

    run(story())


HAPROXY = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
listen mx
  bind 127.0.0.1:{front}
  option smtpchk EHLO balancer.example
  server one 127.0.0.1:{mx} send-proxy-v2 proxy-v2-options crc32c,unique-id check check-send-proxy inter 100ms
  unique-id-format %{{+X}}o\\ %ci:%cp
listen mx1
  bind 127.0.0.1:{front1}
  server one 127.0.0.1:{mx} send-proxy check check-send-proxy inter 100ms
listen imaps
  bind 127.0.0.1:{readers}
  server one 127.0.0.1:{imaps} send-proxy-v2 check check-send-proxy inter 100ms
"""


@asynccontextmanager
async def haproxy(folder: Path, mx: int, imaps: int) -> AsyncIterator[list[int]]:
    """Run HAProxy before a server; gives its three ports."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(bound()).getsockname()[1] for _ in range(3)]
    names = dict(zip(("front", "front1", "readers"), ports, strict=True))
    (folder / "haproxy.cfg").write_text(HAPROXY.format(mx=mx, imaps=imaps, **names))
    process = await asyncio.create_subprocess_exec(
        program("haproxy", "/usr/sbin/haproxy"), "-db", "-f", str(folder / "haproxy.cfg"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        yield ports
    finally:
        process.terminate()
        async with asyncio.timeout(20):
            await process.wait()


async def greeted(port: int, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect through the balancer as soon as it is up; return the connection, greeted."""
    async with asyncio.timeout(20):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
                if (await reader.readline()).startswith(b"220 mx.example"):
                    return reader, writer
                writer.close()
            except ConnectionError:
                pass
            await asyncio.sleep(0.05)


@pytest.mark.process
@pytest.mark.peer("haproxy")
@pytest.mark.skipif(sys.platform != "linux", reason="loopback has one address elsewhere")
def test_haproxy_balances_and_checks(tmp_path: Path) -> None:
    async def story() -> None:
        async with behind() as (here, mx, imaps), haproxy(tmp_path, mx, imaps) as (front, front1, readers):
            for port, source in ((front, "127.0.0.55"), (front1, "127.0.0.56")):
                reader, writer = await greeted(port, source)
                lines = (b"HELO client.example", b"MAIL FROM:<a@x.example>", b"RCPT TO:<bob@here.example>", b"DATA")
                for line in lines:
                    writer.write(line + b"\r\n")
                    assert (await reader.readline())[:3] in (b"250", b"354")
                writer.write(b"From: <a@x.example>\r\n\r\nhi\r\n.\r\n")
                assert (await reader.readline()).startswith(b"250")
                writer.close()
            by_v2, by_v1 = await here.mails()
            assert b"[127.0.0.55]" in by_v2
            assert b"[127.0.0.56]" in by_v1
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", readers, local_addr=("127.0.0.57", 0), ssl=trusting(), server_hostname="mx.example"
            )
            assert (await reader.readline()).startswith(b"* OK")
            writer.write(b"a LOGIN bob@here.example secret\r\n")
            assert b"a OK" in await reader.readline()
            writer.close()
            assert here.log.events("login")[-1]["ip"] == "127.0.0.57"
            checked = {listener.name: listener for listener in here.worker._listeners}["balanced"]
            await until(lambda: any(wire.probe for wire in checked._wires), within=20)
            assert here.log.events("proxy_header_refused", "proxy_header_missing") == []

    run(story())
