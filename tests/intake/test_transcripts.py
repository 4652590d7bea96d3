"""The SMTP transcripts: in memory, whole and octet by octet; over TCP and TLS; the same files for every server."""

import asyncio
import socket
from pathlib import Path

import pytest

from gatepost.aio.listen import Limits, Listener
from gatepost.aio.tls import Pair, TlsHolder, self_signed, write_pair
from gatepost.intake.ports import Services
from tests.intake.world import SERVE, World, world
from tests.support.loop import run
from tests.support.transcript import MemoryPeer, Transcript, named, play, play_over_tcp, read, transcripts
from tests.support.wire import START, MemoryWire

FOLDER = Path(__file__).parent.parent / "transcripts" / "smtp"
ALL = transcripts(FOLDER)
each_transcript = pytest.mark.parametrize("transcript", ALL, ids=named(ALL))


@each_transcript
@pytest.mark.parametrize("octets_at_once", [1 << 20, 1])
def test_a_transcript_in_memory(transcript: Transcript, octets_at_once: int) -> None:
    async def scene() -> None:
        async with world() as here, asyncio.TaskGroup() as group:
            wire = MemoryWire(here.clock)
            group.create_task(SERVE[transcript.facts.get("port", "mx")](wire, here.services))
            try:
                await play(transcript, MemoryPeer(wire), octets_at_once=octets_at_once)
            finally:
                wire.hang_up()
            assert here.log.events("intake_failed") == []

    run(scene())


def listen(here: World, services: Services, port: str, sock: socket.socket) -> Listener:
    """Serve a port of a server on a listening socket."""
    listener = Listener(
        sock,
        lambda wire: SERVE[port](wire, services),
        limits=Limits(),
        name=port,
        log=here.log,
    )
    listener.start()
    return listener


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TlsHolder:
    folder = tmp_path_factory.mktemp("tls")
    pair = Pair(folder / "cert.pem", folder / "key.pem")
    write_pair(pair, *self_signed(("mx.example",), START))
    return TlsHolder((pair,), START)


@pytest.mark.process
def test_all_transcripts_over_tcp_and_tls(certificates: TlsHolder) -> None:
    async def scene() -> None:
        async with world() as here:
            services = here.real(certificates)
            for port in SERVE:
                with socket.create_server(("127.0.0.1", 0)) as sock:
                    listener = listen(here, services, port, sock)
                    for transcript in ALL:
                        if transcript.facts.get("port", "mx") == port and "only" not in transcript.facts:
                            await play_over_tcp(transcript, *sock.getsockname())
                    await listener.drain(1.0)
            assert here.log.events("intake_failed") == here.log.events("session_failed") == []

    run(scene())


def test_a_transcript_that_differs_is_told_with_its_step(tmp_path: Path) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text("s: 220 …\nc: NOOP\ns: 251 …\n")

    async def scene() -> None:
        async with world() as here, asyncio.TaskGroup() as group:
            wire = MemoryWire(here.clock)
            group.create_task(SERVE["mx"](wire, here.services))
            with pytest.raises(AssertionError, match=r"wrong\.txt, step 3: .* heard b'250 2\.0\.0 Ok'"):
                await play(read(path), MemoryPeer(wire))
            wire.hang_up()

    run(scene())


def test_a_line_that_belongs_to_no_transcript_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text("s: 220\nclient says something\n")
    with pytest.raises(ValueError, match=r"wrong\.txt:2"):
        read(path)
