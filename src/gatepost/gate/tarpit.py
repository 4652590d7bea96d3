"""Hold a grey or black client: spamd's dialogue, one letter at a time.

A session is a callback object on its wire, with no task of its own and one deadline: 10,000 of them cost memory,
not time. Each piece of output waits `stutter` before its first letter; then one letter a `stutter`. A grey client
is spoken to at full speed once it has been here for `grey_stutter`. Under TLS, or when the place is nearly full, a
whole piece is written at once, still after its delay.
"""

from collections import deque
from typing import Final, Protocol

from gatepost.codec.spamd.dialogue import Dialogue, Header, Offer, Say

NEARLY_FULL: Final = 5  # places left: from here on whole pieces are written


class Connection(Protocol):
    """The wire, as far as a held session needs it."""

    peer_ip: str

    def write(self, octets: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def wake_at(self, steady: float) -> None: ...


class House(Protocol):
    """What the sessions of one worker share."""

    held: int
    black: int

    def steady(self) -> float: ...
    def offered(self, session: "Held", offer: Offer) -> None: ...
    def header_seen(self, session: "Held", line: bytes) -> None: ...
    def left(self, session: "Held") -> None: ...
    def nearly_full(self) -> bool: ...


class Held:
    """One held client (an aio Session)."""

    __slots__ = (
        "_closing",
        "_dialogue",
        "_due",
        "_house",
        "_idle_at",
        "_out",
        "_quick",
        "_stutter",
        "_timeout",
        "_wire",
        "began",
        "dialled",
        "ip",
        "lists",
    )

    def __init__(
        self,
        wire: Connection,
        dialogue: Dialogue,
        house: House,
        *,
        ip: str,
        dialled: str,
        lists: tuple[str, ...],
        stutter: float,
        quick_after: float | None,
        timeout: float,
    ) -> None:
        self._wire = wire
        self._dialogue = dialogue
        self._house = house
        self._out: deque[bytes] = deque()
        self._closing = False
        self._stutter = stutter
        self._timeout = timeout
        self.ip = ip
        self.dialled = dialled
        self.lists = lists
        self.began = house.steady()
        self._quick = None if quick_after is None else self.began + quick_after
        self._due = 0.0
        self._idle_at = self.began + timeout

    def greet(self, banner: bytes) -> None:
        """Begin."""
        self._say(banner)

    @property
    def black(self) -> bool:
        """Tell whether the client is on a list."""
        return self._dialogue.black

    def received(self, octets: bytes) -> None:
        """Take what the client sent."""
        if self._closing:
            return
        if b"\n" in octets:
            self._idle_at = self._house.steady() + self._timeout
        for event in self._dialogue.receive(octets):
            match event:
                case Say(octets=said, close=close):
                    self._closing |= close
                    self._say(said)
                case Offer():
                    self._house.offered(self, event)
                case Header(line=line):
                    self._house.header_seen(self, line)

    def due(self, steady: float) -> None:
        """Write the next letter, or give up on a silent client."""
        if not self._out:
            if steady >= self._idle_at:
                self._wire.abort()
            else:
                self._wire.wake_at(self._idle_at)
            return
        if steady < self._due:
            self._wire.wake_at(self._due)
            return
        self._write(steady)

    def lost(self) -> None:
        """The connection is gone."""
        self._out.clear()
        self._house.left(self)

    def _say(self, octets: bytes) -> None:
        self._out.append(octets)
        if len(self._out) == 1:
            self._begin(self._house.steady())

    def _begin(self, steady: float) -> None:
        """Schedule the first letter of the piece that is next."""
        pause = self._pause(steady)
        if pause == 0:
            self._write(steady)
            return
        self._due = steady + pause
        self._wire.wake_at(self._due)

    def _write(self, steady: float) -> None:
        pause = self._pause(steady)
        while self._out:
            piece = self._out[0]
            if pause == 0 or self._house.nearly_full():
                self._wire.write(piece)
                self._out.popleft()
                continue
            self._wire.write(piece[:1])
            if len(piece) > 1:
                self._out[0] = piece[1:]
            else:
                self._out.popleft()
            break
        if self._out:
            self._due = steady + pause
            self._wire.wake_at(self._due)
            return
        self._idle_at = steady + self._timeout
        if self._closing:
            self._wire.close()
        else:
            self._wire.wake_at(self._idle_at)

    def _pause(self, steady: float) -> float:
        if self._quick is not None and steady >= self._quick:
            self._stutter = 0.0
        return self._stutter
