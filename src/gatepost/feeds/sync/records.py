"""The greylist as peers compare it: records of gate.db as entries of datagrams, and the sums of all of them.

The sums are made anew now and then from the whole greylist, a page at a time and off the loop: a million records
cost seconds of another thread's time, so that the walk is repeated the more seldom the longer it took.
"""

from array import array
from collections.abc import AsyncIterator, Sequence
from typing import Final

from gatepost.aio.offload import offload
from gatepost.base.clock import Instant
from gatepost.codec.peersync import SUMS, Entry, Sums
from gatepost.db.unit import Database, Row, Rows
from gatepost.gate import sql
from gatepost.gate.grey import SPAMD_KINDS, Kind, Record
from gatepost.gate.prefix import parse_prefix

AT_ONCE: Final = 200  # rows: about 1 ms, for the other thread keeps the interpreter from the loop meanwhile
OWN: Final = (Kind.TRAP, Kind.EXPECTED)  # spamtraps and accounts are each server's own
SHARED: Final = frozenset(Kind) - frozenset(OWN)


def entry_of(row: Row) -> Entry:
    """Return the entry of a row: key, kind, ip, first, pass, expire, blocked, passed."""
    key, kind, ip, first, passes, expires, blocked, passed = row
    assert isinstance(key, bytes)
    assert isinstance(kind, int)
    assert isinstance(ip, str)
    numbers = [each for each in (first, passes, expires, blocked, passed) if isinstance(each, int)]
    return Entry(key, kind, ip, *numbers)


def record_of(entry: Entry) -> Record | None:
    """Return the record of an entry; None for a kind that is not shared or unknown here, and for one that no server
    of ours writes: times out of order, or a key that is not its kind's (it might be that of a spamtrap).
    """
    try:
        kind = Kind(entry.kind)
        if kind in SPAMD_KINDS:
            parse_prefix(entry.ip)
    except ValueError:
        return None
    if kind not in SHARED or not entry.first <= entry.expires >= entry.passes:
        return None
    host = entry.ip.encode()
    if not (entry.key == host if kind is Kind.HOST else entry.key.startswith(_start(kind, host))):
        return None
    times = Instant(entry.first), Instant(entry.passes), Instant(entry.expires)
    return Record(entry.key, kind, entry.ip, *times, entry.blocked, entry.passed)


def _start(kind: Kind, host: bytes) -> bytes:
    return (host if kind is Kind.TUPLE else kind.name.lower().encode()) + b"\n"


class Ledger:
    """The sums of one walk: 65,536 of them, by the first two octets of the digests, and 256 by the first."""

    def __init__(self) -> None:
        self._sums = array("I", bytes(4 * SUMS * SUMS))
        self._top = array("I", bytes(4 * SUMS))

    def top(self) -> Sums:
        """Return the sums by the first octet."""
        return Sums(None, tuple(self._top))

    def below(self, prefix: int) -> Sums:
        """Return the sums of one first octet by the second."""
        return Sums(prefix, tuple(self._sums[prefix * SUMS : (prefix + 1) * SUMS]))

    def add(self, rows: Rows, now: Instant) -> None:
        """Add a page of rows: digest, key, kind, ip, first, pass, expire, blocked, passed."""
        for digest, *row in rows:
            assert isinstance(digest, bytes)
            entry = entry_of(tuple(row))
            if entry.expires > now and Kind(entry.kind) in SHARED:
                self._sums[int.from_bytes(digest[:2])] ^= (one := entry.sum())
                self._top[digest[0]] ^= one


async def walk(database: Database, now: Instant) -> Ledger:
    """Make the sums of the whole greylist; raises Unhealthy."""
    ledger, after = Ledger(), b""
    while rows := await database.read_long(sql.ROWS, {"after": after}):
        for at in range(0, len(rows), AT_ONCE):
            await offload(ledger.add, rows[at : at + AT_ONCE], now)
        assert isinstance(rows[-1][0], bytes)
        after = rows[-1][0]
    return ledger


async def within(database: Database, first: int, second: int, now: Instant) -> AsyncIterator[Sequence[Entry]]:
    """Return the records whose digests begin with two octets, a page at a time; raises Unhealthy."""
    after, before = bytes((first, second)), (first << 8 | second) + 1
    end = before.to_bytes(2) if before < 1 << 16 else b"\xff" * 17
    while rows := await database.read_long(sql.ROWS_WITHIN, {"after": after, "before": end}):
        entries = [entry_of(tuple(row)) for _, *row in rows]
        yield [each for each in entries if each.expires > now and Kind(each.kind) in SHARED]
        assert isinstance(rows[-1][0], bytes)
        after = rows[-1][0]
