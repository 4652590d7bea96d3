"""Settings: what an operator may write, and what a mistake answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import pytest

from gatepost.base.settings import BadSetting, field_notes, fill
from gatepost.base.units import Octets, Seconds, octets_text, seconds_text


class Colour(Enum):
    TEAL = "teal"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    size: Octets = Octets(10)


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    wait: Seconds = Seconds(5)
    """How long to wait."""
    colour: Colour = Colour.TEAL
    hosts: tuple[str, ...] = ()
    inner: Inner = Inner()
    more: Mapping[str, Inner] = field(default_factory=dict)
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit == 13:
            raise ValueError("13 brings no luck")


def test_amounts_are_read_as_they_are_written() -> None:
    sample = fill(Sample, {"name": "x", "wait": "25m", "inner": {"size": "50M"}, "more": {"a": {"size": 7}}})
    assert sample.wait == Seconds(1500)
    assert sample.inner.size == Octets(50 * 1024 * 1024)
    assert sample.more["a"].size == Octets(7)


def test_choices_lists_and_nothing() -> None:
    sample = fill(Sample, {"name": "x", "colour": "red", "hosts": ["a", "b"], "limit": 3})
    assert (sample.colour, sample.hosts, sample.limit) == (Colour.RED, ("a", "b"), 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "name: it is missing"),
        ({"name": 5}, "name: 5 is not a string in quotes"),
        ({"name": "x", "wiat": 5}, "wiat: there is no such setting (did you mean 'wait'?)"),
        ({"name": "x", "wait": "5 parsecs"}, "'5 parsecs' is not a length of time"),
        ({"name": "x", "wait": -1}, "less than nothing"),
        ({"name": "x", "wait": True}, "True is not an amount"),
        ({"name": "x", "inner": {"size": "50X"}}, "inner.size: '50X' is not a size"),
        ({"name": "x", "inner": 5}, "inner: 5 is not a table of settings"),
        ({"name": "x", "colour": "blue"}, "'blue' is not one of 'teal', 'red'"),
        ({"name": "x", "hosts": "a"}, "hosts: 'a' is not a list (write ['a'])"),
        ({"name": "x", "hosts": [1]}, "hosts.0: 1 is not a string in quotes"),
        ({"name": "x", "limit": 13}, "13 brings no luck"),
        ({"name": "x", "limit": True}, "limit: True is not a whole number"),
    ],
)
def test_a_mistake_names_its_key_and_what_is_allowed(given: dict[str, object], words: str) -> None:
    with pytest.raises(BadSetting) as caught:
        fill(Sample, given)
    assert words in str(caught.value)


def test_the_string_below_a_field_is_its_documentation() -> None:
    assert field_notes(Sample) == {"wait": "How long to wait."}


def test_amounts_are_written_for_people() -> None:
    assert [seconds_text(each) for each in (0.25, 90, 14_400, 3_110_400)] == ["250ms", "1m 30s", "4h", "36d"]
    assert [octets_text(each) for each in (12, 5200, 50 << 20)] == ["12", "5.1K", "50M"]
