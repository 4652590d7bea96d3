"""What operators ask the diary, and the sweeping that keeps it small."""

from dataclasses import dataclass
from typing import Final, cast

from gatepost.base.address import Address
from gatepost.base.clock import Instant, seconds
from gatepost.base.ids import MailId
from gatepost.db.unit import Database, Rows, Statement, Step, Unit
from gatepost.diary import sql
from gatepost.diary.packing import fingerprint, unpack
from gatepost.diary.refused import sql as refused_sql
from gatepost.diary.settings import DiarySettings
from gatepost.diary.story import first_id_at, moment

STORIES_MAX: Final = 100
"""Of one trace by address: the newest."""

SWEEP_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One line of a story, for people."""

    id: MailId
    at: Instant
    stage: str
    event: str
    fields: tuple[tuple[str, str | int], ...]


async def trace(database: Database, what: MailId | Address, gate: Database | None = None) -> list[StoryLine]:
    """Return the story of one mail, or of the newest 100 mails from or to an address, in the order of time.

    `gate` is the database of refused mails' stories, where they are wanted too.
    """
    found = await _stories(database, (sql.STORY, sql.BY_ADDRESS), what)
    lines = [line for mail, packed in found for line in _lines(mail, packed)]
    for mail, _ in found:
        for _at, packed in await database.read(sql.LINES, {"id": mail}):
            lines += _lines(mail, cast(bytes, packed))  # the column is octets
    if gate is not None:
        refused = await _stories(gate, (refused_sql.STORY, refused_sql.BY_ADDRESS), what)
        lines += [line for mail, packed in refused for line in _lines(mail, packed)]
    return sorted(lines, key=lambda line: (line.at, line.id))


async def newest(database: Database, most: int = 50) -> list[tuple[MailId, list[StoryLine]]]:
    """Return the stories of the last mails, newest first, each as it was when it was accepted."""
    rows = await database.read(sql.NEWEST, {"most": min(most, 1000)})
    return [(MailId(mail), _lines(mail, packed)) for mail, packed in _typed(rows)]


async def sweep(database: Database, settings: DiarySettings, now: Instant) -> int:
    """Drop stories of accepted mails above the limits of days and rows; return how many.

    In units of 1,000, so that mail waits for none of them. One process at a time calls this.
    """
    dropped = await _drop_before(database, first_id_at(Instant(now - seconds(settings.keep_accepted))))
    counted = cast(int, (await database.read_long(sql.COUNT, {}))[0][0])  # COUNT(*)
    surplus = counted - settings.stories_max
    while surplus > 0:
        part = min(surplus, SWEEP_ROWS)
        edge = await database.read_long(sql.EDGE, {"before": 1 << 62, "skip": part - 1})
        if not edge:
            break
        gone = await _drop_upto(database, cast(int, edge[0][0]))  # an id
        surplus -= gone
        dropped += gone
    return dropped


async def _drop_before(database: Database, before: int) -> int:
    dropped = 0
    while True:
        edge = await database.read_long(sql.EDGE, {"before": before, "skip": SWEEP_ROWS - 1})
        last = edge or await database.read_long(sql.LAST_OLD, {"before": before})
        if not last:
            return dropped
        dropped += await _drop_upto(database, cast(int, last[0][0]))  # an id


async def _drop_upto(database: Database, upto: int) -> int:
    statements = (sql.DROP_STORIES, sql.DROP_PARTIES, sql.DROP_LINES)
    (gone,) = await database.commit(Unit(tuple(Step(each, {"upto": upto}) for each in statements)))
    return len(gone)


async def _stories(
    database: Database, statements: tuple[Statement, Statement], what: MailId | Address
) -> list[tuple[int, bytes]]:
    by_id, by_address = statements
    if isinstance(what, Address):
        params = {"address": fingerprint(what.key), "most": STORIES_MAX}
        return _typed(await database.read_long(by_address, params))
    return _typed(await database.read(by_id, {"id": what}))


def _typed(rows: Rows) -> list[tuple[int, bytes]]:
    return cast(list[tuple[int, bytes]], rows)  # the columns are id and packed


def _lines(mail: int, packed: bytes) -> list[StoryLine]:
    return [
        StoryLine(MailId(mail), moment(mail, line.after), line.stage, line.event, tuple(line.fields.items()))
        for line in unpack(packed)
    ]
