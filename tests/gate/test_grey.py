"""The greylist's rules: pure, and as the statements of both engines say them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import HOUR, MINUTE, Instant, seconds
from gatepost.db.unit import Step, Unit
from gatepost.gate import sql
from gatepost.gate.gate import put_step
from gatepost.gate.grey import (
    TRAPPED,
    Kind,
    Record,
    State,
    first_offer,
    is_low_priority_trap,
    net,
    outside,
    seen,
    source,
    trap_name,
    tuple_key,
    white_host,
)
from gatepost.gate.settings import GateSettings
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

SETTINGS = GateSettings()
T0 = Instant(1_700_000_000_000_000)
KEY = tuple_key("192.0.2.1", b"mail", b"<a@b>", b"<c@d>")


def _fresh(now: Instant = T0, *, trap: bool = False) -> Record:
    return first_offer(KEY, "192.0.2.1", now, SETTINGS, trap=trap)


@pytest.mark.row("GR-01", "SYNC-09")
@pytest.mark.parametrize(("after", "passes"), [(-1, False), (0, False), (1, True)])
def test_a_retry_counts_when_it_comes_later_than_the_pass_time(after: int, passes: bool) -> None:
    now = Instant(T0 + 25 * MINUTE + seconds(after))
    again = seen(_fresh(), _fresh(now), now, SETTINGS)
    assert again.blocked == 2
    assert (again.passes == now) is passes


@pytest.mark.row("GR-02", "SYNC-09")
def test_a_retry_does_not_make_a_tuple_last_longer() -> None:
    now = Instant(T0 + 3 * HOUR)
    assert seen(_fresh(), _fresh(now), now, SETTINGS).expires == T0 + 4 * HOUR
    assert _fresh().passes == _fresh().expires == T0 + 4 * HOUR


@pytest.mark.row("GR-10")
def test_a_trap_hit_traps_the_host_for_a_day_and_hitting_it_again_not_for_longer() -> None:
    trapped = _fresh(trap=True)
    assert (trapped.key, trapped.state, trapped.expires) == (b"192.0.2.1", State.TRAPPED, T0 + 24 * HOUR)
    now = Instant(T0 + HOUR)
    assert seen(trapped, _fresh(now, trap=True), now, SETTINGS).expires == T0 + 24 * HOUR


def test_a_white_host_that_hits_a_trap_is_trapped_until_its_white_time_ends() -> None:
    white = white_host("192.0.2.1", T0, T0, 2, T0, SETTINGS)
    assert white.state is State.WHITE
    now = Instant(T0 + HOUR)
    trapped = seen(white, _fresh(now, trap=True), now, SETTINGS)
    assert (trapped.state, trapped.expires) == (State.TRAPPED, white.expires)


def test_a_promoted_host_keeps_the_times_and_counts_of_its_tuple() -> None:
    now = Instant(T0 + HOUR)
    host = white_host("192.0.2.1", T0, now, 2, now, SETTINGS)
    assert (host.key, host.first, host.passes, host.blocked, host.passed) == (b"192.0.2.1", T0, now, 2, 0)
    assert host.expires == now + 36 * 24 * HOUR


@pytest.mark.parametrize(
    ("recipient", "name"), [(b"<Trap@Example.ORG>", "trap@example.org"), (b"<<x>>", "<x>"), (b"a@b", "a@b")]
)
def test_a_recipient_is_looked_for_without_brackets_and_case(recipient: bytes, name: str) -> None:
    assert trap_name(recipient) == name


@pytest.mark.row("GR-10")
def test_allowed_domains_are_plain_suffixes() -> None:
    domains = ("example.org", "@Strict.example")
    names = ("a@example.org", "a@notexample.org", "a@strict.example", "a@sub.strict.example", "a@other.example")
    assert [outside(name, domains) for name in names] == [False, False, False, True, True]
    assert not outside("a@anywhere", ())


def test_the_least_preferred_mx_is_a_trap_a_minute_after_the_start() -> None:
    settings = GateSettings(low_priority_mx="192.0.2.99")
    at = [Instant(T0 + seconds(60)), Instant(T0 + seconds(60) + 1)]
    assert [is_low_priority_trap("192.0.2.99", T0, now, settings) for now in at] == [False, True]
    assert not is_low_priority_trap("192.0.2.1", T0, at[1], settings)
    assert not is_low_priority_trap("", T0, at[1], SETTINGS)


def test_a_sender_is_an_address_or_a_64() -> None:
    assert (source("192.0.2.1"), source("2001:db8:1:2:3::4")) == ("192.0.2.1", "2001:db8:1:2::/64")
    assert (net("192.0.2.1"), net("2001:db8:1:2::/64")) == ("192.0.2.0/24", "2001:db8:1::/48")


RECORDS = st.none() | st.builds(
    Record,
    st.just(b"192.0.2.1"),
    st.just(Kind.HOST),
    st.just("192.0.2.1"),
    st.integers(0, 30).map(lambda minutes: Instant(T0 - minutes * MINUTE)),
    st.integers(-30, 300).map(lambda minutes: Instant(T0 + minutes * MINUTE)),
    st.integers(0, 600).map(lambda minutes: Instant(T0 + minutes * MINUTE)),
    st.integers(1, 5),
    st.sampled_from([0, 1, 7, TRAPPED]),
)


@each_engine
@pytest.mark.row("SMTP-24")
def test_the_statement_says_what_the_pure_rule_says(open_db: OpenDatabase) -> None:
    cases: list[tuple[Record | None, bool, bytes]] = []

    @settings(max_examples=60, database=None)
    @given(RECORDS, st.booleans(), st.binary(max_size=40))
    def collect(record: Record | None, trap: bool, key: bytes) -> None:
        cases.append((record, trap, key))

    async def scene() -> None:
        async with open_db((sql.SCHEMA,)) as database:
            for number, (record, trap, tail) in enumerate(cases):
                key = b"%d\n" % number + tail  # one database for all cases
                fresh = first_offer(key, "192.0.2.1", T0, SETTINGS, trap=trap)
                if record is not None:
                    before = (record.first, record.passes, record.expires, record.blocked, record.passed)
                    put = put_step(key, fresh.kind, "192.0.2.1", "192.0.2.0/24", *before)
                    await database.commit(Unit((put,)))
                step = Step(
                    sql.SEEN,
                    {
                        "key": key,
                        "kind": fresh.kind.value,
                        "ip": "192.0.2.1",
                        "net": "192.0.2.0/24",
                        "now": T0,
                        "expire": fresh.expires,
                        "passed": fresh.passed,
                        "pass_time": seconds(SETTINGS.pass_time),
                        "net_max": 1000,
                    },
                )
                await database.commit(Unit((step,)))
                [row] = await database.read(sql.ROW, {"key": key})
                expected = seen(record, fresh, T0, SETTINGS)
                assert row[3:] == (
                    *(expected.first, expected.passes, expected.expires, expected.blocked, expected.passed),
                )

    collect()
    run(scene())
