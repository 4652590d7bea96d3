"""What the gate says to its database: steps made from values, and the notices that tell other processes."""

from collections.abc import Iterable, Sequence
from typing import Final
from zlib import crc32

from gatepost.base.clock import Instant, later
from gatepost.db.unit import Notice, Row, Statement, Step, Value
from gatepost.gate import sql
from gatepost.gate.grey import SPAMD_KINDS, Kind, Record, digest, net
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import parse_prefix
from gatepost.gate.settings import GateSettings
from gatepost.gate.table import Entry

TABLE_TOPIC: Final = "table"
GREY_TOPIC: Final = "grey"
GREY_NEWS: Final = Notice(GREY_TOPIC)
PIECES_MAX: Final = 500  # in one step: SQLite walks a text from its begin
PIECE_OCTETS: Final = 64 * 1024  # of a part's networks, in one row


def table_key(name: str) -> int:
    """Return the number under which news of a table are told."""
    return crc32(name.encode())


def table_news(name: str) -> Notice:
    """Return the notice that a table changed."""
    return Notice(TABLE_TOPIC, table_key(name))


def offer_step(fresh: Record, now: Instant, pass_time: int, network: str, statement: Statement = sql.SEEN) -> Step:
    """Return the step that counts an offer; `fresh` is the record that a first one makes.

    `pass_time` in microseconds; `network`: the sender's, under whose cap the record counts.
    """
    params: dict[str, Value] = {
        "digest": digest(fresh.key),
        "key": fresh.key,
        "kind": fresh.kind.value,
        "ip": fresh.ip,
        "net": network,
        "now": now,
        "expire": fresh.expires,
        "passed": fresh.passed,
        "pass_time": pass_time,
    }
    return Step(statement, params)


def low_priority_steps(key: bytes, host: Record, now: Instant, settings: GateSettings) -> tuple[Step, ...]:
    """Return the steps of an offer at the least preferred MX: trap the host, unless the tuple is known."""
    trap: dict[str, Value] = {
        "digest": digest(host.key),
        "key": host.key,
        "ip": host.ip,
        "net": net(host.ip),
        "now": now,
        "expire": host.expires,
        "tuple": digest(key),
    }
    again: dict[str, Value] = {"digest": digest(key), "now": now, "pass_time": settings.micro(settings.pass_time)}
    return Step(sql.TRAP_NEW, trap), Step(sql.SEEN_AGAIN, again)


def whiten_step(ip: str, times: int, now: Instant, settings: GateSettings) -> Step:
    """Return the step that keeps a host white after `times` mails."""
    expires = later(now, settings.micro(settings.white_time))
    return Step(sql.WHITEN, {**_host(ip, expires, now), "times": times})


def heard_step(statement: Statement, ip: str, expires: Instant, now: Instant) -> Step:
    """Return the step of a peer's word about a host (HEARD_WHITE, HEARD_TRAPPED)."""
    return Step(statement, _host(ip, expires, now))


def _host(ip: str, expires: Instant, now: Instant) -> dict[str, Value]:
    key = ip.encode()
    return {"digest": digest(key), "key": key, "ip": ip, "net": net(ip), "now": now, "expire": expires}


def part_steps(
    table: str, source: str, networks: Networks, packed: bytes, message: str | None, now: Instant
) -> Iterable[Step]:
    """Return the steps that give a table's part these networks."""
    key: dict[str, Value] = {"tbl": table, "source": source}
    yield Step(sql.DROP_PIECES, key)
    listed: dict[str, Value] = {"listed": int(message is not None), "message": message or ""}
    yield Step(sql.PUT_PART, key | {"count": len(networks), "since": now, **listed})
    for place, at in enumerate(range(0, len(packed), PIECE_OCTETS)):
        yield Step(sql.PUT_PIECE, key | {"place": place, "octets": packed[at : at + PIECE_OCTETS]})


def put_step(record: Record, now: Instant, statement: Statement = sql.PUT) -> Step:
    """Return the step that writes a record, over one of that key (or, with PROMOTE, only where there is none)."""
    params: dict[str, Value] = {
        "digest": digest(record.key),
        "key": record.key,
        "kind": record.kind.value,
        "ip": record.ip,
        "net": net(record.ip) if record.ip and record.kind in SPAMD_KINDS else "",
        "first": record.first,
        "pass": record.passes,
        "expire": record.expires,
        "seen": now,
        "blocked": record.blocked,
        "passed": record.passed,
    }
    return Step(statement, params)


def record_of(row: Sequence[Value]) -> Record:
    """Return the record of a row: key, kind, ip, first, pass, expire, blocked, passed."""
    key, kind, ip, first, passes, expires, blocked, passed = row
    assert isinstance(key, bytes)
    assert isinstance(kind, int)
    assert isinstance(ip, str)
    assert isinstance(first, int)
    assert isinstance(passes, int)
    assert isinstance(expires, int)
    assert isinstance(blocked, int)
    assert isinstance(passed, int)
    return Record(key, Kind(kind), ip, Instant(first), Instant(passes), Instant(expires), blocked, passed)


def entry_step(table: str, entry: Entry) -> Step:
    """Return the step that adds one entry, where there is none of that network."""
    params: dict[str, Value] = {
        "tbl": table,
        "network": entry.text,
        "negated": int(entry.negated),
        "since": entry.since,
        "note": entry.note,
    }
    return Step(sql.ADD_ENTRY, params)


def many_steps(statement: Statement, table: str, entries: Sequence[Entry], now: Instant) -> Iterable[Step]:
    """Return the steps that add (ADD_MANY) or delete (DROP_MANY) many entries."""
    for at in range(0, len(entries), PIECES_MAX):
        pieces = [("!" if each.negated else " ") + each.text for each in entries[at : at + PIECES_MAX]]
        packed = "".join(piece.ljust(sql.PIECE) for piece in pieces)
        params: dict[str, Value] = {"tbl": table, "count": len(pieces), "packed": packed}
        if statement is sql.ADD_MANY:
            params["since"] = now
        yield Step(statement, params)


def check_limit_step(tables_max: int) -> Step:
    """Return a unit's last step: it undoes the unit where the entries became too many."""
    return Step(sql.CHECK_LIMIT, {"tables_max": tables_max})


def entry_of(row: Row) -> Entry:
    """Return the entry of a row: network, negated, since, note, in_block, in_pass."""
    network, negated, since, note, blocked, passed = row
    assert isinstance(network, str)
    assert isinstance(since, int)
    assert isinstance(note, str)
    assert isinstance(blocked, int)
    assert isinstance(passed, int)
    return Entry(parse_prefix(network), bool(negated), Instant(since), note, blocked, passed)
