"""The greylist's rules: pure, and as the statements of both engines say them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import HOUR, MINUTE, Instant, seconds
from gatepost.db.unit import Unit
from gatepost.gate import sql
from gatepost.gate.grey import (
    TRAPPED,
    Kind,
    Record,
    State,
    digest,
    expired,
    first_at_low_priority,
    first_offer,
    has_passed,
    mailed,
    net,
    outside,
    promoted,
    seen,
    source,
    trap_name,
    trapped_by_hand,
    tuple_key,
    white_by_hand,
)
from gatepost.gate.settings import GateSettings
from gatepost.gate.steps import offer_step, put_step, record_of, whiten_step
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
    assert has_passed(again, now) is passes


@pytest.mark.row("GR-02", "SYNC-09")
def test_a_retry_does_not_make_a_tuple_last_longer_and_waiting_alone_does_not_pass() -> None:
    now = Instant(T0 + 3 * HOUR)
    assert seen(_fresh(), _fresh(now), now, SETTINGS).expires == T0 + 4 * HOUR
    assert not any(has_passed(_fresh(), Instant(T0 + hours * HOUR)) for hours in range(6))
    assert expired(_fresh(), Instant(T0 + 4 * HOUR))
    assert not expired(_fresh(), Instant(T0 + 4 * HOUR - 1))


@pytest.mark.row("GR-10")
def test_a_trap_hit_traps_the_host_for_a_day_and_hitting_it_again_not_for_longer() -> None:
    trapped = _fresh(trap=True)
    assert (trapped.key, trapped.state, trapped.expires) == (b"192.0.2.1", State.TRAPPED, T0 + 24 * HOUR)
    now = Instant(T0 + HOUR)
    assert seen(trapped, _fresh(now, trap=True), now, SETTINGS).expires == T0 + 24 * HOUR


def test_a_white_host_that_hits_a_trap_is_trapped_until_its_white_time_ends() -> None:
    white = promoted(_fresh(), T0, SETTINGS)
    assert white.state is State.WHITE
    now = Instant(T0 + HOUR)
    trapped = seen(white, _fresh(now, trap=True), now, SETTINGS)
    assert (trapped.state, trapped.expires) == (State.TRAPPED, white.expires)


def test_a_promoted_host_keeps_the_times_and_counts_of_its_tuple() -> None:
    now = Instant(T0 + HOUR)
    host = promoted(seen(_fresh(), _fresh(now), now, SETTINGS), now, SETTINGS)
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
    assert [first_at_low_priority("192.0.2.99", T0, now, settings) for now in at] == [False, True]
    assert not first_at_low_priority("192.0.2.1", T0, at[1], settings)
    assert not first_at_low_priority("", T0, at[1], SETTINGS)


def test_hosts_made_by_hand_and_by_mail() -> None:
    now = Instant(T0 + HOUR)
    white = white_by_hand(None, "192.0.2.1", T0)
    assert (white.blocked, white.passed, white.passes) == (1, 0, T0)
    again = white_by_hand(white, "192.0.2.1", now)
    assert (again.first, again.passes, again.passed, again.expires) == (T0, now, 1, now + 36 * 24 * HOUR)
    trapped = trapped_by_hand(again, "192.0.2.1", now, SETTINGS)
    assert (trapped.state, trapped.expires) == (State.TRAPPED, now + 24 * HOUR)
    assert mailed(trapped, "192.0.2.1", now, SETTINGS) == trapped
    assert white_by_hand(trapped, "192.0.2.1", now).state is State.WHITE


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
def test_the_statements_say_what_the_pure_rules_say(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with open_db((sql.SCHEMA,)) as database:
            number = 0

            async def check(record: Record | None, trap: bool, mail: bool, key: bytes) -> None:
                nonlocal number
                number += 1
                key = b"%d\n" % number + key  # a database for all examples
                fresh = first_offer(key, "192.0.2.1", T0, SETTINGS, trap=trap)
                host = Record(key, Kind.HOST, "192.0.2.1", T0, T0, fresh.expires, passed=TRAPPED) if trap else fresh
                if record is not None:
                    record = Record(key, host.kind, *_rest(record))
                    await database.commit(Unit((put_step(record, T0),)))
                step = (
                    whiten_step("192.0.2.1", 1, T0, SETTINGS)
                    if mail
                    else offer_step(host, T0, SETTINGS.micro(SETTINGS.pass_time), "192.0.2.0/24")
                )
                params = dict(step.params) | {"digest": digest(key), "key": key}
                if not mail and trap:
                    params |= {"expire": fresh.expires}
                await database.commit(Unit((type(step)(step.statement, params),)))
                [row] = await database.read(sql.ROW, {"digest": digest(key)})
                found = record_of(row)
                expected = mailed(record, "192.0.2.1", T0, SETTINGS) if mail else seen(record, fresh, T0, SETTINGS)
                assert (found.first, found.passes, found.expires, found.blocked, found.passed) == (
                    *(expected.first, expected.passes, expected.expires, expected.blocked, expected.passed),
                )

            cases: list[tuple[Record | None, bool, bool, bytes]] = []

            @settings(max_examples=60, database=None)
            @given(RECORDS, st.booleans(), st.booleans(), st.binary(max_size=40))
            def collect(record: Record | None, trap: bool, mail: bool, key: bytes) -> None:
                cases.append((record, trap, mail, key))

            collect()
            for case in cases:
                await check(*case)

    run(scene())


def _rest(record: Record) -> tuple[str, Instant, Instant, Instant, int, int]:
    return record.ip, record.first, record.passes, record.expires, record.blocked, record.passed
