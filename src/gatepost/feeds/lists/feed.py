"""The list feed: spamd-setup(8) as a job of the server's first worker.

    exports --> spamd.conf, [[feeds.lists.list]] --> all lists are read --> black less its whites --> publish

A black list one of whose members cannot be read, and was never, stays as it is. One that became empty or is no
longer named is cleared (spamd-setup leaves both as they were). Lists keep the order of `all`: a client of two of
them hears both messages in that order.
"""

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from gatepost.aio.offload import Overfull, offload
from gatepost.base.clock import Clock, Instant
from gatepost.base.ports import Log
from gatepost.codec.spamd.addresses import Range, collapse
from gatepost.db.unit import NotCommitted
from gatepost.feeds import channel
from gatepost.feeds.bgp.door import Door, Question, Refused, json_line
from gatepost.feeds.lists import spamdconf
from gatepost.feeds.lists.settings import Group, ListSettings, ListsSettings, groups, idle, split_channel
from gatepost.feeds.lists.source import Loaded, Shelf, Sources, Unusable, write_whole
from gatepost.feeds.lists.spamdconf import SpamdConfError
from gatepost.feeds.lists.stored import Exported
from gatepost.gate.decide import BYPASS, LISTED, SPAMD
from gatepost.gate.networks import Networks
from gatepost.gate.parts import Part
from gatepost.gate.table import TableFull

SOURCE: Final = "list"
READING_MAX: Final = 4  # lists at the same time
JITTER: Final = 0.1
RETRY_S: Final = 60.0  # after a refresh that failed as a whole
ANSWER_MAX: Final = 1 << 20


class Tables(Protocol):
    """The gate, as a feed sees it."""

    async def publish(self, table: str, source: str, networks: Networks, *, message: str | None = None) -> None: ...
    async def unpublish(self, table: str, source: str) -> None: ...
    async def published(self) -> list[Part]: ...


class Stored(Protocol):
    """What tables hold in all, of whatever source: `stored.StoredTables`."""

    async def sizes(self, tables: Iterable[str]) -> Mapping[str, int]: ...
    async def export(self, table: str) -> Exported: ...


@dataclass(frozen=True, slots=True)
class ListStatus:
    """One list, for an operator."""

    name: str
    kind: str
    method: str
    source: str
    entries: int
    """Addresses, networks and ranges that it has."""
    used: Instant = Instant(0)
    """When what is in use was read; 0 for never."""
    error: str = ""
    remarks: tuple[str, ...] = ()


class ListFeed:
    """Fills spamd's lists."""

    def __init__(
        self,
        settings: ListsSettings,
        data_dir: Path,
        tables: Tables,
        stored: Stored,
        *,
        clock: Clock,
        log: Log,
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """Make it; `chance` gives numbers from 0 to 1, so that not all servers ask at the same moment."""
        self._settings = settings
        self._data_dir = data_dir
        self._tables = tables
        self._stored = stored
        self._clock = clock
        self._log = log
        self._chance = chance
        self._sources = Sources(settings, data_dir / "lists", clock)
        self._busy = asyncio.Lock()
        self._renewed = asyncio.Event()
        self._given: dict[str, tuple[str, Networks]] = {}

    async def run(self) -> None:
        """Refresh the lists for ever, and when told to; until cancelled."""
        while True:
            self._renewed.clear()
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(each) for each in self._work()]
                await self._renewed.wait()
                for task in work:
                    task.cancel()

    def renew(self, settings: ListsSettings) -> None:
        """Take other settings, and read all lists anew."""
        if settings != self._settings:
            self._settings = settings
            self._sources = Sources(settings, self._data_dir / "lists", self._clock)
        self._renewed.set()

    async def update(self, *, force: bool = False) -> list[ListStatus]:
        """Read all lists and publish them; raises SpamdConfError, and then nothing was changed.

        `force` believes a list that would be refused. A list that fails is in the answer with its error.
        """
        async with self._busy:
            lists = await wanted(self._settings)
            await self._export()
            loaded = await self._load(lists, force=force)
            await self._publish(list(groups(lists)), loaded)
            for name in idle(lists):
                self._log.warning("list_idle", list=name, text="A white list before any black one changes nothing.")
            await self._tell()
        return [_status(each, self._clock.now()) for each in loaded.values()]

    async def check(self) -> list[ListStatus]:
        """Read all lists and change nothing (spamd-setup -n)."""
        loaded = await self._load(await wanted(self._settings), force=False, dry=True)
        return [_status(each, self._clock.now()) for each in loaded.values()]

    def _work(self) -> Iterable[Coroutine[object, object, None]]:
        if self._settings.wanted:
            yield self._serve_door()
        if self._settings.channel:
            host, port = split_channel(self._settings.channel)
            yield channel.keep_open(host, port, self._tables, self._log)
        yield self._keep_refreshing()

    async def _serve_door(self) -> None:
        try:
            await Door(door_path(self._data_dir), self._answer).serve()
        except OSError as error:
            self._log.error("lists_door_failed", error=str(error), text="`gatepost lists update` is not heard.")

    async def _keep_refreshing(self) -> None:
        if not self._settings.channel:
            await self._survive(self._forget_channel)
        if not self._settings.wanted:
            await self._survive(self._forget)
            return
        while True:
            settings = self._settings
            whole = await self._survive(self.update)
            pause = settings.refresh * (1 + JITTER * (2 * self._chance() - 1))
            if not whole:
                pause = min(pause, RETRY_S) or RETRY_S
            elif not settings.refresh:
                return
            await asyncio.sleep(pause)

    async def _forget(self) -> None:
        """Clear all lists, for none is set any more."""
        await self._publish((), {})

    async def _forget_channel(self) -> None:
        """Clear what came by the channel, for nobody could do so any more."""
        for part in await self._tables.published():
            if part.source == channel.SOURCE:
                await self._tables.unpublish(part.table, channel.SOURCE)

    async def _survive(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Do `work` and tell whether it was done; the server goes on whatever is wrong with a list."""
        try:
            await work()
        except (SpamdConfError, NotCommitted, Overfull) as error:
            self._log.error("lists_kept", error=str(error), text="All lists stay as they are.")
            return False
        except Exception:
            self._log.exception("lists_broken")
            return False
        return True

    async def _load(
        self, lists: Sequence[ListSettings], *, force: bool, dry: bool = False
    ) -> dict[ListSettings, Loaded]:
        room = asyncio.Semaphore(READING_MAX)

        async def load(which: ListSettings) -> Loaded:
            async with room:
                return await self._sources.load(which, force=force, dry=dry)

        async with asyncio.TaskGroup() as group:
            tasks = {which: group.create_task(load(which)) for which in dict.fromkeys(lists)}
        loaded = {which: task.result() for which, task in tasks.items()}
        for each in loaded.values():
            self._remark(each)
        return loaded

    def _remark(self, loaded: Loaded) -> None:
        name = loaded.settings.name
        if loaded.error:
            kept = "The one before goes on." if loaded.addresses is not None else "There is none before it."
            self._log.error("list_refused", list=name, error=loaded.error, text=kept)
        for each in loaded.addresses.remarks if loaded.addresses is not None else ():
            self._log.warning("list_line", list=name, line=each.line, text=each.text)

    # --- tables ---------------------------------------------------------------------------------------------

    async def _publish(self, found: Sequence[Group], loaded: Mapping[ListSettings, Loaded]) -> None:
        before = {part.table: part.count for part in await self._tables.published() if part.source == SOURCE}
        names = [group.black.name for group in found]
        misplaced = _misplaced([name for name in before if name in names], names)
        every: list[Networks] = []
        whole = True
        for group in found:
            networks = await self._networks(group, loaded)
            if networks is None:
                whole = False
                continue
            every.append(networks)
            await self._give(
                group.black,
                networks,
                before=before.get(group.black.name, 0),
                misplaced=group.black.name in misplaced,
            )
        for name in set(self._given) - set(names):
            del self._given[name]
        for name in before:
            if name not in names and not (name == SPAMD and self._settings.fill_spamd):
                await self._tables.unpublish(name, SOURCE)
                self._log.info("list_removed", list=name)
        if self._settings.fill_spamd and whole:
            await self._fill_spamd(every)

    async def _networks(self, group: Group, loaded: Mapping[ListSettings, Loaded]) -> Networks | None:
        """Return what a black list holds; None where one of its members is missing: then it stays as it is."""
        missing = [each.name for each in group.members if loaded[each].addresses is None]
        if missing:
            self._log.error(
                "list_kept", list=group.black.name, missing=", ".join(missing), text="The list stays as it is."
            )
            return None
        return await offload(_collapsed, group, loaded)

    async def _give(self, black: ListSettings, networks: Networks, *, before: int, misplaced: bool) -> None:
        """Publish a list that has `before` networks so far; what is the same is not written again."""
        try:
            if not networks:
                if before:
                    await self._tables.unpublish(black.name, SOURCE)
                return
            message = await self._sources.message(black)
            if before == len(networks) and self._given.get(black.name) == (message, networks) and not misplaced:
                return
            await self._tables.publish(black.name, SOURCE, networks, message=message)
            if misplaced:  # a list has its place from when it was first published
                await self._tables.unpublish(black.name, SOURCE)
                await self._tables.publish(black.name, SOURCE, networks, message=message)
            self._given[black.name] = message, networks
        except (TableFull, Unusable) as error:
            self._log.error("list_kept", list=black.name, error=str(error), text="The list stays as it is.")

    async def _fill_spamd(self, every: Sequence[Networks]) -> None:
        try:
            await self._tables.publish(SPAMD, SOURCE, await offload(_union, every))
        except TableFull as error:
            self._log.error("list_kept", list=SPAMD, error=str(error), text="The table stays as it is.")

    async def _export(self) -> None:
        for each in self._settings.exports:
            try:
                found = await self._stored.export(each.table)
                await offload(write_whole, Path(each.file), found.octets)
            except OSError as error:
                self._log.error("table_not_exported", table=each.table, file=each.file, error=str(error))
                continue
            if found.left_out:
                self._log.info(
                    "table_exported", table=each.table, entries=found.lines, ipv6_left_out=found.left_out
                )

    async def _tell(self) -> None:
        """Write the line of the article's script."""
        sizes = await self._stored.sizes((LISTED, BYPASS))
        counts = ", ".join(f"{name}: {sizes[name]}" for name in (LISTED, BYPASS))
        self._log.info("spamd-update", text=f"spamd black list updated; {counts}")

    async def _answer(self, question: Question) -> AsyncIterator[Mapping[str, object] | bytes]:
        match question:
            case {"verb": "update", "force": bool(force)}:
                try:
                    for each in await self.update(force=force):
                        yield asdict(each)
                except (SpamdConfError, NotCommitted, Overfull) as error:
                    raise Refused(str(error)) from error
            case _:
                raise Refused("the question is not understood: is the server of another version?")


async def wanted(settings: ListsSettings) -> tuple[ListSettings, ...]:
    """Return all lists that are set, those of spamd.conf first; raises SpamdConfError."""
    conf = await offload(spamdconf.read, Path(settings.conf)) if settings.conf else ()
    return (*conf, *settings.list)


async def known(settings: ListsSettings, data_dir: Path) -> list[ListStatus]:
    """Return what was last known of all lists that are set, without reading any; raises SpamdConfError."""
    shelf = Shelf(data_dir / "lists")
    found: list[ListStatus] = []
    for each in dict.fromkeys(await wanted(settings)):
        kept = shelf.known(each.name)
        found.append(
            ListStatus(
                each.name, each.kind.value, each.method.value, each.source, kept.count, kept.used, kept.error
            )
        )
    return found


def door_path(data_dir: Path) -> Path:
    """Return where the feed of a server listens."""
    return data_dir / "run" / "lists.sock"


async def tell_server(data_dir: Path, *, force: bool) -> list[ListStatus] | None:
    """Let a running server refresh its lists; None where no server has a list feed. Raises Refused."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(door_path(data_dir)), limit=ANSWER_MAX)
    except OSError:
        return None
    try:
        writer.write(json_line({"verb": "update", "force": force}))
        found: list[ListStatus] = []
        while line := await reader.readline():
            row = json.loads(line)
            if "error" in row and "name" not in row:
                raise Refused(str(row["error"]))
            if "done" in row:
                return found
            found.append(ListStatus(**{**row, "remarks": tuple(row["remarks"])}))
        raise Refused("the server closed the connection before it had answered all")
    finally:
        writer.close()


def _status(loaded: Loaded, now: Instant) -> ListStatus:
    which, addresses = loaded.settings, loaded.addresses
    return ListStatus(
        which.name,
        which.kind.value,
        which.method.value,
        which.source,
        0 if addresses is None else len(addresses),
        Instant(0) if loaded.error else now,
        loaded.error,
        tuple(f"line {each.line}: {each.text}" for each in addresses.remarks) if addresses is not None else (),
    )


def _collapsed(group: Group, loaded: Mapping[ListSettings, Loaded]) -> Networks:
    """Take the white lists out of the black one. In a thread."""
    return Networks.packed(collapse(_ranges(loaded[group.black]), _each(loaded, group.whites)), ())


def _each(loaded: Mapping[ListSettings, Loaded], lists: Iterable[ListSettings]) -> Iterable[Range]:
    return (span for each in lists for span in _ranges(loaded[each]))


def _ranges(loaded: Loaded) -> Iterable[Range]:
    return loaded.addresses.ranges if loaded.addresses is not None else ()


def _union(every: Sequence[Networks]) -> Networks:
    """Put lists together, each network once and none within another. In a thread."""
    spans = ((first, last + 1) for each in every for first, last in each.ranges(4))
    return Networks.packed(array("Q", collapse(spans)), ())


def _misplaced(before: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the lists that must be published anew for all to be in the order of `names`."""
    common = 0
    while common < len(before) and common < len(names) and before[common] == names[common]:
        common += 1
    return set(before[common:])
