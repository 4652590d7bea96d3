"""Mail in domains' names is counted by domain, day and policy, within bounds, and reported as it was counted."""

from dataclasses import replace

from gatepost.base.clock import DAY, Instant
from gatepost.codec.dmarc import Policy, Request
from gatepost.codec.dmarcreport import Proof, Row
from gatepost.dmarcrpt.results import ALIKE_MAX, OF_ALL_MAX, Day, Results, days, reports, sweep
from gatepost.dmarcrpt.settings import DmarcReportSettings
from gatepost.dmarcrpt.sql import SCHEMA
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run
from tests.tlsrpt.test_results import NOW, TODAY, At

REJECT = Policy(Request.REJECT)
NONE = Policy(Request.NONE)
ROW = Row(
    "192.0.2.7", 1, "reject", "fail", "fail", "far.example", "list.example", ("mailing_list: of peas",),
    (Proof("dkim", "list.example", "pass", "s1"),),
)  # fmt: skip


def results(clock: At | None = None, settings: DmarcReportSettings | None = None) -> Results:
    return Results(settings or DmarcReportSettings(), clock or At())


@each_engine
def test_processes_add_up_to_a_report_for_each_policy_of_a_day(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((SCHEMA,)) as gate:
            for _ in range(2):
                counted = results()
                assert counted.unit() is None
                for _ in range(50):
                    counted.add("far.example", REJECT, ROW)
                counted.add("far.example", REJECT, replace(ROW, ip="2001:db8::7"))
                counted.add("far.example", NONE, replace(ROW, disposition="none"))
                unit = counted.unit()
                assert unit is not None
                await gate.commit(unit)
            told = await reports(gate, "far.example", TODAY, organization="Here", contact="a@here.example")
            first, second = sorted(told.values(), key=lambda each: -len(each.rows))
            assert first.rows == (replace(ROW, count=100), replace(ROW, ip="2001:db8::7", count=2))
            assert dict(first.policy)["p"] == "reject"
            assert [row.count for row in second.rows] == [2]
            assert first.id != second.id
            assert first.id.endswith(".far.example@here.example")
            assert (first.begin, first.end) == (TODAY * 86_400, TODAY * 86_400 + 86_399)
            only = await reports(gate, "far.example", TODAY, organization="", contact="", only=next(iter(told)))
            assert list(only) == [next(iter(told))]
            assert await days(gate) == [Day(TODAY, "far.example", 104, 3)]

    run(play())


@each_engine
def test_a_day_is_kept_as_long_as_the_settings_say(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((SCHEMA,)) as gate:
            clock = At()
            counted = results(clock)
            for _ in range(3):
                counted.add("far.example", REJECT, ROW)
                clock.moment += DAY
            unit = counted.unit()
            assert unit is not None
            await gate.commit(unit)
            await sweep(gate, DmarcReportSettings(keep_days=2, send_days=1), Instant(clock.moment))
            assert [each.day for each in await days(gate)] == [TODAY + 2, TODAY + 1]
            assert await reports(gate, "far.example", NOW // DAY, organization="x", contact="y") == {}

    run(play())


def test_a_domain_cannot_fill_the_memory_and_others_are_still_counted() -> None:
    counted = results()
    for n in range(ALIKE_MAX + 10):
        counted.add("evil.example", REJECT, replace(ROW, author=f"h{n}.evil.example"))
    counted.add("far.example", REJECT, ROW)
    unit = counted.unit()
    assert unit is not None
    assert len(unit.steps) == 2 + ALIKE_MAX + 1


def test_many_domains_cannot_either_and_the_next_day_begins_anew() -> None:
    clock = At()
    counted = results(clock)
    for n in range(OF_ALL_MAX + 10):
        counted.add(f"d{n}.example", REJECT, ROW)
    unit = counted.unit()
    assert unit is not None
    assert len(unit.steps) == 2 * OF_ALL_MAX
    clock.moment += DAY
    counted.add("far.example", REJECT, ROW)
    assert counted.unit() is not None


def test_nothing_is_counted_where_it_is_switched_off() -> None:
    counted = results(settings=DmarcReportSettings(collect=False))
    counted.add("far.example", REJECT, ROW)
    assert counted.unit() is None
