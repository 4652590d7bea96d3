"""The gate's tables in the database, for commands that run beside a server or without one, and for exports."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gatepost.aio.offload import offload
from gatepost.base.clock import Clock
from gatepost.codec.spamd.addresses import WIDTH, collapse, text
from gatepost.db.unit import Database, Row, Step, Unit, Unmet
from gatepost.gate import sql
from gatepost.gate.networks import Networks
from gatepost.gate.parts import Part, read_networks, read_parts
from gatepost.gate.settings import GateSettings
from gatepost.gate.steps import check_limit_step, entry_of, part_steps, table_news
from gatepost.gate.table import TableFull


@dataclass(frozen=True, slots=True)
class Exported:
    """A table as a file: `octets`, how many `lines`, and how many IPv6 networks had no place in it."""

    octets: bytes
    lines: int
    left_out: int


class StoredTables:
    """Tables by their rows; a running server hears of changes by notices."""

    def __init__(self, database: Database, settings: GateSettings, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock

    async def publish(self, table: str, source: str, networks: Networks, *, message: str | None = None) -> None:
        """Give a source's part of a table these networks; raises TableFull and NotCommitted."""
        packed = await offload(networks.pack)
        steps = part_steps(table, source, networks, packed, message, self._clock.now())
        try:
            last = check_limit_step(self._settings.tables_max)
            await self._database.commit(Unit((*steps, last), (table_news(table),)))
        except Unmet as unmet:
            raise TableFull(f"more entries than the limit of {self._settings.tables_max}") from unmet

    async def unpublish(self, table: str, source: str) -> None:
        """Take a source's part out of a table; raises NotCommitted."""
        steps = [Step(each, {"tbl": table, "source": source}) for each in (sql.DROP_PIECES, sql.DROP_PART)]
        await self._database.commit(Unit(tuple(steps), (table_news(table),)))

    async def published(self) -> list[Part]:
        """Return what feeds gave."""
        return await read_parts(self._database)

    async def sizes(self, tables: Iterable[str]) -> Mapping[str, int]:
        """Return how many entries tables have, but for those of files."""
        found = dict.fromkeys(tables, 0)
        for part in await read_parts(self._database):
            if part.table in found:
                found[part.table] += part.count
        for name, count in await self._database.read_long(sql.ENTRY_COUNTS, {}):
            if str(name) in found:
                found[str(name)] += int(str(count))
        return found

    async def export(self, table: str) -> Exported:
        """Return a table as spamd-setup reads lists: an IPv4 address or network a line, ascending."""
        parts = await read_networks(self._database, table)
        rows = await self._database.read_long(sql.ENTRIES, {"tbl": table})
        return await offload(_exported, tuple(parts.values()), rows)


def _exported(parts: Iterable[Networks], rows: Iterable[Row]) -> Exported:
    """Write a table; its holes, which a list cannot have, are taken out of its networks. In a thread."""
    entries = [entry_of(row) for row in rows]
    found: set[int] = set()
    six = 0
    for network in (*(each for part in parts for each in part), *(e.network for e in entries if not e.negated)):
        if network.version == 4:
            found.add(network.number << 8 | network.length)
        else:
            six += 1
    holes = [entry.network for entry in entries if entry.negated and entry.network.version == 4]
    if holes:
        ranges = ((each >> 8, (each >> 8) + (1 << WIDTH - (each & 255))) for each in found)
        white = ((each.number, each.number + (1 << WIDTH - each.length)) for each in holes)
        found = set(collapse(ranges, white))
    octets = "".join(f"{text(each >> 8, each & 255)}\n" for each in sorted(found)).encode()
    return Exported(octets, len(found), six)
