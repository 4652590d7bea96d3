"""What operators do with tables and the greylist: pfctl -T's verbs and spamdb's, in their words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gatepost.base.address import fold
from gatepost.base.clock import MICROSECONDS, Instant, later, seconds
from gatepost.base.units import Seconds
from gatepost.db.unit import Database, Step, Unit, Unmet
from gatepost.gate import sql
from gatepost.gate.decide import GREYTRAP, TABLE_NAMES, WHITE
from gatepost.gate.friendly import expected_step
from gatepost.gate.grey import (
    NEVER,
    SPAMD_KINDS,
    SPAMTRAP,
    Kind,
    Record,
    State,
    digest,
    trapped_by_hand,
    white_by_hand,
)
from gatepost.gate.parts import read_networks, read_parts
from gatepost.gate.prefix import number_of, parse_prefix, sender_prefix
from gatepost.gate.scan import read_hosts
from gatepost.gate.settings import GateSettings
from gatepost.gate.steps import (
    GREY_NEWS,
    check_limit_step,
    entry_of,
    many_steps,
    put_step,
    record_of,
    table_news,
)
from gatepost.gate.table import NAME_MAX, Entry, Table, TableFull, parse_entry, read_file


class GateRefusal(Exception):
    """A verb that cannot be done; the text is for the operator."""


class NoSuchTable(GateRefusal):
    """pfctl's exit status 1."""

    def __init__(self) -> None:
        super().__init__("Table does not exist.")


@dataclass(frozen=True, slots=True)
class Done:
    """How many of how many; pfctl's lines, for stderr; `lines` what a verb shows, for stdout."""

    done: int
    asked: int
    text: str
    lines: tuple[str, ...] = ()


# --- tables (pfctl -t TABLE -T verb) --------------------------------------------------------------------------


async def list_tables(database: Database, settings: GateSettings) -> list[tuple[str, int]]:
    """Return every table with how many entries it has: of its file, of feeds, and of its own."""
    parts = await read_parts(database)
    sizes = dict.fromkeys((*TABLE_NAMES, *settings.tables, *(part.table for part in parts)), 0)
    sizes |= dict.fromkeys(await _made(database), 0)
    for name, count in await database.read_long(sql.ENTRY_COUNTS, {}):
        sizes[str(name)] = int(str(count))
    for part in parts:
        sizes[part.table] += part.count
    for name in settings.tables:
        sizes[name] = len(await show_table(database, name, settings))
    return sorted(sizes.items())


async def show_table(
    database: Database, name: str, settings: GateSettings | None = None, now: Instant | None = None
) -> list[Entry]:
    """Return a table's entries in their order: the database's, the feeds', and those of its file in `settings`.

    With `now` also what the greylist says: the members of spamd-white and spamd-greytrap.
    """
    if name in (WHITE, GREYTRAP) and now is not None:
        hosts = await read_hosts(database, now)
        return list(hosts.white if name == WHITE else hosts.trapped)
    file = settings.tables.get(name) if settings is not None else None
    entries = {entry.network: entry for entry in (read_file(Path(file)) if file else ())}
    for source, networks in (await read_networks(database, name)).items():
        entries |= {network: Entry(network, note=source) for network in networks}
    entries |= {
        entry.network: entry for entry in map(entry_of, await database.read_long(sql.ENTRIES, {"tbl": name}))
    }
    return sorted(entries.values(), key=lambda entry: (entry.network.version, entry.network.number))


def shown(entry: Entry, *, verbose: bool = False) -> str:
    """Return an entry as `pfctl -T show` prints it, with -v with its age and counters."""
    line = f"  {'!' if entry.negated else ' '}{entry.text}"
    if not verbose:
        return line
    cleared = datetime.fromtimestamp(entry.since / MICROSECONDS, UTC).strftime("%a %b %e %H:%M:%S %Y")
    counts = {"In/Block:": entry.blocked, "In/Pass:": entry.passed, "Out/Block:": 0, "Out/Pass:": 0}
    lines = (f"\t{word:<12} [ Packets: {count:<18} Bytes: {0:<18} ]" for word, count in counts.items())
    return "\n".join((line, f"\tCleared:     {cleared}", *lines))


async def add_entries(
    database: Database, name: str, texts: Sequence[str], now: Instant, *, tables_max: int = 400_000
) -> Done:
    """Add entries; makes the table where there is none. What is there, also with the other sign, stays."""
    known, asked = await _known(database, name), _parse(texts, now)
    fresh = [entry for network, entry in asked.items() if network not in known]
    made = await _make_step(database, name, now)
    await _change(database, name, [*made, *many_steps(sql.ADD_MANY, name, fresh, now)], tables_max)
    created = "1 table created.\n" if made else ""
    return Done(len(fresh), len(texts), f"{created}{len(fresh)}/{len(texts)} addresses added.")


async def delete_entries(database: Database, name: str, texts: Sequence[str]) -> Done:
    """Delete the entries of exactly these networks, with their sign."""
    known = await _known(database, name, must_exist=True)
    asked = _parse(texts, Instant(0))
    gone = [each for network, each in asked.items() if network in known and known[network].negated == each.negated]
    await _change(database, name, [*many_steps(sql.DROP_MANY, name, gone, Instant(0))])
    return Done(len(gone), len(texts), f"{len(gone)}/{len(texts)} addresses deleted.")


async def replace_entries(
    database: Database, name: str, texts: Sequence[str], now: Instant, *, tables_max: int = 400_000
) -> Done:
    """Give a table exactly these entries, at once or not at all; what stays keeps its age."""
    old, new = await _known(database, name), _parse(texts, now)
    gone = [entry for network, entry in old.items() if network not in new]
    fresh = [entry for network, entry in new.items() if network not in old]
    changed = [entry for network, entry in new.items() if network in old and old[network].negated != entry.negated]
    made = await _make_step(database, name, now)
    steps = [
        *made,
        *many_steps(sql.DROP_MANY, name, gone, now),
        *many_steps(sql.ADD_MANY, name, [*fresh, *changed], now),
    ]
    await _change(database, name, steps, tables_max)
    words = [f"{len(fresh)} addresses added."] if fresh else []
    words += [f"{len(gone)} addresses deleted."] if gone else []
    words += [f"{len(changed)} addresses changed."] if changed else []
    lines = (["1 table created."] if made else []) + (words or ["no changes."])
    return Done(len(fresh) + len(gone) + len(changed), len(texts), "\n".join(lines))


async def flush_table(database: Database, name: str) -> Done:
    """Empty a table."""
    count = len(await _known(database, name, must_exist=True))
    await _change(database, name, [Step(sql.FLUSH_ENTRIES, {"tbl": name})])
    return Done(count, count, f"{count} addresses deleted.")


async def kill_table(database: Database, name: str) -> Done:
    """Drop a table; those that the rules name are only emptied, as PF keeps tables that rules refer to."""
    await _known(database, name, must_exist=True)
    await _change(database, name, [Step(sql.FLUSH_ENTRIES, {"tbl": name}), Step(sql.DROP_TABLE, {"name": name})])
    return Done(1, 1, "1 table deleted.")


async def expire_entries(database: Database, name: str, age: float, now: Instant) -> Done:
    """Delete entries that were added, or cleared, more than `age` seconds ago, also those that are still hit."""
    known = await _known(database, name, must_exist=True)
    old = [entry for entry in known.values() if entry.since + seconds(age) < now]
    await _change(database, name, [*many_steps(sql.DROP_MANY, name, old, now)])
    return Done(len(old), len(known), f"{len(old)}/{len(known)} addresses expired.")


async def zero_table(database: Database, name: str, now: Instant) -> Done:
    """Clear a table's counters, and begin the ages of its entries anew."""
    await _known(database, name, must_exist=True)
    await _change(database, name, [Step(sql.ZERO_ENTRIES, {"tbl": name, "now": now})])
    return Done(1, 1, "1 table/stats cleared.")


async def test_entries(
    database: Database,
    name: str,
    texts: Sequence[str],
    settings: GateSettings | None,
    now: Instant | None,
) -> Done:
    """Count which of these hosts are in a table: all of them is pfctl's exit status 0, else 2.

    `lines` are those that match, with their entry, as -vv prints them.
    """
    entries = await show_table(database, name, settings, now)
    if not entries:
        await _known(database, name, must_exist=True)
    table = Table(name, entries)
    lines = []
    for text in texts:
        asked = parse_entry(text)
        if not asked.network.host:
            raise GateRefusal("illegal test address")
        match = table.match(asked.text)
        if match is not None and not match.negated:
            lines.append(f"M  {asked.text}\t {match.text}")
    return Done(len(lines), len(texts), f"{len(lines)}/{len(texts)} addresses match.", tuple(lines))


# --- the greylist (spamdb) ------------------------------------------------------------------------------------


async def grey_records(database: Database, keys: Sequence[str] = (), *, friendly: bool = False) -> list[Record]:
    """Return spamd's part of the greylist, or the records of these keys, by kind and key."""
    if keys:
        return [record for key in keys if (record := await _record(database, key)) is not None]
    records: list[Record] = []
    after = b""
    while rows := await database.read_long(sql.ROWS, {"after": after}):
        records += [record_of(row[1:]) for row in rows]
        assert isinstance(rows[-1][0], bytes)
        after = rows[-1][0]
    found = (record for record in records if (record.kind in SPAMD_KINDS) is not friendly)
    return sorted(found, key=lambda record: (-record.kind.value, record.key))


async def expect(database: Database, account: int, length: Seconds, now: Instant) -> Instant:
    """Let every sender through to an account for so long: "I'm expecting a code"; return when it ends."""
    until = later(now, seconds(length))
    await database.commit(Unit((expected_step(account, until, now),)))
    return until


async def grey_states(database: Database) -> Mapping[State, int]:
    """Return how many records there are of each state."""
    counts = dict.fromkeys(State, 0)
    for kind, trapped, count in await database.read_long(sql.STATES, {}):
        match Kind(kind):
            case Kind.TUPLE:
                state = State.TRAPPED if trapped else State.GREY
            case Kind.HOST:
                state = State.TRAPPED if trapped else State.WHITE
            case Kind.TRAP:
                state = State.SPAMTRAP
            case friendly:
                state = State(friendly.name)
        counts[state] += int(str(count))
    return counts


async def add_white(database: Database, ips: Sequence[str], now: Instant, settings: GateSettings) -> None:
    """Make hosts white, for 36 days whatever the settings say (spamdb -a)."""
    hosts = [_host(ip) for ip in ips]
    records = [white_by_hand(await _record(database, ip), ip, now) for ip in hosts]
    await database.commit(Unit(tuple(put_step(record, now) for record in records), (GREY_NEWS,)))


async def add_trapped(database: Database, ips: Sequence[str], now: Instant, settings: GateSettings) -> None:
    """Trap hosts for 24 hours (spamdb -t -a)."""
    hosts = [_host(ip) for ip in ips]
    records = [trapped_by_hand(await _record(database, ip), ip, now, settings) for ip in hosts]
    await database.commit(Unit(tuple(put_step(record, now) for record in records), (GREY_NEWS,)))


async def add_spamtraps(database: Database, addresses: Sequence[str], now: Instant) -> None:
    """Make addresses spamtraps, for ever (spamdb -T -a)."""
    records = [Record(_trap_key(each), Kind.TRAP, "", now, NEVER, NEVER, 0, SPAMTRAP) for each in addresses]
    await database.commit(Unit(tuple(put_step(record, now) for record in records), (GREY_NEWS,)))


async def delete_records(database: Database, keys: Sequence[str]) -> list[str]:
    """Delete records by key: a host's address or a spamtrap; return those that were not there."""
    return await _delete(database, [(key, Step(sql.DROP, {"digest": digest(_key(key))})) for key in keys])


async def delete_grey(database: Database, ips: Sequence[str]) -> list[str]:
    """Delete the first tuple of each host (spamdb -d -G); return the hosts that had none."""
    return await _delete(database, [(ip, Step(sql.DROP_GREY, {"ip": _host(ip)})) for ip in ips])


def spamdb_line(record: Record) -> str:
    """Return a record as spamdb prints it: seconds since 1970, fields parted by bars."""
    return spamdb_octets(record).decode("utf-8", "backslashreplace")


def spamdb_lines(records: Iterable[Record]) -> bytes:
    """Return records byte for byte as spamdb prints them."""
    return b"".join(spamdb_octets(record) + b"\n" for record in records)


def spamdb_octets(record: Record) -> bytes:
    """Return one record's line; a white one has two empty fields where a grey one has three values."""
    first, passes, expires = (each // MICROSECONDS for each in (record.first, record.passes, record.expires))
    counts = f"{first}|{passes}|{expires}|{record.blocked}|{record.passed}".encode()
    match record.state:
        case State.SPAMTRAP:
            return b"SPAMTRAP|" + record.key
        case State.TRAPPED:
            return f"TRAPPED|{record.ip}|{expires}".encode()
        case State.WHITE:
            return f"WHITE|{record.ip}|||".encode() + counts
        case State.GREY:
            return b"|".join((b"GREY", *record.key.split(b"\n", 3), counts))
        case other:
            raise AssertionError(f"spamd knows no {other.value}")


# --- private --------------------------------------------------------------------------------------------------


async def _made(database: Database) -> list[str]:
    return [str(row[0]) for row in await database.read_long(sql.MADE_TABLES, {})]


async def _known(database: Database, name: str, *, must_exist: bool = False) -> dict[object, Entry]:
    if not name or len(name) > NAME_MAX:
        raise GateRefusal(f"a table's name has 1 to {NAME_MAX} letters")
    rows = await database.read_long(sql.ENTRIES, {"tbl": name})
    known: dict[object, Entry] = {entry.network: entry for entry in map(entry_of, rows)}
    if must_exist and not known and name not in TABLE_NAMES:
        fed = [part.table for part in await read_parts(database)]
        if name not in (*await _made(database), *fed):
            raise NoSuchTable
    return known


async def _make_step(database: Database, name: str, now: Instant) -> list[Step]:
    if name in TABLE_NAMES or name in await _made(database):
        return []
    return [Step(sql.MAKE_TABLE, {"name": name, "now": now})]


def _parse(texts: Sequence[str], now: Instant) -> dict[object, Entry]:
    """Return the entries by network; the first of two that are the same counts."""
    entries: dict[object, Entry] = {}
    for text in texts:
        entry = parse_entry(text, now)
        entries.setdefault(entry.network, entry)
    return entries


async def _change(database: Database, name: str, steps: Sequence[Step], tables_max: int | None = None) -> None:
    """Commit as one unit; TableFull where the entries would be too many, and nothing was changed."""
    last = [] if tables_max is None else [check_limit_step(tables_max)]
    try:
        await database.commit(Unit((*steps, *last), (table_news(name),)))
    except Unmet as unmet:
        raise TableFull(f"more entries than the limit of {tables_max}: Cannot allocate memory.") from unmet


async def _record(database: Database, key: str) -> Record | None:
    rows = await database.read(sql.ROW, {"digest": digest(_key(key))})
    return record_of(rows[0]) if rows else None


async def _delete(database: Database, work: Sequence[tuple[str, Step]]) -> list[str]:
    missing = []
    for key, step in work:
        try:
            await database.commit(Unit((step,), (GREY_NEWS,)))
        except Unmet:
            missing.append(key)
    return missing


def _host(ip: str) -> str:
    """Return the text of a host's key; an IPv6 host is its /64."""
    try:
        prefix = sender_prefix(*number_of(ip)) if "/" not in ip else parse_prefix(ip)
    except ValueError:
        raise GateRefusal(f"invalid ip address {ip}") from None
    if prefix.length != (32 if prefix.version == 4 else 64):
        raise GateRefusal(f"invalid ip address {ip}")
    return prefix.text


def _key(key: str) -> bytes:
    if "@" in key:
        return _trap_key(key)
    try:
        return _host(key).encode()
    except GateRefusal:
        return key.encode()


def _trap_key(address: str) -> bytes:
    if "@" not in address:
        raise GateRefusal(f"not an email address: {address}")
    return fold(address.strip("<>")).encode()
