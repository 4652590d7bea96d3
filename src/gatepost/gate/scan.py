"""The greylist's scan (spamd.8, greyscanner): drop what expired, make white what passed, unlist what is listed.

Afterwards the tables spamd-white and spamd-greytrap are replaced as a whole by what the records say. Rows are read
and turned into tables off the loop: there may be a hundred thousand white hosts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gatepost.aio.offload import offload
from gatepost.base.clock import Instant
from gatepost.db.unit import Database, Rows, Step, Unit
from gatepost.gate import sql
from gatepost.gate.decide import GREYTRAP, WHITE
from gatepost.gate.grey import promoted
from gatepost.gate.prefix import parse_prefix
from gatepost.gate.settings import GateSettings
from gatepost.gate.steps import GREY_NEWS, put_step, record_of
from gatepost.gate.table import Entry, Table

Listed = Callable[[int, int], bool]
"""Tells whether an address (family, number) is on a list."""

UNIT_STEPS = 2000


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan changed: hosts that became white, and white ones that a list took."""

    promoted: tuple[str, ...]
    unlisted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hosts:
    """What the greylist says of hosts and recipients."""

    white: Table
    trapped: Table
    spamtraps: frozenset[str]


async def scan(database: Database, settings: GateSettings, listed: Listed, now: Instant) -> Scanned:
    """Look the greylist through once; raises NotCommitted."""
    passed = await database.read_long(sql.PASSED, {"now": now})
    hosts = await database.read_long(sql.HOSTS, {"now": now})
    steps, found = await offload(_survey, passed, hosts, settings, listed, now)
    steps.insert(0, Step(sql.EXPIRE, {"now": now}))
    for at in range(0, len(steps), UNIT_STEPS):
        last = at + UNIT_STEPS >= len(steps)
        await database.commit(Unit(tuple(steps[at : at + UNIT_STEPS]), (GREY_NEWS,) if last else ()))
    return found


async def read_hosts(database: Database, now: Instant) -> Hosts:
    """Read the white and the trapped hosts and the spamtraps."""
    rows = await database.read_long(sql.HOSTS, {"now": now})
    traps = await database.read_long(sql.TRAPS, {})
    return await offload(_hosts, rows, traps, now)


def _survey(
    passed: Rows, hosts: Rows, settings: GateSettings, listed: Listed, now: Instant
) -> tuple[list[Step], Scanned]:
    steps: list[Step] = []
    white: dict[str, None] = {}
    unlisted: dict[str, None] = {}

    def is_listed(ip: str) -> bool:
        prefix = parse_prefix(ip)
        return listed(prefix.version, prefix.number)

    for row in passed:
        record = record_of(row)
        if record.ip in white or record.ip in unlisted:
            continue
        if is_listed(record.ip):
            unlisted[record.ip] = None
        else:
            white[record.ip] = None
            steps.append(put_step(promoted(record, now, settings), now, sql.PROMOTE))
    for ip, trapped in hosts:
        assert isinstance(ip, str)
        if trapped != -1 and is_listed(ip):
            unlisted[ip] = None
    steps += [Step(sql.DROP_LISTED, {"ip": ip, "now": now}) for ip in unlisted]
    return steps, Scanned(tuple(white), tuple(unlisted))


def _hosts(rows: Rows, traps: Rows, now: Instant) -> Hosts:
    white = [Entry(parse_prefix(str(ip)), since=now) for ip, passed in rows if passed != -1]
    trapped = [Entry(parse_prefix(str(ip)), since=now) for ip, passed in rows if passed == -1]
    names = frozenset(key.decode("utf-8", "replace") for (key,) in traps if isinstance(key, bytes))
    return Hosts(Table(WHITE, white), Table(GREYTRAP, trapped), names)
