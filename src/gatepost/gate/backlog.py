"""What the gate learns on its way to gate.db: units that nobody waits for, in order, many in one commit.

The backlog is bounded: beyond it what is learnt is forgotten, and the sender, who was told to come back, comes
back. While the database cannot commit, the oldest batch is tried again. Every so often the greylist's caps are
seen to: a flood of tuples pushes out what did not come back, never what did.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from gatepost.base.ports import Log
from gatepost.db.unit import Clash, Database, NoRoom, NotCommitted, Notice, Step, Unhealthy, Unit, Unmet
from gatepost.gate import sql
from gatepost.gate.settings import GateSettings

BACKLOG_MAX: Final = 20_000
BATCH_STEPS: Final = 512
GATHER_S: Final = 0.02
RETRY_S: Final = 0.5
LAST_S: Final = 2.0  # for what is left when the process ends
NET_EVERY: Final = 64  # offers of a network between two looks at its cap
ROWS_EVERY: Final = 4096  # offers between two looks at the whole
NETS_MAX: Final = 50_000


class Backlog:
    """Steps that wait to be committed."""

    def __init__(self, database: Database, log: Log, settings: GateSettings) -> None:
        self.settings = settings
        self._database = database
        self._log = log
        self._writing = asyncio.Lock()
        self._steps: deque[Step] = deque()
        self._units: deque[Unit] = deque()
        self._more = asyncio.Event()
        self._nets: dict[str, int] = {}
        self._offers = 0
        self._complained = False
        self.forgotten = 0
        """Steps that found no place."""

    def __len__(self) -> int:
        return len(self._steps) + len(self._units)

    def learn(self, *steps: Step) -> None:
        """Commit these steps some time soon, with others."""
        if len(self) >= BACKLOG_MAX:
            self.forgotten += len(steps)
            if not self._complained:
                self._complained = True
                self._log.warning("gate_backlog_full", waiting=len(self))
            return
        self._complained = False
        self._steps.extend(steps)
        self._more.set()

    def offered(self, network: str) -> None:
        """Count an offer from a network against its cap."""
        self._offers += 1
        if len(self._nets) >= NETS_MAX:
            self._nets.clear()
        count = self._nets[network] = self._nets.get(network, 0) + 1
        if count >= NET_EVERY:
            self._nets[network] = 0
            keep = max(0, self.settings.net_rows - NET_EVERY)
            self.learn(Step(sql.EVICT_NET, {"net": network, "keep": keep}))

    def commit(self, steps: Sequence[Step], *notices: Notice) -> None:
        """Commit these steps some time soon, as a unit of their own."""
        self._units.append(Unit(tuple(steps), notices))
        self._more.set()

    async def run(self) -> None:
        """Write until cancelled; then what is left, for LAST_S at most."""
        try:
            while True:
                await self._more.wait()
                if len(self._steps) < BATCH_STEPS:
                    await asyncio.sleep(GATHER_S)
                self._more.clear()
                await self.write()
        finally:
            try:
                async with asyncio.timeout(LAST_S):
                    await self.write(once=True)
            except TimeoutError:
                self._log.warning("gate_not_written", waiting=len(self), error="no time was left")

    async def write(self, *, once: bool = False) -> None:
        """Commit all that waits; with `once` without trying again."""
        async with self._writing:
            await self._write(once=once)

    async def evict(self) -> None:
        """Keep the greylist within its rows."""
        try:
            for statement in (sql.EVICT, sql.EVICT_ANY):
                count = (await self._database.read_long(sql.COUNT, {}))[0][0]
                assert isinstance(count, int)
                if count <= self.settings.rows:
                    return
                step = Step(statement, {"count": count - self.settings.rows})
                await self._database.commit(Unit((step,)))
        except NotCommitted as error:
            self._log.warning("gate_not_evicted", error=str(error))

    async def _write(self, *, once: bool) -> None:
        while self._units or self._steps:
            if self._offers >= ROWS_EVERY:  # within the loop: a flood that goes on keeps us in it
                self._offers = 0
                await self.evict()
            unit = self._units[0] if self._units else None
            count = 0 if unit else min(len(self._steps), BATCH_STEPS)
            batch = unit or Unit(tuple(self._steps[at] for at in range(count)))
            try:
                await self._database.commit(batch)
            except (Unhealthy, NoRoom) as error:
                self._log.warning("gate_not_written", waiting=len(self), error=str(error))
                if once:
                    return
                await asyncio.sleep(RETRY_S)
                continue
            except (Unmet, Clash) as error:
                if count > 1:  # one of them is at fault: each by itself
                    self._units.extend(Unit((self._steps.popleft(),)) for _ in range(count))
                    continue
                self._log.warning("gate_not_written", steps=len(batch.steps), error=str(error))
            if unit:
                self._units.popleft()
            for _ in range(count):
                self._steps.popleft()
