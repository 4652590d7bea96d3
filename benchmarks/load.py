"""A load client for SMTP: N sessions over one selector loop, each from its own loopback source.

    python benchmarks/load.py --port 2525 --rcpt joe@gate.example --mails 2000 --sessions 10 --sources 64

Prints one JSON object: mails, seconds, rate, its own CPU, and the latency of the final reply in milliseconds. A
session sends EHLO once, then per mail MAIL, RCPT and DATA in one segment, the body, and reads the answers.
"""

import argparse
import itertools
import json
import resource
import selectors
import socket
import statistics
import time
from dataclasses import dataclass

LINE = b"The quick brown fox jumps over the lazy dog and goes on to the next line.\r\n"


def message(size: int, number: int) -> bytes:
    """Return a mail of about `size` octets with a Message-ID of its own."""
    head = (
        f"From: <load@sender.example>\r\nTo: <joe@gate.example>\r\nSubject: load {number}\r\n"
        f"Date: Mon, 23 Nov 2026 08:00:00 +0000\r\nMessage-ID: <{number}.load@sender.example>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    ).encode()
    return head + LINE * max(1, (size - len(head)) // len(LINE))


@dataclass
class Session:
    """One connection: which answer it waits for, and since when its mail is under way."""

    sock: socket.socket
    state: str = "banner"
    buffer: bytes = b""
    began: float = 0.0
    pending: bytes = b""
    answers: int = 0
    mails: int = 0


class Load:
    """All sessions of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._numbers = itertools.count()
        self._left = options.mails
        self._selector = selectors.DefaultSelector()
        self._rcpts = options.rcpt.split(",")
        self._bodies = [message(options.size, number) + b".\r\n" for number in range(64)]
        self._sources = itertools.count()
        self.latencies: list[float] = []
        self.done = self.failed = 0

    def run(self) -> dict[str, float]:
        """Send all mails; return the figures."""
        began = time.perf_counter()
        for _ in range(self._options.sessions):
            self._open()
        while self._selector.get_map():
            for key, _ in self._selector.select(30):
                self._read(key.data)
        took = time.perf_counter() - began
        usage = resource.getrusage(resource.RUSAGE_SELF)
        ordered = sorted(self.latencies)
        return {
            "mails": self.done,
            "failed": self.failed,
            "seconds": round(took, 3),
            "rate": round(self.done / took, 1),
            "client_cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "p50_ms": round(statistics.median(ordered), 2),
            "p99_ms": round(ordered[int(len(ordered) * 0.99) - 1], 2),
        }

    def _open(self) -> None:
        options = self._options
        sock = socket.socket()
        if options.sources > 1:
            sock.bind((f"127.0.2.{1 + next(self._sources) % options.sources}", 0))
        sock.connect((options.host, options.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, Session(sock))

    def _read(self, session: Session) -> None:
        octets = session.sock.recv(65536)
        if not octets:
            raise ConnectionError(f"the server closed the connection in {session.state}")
        session.buffer += octets
        while b"\n" in session.buffer:
            line, _, session.buffer = session.buffer.partition(b"\n")
            if line[3:4] != b"-" and not self._answer(session, line):
                return

    def _answer(self, session: Session, line: bytes) -> bool:
        """Go on after one final reply line; False when the session has ended."""
        match session.state:
            case "banner":
                session.sock.sendall(b"EHLO load.example\r\n")
                session.state = "hello"
            case "hello":
                return self._next(session)
            case "envelope":
                session.answers += 1
                if session.answers == 3:
                    if not line.startswith(b"354"):
                        raise ConnectionError(line.decode("utf-8", "replace"))
                    session.sock.sendall(session.pending)
                    session.state = "final"
            case "final":
                self.latencies.append((time.perf_counter() - session.began) * 1000)
                self.done += line.startswith(b"250")
                self.failed += not line.startswith(b"250")
                return self._next(session)
        return True

    def _next(self, session: Session) -> bool:
        if not self._left or session.mails >= self._options.per_session:
            session.sock.sendall(b"QUIT\r\n")
            self._selector.unregister(session.sock)
            session.sock.close()
            if self._left:
                self._open()
            return False
        self._left -= 1
        session.mails += 1
        number = next(self._numbers)
        rcpt = self._rcpts[number % len(self._rcpts)]
        session.began = time.perf_counter()
        session.answers = 0
        session.pending = self._bodies[number % 64]
        session.sock.sendall(b"MAIL FROM:<load@sender.example>\r\nRCPT TO:<%b>\r\nDATA\r\n" % rcpt.encode())
        session.state = "envelope"
        return True


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rcpt", default="joe@gate.example", help="recipients, parted by commas")
    parser.add_argument("--mails", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--sources", type=int, default=64)
    parser.add_argument("--size", type=int, default=5120)
    parser.add_argument("--per-session", type=int, default=100, help="mails on one connection")
    print(json.dumps(Load(parser.parse_args()).run()))


if __name__ == "__main__":
    main()
