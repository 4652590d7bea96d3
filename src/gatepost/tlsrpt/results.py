"""Count how TLS to other domains went, by domain and UTC day, so that a thousand sessions a second cost a few rows.

succeeded, failed   memory only
unit()              what gathered since the last one; app commits it each second
report              a day of a domain as RFC 8460 tells it

A stranger's DNS chooses domains, hosts and policies, so each process counts at most DOMAINS_MAX domains a day,
LINES_MAX distinct failures of each (what is more is counted without saying where) and POLICIES_MAX policies (what
is more is not counted).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NamedTuple, cast

from gatepost.base.address import fold_domain
from gatepost.base.clock import DAY, MICROSECONDS, Clock, Instant
from gatepost.codec.mail.build import printable
from gatepost.codec.tlsrpt import Asked, Failed, Failure, PolicyResults, PolicyType, Report
from gatepost.db.unit import Database, Step, Unit
from gatepost.tlsrpt import sql
from gatepost.tlsrpt.settings import ReportSettings

DOMAINS_MAX: Final = 10_000
LINES_MAX: Final = 100
POLICIES_MAX: Final = 10
REASON_MAX: Final = 200
ROWS_MAX: Final = 20_000  # of one domain and day, when it is read: all processes together
NO_FAILURE: Final = Failed(Failure.OTHER, 0)


class _Key(NamedTuple):
    day: int
    domain: str
    asked: Asked
    failed: Failed | None


@dataclass(slots=True)
class _Seen:
    """What was told apart of one domain this day."""

    policies: set[Asked] = field(default_factory=set)
    lines: set[Failed] = field(default_factory=set)


class Results:
    """How TLS went since the last flush."""

    def __init__(self, settings: ReportSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._counts: Counter[_Key] = Counter()
        self._day = 0
        self._seen: dict[str, _Seen] = {}

    def renew(self, settings: ReportSettings) -> None:
        """Count by these from now on."""
        self._settings = settings

    def succeeded(self, domain: str, asked: Asked) -> None:
        """Count a session whose TLS was as asked."""
        self._count(domain, asked, None)

    def failed(self, domain: str, asked: Asked, failed: Failed) -> None:
        """Count sessions whose TLS was not."""
        self._count(domain, asked, replace(failed, reason=printable(failed.reason, REASON_MAX)))

    def _count(self, domain: str, asked: Asked, failed: Failed | None) -> None:
        if not self._settings.collect:
            return
        day = self._clock.now() // DAY
        if day != self._day:
            self._day = day
            self._seen.clear()
        domain = fold_domain(domain)
        seen = self._seen.get(domain)
        if seen is None:
            if len(self._seen) >= DOMAINS_MAX:
                return
            seen = self._seen[domain] = _Seen()
        if asked not in seen.policies:
            if len(seen.policies) >= POLICIES_MAX:
                return
            seen.policies.add(asked)
        sessions = 1
        if failed is not None:
            sessions, failed = failed.sessions, replace(failed, sessions=0)
            if failed not in seen.lines:
                if len(seen.lines) >= LINES_MAX:
                    failed = Failed(failed.failure, 0)
                else:
                    seen.lines.add(failed)
        self._counts[_Key(day, domain, asked, failed)] += sessions

    def unit(self) -> Unit | None:
        """Return what gathered as one unit for the gate's database, and begin anew; None for nothing."""
        if not self._counts:
            return None
        counts, self._counts = self._counts, Counter()
        policies = {(key.day, key.domain, key.asked): _digest(key.asked) for key in counts}
        steps = [
            Step(sql.ADD_POLICY, {"day": day, "domain": domain, "policy": digest, "packed": _packed(asked)})
            for (day, domain, asked), digest in policies.items()
        ]
        steps += [_add(key, policies[key.day, key.domain, key.asked], sessions) for key, sessions in counts.items()]
        return Unit(tuple(steps))


async def sweep(database: Database, settings: ReportSettings, now: Instant) -> None:
    """Drop the days that are older than the limit."""
    before = {"before": now // DAY - settings.keep_days}
    drops = (sql.DROP_RESULTS, sql.DROP_POLICIES, sql.DROP_SENT)
    await database.commit(Unit(tuple(Step(drop, before) for drop in drops)))


@dataclass(frozen=True, slots=True)
class Day:
    """A day of a domain in two numbers; `day` counts from 1970."""

    day: int
    domain: str
    successes: int
    failures: int


async def days(database: Database, most: int = 1000) -> Sequence[Day]:
    """Return what is kept, the latest first."""
    rows = await database.read_long(sql.DAYS, {"most": most})
    return [Day(*cast("tuple[int, str, int, int]", tuple(row))) for row in rows]


async def report(database: Database, domain: str, day: int, *, organization: str, contact: str) -> Report:
    """Return what is to be told of a day; it has no results where there was no session."""
    domain = fold_domain(domain)
    params: dict[str, int | str] = {"day": day, "domain": domain, "most": ROWS_MAX}
    asked = {cast(str, row[0]): _unpacked(cast(str, row[1])) for row in await database.read(sql.POLICIES, params)}
    lines: dict[str, list[Failed]] = {}
    successes: Counter[str] = Counter()
    for row in await database.read_long(sql.RESULTS, params):
        policy, failure, host, ip, ours, reason = (cast(str, value) for value in row[:6])
        if failure:
            failed = Failed(Failure(failure), cast(int, row[6]), host, ip, ours, reason)
            lines.setdefault(policy, []).append(failed)
        else:
            successes[policy] += cast(int, row[6])
    results = tuple(
        PolicyResults(each.type, domain, each.lines, each.mx, successes[policy], tuple(lines.get(policy, ())))
        for policy, each in asked.items()
    )
    begin = date_of(day)
    submitter = contact.rpartition("@")[2]
    number = f"{begin}.{domain}@{submitter}"  # the same each time: who gets the report twice knows it
    return Report(organization, contact, number, f"{begin}T00:00:00Z", f"{begin}T23:59:59Z", results)


def date_of(day: int) -> str:
    """Return a day as 2026-11-24."""
    return datetime.fromtimestamp(day * DAY / MICROSECONDS, UTC).strftime("%Y-%m-%d")


def _add(key: _Key, digest: str, sessions: int) -> Step:
    failed = key.failed or NO_FAILURE
    return Step(
        sql.ADD_RESULT,
        {
            "day": key.day,
            "domain": key.domain,
            "policy": digest,
            "failure": "" if key.failed is None else failed.failure.value,
            "host": failed.host,
            "ip": failed.ip,
            "ours": failed.ours,
            "reason": failed.reason,
            "sessions": sessions,
        },
    )


def _packed(asked: Asked) -> str:
    return json.dumps([asked.type.value, asked.lines, asked.mx])


def _unpacked(text: str) -> Asked:
    kind, lines, mx = json.loads(text)
    return Asked(PolicyType(kind), tuple(lines), tuple(mx))


def _digest(asked: Asked) -> str:
    return sha256(_packed(asked).encode()).hexdigest()[:16]
