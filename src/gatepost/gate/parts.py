"""What feeds give tables, in gate.db: each part of a table is owned by one source and replaced as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass

from gatepost.aio.offload import offload
from gatepost.base.clock import Instant
from gatepost.db.unit import Database, Row
from gatepost.gate import sql
from gatepost.gate.networks import Networks


@dataclass(frozen=True, slots=True)
class Part:
    """A source's part of a table; `message` where the table is one of spamd's lists: what its members are told."""

    table: str
    source: str
    count: int
    since: Instant
    message: str | None


async def read_parts(database: Database) -> list[Part]:
    """Return every part, in the order in which they were made: that of the lists."""
    return [_part(row) for row in await database.read_long(sql.PARTS, {})]


async def read_networks(database: Database, table: str) -> Mapping[str, Networks]:
    """Return what each source gives a table; its own piece of work off the loop."""
    rows = await database.read_long(sql.PIECES, {"tbl": table})
    pieces: dict[str, list[bytes]] = {}
    for source, octets in rows:
        assert isinstance(octets, bytes)
        pieces.setdefault(str(source), []).append(octets)
    return await offload(_unpack, pieces)


def _unpack(pieces: Mapping[str, list[bytes]]) -> Mapping[str, Networks]:
    return {source: Networks.unpack(b"".join(each)) for source, each in pieces.items()}


def _part(row: Row) -> Part:
    table, source, count, listed, message, since = row
    assert isinstance(count, int)
    assert isinstance(since, int)
    return Part(str(table), str(source), count, Instant(since), str(message) if listed else None)
