"""The BGP feed: sessions with all neighbours, their routes, and the gate's tables that follow from them.

    neighbours --(UPDATE)--> Routes --(quiet for 50 ms, 0.5 to 3 s at most)--> thread: union, admission --> publish

Everything runs on one loop, in one worker. A change marks its tables; they are built anew in a thread and given to
the gate whole, so that nobody ever sees half of a change. What a table holds is always what the neighbours'
routes say: there is nothing that could drift.

When a session is lost its routes go at once, or stay as stale: when the neighbour asked for graceful restart and
the connection broke (RFC 4724), for its restart time, or as long as `hold_on_loss` says.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path as FilePath
from typing import Final, Protocol

from gatepost.aio.offload import Overfull, offload
from gatepost.base.clock import Clock
from gatepost.base.ports import Log
from gatepost.codec.bgp.types import Path
from gatepost.db.unit import NotCommitted
from gatepost.feeds.bgp.door import Door, Question, Refused, json_line
from gatepost.feeds.bgp.filter import NeighborFilter, tables_of
from gatepost.feeds.bgp.link import Link, Linked, Loss, Up
from gatepost.feeds.bgp.plan import Plan
from gatepost.feeds.bgp.query import RibQuery, rib_rows
from gatepost.feeds.bgp.rib import Overflow, Routes
from gatepost.feeds.bgp.settings import NeighborSettings
from gatepost.feeds.bgp.show import ESTABLISHED, NeighborStatus, RibRow
from gatepost.feeds.bgp.table import FedTable
from gatepost.gate.networks import Networks
from gatepost.gate.parts import Part
from gatepost.gate.prefix import number_of
from gatepost.gate.table import TableFull

SOURCE: Final = "bgp"
QUIET_S: Final = 0.05  # without a change: a burst is over
LATEST_S: Final = 0.5  # after the first change, however long the burst
LATEST_MAX_S: Final = 3.0  # the same, where making and publishing the tables takes long
PUBLISHING: Final = 10  # a burst is let go on for as many times as long as the last publication took
RETRY_S: Final = 5.0  # after a table could not be published
WARN_SHARE: Final = 0.8  # of the prefixes a neighbour may announce


class Tables(Protocol):
    """The gate, as a feed sees it."""

    async def publish(self, table: str, source: str, networks: Networks, *, message: str | None = None) -> None: ...
    async def unpublish(self, table: str, source: str) -> None: ...
    async def published(self) -> Sequence[Part]: ...


class Neighbor:
    """One neighbour: its link, its routes, and what an operator may ask about it (link.Sink)."""

    def __init__(
        self,
        settings: NeighborSettings,
        plan: Plan,
        connect: Linked,
        changed: Callable[[], None],
        clock: Clock,
        log: Log,
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.routes = Routes(NeighborFilter(plan.rules, plan.who(settings)), settings.most)
        self.link: Link = connect(settings, plan)
        self.task: asyncio.Task[None] | None = None
        self.settled = settings.down
        """It has announced all that it has, or is not there."""
        self._changed = changed
        self._clock = clock
        self._log = log
        self._up: Up | None = None
        self._since: float | None = None
        self._last_error = ""
        self._received: Counter[str] = Counter()
        self._warned = False
        self._expiry: asyncio.TimerHandle | None = None

    def established(self, up: Up) -> None:
        """Take the news that the session is up."""
        self._up = up
        self._since = self._clock.steady()
        self._warned = False
        self._received.clear()
        if not self.plan.hold_on_loss:
            for version in {4, 6}.difference(up.restarts):  # RFC 4724 §4.2: it has kept nothing itself
                self.routes.end_of_rib(version)
        self._log.info(
            "bgp_up", neighbor=self.settings.name, asn=self.settings.remote_as, stale=self.routes.stale_count()
        )
        self._tell()

    def updated(
        self, version: int, withdrawn: Sequence[bytes], announced: Sequence[bytes], path: Path | None
    ) -> None:
        """Take an UPDATE's prefixes of one family."""
        if withdrawn:
            self._received["withdraws"] += len(withdrawn)
            self.routes.withdraw(version, withdrawn)
        if announced and path is not None:
            self._received["prefixes"] += len(announced)
            try:
                self.routes.announce(version, announced, path)
            except Overflow as overflow:
                self._log.error("bgp_too_many", neighbor=self.settings.name, text=str(overflow))
                self.link.overflow(str(overflow))
            if not self._warned and self.routes.count() > WARN_SHARE * self.settings.most:
                self._warned = True
                self._log.warning(
                    "bgp_nearly_too_many",
                    neighbor=self.settings.name,
                    prefixes=self.routes.count(),
                    most=self.settings.most,
                )
        self._tell()

    def end_of_rib(self, version: int) -> None:
        """Take the neighbour's word that it has announced all of a family."""
        self._received["ends"] += 1
        self.settled = True
        self.routes.end_of_rib(version)
        self._tell()

    def ended(self, why: str, loss: Loss) -> None:
        """Take the end of the session."""
        up, self._up = self._up, None
        self._last_error = why
        if up is None:
            return
        self._since = self._clock.steady()
        kept, families = self._keep(up, loss)
        routes = self.routes.count()
        self.routes.lost(keep=families)
        self._stop_expiry()
        if kept:
            self._expiry = asyncio.get_running_loop().call_later(kept, self._expire)
        self._log.warning("bgp_down", neighbor=self.settings.name, why=why, prefixes=routes, kept_s=round(kept))
        self._tell()

    def filter_anew(self, plan: Plan) -> Iterable[None]:
        """Take other rules, and ask them about everything, a part at a step."""
        self.plan = plan
        for _ in self.routes.filter_anew(NeighborFilter(plan.rules, plan.who(self.settings))):
            yield
        self._tell()

    def leave(self) -> None:
        """Forget everything: the neighbour is no longer in the configuration."""
        self._stop_expiry()
        self._up = None
        self.routes.lost()
        self._tell()

    def status(self) -> NeighborStatus:
        """Return what it is like now."""
        settings, link, up = self.settings, self.link, self._up
        now = self._clock.steady()
        return NeighborStatus(
            address=settings.address,
            remote_as=settings.remote_as,
            state=ESTABLISHED if up else link.state,
            description=settings.description,
            group=settings.group,
            since=None if self._since is None else int(now - self._since),
            last_read=None if link.last_read is None else int(now - link.last_read),
            sent=link.sent,
            received=link.received,
            prefixes=self.routes.count(),
            stale=self.routes.stale_count(),
            max_prefix=settings.max_prefix,
            max_prefix_restart=int(settings.max_prefix_restart),
            multihop=settings.multihop,
            passive=settings.passive,
            remote_id=up.remote_id if up else "",
            holdtime=up.holdtime if up else int(self.plan.holdtime),
            capabilities=up.capabilities if up else (),
            prefixes_received=self._received["prefixes"],
            withdraws_received=self._received["withdraws"],
            ends_of_rib=self._received["ends"],
            local=up.local if up else "",
            remote=up.remote if up else "",
            last_error=self._last_error,
        )

    def _keep(self, up: Up, loss: Loss) -> tuple[float, Collection[int]]:
        """Return how long routes outlive the session, and of which families."""
        plan = self.plan
        restart = min(up.restart_s, plan.stale_time) if loss is Loss.GRACEFUL else 0.0
        if loss is not Loss.WANTED and plan.hold_on_loss > 0:
            return max(restart, plan.hold_on_loss), (4, 6)
        return (restart, up.restarts) if restart else (0.0, ())

    def _expire(self) -> None:
        count = self.routes.stale_count()
        self.routes.drop_stale()
        if count:
            self._log.error("bgp_stale_dropped", neighbor=self.settings.name, prefixes=count)
            self._tell()

    def _stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _tell(self) -> None:
        if self.routes.dirty:
            self._changed()


class BgpFeed:
    """See the module's words. `run` until cancelled; the tables stay as they are then."""

    def __init__(
        self, plan: Plan, tables: Tables, connect: Linked, *, clock: Clock, log: Log, door: FilePath | None = None
    ) -> None:
        """Make it; `connect` makes the link with a neighbour, `door` is where commands ask."""
        self._plan = plan
        self._tables = tables
        self._connect = connect
        self._clock = clock
        self._log = log
        self._door = Door(door, self.answer) if door else None
        self._neighbors: dict[str, Neighbor] = {}
        self._fed = {table: FedTable(table) for table in tables_of(plan.rules)}
        self._dirty = set(self._fed)
        self._first = self._last = 0.0
        self._patience = LATEST_S
        self._stirred = asyncio.Event()
        self._group: asyncio.TaskGroup

    async def run(self) -> None:
        """Feed the tables until cancelled."""
        plan = self._plan
        self._say(plan)
        self._begun = self._clock.steady()
        self._dirty |= {part.table for part in await self._tables.published() if part.source == SOURCE}
        async with asyncio.TaskGroup() as self._group:
            if self._door is not None:
                self._group.create_task(self._door.serve())
            for settings in plan.neighbors:
                self._begin(settings)
            if self._dirty:
                self._stir()
            await self._publish_changes()

    async def renew(self, plan: Plan) -> None:
        """Take another plan while sessions go on: only neighbours whose own settings changed are called anew."""
        old, self._plan = self._plan, plan
        self._say(plan)
        wanted = {each.address: each for each in plan.neighbors}
        session = (plan.asn, plan.router_id, plan.holdtime, plan.holdtime_min)
        same = session == (old.asn, old.router_id, old.holdtime, old.holdtime_min)
        for address, neighbor in tuple(self._neighbors.items()):
            if not same or wanted.get(address) != neighbor.settings:
                await self._end(address)
        for address, settings in wanted.items():
            if address not in self._neighbors:
                self._begin(settings)
            else:
                for _ in self._neighbors[address].filter_anew(plan):
                    await asyncio.sleep(0)
        self._make_anew(tables_of(old.rules))

    def _make_anew(self, old: Iterable[str]) -> None:
        """Make all tables of the plan from all that there is, and give up the `old` ones that it does not name."""
        everything = {place for each in self._neighbors.values() for place in each.routes.everywhere()}
        self._fed = {table: FedTable(table, set(everything)) for table in tables_of(self._plan.rules)}
        self._dirty |= {*old, *self._fed}
        self._stir()

    def neighbors(self) -> list[NeighborStatus]:
        """Return all neighbours as they are now."""
        return [each.status() for each in self._neighbors.values()]

    # --- neighbours -----------------------------------------------------------------------------------------

    def _begin(self, settings: NeighborSettings) -> None:
        neighbor = Neighbor(settings, self._plan, self._connect, self._stir, self._clock, self._log)
        self._neighbors[settings.address] = neighbor
        neighbor.task = self._group.create_task(self._speak(neighbor))

    async def _speak(self, neighbor: Neighbor) -> None:
        """Keep the session with one neighbour; a failure of ours is none of the others'."""
        try:
            await neighbor.link.run(neighbor)
        except OSError as error:
            neighbor.ended(str(error), Loss.BROKEN)
            self._log.error("bgp_neighbor_impossible", neighbor=neighbor.settings.name, error=str(error))
        except Exception:
            neighbor.ended("a mistake of ours", Loss.BROKEN)
            self._log.exception("bgp_neighbor_failed", neighbor=neighbor.settings.name)

    async def _end(self, address: str) -> None:
        neighbor = self._neighbors.pop(address)
        if neighbor.task is not None:
            neighbor.task.cancel()
            await asyncio.wait((neighbor.task,))
        neighbor.leave()
        self._dirty |= self._changes(neighbor.routes)
        await offload(neighbor.routes.bury)

    # --- tables ---------------------------------------------------------------------------------------------

    def _stir(self) -> None:
        now = self._clock.steady()
        if not self._stirred.is_set():
            self._first = now
            self._stirred.set()
        self._last = now

    async def _publish_changes(self) -> None:
        while True:
            await self._stirred.wait()
            await self._until_quiet()
            began = self._clock.steady()
            self._stirred.clear()
            dirty, self._dirty = self._dirty, set()
            for neighbor in self._neighbors.values():
                dirty |= self._changes(neighbor.routes)
            failed = [table for table in sorted(dirty) if not await self._publish(table)]
            took = self._clock.steady() - began
            self._patience = min(max(LATEST_S, PUBLISHING * took), LATEST_MAX_S)
            for neighbor in tuple(self._neighbors.values()):
                await offload(neighbor.routes.bury)
            if failed:
                self._dirty.update(failed)
                asyncio.get_running_loop().call_later(RETRY_S, self._stir)

    def _changes(self, routes: Routes) -> set[str]:
        """Take the changes of a neighbour's routes; return the tables that are concerned."""
        places, routes.places = routes.places, set()
        dirty, routes.dirty = routes.dirty, set()
        for fed in self._fed.values():
            fed.pending |= places
        return dirty

    async def _until_quiet(self) -> None:
        """Wait for the end of a burst; after a start with `hold_on_loss`, for what the neighbours have."""
        while (left := self._until_next()) > 0:  # noqa: ASYNC110  (every change moves the moment)
            await asyncio.sleep(left)

    def _until_next(self) -> float:
        now, hold = self._clock.steady(), self._plan.hold_on_loss
        if now - self._begun < hold and not all(each.settled for each in self._neighbors.values()):
            return QUIET_S
        return min(self._last + QUIET_S, self._first + self._patience) - now

    async def _publish(self, table: str) -> bool:
        try:
            if table in self._fed:
                await self._publish_fed(self._fed[table])
            else:
                await self._tables.unpublish(table, SOURCE)
        except (TableFull, NotCommitted, Overfull) as error:
            self._log.error("bgp_table_kept", table=table, error=str(error), text="The table stays as it was.")
            return False
        return True

    async def _publish_fed(self, fed: FedTable) -> None:
        routes = [each.routes for each in self._neighbors.values()]
        places, fed.pending = fed.pending, set()
        try:
            networks = await offload(fed.make, routes, self._plan.admission, places)
        except BaseException:
            fed.pending |= places
            raise
        message = self._plan.messages.get(fed.name)
        await self._tables.publish(fed.name, SOURCE, networks, message=message)
        self._log.debug("bgp_table", table=fed.name, entries=len(networks))

    def _say(self, plan: Plan) -> None:
        for warning in plan.warnings():
            self._log.warning("bgp_configuration", text=warning)

    # --- questions ------------------------------------------------------------------------------------------

    async def answer(self, question: Question) -> AsyncIterator[Mapping[str, object] | bytes]:
        """Answer a question of the command line, row by row; raises Refused."""
        match question:
            case {"verb": "show"}:
                for each in self.neighbors():
                    yield asdict(each)
            case {"verb": "neighbor", "neighbor": str(name)}:
                yield asdict(self._found(name).status())
            case {"verb": "rib", **rest}:
                async for row in self._rib(RibQuery.of(rest)):
                    yield row
            case {"verb": "up" | "down" | "clear" | "refresh" as verb, "neighbor": str(name)}:
                yield {"text": self._command(str(verb), self._found(name))}
            case _:
                raise Refused("the question is not understood: is the server of another version?")

    async def _rib(self, query: RibQuery) -> AsyncIterator[Mapping[str, object] | bytes]:
        asked = self._neighbors.values() if not query.neighbor else (self._found(query.neighbor),)
        pairs = [(each.settings, each.routes) for each in asked]
        everyone = [(each.settings, each.routes) for each in self._neighbors.values()]
        parts = rib_rows(pairs, everyone, query, self._plan)
        while (lines := await offload(partial(_next_lines, parts))) is not None:
            yield lines

    def _found(self, name: str) -> Neighbor:
        """Return a neighbour by address or description."""
        with suppress(ValueError):
            wanted = number_of(name)
            for each in self._neighbors.values():
                if number_of(each.settings.address) == wanted:
                    return each
        for each in self._neighbors.values():
            if each.settings.description == name:
                return each
        known = ", ".join(each.settings.name for each in self._neighbors.values())
        raise Refused(f"there is no neighbour {name!r}; there are: {known or 'none'}")

    def _command(self, verb: str, neighbor: Neighbor) -> str:
        link = neighbor.link
        match verb:
            case "up":
                link.up()
            case "down":
                link.down()
            case "clear":
                link.clear()
            case "refresh":
                if not link.refresh():
                    raise Refused(f"{neighbor.settings.name} is not up, or does not know of route refresh")
        self._log.info("bgp_command", neighbor=neighbor.settings.name, command=verb)
        return f"{neighbor.settings.name}: {verb}"


def _next_lines(parts: Iterator[list[RibRow]]) -> bytes | None:
    """Return the rows of the next part as lines of JSON; None behind the last. In a thread."""
    for rows in parts:
        if rows:
            return b"".join(json_line(asdict(row)) for row in rows)
    return None
