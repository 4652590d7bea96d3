"""What the tables of a worker hold, and what decides by them.

A table is made of what its file says, of what feeds own of it (`parts`), of the entries in gate.db, and of what a
pf.conf declares; spamd-white and spamd-greytrap are made of the greylist, by the gate. Tables are read and made off
the loop and take the place of the old ones whole. What decides (`plan`) is made ready for the tables as they are.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from gatepost.aio.offload import offload
from gatepost.base.clock import Clock, Instant
from gatepost.db.unit import Database, Rows, Step, Unit, Value
from gatepost.gate import sql
from gatepost.gate.decide import GREYTRAP, NOSPAMD, TABLE_NAMES, WHITE, Plan
from gatepost.gate.networks import Networks
from gatepost.gate.parts import Part, read_networks, read_parts
from gatepost.gate.pfconf.rules import PORTS, Asked, PfPlan, PfRules
from gatepost.gate.pfconf.words import DeclaredTable
from gatepost.gate.prefix import Prefix, address_text, parse_prefix
from gatepost.gate.settings import GateSettings
from gatepost.gate.steps import check_limit_step, entry_of, part_steps, table_key, table_news
from gatepost.gate.table import Entry, Table, Tables, read_compact, read_file

BAN_WRITTEN_S: Final = 2.0  # a ban is in the database after that
FRESH_BANS: Final = 1_000
ANNOUNCED_MIN: Final = {4: 16, 6: 32}  # a shorter prefix is no provider's pool


class Contents:
    """See the module's words. `stale` is called with a table's key when it is to be read again."""

    def __init__(
        self, settings: GateSettings, database: Database, clock: Clock, stale: Callable[[int], None]
    ) -> None:
        self._database = database
        self._clock = clock
        self._stale = stale
        self.tables = Tables(settings.tables_max, TABLE_NAMES)
        self.rules: PfRules | None = None
        self.messages: dict[str, str] = {}
        """spamd's lists in their order, with what their members are told."""
        self._files: dict[str, list[Entry] | Networks] = {}
        self._parts: dict[tuple[str, str], tuple[Instant, Networks]] = {}
        self._plans: dict[str, Plan | PfPlan] = {}
        self._planned = 0
        self._fresh: dict[tuple[str, Prefix], tuple[float, Entry]] = {}
        self.renew(settings)

    def renew(self, settings: GateSettings) -> None:
        """Take other settings; the content stays until `load`."""
        self._settings = settings
        self.exempt = tuple(parse_prefix(each) for each in settings.exempt)
        self._set_limit()
        self._plans.clear()

    def plan(self, kind: str) -> Plan | PfPlan:
        """Return what decides for a kind of listener, made anew after a table was replaced."""
        if self._planned != self.tables.version:
            self._planned = self.tables.version
            self._plans.clear()
        plan = self._plans.get(kind)
        if plan is None:
            plan = self._plans[kind] = self._make_plan(kind)
        return plan

    def _make_plan(self, kind: str) -> Plan | PfPlan:
        settings = self._settings
        if self.rules is None or kind not in PORTS:
            return Plan(kind, self.tables, self.lists, settings, self.exempt)
        asked = Asked(settings.unlisted_ipv6, tuple(self.lists), settings.greylist)
        return self.rules.plan(PORTS[kind], self.tables, asked, self.exempt)

    def holds(self, table: str, version: int, number: int) -> bool:
        """Tell whether an address, as a number, is in a table (of `decide`)."""
        return table in self.tables and self.tables[table].holds(version, number)

    @property
    def lists(self) -> Sequence[str]:
        """spamd's lists in their order, but that of its traps."""
        return tuple(self.messages)

    def announced(self, version: int, number: int) -> Prefix | None:
        """Return the announced prefix around an address, where a table of them is named."""
        name = self._settings.friendly.announced
        if not name or name not in self.tables:
            return None
        entry = self.tables[name].match(address_text(version, number))
        return entry.network if entry is not None and entry.network.length >= ANNOUNCED_MIN[version] else None

    def ban(self, table: str, entry: Entry) -> None:
        """Add an entry that will soon be in the database; raises TableFull."""
        self.tables.add(table, entry)
        if len(self._fresh) < FRESH_BANS:
            self._fresh[table, entry.network] = self._clock.steady(), entry

    async def publish(self, table: str, source: str, networks: Networks, *, message: str | None = None) -> None:
        """Give the part of a table that a source owns exactly these networks, for all workers at once.

        With a message the table is one of spamd's lists. Raises TableFull and NotCommitted, and then keeps the old.
        """
        now, key = self._clock.now(), (table, source)
        _, before = self._parts.get(key, (now, ()))
        self.tables.check_room(len(networks) - len(before))
        packed = await offload(networks.pack)
        steps = (
            *part_steps(table, source, networks, packed, message, now),
            check_limit_step(self._settings.tables_max),
        )
        await self._database.commit(Unit(steps, (table_news(table),)))
        self._parts[key] = now, networks
        await self.read(table)

    async def unpublish(self, table: str, source: str) -> None:
        """Take a source's part out of a table; raises NotCommitted."""
        key: dict[str, Value] = {"tbl": table, "source": source}
        steps = Step(sql.DROP_PIECES, key), Step(sql.DROP_PART, key)
        await self._database.commit(Unit(steps, (table_news(table),)))
        await self.read(table)

    async def published(self) -> list[Part]:
        """Return what feeds gave."""
        return await read_parts(self._database)

    async def load(self, now: Instant) -> None:
        """Read everything; raises for a file that cannot be used, and then keeps what was."""
        rules = await offload(load_rules, self._settings)
        files: dict[str, list[Entry] | Networks] = {
            name: await offload(read_compact, Path(path), now) for name, path in self._settings.tables.items()
        }
        if rules is not None:
            files |= await offload(declared, rules.tables.values(), now)
        old = self.rules, self._files
        self.rules, self._files = rules, files
        self._set_limit()
        self._plans.clear()
        try:
            await self.read_all()
        except BaseException:  # too many entries: those who read again read what was
            self.rules, self._files = old
            raise

    async def read_all(self) -> None:
        """Read every table again."""
        for name in await self.names():
            await self.read(name)

    async def names(self) -> Sequence[str]:
        """Return the tables that there are but for the two that the greylist makes."""
        made = [str(row[0]) for row in await self._database.read_long(sql.MADE_TABLES, {})]
        fed = [part.table for part in await read_parts(self._database)]
        ruled = self.rules.used_tables if self.rules is not None else ()
        names = dict.fromkeys((*TABLE_NAMES, *self._settings.tables, *made, *fed, *ruled, *self._files))
        overloads = (rate.overload for rate in self._settings.rates.values() if rate.overload)
        return [name for name in (*names, *overloads) if name not in (WHITE, GREYTRAP)]

    async def read(self, name: str) -> Sequence[Prefix]:
        """Fill a table anew, off the loop; return what limits put into it elsewhere. TableFull keeps the old."""
        began = self._clock.steady()
        rows = await self._database.read_long(sql.ENTRIES, {"tbl": name})
        parts = await self._read_parts(name)
        if name == NOSPAMD and self._settings.backups:
            parts = {"backups": Networks.of(map(parse_prefix, self._settings.backups)), **parts}
        table, noted = await offload(_table_of, name, self._files.get(name, ()), rows, parts)
        old = self.tables[name] if name in self.tables else Table(name)
        for key, (banned, entry) in list(self._fresh.items()):
            if key[0] != name:
                continue
            if entry.network in table or banned < began - BAN_WRITTEN_S:
                del self._fresh[key]
            else:  # it was not yet written when the rows were read, or is deleted already: look again
                table.add(entry)
                asyncio.get_running_loop().call_later(BAN_WRITTEN_S, self._stale, table_key(name))
        self.tables.replace(table)
        self._plans.clear()  # they hold the old one
        return [sender for sender in noted if sender not in old]

    async def _read_parts(self, name: str) -> Mapping[str, Networks]:
        """Return what feeds give a table, read anew where it changed; and learn the lists' order and messages."""
        parts = await read_parts(self._database)
        self.messages = {part.table: part.message for part in parts if part.message is not None}
        self._plans.clear()
        mine = {part.source: part for part in parts if part.table == name}
        fresh = any(self._parts.get((name, feed), (None,))[0] != part.since for feed, part in mine.items())
        networks = await read_networks(self._database, name) if fresh else {}
        for feed, part in mine.items():
            if feed in networks:
                self._parts[name, feed] = part.since, networks[feed]
        for key in [key for key in self._parts if key[0] == name and key[1] not in mine]:
            del self._parts[key]
        return {feed: self._parts[name, feed][1] for feed in mine if (name, feed) in self._parts}

    def _set_limit(self) -> None:
        entries = self.rules.conf.table_entries if self.rules is not None else None
        self.tables.limit = entries or self._settings.tables_max


def load_rules(settings: GateSettings) -> PfRules | None:
    """Read the pf.conf that is to decide, where one is named; raises PfConfError."""
    return PfRules.load(Path(settings.rules), outside=settings.outside) if settings.rules else None


def declared(tables: Iterable[DeclaredTable], now: Instant) -> Mapping[str, list[Entry]]:
    """Return what a pf.conf's tables hold by its own words and its files; raises BadEntry, OSError."""
    found = {}
    for table in tables:
        entries = [replace(entry, since=now) for entry in table.entries]
        for file in table.files:
            entries += read_file(Path(file), now)
        if entries:
            found[table.name] = entries
    return found


def _table_of(
    name: str, file: Sequence[Entry] | Networks, rows: Rows, parts: Mapping[str, Networks]
) -> tuple[Table, list[Prefix]]:
    """Return a table made of a file's entries, the database's and the feeds', and the entries that limits made."""
    entries = [entry_of(row) for row in rows]
    if isinstance(file, Networks):
        parts, file = {"file": file, **parts}, ()
    return Table(name, (*file, *entries), parts), [entry.network for entry in entries if entry.note]
