"""Refusals: counted however many there are, told in full only within limits."""

import pytest

from gatepost.base.address import Address
from gatepost.base.clock import DAY, MINUTE, Instant, later, seconds
from gatepost.base.ids import Minter
from gatepost.db.unit import Unit
from gatepost.diary.refused.counts import PAIRS_MAX, Refusals, refusals_since, source_net, sweep
from gatepost.diary.refused.sql import COUNTS
from gatepost.diary.refused.sql import SCHEMA as REFUSED
from gatepost.diary.settings import DiarySettings
from gatepost.diary.sql import SCHEMA
from gatepost.diary.story import Story
from gatepost.diary.verbs import trace
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

NOW = Instant(1_795_420_800_000_000)
ANN = Address("ann", "sender.example")


@pytest.mark.parametrize(
    ("ip", "net"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2::77", "2001:db8:1::/48"),
        ("::1", "::/48"),
        ("somewhere", ""),
        ("::ffff:192.0.2.1", "::/48"),
    ],
)
def test_sources_are_counted_by_net(ip: str, net: str) -> None:
    assert source_net(ip) == net


@each_engine
def test_counts_add_up_over_flushes_and_processes(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((REFUSED,)) as gate:
            for _ in range(2):
                refusals = Refusals()
                assert refusals.unit() is None
                for n in range(300):
                    refusals.count(f"192.0.2.{n % 250}", "greylisted", NOW)
                refusals.count("2001:db8::1", "no-such-user", later(NOW, MINUTE))
                unit = refusals.unit()
                assert unit is not None
                assert len(unit.steps) == 2
                await gate.commit(unit)
            rows = await gate.read(COUNTS, {"since": 0, "most": 10})
            assert [row[1:] for row in rows] == [
                ("192.0.2.0/24", "greylisted", 600),
                ("2001:db8::/48", "no-such-user", 2),
            ]
            assert await refusals_since(gate, NOW) == {"greylisted": 600, "no-such-user": 2}

    run(play())


def test_a_flood_from_everywhere_stays_bounded_and_counted() -> None:
    refusals = Refusals()
    for n in range(PAIRS_MAX + 5_000):
        refusals.count(f"{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}.1", "flood", NOW)
    unit = refusals.unit()
    assert unit is not None
    assert len(unit.steps) == PAIRS_MAX + 1
    assert sum(int(str(step.params["count"])) for step in unit.steps) == PAIRS_MAX + 5_000


def test_stories_of_refusals_are_few() -> None:
    minter, refusals = Minter(0), Refusals()

    def told(ip: str, at: Instant) -> bool:
        return refusals.story(ip, Story(minter.mint(at), ANN), at)

    assert sum(told("192.0.2.1", NOW) for _ in range(20)) == 5
    assert sum(told("192.0.2.99", NOW) for _ in range(20)) == 0  # the same net
    assert sum(told(f"10.0.{n}.1", NOW) for n in range(100)) == 45
    assert not told("10.9.9.1", NOW)
    assert told("10.9.9.1", later(NOW, seconds(1)))
    assert not told("192.0.2.1", later(NOW, seconds(1)))
    assert told("192.0.2.1", later(NOW, MINUTE))


@each_engine
def test_refused_mails_are_traced_beside_accepted_ones_and_forgotten_sooner(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((SCHEMA, REFUSED)) as database:
            minter, refusals = Minter(0), Refusals()
            accepted, refused = Story(minter.mint(NOW), ANN), Story(minter.mint(NOW), ANN)
            accepted.tell("intake", "accepted")
            refused.tell("gate", "greylisted")
            refusals.story("192.0.2.1", refused, NOW)
            refusals.count("192.0.2.1", "greylisted", NOW)
            unit = refusals.unit()
            assert unit is not None
            await database.commit(Unit((*accepted.steps(), *unit.steps)))
            both = await trace(database, ANN, gate=database)
            assert [line.event for line in both] == ["accepted", "greylisted"]
            assert [line.event for line in await trace(database, refused.id, gate=database)] == ["greylisted"]
            await sweep(database, DiarySettings(), later(NOW, 7 * DAY - seconds(1)))
            assert len(await trace(database, ANN, gate=database)) == 2
            await sweep(database, DiarySettings(), later(NOW, 7 * DAY + MINUTE))
            assert [line.event for line in await trace(database, ANN, gate=database)] == ["accepted"]
            assert await refusals_since(database, Instant(0)) == {}

    run(play())
