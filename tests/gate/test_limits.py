"""PF's max-src-conn and max-src-conn-rate, with its exact arithmetic."""

import pytest

from gatepost.base.units import Seconds
from gatepost.gate.limits import FORGET_EVERY, SourceLimits
from gatepost.gate.settings import RateSettings


@pytest.mark.row("PF-10")
def test_the_51st_connection_at_once_is_too_much() -> None:
    limits = SourceLimits(RateSettings(connections=50))
    assert [limits.opened("a", 9.0 * at) for at in range(50)] == [""] * 50
    assert limits.opened("b", 0.0) == ""
    assert "50 connections" in limits.opened("a", 999.0)
    limits.closed("a")
    limits.closed("a")
    assert limits.opened("a", 1999.0) == ""


@pytest.mark.row("PF-10", "PF-14")
def test_one_more_than_the_rate_within_a_second_is_too_much() -> None:
    limits = SourceLimits(RateSettings(count=25, within=Seconds(5)))
    assert [bool(limits.opened("a", 100.9)) for _ in range(26)] == [False] * 25 + [True]


def test_the_count_decays_by_its_share_of_the_time() -> None:
    limits = SourceLimits(RateSettings(count=2, within=Seconds(5)))
    assert limits.opened("a", 10.0) == ""  # 1000
    assert limits.opened("a", 11.0) == ""  # 1000 - 200 + 1000 = 1800
    assert "2 connections" in limits.opened("a", 12.0)  # 1800 - 360 + 1000 = 2440
    assert limits.opened("a", 17.0) == ""  # 5 s later it begins anew


def test_a_steady_stream_just_under_the_rate_is_never_too_much() -> None:
    limits = SourceLimits(RateSettings(count=25, within=Seconds(5)))
    assert not any(limits.opened("a", second) for second in range(100) for _ in range(4))


def test_connections_that_are_too_many_count_in_the_rate_too() -> None:
    limits = SourceLimits(RateSettings(connections=1, count=3, within=Seconds(5)))
    reasons = []
    for _ in range(4):
        reasons.append(limits.opened("a", 1.0))
        limits.closed("a")
    assert [bool(reason) for reason in reasons] == [False, False, False, True]


def test_sources_are_forgotten_when_their_count_would_begin_anew() -> None:
    limits = SourceLimits(RateSettings(count=3))
    limits.opened("open", 0.0)
    for at in range(3 * FORGET_EVERY):
        limits.opened(f"{at}", at / 100)
        limits.closed(f"{at}")
    assert len(limits) <= FORGET_EVERY + 600
    limits.opened("open", 900.0)
    limits.closed("never opened")


@pytest.mark.row("PF-20")
def test_the_101st_connection_of_all_sources_is_too_much_until_one_ends_and_nobodys_fault() -> None:
    limits = SourceLimits(RateSettings(connections=10, count=10, within=Seconds(5), overload=""), 100)
    assert [limits.opened(f"{at}", 0.0) for at in range(100)] == [""] * 100
    full = [limits.full]
    assert limits.opened("late", 0.0) == "more than 100 connections in all"
    full.append(limits.full)
    limits.closed("late")
    full.append(limits.full)
    assert full == [False, True, False]
    assert limits.opened("late", 0.0) != ""
    limits.closed("late")
    limits.closed("7")
    assert limits.opened("late", 0.0) == ""


@pytest.mark.row("PF-20")
def test_what_max_turned_away_is_no_part_of_its_sources_rate() -> None:
    limits = SourceLimits(RateSettings(count=2, within=Seconds(5)), 1)
    assert limits.opened("held", 0.0) == ""
    for _ in range(9):
        assert "in all" in limits.opened("a", 0.0)
        limits.closed("a")
    limits.closed("held")
    assert limits.opened("a", 0.0) == ""


@pytest.mark.row("PF-20")
def test_without_a_ban_a_source_is_refused_only_while_it_has_too_many() -> None:
    limits = SourceLimits(RateSettings(connections=10, overload=""), 100)
    assert [limits.opened("a", 60.0 * at) for at in range(10)] == [""] * 10
    assert limits.opened("a", 900.0) == "more than 10 connections"
    assert not limits.full
    limits.closed("a")
    limits.closed("a")
    assert limits.opened("a", 960.0) == ""
