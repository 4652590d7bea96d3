"""Which key reads what, and everything under the first key anew: the care of keys for the operator.

These look at the rows as they lie on the disk: their database is the bare one, not queue/atrest's. A rotation may
be stopped at any moment and run again: each row is one step; a key is struck out last, when nothing is under it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from gatepost.base.clock import Instant
from gatepost.base.ids import MailId, id_text
from gatepost.blobs.bodies import Blobs, Damaged
from gatepost.blobs.keys import Keys, Unreadable
from gatepost.blobs.known import admit, count_by_key, known_keys
from gatepost.blobs.sql import DROP_KEY, NOT_UNDER
from gatepost.db.unit import Database, Params, Row, Step, Unit, Value
from gatepost.queue.atrest import open_under, seal
from gatepost.queue.sql import RESEAL_MAIL, RESEAL_RCPT, REST_MAILS, REST_RCPTS

CLEAR: Final = ""
"""Stands for a key's name where there is none."""
Progress = Callable[[int], None]
"""Told how many more were done."""


@dataclass(frozen=True, slots=True)
class Census:
    """How much is under each key, by the key's name."""

    known: tuple[str, ...]
    """Keys that are written down in the database."""
    mails: Counter[str]
    recipients: Counter[str]
    bodies: Counter[str]
    unreadable: tuple[str, ...]
    """Envelopes that no key opens: `ID` of a mail, `ID/n` of its n-th recipient."""

    def under(self, name: str) -> int:
        """Return how many rows and bodies are under a key."""
        return self.mails[name] + self.recipients[name] + self.bodies[name]

    def besides(self, name: str) -> int:
        """Return how much is not under a key, but readable."""
        return sum(sum(each.values()) - each[name] for each in (self.mails, self.recipients, self.bodies))


@dataclass(slots=True)
class Rotated:
    """What a rotation has done."""

    envelopes: int = 0
    bodies: int = 0
    unreadable: list[str] = field(default_factory=list)
    struck_out: list[str] = field(default_factory=list)
    """Keys under which nothing is any more: they may leave the file."""


@dataclass(frozen=True, slots=True)
class _Envelope:
    """A row with its secrets: under which key they are, and the step that puts them under another."""

    name: str
    keys: frozenset[str] | None
    """None where one of them opens under no key."""
    anew: Step | None


async def census(database: Database, keys: Keys) -> Census:
    """Count what is under which key. Opens every envelope of the queue, no body."""
    mails: Counter[str] = Counter()
    recipients: Counter[str] = Counter()
    unreadable: list[str] = []
    for pages, counts in ((_mails(database, keys), mails), (_recipients(database, keys), recipients)):
        async for page in pages:
            for each in page:
                if each.keys is None:
                    unreadable.append(each.name)
                else:
                    counts.update(each.keys)
    bodies = Counter(await count_by_key(database))
    return Census(tuple(await known_keys(database)), mails, recipients, bodies, tuple(unreadable))


async def rotate(database: Database, blobs: Blobs, keys: Keys, now: Instant, progress: Progress) -> Rotated:
    """Put everything under the first key, or in clear where `keys` encrypt nothing; raises KeyRefused.

    `blobs` has the same keys. What cannot be read stays as it is, and its key stays written down.
    """
    await admit(database, keys, now)
    done = Rotated()
    target = CLEAR if keys.first is None else keys.first.name
    for pages in (_mails(database, keys), _recipients(database, keys)):
        async for page in pages:
            await _reseal(database, page, target, done, progress)
    await _reseal_bodies(database, blobs, target, done, progress)
    await _strike_out(database, keys, target, done)
    return done


async def _reseal(
    database: Database, page: Iterable[_Envelope], target: str, done: Rotated, progress: Progress
) -> None:
    steps = []
    for each in page:
        if each.keys is None:
            done.unreadable.append(each.name)
        elif each.anew is not None and each.keys != {target}:
            steps.append(each.anew)
    if steps:
        await database.commit(Unit(tuple(steps)))
        done.envelopes += len(steps)
        progress(len(steps))


async def _reseal_bodies(database: Database, blobs: Blobs, target: str, done: Rotated, progress: Progress) -> None:
    last = 0
    while rows := await database.read_long(NOT_UNDER, {"id": last, "name": target}):
        for row in rows:
            last = int(str(row[0]))
            try:
                done.bodies += await blobs.reseal(last)
            except Damaged as wrong:
                done.unreadable.append(f"body {wrong}")
            progress(1)


async def _strike_out(database: Database, keys: Keys, target: str, done: Rotated) -> None:
    """Strike out the keys under which nothing is any more; what changed during the rotation is seen here."""
    if done.unreadable:
        return
    found = await census(database, keys)
    free = [name for name in found.known if name != target and not found.under(name)]
    if free and not found.unreadable:
        await database.commit(Unit(tuple(Step(DROP_KEY, {"name": name}) for name in free)))
        done.struck_out = free


async def _mails(database: Database, keys: Keys) -> AsyncIterator[list[_Envelope]]:
    last = 0
    while rows := await database.read_long(REST_MAILS, {"id": last}):
        yield [_mail(keys, row) for row in rows]
        last = _int(rows[-1][0])


async def _recipients(database: Database, keys: Keys) -> AsyncIterator[list[_Envelope]]:
    mail, position = 0, -1
    while rows := await database.read_long(REST_RCPTS, {"mail": mail, "position": position}):
        yield [_recipient(keys, row) for row in rows]
        mail, position = _int(rows[-1][0]), _int(rows[-1][1])


def _mail(keys: Keys, row: Row) -> _Envelope:
    number, sender, packed = row
    name = id_text(MailId(_int(number)))
    found = _anew(keys, {"sender": sender, "packed": packed})
    if found is None:
        return _Envelope(name, None, None)
    under, params = found
    return _Envelope(name, under, Step(RESEAL_MAIL, {**params, "id": number, "before": packed}))


def _recipient(keys: Keys, row: Row) -> _Envelope:
    mail, position, recipient, error, packed = row
    name = f"{id_text(MailId(_int(mail)))}/{_int(position)}"
    found = _anew(keys, {"recipient": recipient, "error": error, "packed": packed})
    if found is None:
        return _Envelope(name, None, None)
    under, params = found
    place: Params = {"mail": mail, "position": position, "before": packed, "error_before": error}
    return _Envelope(name, under, Step(RESEAL_RCPT, {**params, **place}))


def _anew(keys: Keys, values: Params) -> tuple[frozenset[str], dict[str, Value]] | None:
    """Return under which keys the values of a row are, and the values sealed anew; None where one does not open."""
    under: set[str] = set()
    sealed: dict[str, Value] = {}
    for name, value in values.items():
        try:
            key, clear = open_under(keys, value)
        except Unreadable:
            return None
        if value:
            under.add(key)
        sealed[name] = clear if keys.first is None else seal(keys.first, name, clear)
    return frozenset(under), sealed


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
