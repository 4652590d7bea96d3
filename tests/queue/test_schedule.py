"""When mail is tried again: the numbers of smtpd, and clocks that step."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import DAY, HOUR, MICROSECONDS, Instant, seconds
from gatepost.queue.schedule import QUICK_BASE, RELAY_BASE, Steadiness, expired, next_attempt, warn_due

T0 = Instant(1_790_000_000_000_000)
LIFETIME = 4 * DAY


def times(base: int, lifetime: int, count: int) -> list[int]:
    """Return when attempts are made, in seconds after arrival, when each fails at once."""
    now, found = T0, []
    for _ in range(count):
        found.append((now - T0) // MICROSECONDS)
        now = next_attempt(T0, now, base=base, lifetime=lifetime)
    return found


def test_relaying_is_tried_at_400_k_squared() -> None:
    assert times(RELAY_BASE, LIFETIME, 7) == [0, 400, 1600, 3600, 6400, 10_000, 14_400]


def test_bounces_and_local_lmtp_are_tried_at_10_k_squared() -> None:
    assert times(QUICK_BASE, LIFETIME, 6) == [0, 10, 40, 90, 160, 250]


def test_the_last_attempt_is_at_the_end_of_the_lifetime() -> None:
    found = times(RELAY_BASE, LIFETIME, 31)
    assert found[29:31] == [400 * 29 * 29, LIFETIME // MICROSECONDS]


def test_a_late_attempt_goes_on_with_the_next_k() -> None:
    late = Instant(T0 + seconds(5000))
    assert next_attempt(T0, late, base=RELAY_BASE, lifetime=LIFETIME) == T0 + seconds(6400)


@pytest.mark.row("REL-10")
@settings(max_examples=200, deadline=None)
@given(st.integers(-20 * 365 * DAY, 20 * 365 * DAY), st.sampled_from([RELAY_BASE, QUICK_BASE]))
def test_whatever_the_clock_says_the_next_attempt_is_later_and_near(shift: int, base: int) -> None:
    now = Instant(T0 + shift)
    planned = next_attempt(T0, now, base=base, lifetime=LIFETIME)
    assert now < planned <= now + 8 * HOUR


@pytest.mark.row("REL-10")
def test_nobody_is_given_up_by_a_clock_that_jumped() -> None:
    old = Instant(T0 + LIFETIME)
    assert expired(T0, old, 29, lifetime=LIFETIME)
    assert not expired(T0, Instant(old - 1), 29, lifetime=LIFETIME)
    assert not expired(T0, Instant(T0 + 3650 * DAY), 4, lifetime=LIFETIME)
    assert not expired(T0, Instant(T0 + 3650 * DAY), 29, lifetime=LIFETIME, steady=False)


@pytest.mark.row("REL-10")
def test_a_jump_is_seen_and_forgiven_after_a_day() -> None:
    watch = Steadiness(T0, 0.0)
    assert watch.observe(Instant(T0 + HOUR), 3600.0)
    assert watch.observe(Instant(T0 + 2 * HOUR + seconds(60)), 7200.0)  # slewing
    for jump in (HOUR, -HOUR, -3650 * DAY):
        now = Instant(T0 + 10 * HOUR + jump)
        watch = Steadiness(T0, 0.0)
        assert not watch.observe(now, 36_000.0)
        assert not watch.observe(Instant(now + HOUR), 39_600.0)
        assert watch.observe(Instant(now + DAY), 36_000.0 + 86_400.0)


def test_the_sender_is_warned_once() -> None:
    four = Instant(T0 + 4 * HOUR)
    assert warn_due(T0, four, after=4 * HOUR, warned=False)
    assert not warn_due(T0, Instant(four - 1), after=4 * HOUR, warned=False)
    assert not warn_due(T0, four, after=4 * HOUR, warned=True)
    assert not warn_due(T0, four, after=0, warned=False)
