"""Rewritten senders: the forms, the hash, the age."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.base.address import Address
from gatepost.codec.srs import DAYS_CYCLE, Expired, NotOurs, Secrets, forward, reverse, rewritten

OURS = Secrets((b"the first key", b"an older key"))
DAY = 20_781


def at(text: str) -> Address:
    """Read local@domain."""
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def shown(sender: str, day: int = DAY, secrets: Secrets = OURS) -> Address:
    """Rewrite a sender."""
    made = forward(at(sender), "us.example", secrets, day)
    assert made is not None
    return made


LOCALS = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789.+-_=", min_size=1, max_size=40)


@given(LOCALS, st.integers(0, 40_000), st.integers(0, 21))
def test_what_is_rewritten_leads_back(local: str, day: int, age: int) -> None:
    sender = Address(local, "far.example")
    made = forward(sender, "us.example", OURS, day)
    assert made is not None
    assert made.local.startswith("SRS")
    assert reverse(made, OURS, day + age, 21) == sender or rewritten(sender)


@given(LOCALS, st.sampled_from([str.upper, str.lower, str.swapcase]))
def test_the_case_may_be_lost_on_the_way(local: str, change: object) -> None:
    made = shown(f"{local}@far.example")
    if rewritten(Address(local, "far.example")):
        return
    back = reverse(Address(change(made.local), made.domain), OURS, DAY, 21)  # type: ignore[operator]  # a str method
    assert (back.local.lower(), back.domain.lower()) == (local.lower(), "far.example")


def test_a_second_forwarder_keeps_the_first_ones_address_and_a_third_adds_nothing() -> None:
    first = shown("joe@far.example")
    second = forward(first, "b.example", OURS, DAY)
    assert second is not None
    assert second.local.startswith("SRS1=")
    third = forward(second, "c.example", OURS, DAY)
    assert third is not None
    assert third.local == second.local
    assert reverse(third, OURS, DAY, 21) == first
    assert reverse(first, OURS, DAY, 21) == at("joe@far.example")


def test_old_keys_check_and_strange_ones_do_not() -> None:
    old = shown("joe@far.example", secrets=Secrets((b"an older key",)))
    assert reverse(old, OURS, DAY, 21) == at("joe@far.example")
    with pytest.raises(NotOurs, match="hash"):
        reverse(old, Secrets((b"another",)), DAY, 21)


@pytest.mark.parametrize("days", [22, 300, DAYS_CYCLE - 1])
def test_an_address_expires(days: int) -> None:
    with pytest.raises(Expired, match="days old"):
        reverse(shown("joe@far.example"), OURS, DAY + days, 21)


@pytest.mark.parametrize(
    "local",
    [
        "joe",
        "SRS0=",
        "SRS0=abcd",
        "SRS0=abcd=AB=far.example",
        "SRS0=abcd=A=far.example=joe",
        "SRS0=abcd=AB=far.example=joe",
        "SRS0==AB=far.example=joe",
        "SRS0=ab=AB=far.example=joe",
        "SRS1=abcd=far.example==abcd=AB=x=joe",
        "SRS1=abcd=far.example",
        "SRS2=abcd=AB=far.example=joe",
        "SRS0=ÄÖÜß=AB=far.example=joe",
    ],
)
def test_what_we_did_not_make_is_told_apart(local: str) -> None:
    with pytest.raises(NotOurs):
        reverse(Address(local, "us.example"), OURS, DAY, 21)


def test_any_change_is_noticed() -> None:
    made = shown("joe@far.example")
    for old, new in (("far.example", "bar.example"), ("=joe", "=jim"), ("=TJ=", "=TK=")):
        if old in made.local:
            with pytest.raises(NotOurs):
                reverse(Address(made.local.replace(old, new), made.domain), OURS, DAY, 21)


def test_an_address_that_would_be_too_long_is_not_made() -> None:
    assert (
        forward(Address("a" * 64, "b" * 60 + "." + "c" * 60 + "." + "d" * 60 + ".example"), "us.example", OURS, DAY)
        is None
    )
