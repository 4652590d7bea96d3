"""Ids: unique, growing, readable both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.base.clock import Instant
from gatepost.base.ids import ID_LENGTH, Minter, id_text, parse_id

NOW = Instant(1_790_000_000_000_000)


@given(st.lists(st.integers(-5_000_000, 5_000_000), min_size=1, max_size=200), st.integers(0, 255))
def test_ids_grow_even_when_the_clock_steps_back(steps: list[int], slot: int) -> None:
    minter, now, made = Minter(slot), NOW, [0]
    for step in steps:
        now = Instant(now + step)
        made.append(minter.mint(now))
    assert made == sorted(set(made))


def test_two_slots_never_make_the_same_id() -> None:
    one, other = Minter(1), Minter(2)
    ids = [minter.mint(NOW) for _ in range(40_000) for minter in (one, other)]
    assert len(set(ids)) == len(ids)


@given(st.integers(0, 2**63 - 1))
def test_text_reads_back(mail_id: int) -> None:
    text = id_text(mail_id)
    assert len(text) == ID_LENGTH
    assert parse_id(text) == mail_id
    assert parse_id(text.upper()) == mail_id


def test_text_sorts_as_the_ids_do() -> None:
    minter = Minter(7)
    texts = [id_text(minter.mint(Instant(NOW + at * 1000))) for at in range(100)]
    assert texts == sorted(texts)


@pytest.mark.parametrize("text", ["", "02rk5t9v8c0g", "02rk5t9v8c0g00", "02rk5t9v8c0gu", "02rk5t9v8c0g\n"])
def test_what_is_not_an_id_is_refused_with_its_reason(text: str) -> None:
    with pytest.raises(ValueError, match="is not an id"):
        parse_id(text)
