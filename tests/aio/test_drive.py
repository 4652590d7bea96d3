"""A wire: reading with deadlines, back-pressure, callback sessions, the two ways of closing."""

import asyncio
import contextlib
import gc
import os
import resource
import socket
import time

import pytest

from gatepost.aio.drive import INBOX_MAX, Wire, connect
from gatepost.aio.listen import Limits
from tests.aio.world import Journal, bound, listening, until
from tests.support.loop import run


async def echo(wire: Wire) -> None:
    while octets := await wire.read(time.monotonic() + 5):
        wire.write(octets)
        await wire.drain()


def test_what_is_written_is_read_and_the_end_is_empty() -> None:
    async def story() -> None:
        async with listening(echo) as (_, port):
            wire = await connect("127.0.0.1", port, timeout=5)
            wire.write(b"EHLO\r\n")
            assert await wire.read(time.monotonic() + 5) == b"EHLO\r\n"
            assert (wire.peer_ip, wire.peer_port, wire.local_ip) == ("127.0.0.1", port, "127.0.0.1")
            wire.close()
            assert await wire.read() == b""
            assert await wire.read() == b""

    run(story())


@pytest.mark.row("SMTP-14")
def test_a_read_ends_at_its_deadline_whatever_trickles_in() -> None:
    took: list[float] = []

    async def session(wire: Wire) -> None:
        start = time.monotonic()
        try:
            while await wire.read(start + 0.4):
                pass
        except TimeoutError:
            took.append(time.monotonic() - start)
            wire.write(b"421 4.4.2 too slow\r\n")

    async def story() -> None:
        async with listening(session) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(3):
                writer.write(b"N")
                await asyncio.sleep(0.05)
            assert await reader.read() == b"421 4.4.2 too slow\r\n"
            writer.close()

    run(story())
    assert 0.4 <= took[0] < 1.0


def test_a_peer_that_nobody_reads_is_held_back() -> None:
    async def story() -> None:
        wires: list[Wire] = []
        go = asyncio.Event()

        async def session(wire: Wire) -> None:
            wires.append(wire)
            await go.wait()
            size = 0
            while octets := await wire.read():
                size += len(octets)
            wire.write(b"%d" % size)

        async with listening(session) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes(20_000_000))
            await asyncio.sleep(0.3)
            assert INBOX_MAX <= len(wires[0]._inbox) <= INBOX_MAX + 262_144
            go.set()
            await writer.drain()
            writer.write_eof()
            assert await reader.read() == b"20000000"
            writer.close()

    run(story())


def test_drain_waits_for_a_slow_reader_and_ends_at_its_deadline() -> None:
    outcome: list[str] = []

    async def session(wire: Wire) -> None:
        wire.write(bytes(20_000_000))
        try:
            await wire.drain(time.monotonic() + 0.2)
        except TimeoutError:
            outcome.append("late")
            wire.abort()

    async def story() -> None:
        async with listening(session) as (_, port):
            client = socket.create_connection(("127.0.0.1", port))
            await until(lambda: outcome)
            client.close()

    run(story())
    assert outcome == ["late"]


class Tarpit:
    """Answers each octet upper-cased; tells what happened to it."""

    def __init__(self, wire: Wire, told: list[str]) -> None:
        self.wire, self.told = wire, told
        wire.attach(self)
        wire.wake_at(time.monotonic() + 0.1)

    def received(self, octets: bytes) -> None:
        self.told.append(octets.decode())
        self.wire.write(octets.upper())

    def due(self, steady: float) -> None:
        self.told.append("due")
        self.wire.write(b".")

    def lost(self) -> None:
        self.told.append("lost")


def test_a_session_is_called_back_for_octets_time_and_loss() -> None:
    told: list[str] = []

    def accept(wire: Wire) -> None:
        Tarpit(wire, told)

    async def story() -> None:
        async with listening(accept) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readexactly(1) == b"."
            writer.write(b"helo")
            assert await reader.readexactly(4) == b"HELO"
            writer.close()
            await until(lambda: listener.open == 0)

    run(story())
    assert told == ["due", "helo", "lost"]


def test_close_sends_what_was_written_even_to_one_who_still_talks() -> None:
    async def session(wire: Wire) -> None:
        await wire.read()
        wire.write(b"421 enough\r\n")
        await asyncio.sleep(0.1)  # more comes in meanwhile: without lingering the kernel would answer with a reset

    async def story() -> None:
        async with listening(session) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"a" * 100)
            await asyncio.sleep(0.05)
            writer.write(b"b" * 100_000)
            assert await reader.read() == b"421 enough\r\n"
            writer.close()

    run(story())


def test_a_peer_that_talks_on_after_our_end_still_reads_all_of_it() -> None:
    last = b"x" * 1_000_000

    async def session(wire: Wire) -> None:
        assert await wire.read() == b"QUIT\r\n"
        wire.write(last)

    async def story() -> None:
        async with listening(session) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"QUIT\r\n")
            read = await reader.readexactly(1)
            writer.write(b"NOOP\r\n" * 100)  # all was read, the server has closed: this is still on its way
            read += await reader.read()
            writer.write(b"NOOP\r\n")
            assert len(read) == len(last)
            assert listener.open == 1
            writer.close()
            await until(lambda: listener.open == 0)

    run(story())


def test_abort_resets() -> None:
    async def session(wire: Wire) -> None:
        await wire.read()
        wire.abort()

    async def story() -> None:
        async with listening(session) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(story())


def test_a_half_closed_peer_still_gets_its_answer() -> None:
    async def session(wire: Wire) -> None:
        octets = b""
        while more := await wire.read():
            octets += more
        wire.write(octets[::-1])

    async def story() -> None:
        async with listening(session) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"abc")
            writer.write_eof()
            assert await reader.read() == b"cba"
            writer.close()

    run(story())


def test_a_bug_in_a_session_is_logged_and_ends_that_connection_alone() -> None:
    journal = Journal()

    async def session(wire: Wire) -> None:
        if await wire.read() == b"bug":
            raise KeyError("bug")
        wire.write(b"fine")

    async def story() -> None:
        async with listening(session, journal=journal) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            other_reader, other = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"bug")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            other.write(b"ok")
            assert await other_reader.read() == b"fine"
            writer.close()
            other.close()

    run(story())
    assert [event for event, _ in journal.events] == ["session_failed"]


def test_limits_count_peers_and_minutes_and_all() -> None:
    async def hold(wire: Wire) -> None:
        wire.write(b"hi")
        await wire.read()

    async def greeted(port: int) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return await reader.read(4), writer

    async def story(limits: Limits, served: int, asked: int) -> None:
        async with listening(hold, limits=limits, busy=b"421 ") as (listener, port):
            answers = [await greeted(port) for _ in range(asked)]
            assert [answer for answer, _ in answers] == [b"hi"] * served + [b"421 "] * (asked - served)
            assert listener.refused == asked - served
            for _, writer in answers:
                writer.close()
            await until(lambda: listener.open == 0)
            assert not listener._peers

    run(story(Limits(total=3), 3, 4))
    run(story(Limits(total=0, per_peer=2, loopback_exempt=False), 2, 4))
    run(story(Limits(total=0, per_peer=0, per_peer_minute=3, loopback_exempt=False), 3, 4))
    run(story(Limits(total=0, per_peer=2), 4, 4))


@pytest.mark.row("REL-15")
def test_drain_says_goodbye_to_the_idle_and_waits_for_the_busy() -> None:
    async def session(wire: Wire) -> None:
        wire.goodbye = b"421 4.3.2 closing\r\n"
        wire.write(b"220\r\n")
        while octets := await wire.read():
            if octets == b"DATA":
                wire.goodbye = b""
                while await wire.read() != b".":
                    pass
                wire.write(b"250\r\n")
                wire.goodbye = b"421 4.3.2 closing\r\n"

    async def story() -> None:
        sock = bound()
        async with listening(session, sock=sock) as (listener, port):
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
            busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
            assert await idle.readline() == await busy.readline() == b"220\r\n"
            busy_writer.write(b"DATA")
            await asyncio.sleep(0.05)
            start = time.monotonic()
            async with asyncio.TaskGroup() as group:
                group.create_task(listener.drain(5))
                assert await idle.read() == b"421 4.3.2 closing\r\n"
                assert time.monotonic() - start < 1
                busy_writer.write(b"body")
                await asyncio.sleep(0.05)
                busy_writer.write(b".")
                assert await busy.read() == b"250\r\n421 4.3.2 closing\r\n"
            assert listener.open == 0
            idle_writer.close()
            busy_writer.close()

    run(story())


@pytest.mark.row("REL-15")
def test_a_client_that_came_for_something_is_left_a_moment_to_do_it() -> None:
    async def session(wire: Wire) -> None:
        wire.goodbye, wire.courtesy = b"421 ", 0.2
        wire.write(b"220 ")
        while await wire.read():
            wire.courtesy = 0.0
            wire.write(b"250 ")

    async def story() -> None:
        async with listening(session) as (listener, port):
            quick, quick_writer = await asyncio.open_connection("127.0.0.1", port)
            slow, slow_writer = await asyncio.open_connection("127.0.0.1", port)
            assert await quick.readexactly(4) == await slow.readexactly(4) == b"220 "
            async with asyncio.TaskGroup() as group:
                group.create_task(listener.drain(5))
                await asyncio.sleep(0)
                quick_writer.write(b"NOOP")
                assert await quick.read() == b"250 421 "
                assert await slow.read() == b"421 "
            quick_writer.close()
            slow_writer.close()

    run(story())


def test_who_was_just_accepted_when_the_drain_began_is_still_served() -> None:
    """An upgrade must not reset anybody: not the client whose session has not begun to run yet."""

    async def session(wire: Wire) -> None:
        wire.goodbye = b"421 "
        wire.write(b"220 ")
        assert await wire.read() == b""

    async def story() -> None:
        async with listening(session) as (listener, port):
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
            listener._ready()
            await listener.drain(5)
            for client in clients:
                assert client.recv(4) + client.recv(4) == b"220 421 "
                client.close()

    run(story())


def test_a_drain_without_grace_leaks_neither_sockets_nor_sessions() -> None:
    async def session(wire: Wire) -> None:
        await wire.read()

    async def story(turns: int) -> None:
        async with listening(session) as (listener, port):
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
            listener._ready()
            for _ in range(turns):
                await asyncio.sleep(0)
            await listener.drain(0)
            assert listener.open == 0
            for client in clients:
                client.close()

    for turns in range(4):
        run(story(turns))
    gc.collect()  # complains of what was left open


def test_drain_cuts_off_those_who_stay_beyond_its_grace() -> None:
    async def session(wire: Wire) -> None:
        await wire.read()

    async def story() -> None:
        async with listening(session) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: listener.open == 1)
            await listener.drain(0.1)
            assert listener.open == 0
            assert await reader.read() == b""
            writer.close()

    run(story())


@pytest.mark.row("SMTP-30")
def test_running_out_of_descriptors_pauses_accepting_and_nothing_else() -> None:
    journal = Journal()

    async def story() -> None:
        async with listening(echo, journal=journal) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: listener.open == 1)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            waiting = [socket.socket() for _ in range(4)]
            used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            try:
                filler = []
                with contextlib.suppress(OSError):
                    while True:
                        filler.append(os.dup(0))
                for client in waiting:
                    client.setblocking(False)
                    client.connect_ex(("127.0.0.1", port))
                await asyncio.sleep(0.1)
                cpu = time.process_time()
                await asyncio.sleep(0.4)
                writer.write(b"NOOP")
                assert await reader.readexactly(4) == b"NOOP"
                assert time.process_time() - cpu < 0.1
                assert listener.open == 1
                for descriptor in filler:
                    os.close(descriptor)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: listener.open == 5, within=5)
            for client in waiting:
                client.close()
            writer.close()

    run(story())
    assert [event for event, _ in journal.events] == ["accept_exhausted"]


def test_a_coroutine_may_leave_its_wire_to_a_callback_session() -> None:
    told: list[str] = []

    async def session(wire: Wire) -> None:
        await asyncio.sleep(0)  # it had to ask somebody
        Tarpit(wire, told)

    async def story() -> None:
        async with listening(session) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"a")
            await reader.readuntil(b"A")
            await until(lambda: not listener._tasks)
            writer.write(b"b")
            await reader.readuntil(b"B")
            writer.close()
            await until(lambda: not listener.open)
            assert "lost" in told

    run(story())
