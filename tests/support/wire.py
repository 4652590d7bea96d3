"""A connection in memory with the methods of `aio.drive.Wire`, and a clock that moves when a test says so."""

import asyncio
import ssl

from gatepost.base.clock import Instant, later, seconds
from gatepost.base.envelope import Tls

START = Instant(1_795_420_800_000_000)  # 2026-11-23 08:00 UTC
TLS = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
PATIENCE = 20.0  # real seconds until a test that waits for a session is told that it hangs


class MovedClock:
    """Both clocks of a process, standing still between `move`s."""

    def __init__(self) -> None:
        self._passed = 0.0

    def now(self) -> Instant:
        """Return the wall clock."""
        return later(START, seconds(self._passed))

    def steady(self) -> float:
        """Return the steady clock."""
        return 1000.0 + self._passed

    def move(self, passed: float) -> None:
        """Let seconds pass."""
        self._passed += passed

    async def pause(self, passed: float) -> None:
        """Wait without waiting."""
        self.move(passed)


class MemoryWire:
    """The server's end is what a session calls; `send`, `hang_up`, `look` and `settle` are the client's."""

    def __init__(self, clock: MovedClock, *, peer_ip: str = "192.0.2.9", tls: bool = False) -> None:
        self.peer_ip, self.peer_port = peer_ip, 50_000
        self.local_ip, self.local_port = "192.0.2.1", 25
        self.tls = TLS if tls else None
        self.goodbye = b""
        self.courtesy = 0.0
        self.leaving = False
        self.closed = False
        self.reset = False
        self.contexts: list[ssl.SSLContext] = []
        self._clock = clock
        self._inbox = b""
        self._said = b""
        self._ended = False
        self._shaking = False
        self._reader: asyncio.Future[None] | None = None
        self._deadline: float | None = None
        self._quiet = asyncio.Event()

    # The session's side

    async def read(self, deadline: float | None = None) -> bytes:
        """Return what came in; b"" at the end."""
        if not self._inbox:
            if self.leaving:
                self._take_leave()
            if self._ended or self.closed:
                return b""
            self._deadline = deadline
            self._reader = asyncio.get_running_loop().create_future()
            self._quiet.set()
            try:
                await self._reader
            finally:
                self._reader = None
                self._deadline = None
        octets, self._inbox = self._inbox, b""
        return octets

    def write(self, octets: bytes) -> None:
        """Keep what the session says."""
        if not self.closed:
            self._said += octets

    async def drain(self, deadline: float | None = None) -> None:
        """Raise when the client has reset the connection."""
        if self.reset:
            raise ConnectionResetError("the connection is lost")

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Pretend a handshake: what has come before it aborts."""
        assert self.tls is None
        if self._inbox:
            self.abort()
            return
        self.contexts.append(context)
        self.tls = TLS

    def close(self) -> None:
        """End the connection."""
        self.closed = True
        self._quiet.set()

    def abort(self) -> None:
        """End it at once."""
        self.close()

    # The client's side

    @property
    def waiting(self) -> bool:
        """Tell whether the session waits for octets."""
        return self._reader is not None

    def send(self, octets: bytes) -> None:
        """Say something to the session."""
        self._inbox += octets
        self._wake()

    def hang_up(self) -> None:
        """End the connection from the client's side; what was sent may still be read."""
        self._ended = True
        self._wake()

    def break_off(self) -> None:
        """Reset the connection: what the session says from now on reaches nobody."""
        self.reset = True
        self.hang_up()

    def dismiss(self) -> None:
        """Ask the session to leave, as a server does that drains."""
        self.leaving = True
        if self.waiting and not self._inbox:
            self._take_leave()
            if self.closed:
                self._wake()

    def tick(self) -> None:
        """Let a read whose deadline has passed time out."""
        if self._reader is not None and self._deadline is not None and self._clock.steady() >= self._deadline:
            self._quiet.clear()
            self._reader.set_exception(TimeoutError("the peer took too long"))

    def look(self) -> bytes:
        """Return what the session has said since the last look."""
        said, self._said = self._said, b""
        return said

    async def settle(self) -> None:
        """Wait until the session waits for octets or has ended."""
        async with asyncio.timeout(PATIENCE):
            await self._quiet.wait()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._quiet.clear()
            self._reader.set_result(None)

    def _take_leave(self) -> None:
        if self.goodbye and not self.courtesy:
            self.write(self.goodbye)
            self.close()
