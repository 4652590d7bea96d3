"""A feed with tables that remember and links that do what a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path as FilePath

from gatepost.aio.clock import SystemClock
from gatepost.base.clock import Instant
from gatepost.base.units import Seconds
from gatepost.feeds.bgp.feed import BgpFeed
from gatepost.feeds.bgp.link import Loss, Sink, Up
from gatepost.feeds.bgp.plan import Plan, compose
from gatepost.feeds.bgp.settings import BgpSettings, CommunityTableSettings, NeighborSettings
from gatepost.feeds.bgp.show import Messages
from gatepost.gate.networks import Networks
from gatepost.gate.parts import Part
from gatepost.gate.table import TableFull
from tests.feeds.bgp.world import keys, path

WAIT_S = 5.0
TABLES = (
    CommunityTableSettings("bgp_spamd_bypass", community="65066:42"),
    CommunityTableSettings("bgp_spamd", community="65066:666", message="You %A are listed"),
)
ONE = NeighborSettings("192.0.2.7", 65066, description="rs1")
TWO = NeighborSettings("192.0.2.8", 65066, description="rs2")


class Lines:
    """A log that keeps its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def _keep(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    debug = info = warning = error = exception = _keep

    def named(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]


class RememberedTables:
    """The gate's tables, as far as a feed sees them."""

    def __init__(self) -> None:
        self.tables: dict[str, Networks] = {}
        self.messages: dict[str, str | None] = {}
        self.full = False
        self._changed = asyncio.Event()

    async def publish(self, table: str, source: str, networks: Networks, *, message: str | None = None) -> None:
        if self.full:
            raise TableFull("no room")
        assert source == "bgp"
        self.tables[table] = networks
        self.messages[table] = message
        self._changed.set()

    async def unpublish(self, table: str, source: str) -> None:
        del self.tables[table]
        self._changed.set()

    async def published(self) -> list[Part]:
        return [Part(table, "bgp", len(networks), Instant(0), None) for table, networks in self.tables.items()]

    def texts(self, table: str) -> list[str] | None:
        networks = self.tables.get(table)
        return None if networks is None else [each.text for each in networks]

    async def hold(self, table: str, *texts: str, within: float = WAIT_S) -> None:
        """Wait until a table has exactly these entries."""
        await self.change(lambda: self.texts(table) == list(texts), lambda: f"{table}: {self.texts(table)}", within)

    async def count(self, table: str, count: int, within: float = WAIT_S) -> None:
        """Wait until a table has so many entries."""
        await self.change(
            lambda: len(self.tables.get(table, ())) == count,
            lambda: f"{table}: {len(self.tables.get(table, ()))} entries, not {count}",
            within,
        )

    async def change(self, holds: Callable[[], bool], told: Callable[[], str], within: float) -> None:
        """Wait until something holds, asked whenever a table changed."""
        try:
            async with asyncio.timeout(within):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(told()) from None


class ScriptedLink:
    """A link whose session is what the test says."""

    def __init__(self, settings: NeighborSettings) -> None:
        self.settings = settings
        self.state = "Active"
        self.last_read: float | None = None
        self.sent, self.received = Messages(opens=1), Messages(opens=1, updates=2)
        self.orders: list[str] = []
        self.sink: Sink
        self._begun = asyncio.Event()

    async def run(self, sink: Sink) -> None:
        self.sink = sink
        self._begun.set()
        await asyncio.Event().wait()

    async def begun(self) -> None:
        await self._begun.wait()

    def establish(self, *, restart_s: int = 0) -> None:
        self.sink.established(
            Up(
                "10.0.0.1",
                90,
                ("Route Refresh",),
                restart_s,
                (4, 6) if restart_s else (),
                "192.0.2.1:4",
                "192.0.2.7:179",
            )
        )

    def announce(self, community: int, *prefixes: str, version: int = 4) -> None:
        self.sink.updated(version, (), keys(*prefixes), path(community))

    def withdraw(self, *prefixes: str, version: int = 4) -> None:
        self.sink.updated(version, keys(*prefixes), (), None)

    def up(self) -> None:
        self.orders.append("up")

    def down(self) -> None:
        self.orders.append("down")

    def clear(self) -> None:
        self.orders.append("clear")

    def refresh(self) -> bool:
        self.orders.append("refresh")
        return True

    def overflow(self, why: str) -> None:
        self.orders.append(f"overflow {why}")
        self.sink.ended(why, Loss.WANTED)


class Fed:
    """A feed that runs, and all that it has to do with."""

    def __init__(self, plan: Plan, door: FilePath | None) -> None:
        self.tables = RememberedTables()
        self.log = Lines()
        self.links: dict[str, ScriptedLink] = {}
        self.feed = BgpFeed(plan, self.tables, self._link, clock=SystemClock(), log=self.log, door=door)

    def _link(self, settings: NeighborSettings, plan: Plan) -> ScriptedLink:
        link = self.links[settings.name] = ScriptedLink(settings)
        return link

    async def link(self, name: str = "rs1") -> ScriptedLink:
        await self.links[name].begun()
        return self.links[name]


def plan_of(
    *neighbors: NeighborSettings,
    tables: Sequence[CommunityTableSettings] = TABLES,
    hold_on_loss: float = 0,
    stale_time: float = 180,
    refuse: Sequence[str] = (),
) -> Plan:
    settings = BgpSettings(
        neighbors=neighbors or (ONE, TWO),
        tables=tuple(tables),
        hold_on_loss=Seconds(hold_on_loss),
        stale_time=Seconds(stale_time),
        refuse=tuple(refuse),
    )
    return compose(settings, ())


@asynccontextmanager
async def fed(plan: Plan | None = None, door: FilePath | None = None) -> AsyncIterator[Fed]:
    """Run a feed while a test does."""
    running = Fed(plan or plan_of(), door)
    async with asyncio.timeout(30):
        task = asyncio.create_task(running.feed.run())
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(0)
            yield running
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
