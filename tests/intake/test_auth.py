"""Rates: how much is too much, and how it is forgotten."""

import pytest

from gatepost.base.clock import MINUTE, Instant, later, seconds
from gatepost.gate.bans import KEYS_MAX, Rate
from gatepost.intake.auth import Throttle, delay_after, source_keys
from gatepost.intake.settings import IntakeSettings
from tests.support.wire import START


def test_a_rate_lets_its_number_through_and_drains_evenly() -> None:
    rate = Rate(10, MINUTE)
    for _ in range(10):
        assert not rate.full("a", START)
        rate.count("a", START)
    assert rate.full("a", START)
    assert not rate.full("b", START)
    assert rate.full("a", later(START, seconds(5.9)))
    assert not rate.full("a", later(START, seconds(6)))
    assert not rate.full("a", later(START, seconds(60)))


def test_a_clock_that_steps_back_forgives_nothing() -> None:
    rate = Rate(1, MINUTE)
    rate.count("a", START)
    assert rate.full("a", Instant(START - MINUTE))


def test_counting_on_a_full_rate_does_not_lengthen_it() -> None:
    rate = Rate(2, MINUTE)
    for _ in range(100):
        rate.count("a", START)
    assert not rate.full("a", later(START, seconds(30)))


def test_no_limit_is_never_full() -> None:
    rate = Rate(0, MINUTE)
    rate.count("a", START)
    assert not rate.full("a", START)


def test_a_rate_keeps_a_bounded_number_of_keys() -> None:
    rate = Rate(1, MINUTE)
    for number in range(KEYS_MAX + 10):
        rate.count(str(number), START)
    assert len(rate._levels) <= KEYS_MAX
    assert rate.full(str(KEYS_MAX + 9), START)


@pytest.mark.parametrize(
    ("ip", "keys"),
    [
        ("192.0.2.9", ("192.0.2.9", "192.0.2.0/24")),
        ("2001:db8:1:2:3::4", ("20010db800010002/64", "20010db80001/48")),
        ("fe80::1%eth0", ("fe80000000000000/64", "fe8000000000/48")),
    ],
)
def test_sources_are_addresses_and_their_nets(ip: str, keys: tuple[str, str]) -> None:
    assert source_keys(ip) == keys


@pytest.mark.row("AUTH-01")
def test_answers_to_wrong_passwords_come_later_and_later() -> None:
    assert [delay_after(count) for count in (1, 2, 3, 4, 5, 1000)] == [2, 4, 8, 15, 15, 15]


@pytest.mark.row("AUTH-01")
def test_fifty_wrong_passwords_a_day_are_enough() -> None:
    throttle, now = Throttle(IntakeSettings()), START
    for _ in range(50):
        assert throttle.login_allowed("198.51.100.7", now)
        throttle.login_failed("198.51.100.7", "bob", now)
        now = later(now, seconds(7))
    assert not throttle.login_allowed("198.51.100.7", later(now, seconds(600)))
    assert throttle.login_allowed("198.51.100.8", now)


def test_loopback_is_never_blocked() -> None:
    throttle = Throttle(IntakeSettings())
    for _ in range(200):
        throttle.login_failed("127.0.0.1", "bob", START)
    assert throttle.login_allowed("127.0.0.1", START)
    assert throttle.delay_before("BOB", START) == 15.0
