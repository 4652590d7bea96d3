"""How TLS went is counted by domain, day and policy, within bounds, and reported as it was counted."""

from dataclasses import dataclass

from gatepost.base.clock import DAY, Instant
from gatepost.codec.tlsrpt import NOTHING_ASKED, Asked, Failed, Failure, PolicyType
from gatepost.tlsrpt.results import DOMAINS_MAX, LINES_MAX, POLICIES_MAX, Day, Results, days, report, sweep
from gatepost.tlsrpt.settings import ReportSettings
from gatepost.tlsrpt.sql import SCHEMA
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

NOW = Instant(1_795_420_800_000_000)
TODAY = NOW // DAY
STS = Asked(PolicyType.STS, ("version: STSv1", "mode: testing"), ("*.far.example",))
EXPIRED = Failed(Failure.EXPIRED, 1, "mx.far.example", "192.0.2.1", "192.0.2.9", "old")


@dataclass
class At:
    """A clock that stands."""

    moment: int = NOW

    def now(self) -> Instant:
        return Instant(self.moment)

    def steady(self) -> float:
        return 0.0


def results(clock: At | None = None, settings: ReportSettings | None = None) -> Results:
    return Results(settings or ReportSettings(), clock or At())


@each_engine
def test_processes_add_up_to_one_report_of_a_day(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((SCHEMA,)) as gate:
            for _ in range(2):
                counted = results()
                assert counted.unit() is None
                for _ in range(50):
                    counted.succeeded("Far.Example", STS)
                counted.failed("far.example", STS, EXPIRED)
                counted.succeeded("far.example", NOTHING_ASKED)
                unit = counted.unit()
                assert unit is not None
                await gate.commit(unit)
            told = await report(gate, "far.example", TODAY, organization="here.example", contact="a@here.example")
            by_type = {each.type: each for each in told.results}
            sts = by_type[PolicyType.STS]
            assert (sts.successes, sts.failures, sts.lines, sts.mx) == (100, 2, STS.lines, STS.mx)
            assert sts.failed == (Failed(Failure.EXPIRED, 2, "mx.far.example", "192.0.2.1", "192.0.2.9", "old"),)
            assert by_type[PolicyType.NONE].successes == 2
            assert await days(gate) == [Day(TODAY, "far.example", 102, 2)]

    run(play())


@each_engine
def test_a_day_is_kept_as_long_as_the_settings_say(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((SCHEMA,)) as gate:
            clock = At()
            counted = results(clock)
            for _ in range(3):
                counted.succeeded("far.example", STS)
                clock.moment += DAY
            unit = counted.unit()
            assert unit is not None
            await gate.commit(unit)
            await sweep(gate, ReportSettings(keep_days=2, send_days=1), Instant(clock.moment))
            assert [each.day for each in await days(gate)] == [TODAY + 2, TODAY + 1]
            gone = await report(gate, "far.example", TODAY, organization="x", contact="y")
            assert gone.results == ()

    run(play())


def test_failures_beyond_the_bound_are_counted_without_saying_where() -> None:
    counted = results()
    for n in range(LINES_MAX + 50):
        counted.failed("far.example", STS, Failed(Failure.EXPIRED, 1, f"mx{n}.far.example"))
    unit = counted.unit()
    assert unit is not None
    rows = [step.params for step in unit.steps if step.statement.name == "tlsrpt.add_result"]
    assert len(rows) == LINES_MAX + 1
    assert [row["sessions"] for row in rows if row["host"] == ""] == [50]


def test_domains_and_policies_are_bounded() -> None:
    counted = results()
    for n in range(DOMAINS_MAX + 10):
        counted.succeeded(f"d{n}.example", NOTHING_ASKED)
    for n in range(POLICIES_MAX + 10):
        counted.succeeded("d0.example", Asked(PolicyType.TLSA, (str(n),)))
    unit = counted.unit()
    assert unit is not None
    assert len(unit.steps) == 2 * (DOMAINS_MAX + POLICIES_MAX - 1)


def test_nothing_is_counted_where_it_is_switched_off() -> None:
    counted = results(settings=ReportSettings(collect=False))
    counted.succeeded("far.example", STS)
    assert counted.unit() is None
