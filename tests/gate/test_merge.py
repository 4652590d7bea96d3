"""What two servers know of one key, put together: in any order, and nobody passes who did not come back."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.base.clock import Instant
from gatepost.db.unit import Unit
from gatepost.gate import sql
from gatepost.gate.grey import TRAPPED, Kind, Record, has_passed
from gatepost.gate.merge import merge
from gatepost.gate.steps import put_step
from gatepost.gate.verbs import grey_records
from tests.gate.world import QUIET, SENDER, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

NOW = Instant(1_000)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """One that has not ended: trapped, grey that did not come back, or passed."""
    first = draw(st.integers(900, 1_000))
    expires = draw(st.integers(1_001, 1_100))
    passes = draw(st.just(expires) | st.integers(first, expires - 1))
    passed = draw(st.sampled_from((TRAPPED, 0, 1, 5)))
    times = Instant(first), Instant(passes), Instant(expires)
    return Record(b"192.0.2.1", Kind.HOST, "192.0.2.1", *times, draw(st.integers(0, 9)), passed)


@pytest.mark.row("SYNC-06")
@given(records(), records(), records())
def test_records_come_to_the_same_in_any_order_and_as_often_as_one_likes(
    one: Record, two: Record, three: Record
) -> None:
    assert merge(one, two, NOW) == merge(two, one, NOW)
    assert merge(merge(one, two, NOW), three, NOW) == merge(one, merge(two, three, NOW), NOW)
    assert merge(one, one, NOW) == one
    assert merge(merge(one, two, NOW), two, NOW) == merge(one, two, NOW)


@given(records(), records(), st.integers(1_000, 1_200))
def test_nobody_passes_who_did_not_come_back_to_either(one: Record, two: Record, when: int) -> None:
    whole, later = merge(one, two, NOW), Instant(when)
    if not any(each.passed != TRAPPED and each.passes < each.expires for each in (one, two)):
        assert not has_passed(whole, later)


@given(records(), records())
def test_trapped_beats_all_until_it_ends(one: Record, two: Record) -> None:
    trapped = replace(one, passed=TRAPPED)
    assert merge(trapped, two, NOW).passed == merge(two, trapped, NOW).passed == TRAPPED
    assert merge(trapped, replace(two, expires=Instant(5_000)), trapped.expires).expires == 5_000


@each_engine
@pytest.mark.row("SYNC-06")
def test_the_database_puts_them_together_by_the_same_rule(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            chance, now = Random(6), here.now
            ours, theirs = dict[str, Record](), dict[str, Record]()
            for at in range(300):
                ip = f"192.0.{2 + at // 250}.{at % 250}"
                for side, soonest in ((ours, -5), (theirs, 1)):
                    expires = now + chance.randint(soonest, 20)
                    passes = chance.choice((expires, expires - chance.randint(1, 10)))
                    times = Instant(now - chance.randint(10, 20)), Instant(passes), Instant(expires)
                    counts = chance.randint(0, 3), chance.choice((TRAPPED, 0, 0, 1, 3))
                    side[ip] = Record(ip.encode(), Kind.HOST, ip, *times, *counts)
            await here.database.commit(Unit(tuple(put_step(each, now) for each in ours.values())))
            await here.database.commit(Unit(tuple(put_step(each, now, sql.MERGE) for each in theirs.values())))
            found = {each.ip: each for each in await grey_records(here.database)}
            assert found == {ip: merge(ours[ip], theirs[ip], now) for ip in ours}

    run(scene())


@pytest.mark.row("SYNC-06")
@pytest.mark.parametrize("apart", [0.1, 600.0])
def test_a_sender_that_tries_two_servers_once_each_never_becomes_white(apart: float) -> None:
    async def scene() -> None:
        async with world(QUIET) as mx1, world(QUIET) as mx2:
            mx1.offer()
            mx2.clock.move(apart)
            mx2.offer()
            for node in (mx1, mx2):
                await node.gate.flush()
            mx1.gate.merge(await grey_records(mx2.database))
            await mx1.gate.flush()
            # the scan may come at any time: also between the ends of the two
            (record,) = await grey_records(mx1.database)
            assert record.passes == record.expires  # so that the cap may push it out
            mx1.clock.move(4 * 3600 + apart / 2)
            await mx1.scan()
            assert mx1.verdict(SENDER) == "grey"

    run(scene())
