"""One BGP session from its TCP connection to its end (RFC 4271 §8), without the connection.

    OpenSent --(OPEN: KEEPALIVE is sent)--> OpenConfirm --(KEEPALIVE)--> Established --> Idle
        `-----------------------(NOTIFICATION, errors, timers, stop)----------------------^

Connect and Active are the driver's: a session exists once there is a connection, and begins with our OPEN.

    session = Session(local, peer, now)
    send(session.output())
    for event in session.receive(octets, now): ...     # after each call there may be output
    session.deadline                                   # when to call due(now), if nothing comes before
    session.lost("reset by peer")                      # the connection ended by itself

Nothing is ever announced. An End-of-RIB is sent to neighbours that know of graceful restart, for they may wait
for it (RFC 4724 §4.1). Whatever octets come: events or `Ended`, never another exception.
"""

from typing import Final

from gatepost.codec.bgp.message import (
    HEADER,
    KEEPALIVE,
    Broken,
    Cease,
    Code,
    Kind,
    frame,
    notification_text,
    read_header,
    shutdown_data,
)
from gatepost.codec.bgp.open import check_open, read_open, write_open
from gatepost.codec.bgp.types import (
    Afi,
    Capabilities,
    Counts,
    Ended,
    Established,
    Event,
    Local,
    Peer,
    RefreshAsked,
    State,
)
from gatepost.codec.bgp.update import Terms, Updates

OPEN_TIME: Final = 240.0  # s until an OPEN must have come (RFC 4271 §8.2.2: "a large value")

_OTHER_STATES: Final = {State.OPEN_SENT: 1, State.OPEN_CONFIRM: 2, State.ESTABLISHED: 3}  # RFC 6608 §3
_UNICAST: Final = 1


class Session:
    """See the module's words. `remote_id` is 0 until an OPEN came; `ended` is set with the last event."""

    def __init__(self, local: Local, peer: Peer, now: float) -> None:
        """Begin with our OPEN; `now` is in seconds of a clock that never steps."""
        self.state = State.OPEN_SENT
        self.deadline: float | None = now + OPEN_TIME
        self.sent = Counts()
        self.received = Counts()
        self.remote_id = 0
        self.capabilities = Capabilities()
        self.families: frozenset[Afi] = frozenset()
        self.hold_time = 0
        self.ended: Ended | None = None
        self._local = local
        self._peer = peer
        self._octets = b""
        self._output: list[bytes] = []
        self._updates: Updates
        self._heard = now
        self._kept = now
        self._send(Kind.OPEN, write_open(local))

    def receive(self, octets: bytes, now: float) -> list[Event]:
        """Take what came; return what it says. After `Ended` nothing is taken."""
        events: list[Event] = []
        if self.ended is not None:
            return events
        held = self._octets + octets if self._octets else octets
        at, size = 0, len(held)
        try:
            while size - at >= HEADER:
                length, kind = read_header(held, at)
                if size - at < length:
                    break
                body = held[at + HEADER : at + length]
                at += length
                if kind == Kind.UPDATE and self.state is State.ESTABLISHED:
                    self.received.updates += 1
                    self._heard = now
                    events += self._updates.read(body)
                else:
                    self._take(Kind(kind), body, now, events)
                    if kind == Kind.NOTIFICATION:
                        return events
        except Broken as broken:
            events.append(self._break(broken))
            return events
        self._octets = held[at:]
        self._set_deadline()
        return events

    def due(self, now: float) -> list[Event]:
        """Act on the time that it is: a KEEPALIVE, or the end of a neighbour that was silent for too long."""
        if self.ended is not None or self.deadline is None or now < self.deadline:
            return []
        if self.state is State.OPEN_SENT:
            return [self._break(Broken(Code.HOLD_TIMER, 0, text="no OPEN came"))]
        if now >= self._heard + self.hold_time:
            return [self._break(Broken(Code.HOLD_TIMER, 0))]
        self._keep_alive(now)
        return []

    def output(self) -> bytes:
        """Return what is to be sent, once."""
        octets = b"".join(self._output)
        self._output.clear()
        return octets

    def stop(self, code: int = Code.CEASE, subcode: int = Cease.SHUTDOWN, text: str = "") -> list[Event]:
        """End the session with a NOTIFICATION; `text` is for the operator there (RFC 9003)."""
        if self.ended is not None:
            return []
        spoken = code == Code.CEASE and subcode in (Cease.SHUTDOWN, Cease.RESET)
        return [self._break(Broken(code, subcode, shutdown_data(text) if spoken else b"", text))]

    def lost(self, text: str = "") -> list[Event]:
        """Learn that the connection ended; the neighbour may have asked to keep its routes then (RFC 4724 §4.2)."""
        if self.ended is not None:
            return []
        return [self._end(Ended(False, 0, 0, text, self._keeps_routes()))]

    def refresh(self, afi: Afi) -> bool:
        """Ask that all of a family be announced anew (RFC 2918); False where the neighbour cannot."""
        if not self._is_up() or not self.capabilities.route_refresh or afi not in self.families:
            return False
        self._send(Kind.ROUTE_REFRESH, frame(Kind.ROUTE_REFRESH, afi.to_bytes(2) + bytes((0, _UNICAST))))
        return True

    # --- messages -------------------------------------------------------------------------------------------

    def _take(self, kind: Kind, body: bytes, now: float, events: list[Event]) -> None:
        """Take any message but an UPDATE in Established; raises Broken."""
        _count(self.received, kind)
        match self.state, kind:
            case _, Kind.NOTIFICATION:
                events.append(self._notified(body))
            case State.OPEN_SENT, Kind.OPEN:
                self._opened(body, now)
            case State.OPEN_CONFIRM, Kind.KEEPALIVE:
                events.append(self._establish(now))
            case State.ESTABLISHED, Kind.KEEPALIVE:
                self._heard = now
            case State.ESTABLISHED, Kind.ROUTE_REFRESH:
                self._heard = now
                events += self._asked(body)
            case _:
                text = f"{kind.name} in {self.state.value}"
                raise Broken(Code.FSM, _OTHER_STATES[self.state], bytes((kind,)), text)  # RFC 6608 §4

    def _opened(self, body: bytes, now: float) -> None:
        theirs = read_open(body)
        self.families = check_open(theirs, self._local, self._peer)
        self.remote_id = theirs.bgp_id
        self.capabilities = theirs.capabilities if self._local.capabilities else Capabilities()
        self.hold_time = min(self._local.hold_time, theirs.hold_time)
        self.state = State.OPEN_CONFIRM
        self._heard = now
        self._keep_alive(now)

    def _establish(self, now: float) -> Established:
        capabilities = self.capabilities
        self.state = State.ESTABLISHED
        self._heard = now
        self._updates = Updates(
            Terms(
                self._local.asn,
                self._peer.asn,
                capabilities.four_octet_as is not None,
                self._peer.enforce_first_as,
                self.families,
            )
        )
        if capabilities.restart is not None:
            for afi in sorted(self.families):
                self._send(Kind.UPDATE, end_of_rib(afi))
        return Established(capabilities, self.hold_time, self.remote_id, self.families)

    def _asked(self, body: bytes) -> list[Event]:
        """Read a ROUTE-REFRESH (RFC 2918 §3); one of another length is left unread, for it may be RFC 5291's."""
        afi, safi = int.from_bytes(body[:2]), body[3]
        known = len(body) == 4 and safi == _UNICAST and afi in (Afi.IPV4, Afi.IPV6)
        return [RefreshAsked(Afi(afi))] if known else []

    def _notified(self, body: bytes) -> Ended:
        code, subcode = body[0], body[1]
        hard = (code, subcode) == (Code.CEASE, Cease.HARD_RESET)
        graceful = not hard and self._keeps_routes(notified=True)
        return self._end(Ended(False, code, subcode, notification_text(code, subcode, body[2:]), graceful))

    # --- time -----------------------------------------------------------------------------------------------

    def _keep_alive(self, now: float) -> None:
        self._kept = now
        self._send(Kind.KEEPALIVE, KEEPALIVE)
        self._set_deadline()

    def _set_deadline(self) -> None:
        if self.state is State.OPEN_SENT:
            return
        if self.hold_time == 0:
            self.deadline = None  # RFC 4271 §4.2: neither end sends KEEPALIVEs
        else:
            self.deadline = min(self._heard + self.hold_time, self._kept + self.hold_time / 3)

    # --- the end --------------------------------------------------------------------------------------------

    def _break(self, broken: Broken) -> Ended:
        """Send a NOTIFICATION and be done."""
        self._send(Kind.NOTIFICATION, frame(Kind.NOTIFICATION, bytes((broken.code, broken.subcode)) + broken.data))
        graceful = broken.code == Code.HOLD_TIMER and self._keeps_routes(notified=True)
        return self._end(Ended(True, broken.code, broken.subcode, broken.text, graceful))

    def _end(self, ended: Ended) -> Ended:
        self.ended = ended
        self.state = State.IDLE
        self.deadline = None
        self._octets = b""
        return ended

    def _keeps_routes(self, *, notified: bool = False) -> bool:
        """Tell whether its routes are to be kept: RFC 4724 §4.2; after a NOTIFICATION, RFC 8538 §4: both said N."""
        restart = self.capabilities.restart
        if not self._is_up() or restart is None or not restart.families:
            return False
        return restart.notification or not notified

    def _is_up(self) -> bool:
        return self.state is State.ESTABLISHED

    def _send(self, kind: Kind, octets: bytes) -> None:
        _count(self.sent, kind)
        self._output.append(octets)


def end_of_rib(afi: Afi) -> bytes:
    """Return the UPDATE that says that there is nothing more to announce (RFC 4724 §2)."""
    if afi is Afi.IPV4:
        return frame(Kind.UPDATE, bytes(4))
    unreach = bytes((0x80, 15, 3)) + afi.to_bytes(2) + bytes((_UNICAST,))
    return frame(Kind.UPDATE, bytes(2) + len(unreach).to_bytes(2) + unreach)


def _count(counts: Counts, kind: Kind) -> None:
    match kind:
        case Kind.OPEN:
            counts.opens += 1
        case Kind.UPDATE:
            counts.updates += 1
        case Kind.NOTIFICATION:
            counts.notifications += 1
        case Kind.KEEPALIVE:
            counts.keepalives += 1
        case Kind.ROUTE_REFRESH:
            counts.refreshes += 1
