"""Count refusals so that ten thousand a second cost a few rows: by source net, reason and minute.

count(ip, reason, now)   memory only; above 10,000 (net, reason) pairs a second the nets fall together into ""
story(ip, story, now)    True when it was taken: at most 50 a second, and 5 of one net a minute
unit()                   what gathered since the last one; app commits it each second
"""

from collections import Counter
from ipaddress import ip_address, ip_network
from typing import Final, cast

from gatepost.base.clock import MICROSECONDS, MINUTE, Instant, seconds
from gatepost.db.unit import Database, Step, Unit
from gatepost.diary.refused import sql
from gatepost.diary.settings import DiarySettings
from gatepost.diary.story import Story, first_id_at

PAIRS_MAX: Final = 10_000
NETS_MAX: Final = 10_000
REASON_LENGTH_MAX: Final = 60
OTHERS: Final = ""
"""The net under which counts stand that did not fit."""


class Refusals:
    """Counts and stories of what was refused since the last flush."""

    def __init__(self, settings: DiarySettings | None = None) -> None:
        self._settings = settings or DiarySettings()
        self._counts: Counter[tuple[int, str, str]] = Counter()
        self._stories: list[Step] = []
        self._second = self._minute = 0
        self._this_second = 0
        self._of_net: Counter[str] = Counter()

    def renew(self, settings: DiarySettings) -> None:
        """Take other limits."""
        self._settings = settings

    def count(self, ip: str, reason: str, now: Instant) -> None:
        """Count one refusal; `reason` is one of the program's own words."""
        key = (now // MINUTE, source_net(ip), reason[:REASON_LENGTH_MAX])
        if key not in self._counts and len(self._counts) >= PAIRS_MAX:
            key = (key[0], OTHERS, key[2])
        self._counts[key] += 1

    def story(self, ip: str, story: Story, now: Instant) -> bool:
        """Take a refused mail's story, unless there were too many of its source or in all."""
        self._turn(now)
        net = source_net(ip)
        if self._this_second >= self._settings.refused_per_second:
            return False
        if self._of_net[net] >= self._settings.refused_per_source or len(self._of_net) >= NETS_MAX:
            return False
        self._this_second += 1
        self._of_net[net] += 1
        self._stories.append(Step(sql.ADD_STORY, story.step().params))
        return True

    def unit(self) -> Unit | None:
        """Return what gathered as one unit for the gate's database, and begin anew; None for nothing."""
        if not self._counts and not self._stories:
            return None
        counted = tuple(
            Step(sql.ADD_COUNT, {"minute": minute, "net": net, "reason": reason, "count": count})
            for (minute, net, reason), count in sorted(self._counts.items())
        )
        steps = (*counted, *self._stories)
        self._counts.clear()
        self._stories.clear()
        return Unit(steps)

    def _turn(self, now: Instant) -> None:
        if now // MICROSECONDS != self._second:
            self._second, self._this_second = now // MICROSECONDS, 0
        if now // MINUTE != self._minute:
            self._minute = now // MINUTE
            self._of_net.clear()


def source_net(ip: str) -> str:
    """Return the /24 or /48 an address is counted under; what is no address counts among the others."""
    if ip.count(".") == 3 and ":" not in ip:
        return ip[: ip.rindex(".")] + ".0/24"
    try:
        return str(ip_network((int(ip_address(ip)) >> 80 << 80, 48)))
    except ValueError:
        return OTHERS


async def refusals_since(database: Database, since: Instant) -> dict[str, int]:
    """Return how many were refused since, by reason."""
    rows = await database.read_long(sql.BY_REASON, {"since": since // MINUTE})
    return {str(reason): int(cast(int, count)) for reason, count in rows}  # PostgreSQL's SUM is a Decimal


async def sweep(database: Database, settings: DiarySettings, now: Instant) -> None:
    """Drop what is older than the limit, and the oldest stories above the limit of rows."""
    oldest = Instant(now - seconds(settings.keep_refused))
    edge = await database.read_long(sql.EDGE, {"most": settings.refused_stories_max})
    before = max(first_id_at(oldest), cast(int, edge[0][0]) + 1 if edge else 0)  # an id
    steps = (
        Step(sql.DROP_COUNTS, {"before": oldest // MINUTE}),
        Step(sql.DROP_STORIES, {"before": before}),
    )
    await database.commit(Unit(steps))
