"""A next hop that takes everything and keeps nothing: for benchmarks of the way out.

    python benchmarks/sink.py --port 2526            answers each line `count` or `times` on stdin with JSON
    python benchmarks/sink.py --port 2527 --dead     accepts connections and never says a word

`times` are those of the monotonic clock, which all processes share, by the number in `Subject: load NUMBER`.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, cast

import uvloop

SUBJECT: Final = re.compile(rb"^Subject: load (\d+)", re.MULTILINE)
HELLO: Final = (
    b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 104857600\r\n"
)


class Taker(asyncio.Protocol):
    """One connection; `taken` is shared by all."""

    def __init__(self, taken: dict[int, float], counted: list[int], *, dead: bool) -> None:
        self._taken = taken
        self._counted = counted
        self._dead = dead
        self._buffer = b""
        self._body = self._leaving = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._dead:
            self._transport.write(b"220 sink.example ESMTP\r\n")

    def data_received(self, octets: bytes) -> None:
        """Take lines or a body."""
        if self._dead:
            return
        self._buffer += octets
        answers = b""
        while True:
            if self._body:
                end = self._buffer.find(b"\r\n.\r\n")
                if end < 0:
                    break
                found = SUBJECT.search(self._buffer, 0, min(end, 4096))
                if found:
                    self._taken[int(found[1])] = time.monotonic()
                self._counted[0] += 1
                self._buffer = self._buffer[end + 5 :]
                self._body = False
                answers += b"250 2.0.0 taken\r\n"
                continue
            line, parted, rest = self._buffer.partition(b"\r\n")
            if not parted:
                break
            self._buffer = rest
            answers += self._answer(line[:4].upper())
        if answers:
            self._transport.write(answers)
        if self._leaving:
            self._transport.close()

    def _answer(self, verb: bytes) -> bytes:
        match verb:
            case b"EHLO":
                return HELLO
            case b"DATA":
                self._body = True
                return b"354 go on\r\n"
            case b"QUIT":
                self._leaving = True
                return b"221 2.0.0 bye\r\n"
            case _:
                return b"250 2.0.0 ok\r\n"


class Sink:
    """A sink in a process of its own."""

    def __init__(self, port: int, *, dead: bool = False) -> None:
        self.port = port
        words = [sys.executable, str(Path(__file__)), "--port", str(port), *(["--dead"] if dead else [])]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("count")  # answered when it listens

    def ask(self, what: str) -> object:
        """Return the count, or the times by number (which are then forgotten)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def count(self) -> int:
        """Return how many mails were taken."""
        return int(str(self.ask("count")))

    def times(self) -> dict[int, float]:
        """Return when each mail was taken, since the last call."""
        return {int(number): when for number, when in cast("dict[str, float]", self.ask("times")).items()}

    def stop(self) -> None:
        """End."""
        self._process.terminate()
        self._process.wait(20)


async def serve(port: int, *, dead: bool) -> None:
    """Take mails and questions until stdin ends."""
    taken: dict[int, float] = {}
    counted = [0]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Taker(taken, counted, dead=dead), "127.0.0.1", port, backlog=1000)
    questions = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    async with server:
        while line := await questions.readline():
            if line.strip() == b"times":
                print(json.dumps(taken), flush=True)
                taken.clear()
            else:
                print(counted[0], flush=True)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dead", action="store_true")
    options = parser.parse_args()
    uvloop.run(serve(options.port, dead=options.dead))


if __name__ == "__main__":
    main()
