"""The connections of mail, in a log of their own: what PF writes to pflog1 for spamlogd to read.

Every connection of a known sender that was let in on port 25, and every connection that we make to another mail
server, is a line:

    2026-11-23T17:05:09Z in  pass from white tables to smtp: in spamd-white: 192.0.2.7 > 198.51.100.1 port 25

Who is held is never in it: that would make spammers white. Lines wait in memory, LINES_MAX at most, and are written
by another thread. The file is opened for each batch: who renames it, to keep it short, need tell nobody (a SIGHUP
does no harm).
"""

import asyncio
import os
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gatepost.aio.offload import Overfull, offload
from gatepost.base.clock import MICROSECONDS, Clock, Instant
from gatepost.base.ports import Log

LINES_MAX: Final = 10_000
GATHER_S: Final = 1.0
RULE_MAX: Final = 200
MODE: Final = 0o640
SMTP: Final = 25


class PfLog:
    """The channel of one worker; several append to one file. An empty path keeps nothing."""

    def __init__(self, path: str, *, clock: Clock, log: Log) -> None:
        """Take the file; nothing is opened yet."""
        self._path = path
        self._clock = clock
        self._log = log
        self._lines: deque[str] = deque()
        self._more = asyncio.Event()
        self._writing = asyncio.Lock()
        self._failed = False
        self.forgotten = 0
        """Lines that found no place."""

    def __len__(self) -> int:
        return len(self._lines)

    def renew(self, path: str) -> None:
        """Take another file; what waits goes there."""
        self._path = path
        self._failed = False

    def passed(self, ip: str, dialled: str, port: int, rule: str) -> None:
        """A known sender connected, and was let in by a rule."""
        self._add("in ", rule, ip, dialled, port)

    def contacted(self, ip: str) -> None:
        """We connect to a mail server."""
        self._add("out", "pass out to any port smtp", "self", ip, SMTP)

    async def run(self) -> None:
        """Write until cancelled; then what is left."""
        try:
            while True:
                await self._more.wait()
                await asyncio.sleep(GATHER_S)
                await self.flush()
        finally:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; what cannot be written is lost, and the log says so once."""
        async with self._writing:
            self._more.clear()
            lines, self._lines = self._lines, deque()
            forgotten, self.forgotten = self.forgotten, 0
            if forgotten:
                self._log.warning("connection_log_full", forgotten=forgotten)
            if not lines or not self._path:
                return
            try:
                await offload(_append, Path(self._path), "".join(lines))
            except (OSError, Overfull) as error:
                if not self._failed:
                    self._log.error("connection_log_not_written", file=self._path, error=str(error))
                self._failed = True
                return
            self._failed = False

    def _add(self, direction: str, rule: str, source: str, target: str, port: int) -> None:
        if not self._path:
            return
        if len(self._lines) >= LINES_MAX:
            self.forgotten += 1
            return
        self._lines.append(line(self._clock.now(), direction, rule, source, target, port))
        self._more.set()


def line(now: Instant, direction: str, rule: str, source: str, target: str, port: int) -> str:
    """Return the line of one connection."""
    moment = datetime.fromtimestamp(now // MICROSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    shown = "".join(letter if letter.isprintable() else "?" for letter in rule[:RULE_MAX])
    return f"{moment} {direction} {shown}: {source} > {target} port {port}\n"


def _append(path: Path, text: str) -> None:
    """Append in one write, so that the lines of several workers never mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        left = memoryview(text.encode())
        while left:  # a disk that is nearly full takes a part
            left = left[file.write(left) :]
