"""Hold a grey or black client: spamd's dialogue, one letter at a time.

A session is a callback object on its wire, with no task of its own and one deadline: 10,000 of them cost memory,
not time. Each piece of output waits `stutter` before its first letter; then one letter a `stutter`. A grey client
is spoken to at full speed once it has been here for longer than `grey_stutter`. When the place is nearly full, a
whole piece is written at once, still after its delay; in TLS always, for a letter would be a record of its own.
"""

import ssl
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Final, Protocol

from gatepost.aio.wheel import TICK
from gatepost.codec.spamd.dialogue import (
    Body,
    Dialogue,
    Event,
    Flooded,
    Header,
    Offer,
    Phase,
    Say,
    StartTls,
    TooEarly,
)

NEARLY_FULL: Final = 5  # places left: from here on whole pieces are written (spamd.c)
SERVED: Final = 1_000  # sessions of the mail server that must find a descriptor beside the held ones
RESERVE: Final = 256  # descriptors for everything else: databases, spools, listeners, deliveries


def places(wanted: int, descriptors: int) -> int:
    """Return how many connections a worker may hold that has so many descriptors: the mail server comes first.

    Where descriptors are few, the tarpit gets a quarter of them. spamd leaves 200 (its -c).
    """
    return min(wanted, max(descriptors - SERVED - RESERVE, descriptors // 4))


class Connection(Protocol):
    """The wire, as far as a held session needs it."""

    peer_ip: str
    local_ip: str

    def attach(self, session: "Held") -> None: ...
    def write(self, octets: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def wake_at(self, steady: float) -> None: ...
    def start_tls(self, context: ssl.SSLContext) -> None: ...


class Contexts(Protocol):
    """Where the TLS context of the next handshake comes from: `aio.tls.TlsHolder`."""

    @property
    def context(self) -> ssl.SSLContext: ...


class House(Protocol):
    """What the sessions of one worker share."""

    def steady(self) -> float: ...
    def soon(self, delay: float, call: Callable[[], None]) -> None: ...
    def nearly_full(self) -> bool: ...
    def offered(self, session: "Held", offer: Offer) -> None: ...
    def overheard(self, session: "Held", event: Header | Body) -> None: ...
    def too_early(self, session: "Held") -> None: ...
    def left(self, session: "Held") -> None: ...


class Stance(Enum):
    """How a client is met."""

    GREY = "grey"
    BLACK = "black"
    SUSPECT = "suspect"
    """Grey, but it gave itself away: stuttered at to its end, and not remembered."""


class Held:
    """One held client (an aio Session)."""

    __slots__ = (
        "_at",
        "_dialogue",
        "_due",
        "_gone",
        "_grey_stutter",
        "_house",
        "_out",
        "_stutter",
        "_timeout",
        "_tls",
        "_wire",
        "began",
        "dialled",
        "ip",
        "lists",
        "sender",
        "stance",
    )

    def __init__(
        self,
        wire: Connection,
        dialogue: Dialogue,
        house: House,
        *,
        ip: str,
        sender: str,
        dialled: str,
        lists: tuple[str, ...],
        stutter: float,
        grey_stutter: float,
        timeout: float,
        tls: Contexts | None = None,
    ) -> None:
        """Make it; `tls` must be there where the dialogue offers STARTTLS."""
        self._wire = wire
        self._dialogue = dialogue
        self._house = house
        self._out = b""
        self._at = 0
        self._stutter = _one(stutter)
        self._grey_stutter = _one(grey_stutter)
        self._timeout = _one(timeout)
        self._tls = tls
        self._gone = False
        self.ip = ip
        self.sender = ip if sender == ip else sender  # one text, not two
        self.dialled = dialled
        self.lists = lists
        self.stance = Stance.BLACK if dialogue.black else Stance.GREY
        self.began = self._due = house.steady()

    def banner(self, date: str, name: str) -> bytes:
        """Return what to begin with."""
        return self._dialogue.greet(date, name)

    def begin(self, banner: bytes) -> None:
        """Say the banner; the wire must be attached."""
        self._act([Say(banner)])

    def received(self, octets: bytes) -> None:
        """Take what the client sent."""
        in_body = self._dialogue.phase is Phase.BODY
        self._act(self._dialogue.receive(octets))
        if in_body and b"\n" in octets and not self._out:
            self._wait()

    def due(self, steady: float) -> None:
        """Write the next letter, or give up on a silent client."""
        if steady < self._due:
            self._wire.wake_at(self._due)
        elif self._out:
            self._go_on(steady)
        else:
            self._wire.close()

    def lost(self) -> None:
        """The connection is gone."""
        self._out = b""
        self._gone = True
        self._house.left(self)

    def cut_off(self) -> None:
        """End it now."""
        self._wire.abort()

    def refuse(self) -> None:
        """Say no to its first command, and end."""
        self._dialogue.refuse_early()

    def _act(self, events: list[Event]) -> None:
        """Act on events until something must be said slowly, or the client is to speak."""
        at_once: list[bytes] = []
        while events:
            if at_once and isinstance(events[0], StartTls):  # the go-ahead is still in clear
                self._wire.write(b"".join(at_once))
                at_once = [b""]
            say = self._tell(events)
            if say is None:
                break
            steady = self._house.steady()
            if pause := self._pause(steady):
                self._out, self._at, self._due = say.octets, 0, steady + pause
                break
            at_once.append(say.octets)
            events = [] if say.close else self._dialogue.said()
        if at_once:
            self._wire.write(b"".join(at_once))
        if self._out:
            self._wake(self._stutter)
        elif self._dialogue.over:
            self._wire.close()
        elif at_once:
            self._wait()

    def _tell(self, events: list[Event]) -> Say | None:
        """Tell the house what it wants to know; return what is to be said."""
        say: Say | None = None
        for event in events:
            match event:
                case Say():
                    say = event
                case Offer():
                    self._house.offered(self, event)
                case Header() | Body():
                    self._house.overheard(self, event)
                case TooEarly():
                    self._house.too_early(self)
                case StartTls():
                    assert self._tls is not None
                    self._wire.start_tls(self._tls.context)
                case Flooded():
                    self._wire.abort()
        return say

    def _go_on(self, steady: float) -> None:
        """Say the next letter of a piece, or all that is left."""
        pause = self._pause(steady)
        if pause and not self._house.nearly_full() and not self._dialogue.in_tls:
            end = self._at + 1
            self._wire.write(self._out[self._at : end])
        else:
            end = len(self._out)
            self._wire.write(self._out[self._at :])
        if end < len(self._out):
            self._at = end
            # Its own beat, also after a stall: were all due at once then, they would be so ever after.
            self._due += pause * ((steady - self._due) // pause + 1)
            self._wake(self._due - steady)
            return
        self._out = b""
        if self._dialogue.over:
            self._wire.close()
            return
        self._act(self._dialogue.said())
        if not self._out and not self._dialogue.over:
            self._wait()

    def _wait(self) -> None:
        """Wait for the client; what it sends before its line ends does not make the time longer."""
        self._due = self._house.steady() + self._timeout
        self._wire.wake_at(self._due)

    def _wake(self, pause: float) -> None:
        if self._stutter >= TICK:
            self._wire.wake_at(self._due)
        else:  # finer than the wheel: a demonstration
            self._house.soon(pause, self._soon)

    def _soon(self) -> None:
        if self._out and not self._gone:
            self._go_on(self._house.steady())

    def _pause(self, steady: float) -> float:
        if self._stutter and self.stance is Stance.GREY and steady > self.began + self._grey_stutter:
            self._stutter = 0.0
        return self._stutter


@lru_cache(maxsize=64)
def _one(length: float) -> float:
    """Return the one object for a length of time: of 18,000 sessions each octet costs 18 KB."""
    return length
