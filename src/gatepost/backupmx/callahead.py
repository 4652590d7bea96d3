"""Ask the primary whether it has mail for somebody: MAIL FROM:<>, RCPT TO, RSET on a kept connection.

    2yz to RCPT                        yes, remembered for `known_for`
    5yz to RCPT                        no, remembered for `unknown_for`; but for 5.7.z, 5.2.2 and 552
    anything else, or nothing          open: the primary may be away, full, or may not like *us*

One question at a time goes to a destination, the same question is asked once for all who wait for it, and a primary
that could not be reached is left alone for REST_S. A session ends before the primary would end it for too many
refusals.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from gatepost.backupmx.settings import BackupSettings
from gatepost.base.address import Address
from gatepost.base.clock import Clock
from gatepost.base.ports import Log
from gatepost.base.reply import Code
from gatepost.codec.recipients import Known
from gatepost.codec.smtp import client as smtp
from gatepost.codec.smtp.client import HeardReply
from gatepost.policy.action import Route
from gatepost.relay.client import Broken, Session, Unreachable
from gatepost.relay.route import NoRoute

ANSWERS_MAX: Final = 50_000
WAITING_MAX: Final = 200
"""Questions under way; more are answered `open` at once."""
REST_S: Final = 30.0
IDLE_S: Final = 60.0
"""How long a session is kept for the next question."""
REFUSED_MAX: Final = 4
"""Refusals in one session: servers grow slow after a few, and close after some more."""
ASKED_MAX: Final = 40

Reach = Callable[[Route, str], Awaitable[Session]]
"""Opens a session with the best host of a destination (`Relay.reach`); raises Unreachable or NoRoute."""


@dataclass(slots=True)
class _Line:
    """What is known of one destination."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    session: Session | None = None
    asked: int = 0
    refused: int = 0
    rests_until: float = float("-inf")
    idle: asyncio.TimerHandle | None = None


class CallAhead:
    """Asks, and remembers the answers of this process."""

    def __init__(self, reach: Reach, settings: BackupSettings, *, clock: Clock, log: Log) -> None:
        self._reach = reach
        self._settings = settings
        self._clock = clock
        self._log = log
        self._answers: dict[str, tuple[Known, float]] = {}
        self._asking: dict[str, asyncio.Task[Known]] = {}
        self._lines: dict[tuple[Route, str], _Line] = {}

    async def ask(self, address: Address, route: Route) -> Known:
        """Tell what the next hop of `route` says of an address, within `call_time`."""
        remembered = self._remembered(address.key)
        if remembered is not None:
            return remembered
        task = self._asking.get(address.key)
        if task is None:
            if len(self._asking) >= WAITING_MAX:
                return Known.OPEN
            task = asyncio.get_running_loop().create_task(self._ask(address, route))
            self._asking[address.key] = task
            task.add_done_callback(lambda _: self._asking.pop(address.key, None))
        try:
            async with asyncio.timeout(self._settings.call_time):
                return await asyncio.shield(task)
        except TimeoutError:
            return Known.OPEN

    def close(self) -> None:
        """End questions and sessions."""
        for task in tuple(self._asking.values()):
            task.cancel()
        for line in self._lines.values():
            self._hang_up(line)

    def _remembered(self, key: str) -> Known | None:
        known, until = self._answers.get(key, (None, 0.0))
        if known is not None and until <= self._clock.steady():
            del self._answers[key]
            return None
        return known

    async def _ask(self, address: Address, route: Route) -> Known:
        destination = route.destination(address)
        line = self._lines.setdefault((route, destination), _Line())
        async with line.turn:
            if self._clock.steady() < line.rests_until:
                return Known.OPEN
            try:
                async with asyncio.timeout(self._settings.call_time):
                    reply = await self._exchange(line, address, route, destination)
            except (Broken, Unreachable, NoRoute, TimeoutError) as error:
                self._hang_up(line)
                line.rests_until = self._clock.steady() + REST_S
                self._log.warning("recipient_not_asked", destination=destination, reason=str(error) or "no answer")
                return Known.OPEN
            except Exception:
                self._hang_up(line)
                self._log.exception("recipient_not_asked")
                return Known.OPEN
        known = _meaning(reply)
        self._log.info("recipient_asked", recipient=str(address), known=known.value, reply=str(reply))
        self._remember(address.key, known)
        return known

    async def _exchange(self, line: _Line, address: Address, route: Route, destination: str) -> HeardReply:
        """Ask over the kept session, else, or where that has ended meanwhile, over a new one."""
        if line.session is not None and line.session.usable:
            try:
                reply = await _probe(line.session, address)
                if reply.code != Code.SHUTTING_DOWN:
                    self._keep(line, reply)
                    return reply
            except Broken:
                pass
        self._hang_up(line)
        line.session = await self._reach(route, destination)
        line.asked = line.refused = 0
        reply = await _probe(line.session, address)
        self._keep(line, reply)
        return reply

    def _keep(self, line: _Line, reply: HeardReply) -> None:
        """Keep the session for the next question, unless the primary would soon end it."""
        line.asked += 1
        line.refused += not reply.positive
        if line.idle is not None:
            line.idle.cancel()
        if line.refused >= REFUSED_MAX or line.asked >= ASKED_MAX:
            self._hang_up(line)
        else:
            line.idle = asyncio.get_running_loop().call_later(IDLE_S, self._fall_silent, line)

    def _fall_silent(self, line: _Line) -> None:
        if not line.turn.locked():
            self._hang_up(line)

    def _hang_up(self, line: _Line) -> None:
        if line.idle is not None:
            line.idle.cancel()
            line.idle = None
        if line.session is not None:
            line.session.quit()
            line.session = None

    def _remember(self, key: str, known: Known) -> None:
        if known is Known.OPEN:
            return
        if len(self._answers) >= ANSWERS_MAX:
            del self._answers[next(iter(self._answers))]
        keep = self._settings.known_for if known is Known.YES else self._settings.unknown_for
        self._answers[key] = known, self._clock.steady() + keep


async def _probe(session: Session, address: Address) -> HeardReply:
    """Return what was said of the recipient, or of the sender where that was refused; raises Broken."""
    offered, patience = session.offered, session.settings.command_time
    utf8 = offered.smtputf8 and not address.ascii
    commands = smtp.mail(None, smtputf8=utf8), smtp.rcpt(address), smtp.RSET
    if offered.pipelining:
        session.wire.write(b"".join(commands))
    heard = []
    for command, what in zip(commands, ("MAIL", "RCPT", "RSET"), strict=True):
        if not offered.pipelining:
            session.wire.write(command)
        heard.append(await session.listen(what, patience))
        if heard[-1].code == Code.SHUTTING_DOWN:
            session.abort()
            return heard[-1]
    if not heard[0].positive:
        # The recipient was not looked at: whatever the code, it says nothing of it.
        return HeardReply(Code.LOCAL_ERROR, "", heard[0].lines)
    return heard[1]


def _meaning(reply: HeardReply) -> Known:
    if reply.positive:
        return Known.YES
    full = reply.code == Code.TOO_BIG or reply.enhanced.startswith("5.2.2")
    if reply.code < 500 or full or reply.enhanced.startswith("5.7."):
        return Known.OPEN
    return Known.NO
