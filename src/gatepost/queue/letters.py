"""Letters to people about what they must mend: one for each incident, into mailboxes here, never into the queue."""

from collections.abc import Sequence
from typing import Protocol

from gatepost.base.address import Address
from gatepost.base.clock import Clock, Instant
from gatepost.base.ports import Log
from gatepost.db.unit import Database, NotCommitted, Notice, Step, Unit, Unmet
from gatepost.incidents.sql import KNOWN, begin_step, end_step
from gatepost.queue.bounce import Filed


class Writer(Protocol):
    """Writes a letter; queue.bounce.Reporter does."""

    @property
    def postmaster(self) -> Address:
        """Who hears of what nobody else can mend."""
        ...

    async def letter(self, to: Address, subject: str, text: str, now: Instant) -> Filed:
        """Return what puts a letter into a mailbox here; nothing where the address has none."""
        ...


class Letters:
    """Tells people once of an incident, and again only after `end`."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, log: Log) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._log = log

    @property
    def postmaster(self) -> Address:
        """Return who hears of what nobody else can mend."""
        return self._writer.postmaster

    async def begin(self, name: str, subject: str, text: str, to: Sequence[Address] = ()) -> bool:
        """Tell the postmaster, and those in `to`, unless they were told; False where they were, or cannot be."""
        if await self._database.read(KNOWN, {"name": name}):
            return False
        now = self._clock.now()
        steps: list[Step] = [begin_step(name, subject, now)]
        notices: list[Notice] = []
        for each in dict.fromkeys((*to, self.postmaster)):
            filed = await self._writer.letter(each, subject, text, now)
            steps += filed.steps
            notices += filed.notices
        try:
            await self._database.commit(Unit(tuple(steps), tuple(notices)))
        except Unmet:  # another worker was quicker
            return False
        except NotCommitted as problem:
            self._log.warning("letter_not_written", incident=name, problem=type(problem).__name__)
            return False
        self._log.warning("incident", incident=name, text=subject)
        return True

    async def end(self, name: str) -> None:
        """Note that it is mended: the next time it is told again."""
        try:
            await self._database.commit(Unit((end_step(name),)))
        except NotCommitted as problem:
            self._log.warning("incident_not_ended", incident=name, problem=type(problem).__name__)
