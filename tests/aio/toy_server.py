"""The workers and keepers of the toy server."""

import asyncio
import os
import time
from pathlib import Path

from gatepost.aio import worker
from gatepost.aio.drive import Wire
from gatepost.aio.generation import Program, Ready, Slot, Sockets
from gatepost.aio.listen import Limits, Listener
from gatepost.aio.process import EventLines

FREE = Limits(total=0, per_peer=0, per_peer_minute=0)


def program(folder: Path) -> Program:
    return Program(
        worker=lambda slot, sockets, ready: serve_worker(folder, slot, sockets, ready),
        keeper=lambda name, generation, ready: serve_keeper(folder, name, generation, ready),
    )


def serve_worker(folder: Path, slot: Slot, sockets: Sockets, ready: Ready) -> None:
    version = (folder / "version").read_text()
    marks = {"reloads": 0}
    stop = asyncio.Event()

    async def session(wire: Wire) -> None:
        wire.goodbye = b"421 bye\r\n"
        facts = f"{slot.generation} {slot.index} {os.getpid()} {version} {marks['reloads']} {slot.mint}"
        wire.write(facts.encode() + b"\r\n")
        while octets := await wire.read(time.monotonic() + 30):
            if octets == b"hold\r\n":
                wire.goodbye = b""
            wire.write(octets)

    def on_hup() -> None:
        marks["reloads"] += 1

    async def main() -> None:
        listeners = [
            Listener(sock, session, limits=FREE, name=name, log=EventLines())
            for name, own in sockets.items()
            for sock in own
        ]
        for listener in listeners:
            listener.start()
        ready()
        await stop.wait()
        async with asyncio.TaskGroup() as group:
            for listener in listeners:
                group.create_task(listener.drain(2))

    worker.run(main, on_term=stop.set, on_hup=on_hup, log=EventLines())


def serve_keeper(folder: Path, name: str, generation: int, ready: Ready) -> None:
    stop = asyncio.Event()

    async def main() -> None:
        (folder / f"keeper-{name}-{generation}").write_text(str(os.getpid()))
        ready()
        await stop.wait()

    worker.run(main, on_term=stop.set, on_hup=lambda: None, log=EventLines())
