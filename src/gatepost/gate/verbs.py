"""What operators do with tables and the greylist: pfctl -T's verbs and spamdb's, in their words."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from gatepost.base.address import fold
from gatepost.base.clock import MICROSECONDS, Instant, later, seconds
from gatepost.db.unit import Database, Notice, Step, Unit, Unmet
from gatepost.gate import sql
from gatepost.gate.decide import TABLE_NAMES
from gatepost.gate.gate import GREY_TOPIC, TABLE_TOPIC, entry_of, entry_step, put_step
from gatepost.gate.grey import NEVER, SPAMTRAP, TRAPPED, Kind, Record, State, net
from gatepost.gate.settings import GateSettings
from gatepost.gate.table import NAME_MAX, Entry, Table, parse_entry


class GateRefusal(Exception):
    """A verb that cannot be done; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Done:
    """How many of how many; pfctl's line."""

    done: int
    asked: int
    text: str


async def list_tables(database: Database, settings: GateSettings) -> list[tuple[str, int]]:
    """Return every table with how many entries the database keeps for it."""
    sizes = dict.fromkeys((*TABLE_NAMES, *settings.tables), 0)
    for row in await database.read_long(sql.ENTRIES, {}):
        sizes[str(row[0])] = sizes.get(str(row[0]), 0) + 1
    return sorted(sizes.items())


async def show_table(database: Database, name: str) -> list[Entry]:
    """Return a table's entries as the database keeps them."""
    rows = await database.read_long(sql.ENTRIES_OF, {"tbl": name})
    return [entry_of(str(row[1]), bool(row[2]), int(str(row[3]))) for row in rows]


async def add_entries(database: Database, name: str, texts: Sequence[str], now: Instant) -> Done:
    """Add entries; makes the table where there is none."""
    _check_name(name)
    known = {entry.network for entry in await show_table(database, name)}
    entries = [parse_entry(text, now) for text in texts]
    fresh = list({entry.network: entry for entry in entries if entry.network not in known}.values())
    await _change(database, [entry_step(name, entry) for entry in fresh])
    return Done(len(fresh), len(texts), f"{len(fresh)}/{len(texts)} addresses added.")


async def delete_entries(database: Database, name: str, texts: Sequence[str]) -> Done:
    """Delete the entries of exactly these networks."""
    known = {entry.network for entry in await show_table(database, name)}
    gone = [entry for entry in map(parse_entry, texts) if entry.network in known]
    steps = [Step(sql.DROP_ENTRY, {"tbl": name, "network": str(entry.network)}) for entry in gone]
    await _change(database, steps)
    return Done(len(gone), len(texts), f"{len(gone)}/{len(texts)} addresses deleted.")


async def replace_entries(database: Database, name: str, texts: Sequence[str], now: Instant) -> Done:
    """Give a table exactly these entries."""
    _check_name(name)
    old = {entry.network for entry in await show_table(database, name)}
    new = {entry.network: entry for entry in (parse_entry(text, now) for text in texts)}
    steps = [Step(sql.DROP_ENTRY, {"tbl": name, "network": str(each)}) for each in old - new.keys()]
    steps += [entry_step(name, entry) for network, entry in new.items() if network not in old]
    await _change(database, steps)
    added, deleted = len(new.keys() - old), len(old - new.keys())
    words = ([f"{added} addresses added."] if added else []) + (
        [f"{deleted} addresses deleted."] if deleted else []
    )
    return Done(added + deleted, len(texts), "\n".join(words) or "no changes.")


async def flush_table(database: Database, name: str) -> Done:
    """Empty a table."""
    count = len(await show_table(database, name))
    await _change(database, [Step(sql.FLUSH_ENTRIES, {"tbl": name})])
    return Done(count, count, f"{count} addresses deleted.")


async def expire_entries(database: Database, name: str, age: float, now: Instant) -> Done:
    """Delete entries that were added, or cleared, more than `age` seconds ago."""
    entries = await show_table(database, name)
    old = [entry for entry in entries if entry.since + seconds(age) < now]
    await _change(database, [Step(sql.DROP_ENTRY, {"tbl": name, "network": str(each.network)}) for each in old])
    return Done(len(old), len(entries), f"{len(old)}/{len(entries)} addresses expired.")


async def zero_table(database: Database, name: str, now: Instant) -> Done:
    """Begin the ages of a table's entries anew."""
    await _change(database, [Step(sql.ZERO_ENTRIES, {"tbl": name, "now": now})])
    return Done(1, 1, "1 table/stats cleared.")


async def test_entries(database: Database, name: str, texts: Sequence[str]) -> Done:
    """Count which of these hosts are in a table: all of them is pfctl's exit status 0, else 2."""
    table = Table(name, await show_table(database, name))
    matching = 0
    for text in texts:
        entry = parse_entry(text)
        if entry.network.prefixlen != entry.network.max_prefixlen:
            raise GateRefusal(f"illegal test address {text}: only whole hosts can be tested")
        matching += table.match(str(entry.network.network_address)) is not None
    return Done(matching, len(texts), f"{matching}/{len(texts)} addresses match.")


async def grey_records(database: Database) -> list[Record]:
    """Return the whole greylist, in the order of its keys."""
    records: list[Record] = []
    after = b""
    while rows := await database.read_long(sql.ROWS, {"after": after}):
        records += [_record(row) for row in rows]
        after = records[-1].key
    return records


async def add_white(database: Database, ips: Sequence[str], now: Instant, settings: GateSettings) -> None:
    """Make hosts white, for 36 days whatever the settings say (spamdb -a)."""
    await _put_hosts(database, ips, now, later(now, seconds(36 * 86_400)), 0)


async def add_trapped(database: Database, ips: Sequence[str], now: Instant, settings: GateSettings) -> None:
    """Trap hosts for 24 hours (spamdb -t -a)."""
    await _put_hosts(database, ips, now, later(now, seconds(settings.trap_time)), TRAPPED)


async def add_spamtraps(database: Database, addresses: Sequence[str], now: Instant) -> None:
    """Make addresses spamtraps, for ever (spamdb -T -a)."""
    steps = []
    for address in addresses:
        if "@" not in address:
            raise GateRefusal(f"not an email address: {address}")
        key = fold(address.strip("<>")).encode()
        steps.append(put_step(key, Kind.TRAP, "", "", now, NEVER, NEVER, 0, SPAMTRAP))
    await database.commit(Unit(tuple(steps), (Notice(GREY_TOPIC),)))


async def delete_records(database: Database, keys: Sequence[str]) -> list[str]:
    """Delete records by key: a host's address or a spamtrap; return those that were not there."""
    missing = []
    for key in keys:
        for name in (key.encode(), fold(key.strip("<>")).encode()):
            try:
                await database.commit(Unit((Step(sql.DROP, {"key": name}),), (Notice(GREY_TOPIC),)))
                break
            except Unmet:
                continue
        else:
            missing.append(key)
    return missing


def spamdb_line(record: Record) -> str:
    """Return a record as spamdb prints it: seconds since 1970, fields parted by bars."""
    times = [each // MICROSECONDS for each in (record.first, record.passes, record.expires)]
    counts = f"{times[0]}|{times[1]}|{times[2]}|{record.blocked}|{record.passed}"
    match record.state:
        case State.SPAMTRAP:
            return f"SPAMTRAP|{record.key.decode('utf-8', 'replace')}"
        case State.TRAPPED:
            return f"TRAPPED|{record.ip}|{times[2]}"
        case State.WHITE:
            return f"WHITE|{record.ip}|||{counts}"
        case State.GREY:
            ip, helo, sender, recipient = (part.decode("utf-8", "replace") for part in record.key.split(b"\n", 3))
            return f"GREY|{ip}|{helo}|{sender}|{recipient}|{counts}"


async def _put_hosts(database: Database, ips: Sequence[str], now: Instant, expires: Instant, passed: int) -> None:
    steps = []
    for ip in ips:
        try:
            network = ip_network(ip)
        except ValueError:
            raise GateRefusal(f"invalid ip address {ip}") from None
        text = str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
        steps.append(put_step(text.encode(), Kind.HOST, text, net(text), now, now, expires, 1, passed))
    await database.commit(Unit(tuple(steps), (Notice(GREY_TOPIC),)))


async def _change(database: Database, steps: Sequence[Step]) -> None:
    for at in range(0, len(steps), 500):
        await database.commit(Unit(tuple(steps[at : at + 500]), (Notice(TABLE_TOPIC),)))


def _record(row: Sequence[object]) -> Record:
    key, kind, ip = row[:3]
    assert isinstance(key, bytes)
    first, passes, expires, blocked, passed = (int(str(each)) for each in row[3:])
    return Record(key, Kind(kind), str(ip), Instant(first), Instant(passes), Instant(expires), blocked, passed)


def _check_name(name: str) -> None:
    if not name or len(name) > NAME_MAX:
        raise GateRefusal(f"a table's name has 1 to {NAME_MAX} letters")
