"""Count how mail in domains' names fared, by domain, policy and UTC day: what an aggregate report tells (RFC 9990).

add                 memory only
unit()              what gathered since the last one; app commits it each second
reports             the reports of a domain's day: one for each policy that it had on that day

Strangers choose domains, sources and signatures, so each process tells at most ALIKE_MAX kinds of mail of a domain
apart a day, and OF_ALL_MAX of all; of what is more nothing is counted.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NamedTuple, cast

from gatepost.base.clock import DAY, MICROSECONDS, Clock, Instant
from gatepost.codec.dmarc import Policy
from gatepost.codec.dmarcreport import Proof, Report, Row
from gatepost.codec.dmarcwrite import published
from gatepost.db.unit import Database, Params, Step, Unit
from gatepost.dmarcrpt import sql
from gatepost.dmarcrpt.settings import DmarcReportSettings

ALIKE_MAX: Final = 10_000
OF_ALL_MAX: Final = 200_000
ROWS_MAX: Final = 20_000  # of one report: all processes together
POLICIES_MAX: Final = 10  # of a domain and day

Published = tuple[tuple[str, str], ...]
"""What a domain publishes, in the words of `policy_published`."""


class _Key(NamedTuple):
    day: int
    domain: str
    policy: Published
    row: Row


class Results:
    """How mail fared since the last flush."""

    def __init__(self, settings: DmarcReportSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._counts: Counter[_Key] = Counter()
        self._day = 0
        self._seen: set[int] = set()
        self._alike: Counter[str] = Counter()

    def renew(self, settings: DmarcReportSettings) -> None:
        """Count by these from now on."""
        self._settings = settings

    def add(self, domain: str, policy: Policy, row: Row) -> None:
        """Count a mail that is like `row`; `domain` has the policy, A-labels in lower case."""
        if not self._settings.collect:
            return
        day = self._clock.now() // DAY
        if day != self._day:
            self._day = day
            self._seen.clear()
            self._alike.clear()
        key = _Key(day, domain, published(policy), replace(row, count=0))
        mark = hash(key)
        if mark not in self._seen:
            if self._alike[domain] >= ALIKE_MAX or len(self._seen) >= OF_ALL_MAX:
                return
            self._seen.add(mark)
            self._alike[domain] += 1
        self._counts[key] += 1

    def unit(self) -> Unit | None:
        """Return what gathered as one unit for the gate's database, and begin anew; None for nothing."""
        if not self._counts:
            return None
        counts, self._counts = self._counts, Counter()
        policies: dict[tuple[int, str, Published], Params] = {
            key[:3]: {"day": key.day, "domain": key.domain, "policy": _digest(key.policy)} for key in counts
        }
        steps = [
            Step(sql.ADD_POLICY, {**which, "packed": json.dumps(policy)})
            for (_, _, policy), which in policies.items()
        ]
        steps += [
            Step(sql.ADD_RESULT, {**policies[key[:3]], "alike": _packed(key.row), "mails": mails})
            for key, mails in counts.items()
        ]
        return Unit(tuple(steps))


async def sweep(database: Database, settings: DmarcReportSettings, now: Instant) -> None:
    """Drop the days that are older than the limit."""
    before: Params = {"before": now // DAY - settings.keep_days}
    drops = (sql.DROP_RESULTS, sql.DROP_POLICIES, sql.DROP_SENT)
    await database.commit(Unit(tuple(Step(drop, before) for drop in drops)))


@dataclass(frozen=True, slots=True)
class Day:
    """A day of a domain: how many mails, and how many kinds of them."""

    day: int
    domain: str
    mails: int
    kinds: int


async def days(database: Database, most: int = 1000) -> Sequence[Day]:
    """Return what is kept, the latest first."""
    rows = await database.read_long(sql.DAYS, {"most": most})
    return [Day(*cast("tuple[int, str, int, int]", tuple(row))) for row in rows]


async def reports(
    database: Database, domain: str, day: int, *, organization: str, contact: str, only: str = ""
) -> dict[str, Report]:
    """Return the reports of a domain's day by the digest of their policy; `only` that of one.

    There are none where no mail came.
    """
    which: Params = {"day": day, "domain": domain, "most": POLICIES_MAX}
    begin = day * DAY // MICROSECONDS
    found: dict[str, Report] = {}
    for digest, policy in cast("list[tuple[str, str]]", await database.read(sql.POLICIES, which)):
        if only not in ("", digest):
            continue
        rows = await database.read_long(sql.RESULTS, {**which, "policy": digest, "most": ROWS_MAX})
        found[digest] = Report(
            organization,
            contact,
            f"{begin}.{digest}.{domain}@{contact.rpartition('@')[2]}",  # the same each time: twice is known as once
            begin,
            begin + DAY // MICROSECONDS - 1,
            domain,
            tuple((name, value) for name, value in json.loads(policy)),
            tuple(_unpacked(cast(str, alike), cast(int, mails)) for alike, mails in rows),
            (f"more than {ROWS_MAX} kinds of mail: the rarest are missing",) if len(rows) == ROWS_MAX else (),
        )
    return found


def date_of(report: Report) -> str:
    """Return the day of a report as 2026-11-24."""
    return datetime.fromtimestamp(report.begin, UTC).strftime("%Y-%m-%d")


def _packed(row: Row) -> str:
    return json.dumps(astuple(row), separators=(",", ":"))


def _unpacked(text: str, mails: int) -> Row:
    ip, _, disposition, dkim, spf, author, sender, reasons, proofs = json.loads(text)
    proven = tuple(Proof(*each) for each in proofs)
    return Row(ip, mails, disposition, dkim, spf, author, sender, tuple(reasons), proven)


def _digest(policy: Published) -> str:
    return sha256(json.dumps(policy).encode()).hexdigest()[:16]
