"""Bans: what counts, who is never banned, and how bans end."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import Instant, later, seconds
from gatepost.base.settings import BadSetting, fill
from gatepost.base.units import Seconds
from gatepost.gate import bans as module
from gatepost.gate import release as releasing
from gatepost.gate import verbs
from gatepost.gate.bans import (
    KEYS_MAX,
    PASSWORD,
    TABLE,
    Ban,
    Bans,
    BanSettings,
    Doorkeeper,
    Rate,
    touches,
)
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import Prefix, cut, parse_prefix
from gatepost.gate.release import keep_releasing, release
from gatepost.gate.table import Entry, Table
from gatepost.intake.auth import Throttle
from gatepost.intake.settings import IntakeSettings
from tests.gate.world import Journal, world
from tests.support.loop import run
from tests.support.wire import START, MovedClock

FEW = BanSettings(failures=5, net_failures=12, within=Seconds(100))


def nobody(_: Prefix) -> bool:
    return False


def banned(bans: Bans, ip: str, times: int, now: Instant = START) -> list[str]:
    """Let somebody fail; return whom that banned."""
    found = [bans.offended(ip, PASSWORD, now) for _ in range(times)]
    return [ban.prefix.text for ban in found if ban is not None]


@pytest.mark.row("AUTH-02")
@pytest.mark.parametrize(
    ("ips", "prefix"),
    [
        (["192.0.2.9"], "192.0.2.9"),
        (["::ffff:192.0.2.9", "192.0.2.9"], "192.0.2.9"),
        ([f"2001:db8:1:2::{at:x}" for at in range(5)], "2001:db8:1:2::/64"),
    ],
)
def test_the_fifth_failure_of_a_source_bans_it(ips: list[str], prefix: str) -> None:
    bans = Bans(FEW, nobody)
    found = [bans.offended(ips[at % len(ips)], PASSWORD, START) for at in range(5)]
    assert found[:4] == [None] * 4
    assert found[4] == Ban(parse_prefix(prefix), TABLE, "5 failures within 1m 40s, the last: wrong password")


@pytest.mark.row("AUTH-02")
@pytest.mark.parametrize(
    ("ips", "net"),
    [
        ([f"192.0.2.{at}" for at in range(1, 13)], "192.0.2.0/24"),
        ([f"2001:db8:1:{at:x}::1" for at in range(1, 13)], "2001:db8:1::/48"),
    ],
)
def test_a_net_that_sprays_is_banned_whole(ips: list[str], net: str) -> None:
    bans = Bans(FEW, nobody)
    found = [bans.offended(ip, PASSWORD, START) for ip in ips]
    assert [ban.prefix.text for ban in found if ban] == [net]
    assert found[-1] is not None


def test_failures_are_forgotten_evenly() -> None:
    bans = Bans(FEW, nobody)
    assert banned(bans, "192.0.2.9", 4) == []
    assert banned(bans, "192.0.2.9", 2, later(START, seconds(60))) == []  # 3 of 5 were forgotten
    assert banned(bans, "192.0.2.9", 2, later(START, seconds(60))) == ["192.0.2.9"]
    slow = Bans(FEW, nobody)
    for at in range(50):
        assert slow.offended("192.0.2.9", PASSWORD, later(START, seconds(21.0 * at))) is None


def test_after_a_ban_counting_begins_anew() -> None:
    bans = Bans(BanSettings(failures=5, net_failures=0), nobody)
    assert banned(bans, "192.0.2.9", 11) == ["192.0.2.9"] * 2


def test_no_limit_bans_nobody() -> None:
    assert banned(Bans(BanSettings(failures=0, net_failures=0), nobody), "192.0.2.9", 1000) == []


def test_who_is_shielded_is_never_banned_nor_its_net() -> None:
    shielded = [parse_prefix(each) for each in ("192.0.2.77", "198.51.100.0/25", "2001:db8:1:2::/64")]
    bans = Bans(FEW, lambda prefix: any(touches(prefix, each) for each in shielded))
    for ip in ("192.0.2.77", "198.51.100.1", "2001:db8:1:2::9"):
        assert banned(bans, ip, 100) == []
    assert banned(bans, "198.51.100.200", 4) == [], "failures of the shielded count for nobody"
    assert banned(bans, "192.0.2.1", 5) == ["192.0.2.1"]
    for at in range(10, 50):
        assert banned(bans, f"192.0.2.{at}", 2) == [], "the net has a shielded address in it"


def test_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEYS_MAX == 100_000
    monkeypatch.setattr(module, "KEYS_MAX", 100)
    rate = Rate(10, seconds(60))
    for at in range(1000):
        rate.count(str(at), START)
    assert len(rate._levels) <= 100
    rate.forget("999")
    rate.forget("999")


@pytest.mark.parametrize(
    ("one", "other", "yes"),
    [
        ("192.0.2.0/24", "192.0.2.77", True),
        ("192.0.2.77", "192.0.2.0/24", True),
        ("192.0.2.0/24", "192.0.2.0/24", True),
        ("192.0.2.0/25", "192.0.2.128/25", False),
        ("0.0.0.0/0", "2001:db8::/32", False),
        ("2001:db8:1::/48", "2001:db8:1:2::/64", True),
    ],
)
def test_networks_touch_when_one_lies_in_the_other(one: str, other: str, yes: bool) -> None:
    assert touches(parse_prefix(one), parse_prefix(other)) is yes


class Gate:
    """A gate that remembers whom it was told to ban."""

    def __init__(self) -> None:
        self.banned: list[Ban] = []

    def shields(self, prefix: Prefix) -> bool:
        """Shield one."""
        return touches(prefix, parse_prefix("203.0.113.1"))

    def ban(self, ban: Ban) -> None:
        """Note it."""
        self.banned.append(ban)


def test_all_that_fails_is_heard_at_one_place() -> None:
    gate = Gate()
    keeper = Doorkeeper(FEW, gate)
    for _ in range(2):
        keeper.login_failed("192.0.2.9", START)
        keeper.misbehaved("192.0.2.9", "pregreet", START)
    keeper.login_refused("192.0.2.9", START)
    assert [ban.reason for ban in gate.banned] == ["5 failures within 1m 40s, the last: login while refused"]


def test_misdeeds_count_only_where_they_should() -> None:
    gate = Gate()
    keeper = Doorkeeper(FEW, gate)
    keeper.renew(BanSettings(failures=5, misdeeds=False))
    for _ in range(20):
        keeper.misbehaved("192.0.2.9", "pregreet", START)
    assert gate.banned == []


def test_other_settings_begin_anew_and_the_same_do_not() -> None:
    gate = Gate()
    keeper = Doorkeeper(FEW, gate)
    for change in (FEW, BanSettings(failures=5)):
        for _ in range(2):
            keeper.login_failed("192.0.2.9", START)
        keeper.renew(change)
    for _ in range(4):
        keeper.login_failed("192.0.2.9", START)
    assert gate.banned == []
    keeper.login_failed("192.0.2.9", START)
    assert len(gate.banned) == 1


def test_the_throttle_tells_failures_and_who_goes_on_while_refused() -> None:
    gate = Gate()
    throttle = Throttle(IntakeSettings(), Doorkeeper(BanSettings(failures=15, net_failures=0), gate))
    for _ in range(10):
        assert throttle.login_allowed("192.0.2.9", START)
        throttle.login_failed("192.0.2.9", "bob", START)
    for _ in range(5):
        assert not throttle.login_allowed("192.0.2.9", START)
    assert [ban.prefix.text for ban in gate.banned] == ["192.0.2.9"]


def test_neighbours_of_a_net_that_is_refused_are_not_counted() -> None:
    """Who lives in a net that somebody else has filled is told to come back, and that is all."""
    gate = Gate()
    throttle = Throttle(IntakeSettings(), Doorkeeper(BanSettings(failures=5, net_failures=0), gate))
    for at in range(30):
        throttle.login_failed(f"192.0.2.{at}", "bob", START)
    for _ in range(50):
        assert not throttle.login_allowed("192.0.2.200", START)
    assert gate.banned == []


def test_an_account_is_slowed_down_and_never_locked() -> None:
    gate = Gate()
    throttle = Throttle(IntakeSettings(), Doorkeeper(BanSettings(failures=5, net_failures=5), gate))
    for at in range(100):
        throttle.login_failed(f"198.51.{at}.7", "bob@here.example", START)
    assert throttle.delay_before("Bob@here.example", START) == 15.0
    assert throttle.login_allowed("192.0.2.9", START), "its owner, from elsewhere"
    assert gate.banned == []


def test_loopback_is_neither_counted_nor_banned() -> None:
    gate = Gate()
    throttle = Throttle(IntakeSettings(), Doorkeeper(FEW, gate))
    for _ in range(100):
        throttle.login_failed("127.0.0.1", "bob", START)
        assert throttle.login_allowed("127.0.0.1", START)
    assert gate.banned == []


@pytest.mark.row("PF-21")
def test_bans_end_when_their_time_is_over() -> None:
    async def story() -> None:
        async with world() as here:
            await verbs.add_entries(here.database, TABLE, ["192.0.2.9"], here.now)
            await verbs.add_entries(here.database, "other", ["192.0.2.9"], here.now)
            here.clock.move(80_000)
            await verbs.add_entries(here.database, TABLE, ["192.0.2.10"], here.now)
            await here.learn()
            assert [here.verdict(ip, "imap") for ip in ("192.0.2.9", "192.0.2.10")] == ["block", "block"]
            here.clock.move(6_401)
            assert await release(here.database, (TABLE, TABLE, "never made"), 86_400, here.now) == 1
            await here.learn()
            assert [here.verdict(ip, "imap") for ip in ("192.0.2.9", "192.0.2.10")] == ["pass", "block"]
            assert len(await verbs.show_table(here.database, "other")) == 1, "only overload tables are expired"

    run(story())


@pytest.mark.row("PF-21")
def test_bans_are_released_on_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "RELEASE_S", 0.01)

    async def story() -> None:
        async with world() as here:
            clock, log, ban_time, looks = MovedClock(), Journal(), [0.0], [0]

            def length() -> float:
                looks[0] += 1
                return ban_time[0]

            await verbs.add_entries(here.database, TABLE, ["192.0.2.9"], here.now)
            clock.move(100_000)
            job = asyncio.create_task(keep_releasing(here.database, lambda: (TABLE,), length, clock=clock, log=log))
            async with asyncio.timeout(5):
                while looks[0] < 3:
                    await asyncio.sleep(0.005)
                assert log.lines == [], "0 keeps them for ever"
                ban_time[0] = 86_400.0
                while await verbs.show_table(here.database, TABLE):
                    await asyncio.sleep(0.01)
                while not log.lines:
                    await asyncio.sleep(0.01)
            assert log.lines == [("bans_released", {"count": 1})]
            job.cancel()

    run(story())


@pytest.mark.parametrize(
    "given", [{"failures": -1}, {"net_failures": -1}, {"within": 0}, {"table": ""}, {"ban_time": -1}]
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(BadSetting):
        fill(BanSettings, given)


def test_a_ban_lasts_a_day() -> None:
    assert BanSettings().ban_time == Seconds(86_400)
    assert fill(BanSettings, {"ban_time": "1h"}).ban_time == Seconds(3600)


networks = st.builds(
    lambda number, length: cut(4, number << 24, length), st.integers(0, 15), st.integers(4, 8)
) | st.builds(lambda number, length: cut(4, number, length), st.integers(0, 255), st.integers(26, 32))


@given(st.lists(networks, max_size=6), st.lists(networks, max_size=6), networks)
@settings(max_examples=150)
def test_a_table_touches_what_one_of_its_networks_touches(
    own: list[Prefix], fed: list[Prefix], asked: Prefix
) -> None:
    table = Table("nospamd", (Entry(each) for each in own), {"feed": Networks.of(fed)})
    assert table.touches(asked) is any(touches(asked, each) for each in (*own, *fed))
    assert Networks.of(fed).touches(asked) is any(touches(asked, each) for each in fed)
