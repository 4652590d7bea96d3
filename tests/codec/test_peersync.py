"""Our own sync on the wire: signed, numbered, and nothing but what was signed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec.peersync import (
    DATAGRAM_MAX,
    SUMS,
    WINDOW,
    Datagram,
    Entry,
    Kind,
    NotUnderstood,
    Sums,
    Window,
    batches,
    read_entries,
    read_sums,
    seal,
    unseal,
)

KEY, OTHER, STREAM = b"k" * 32, b"o" * 32, b"12345678"
NUMBERS = st.integers(-1, 1 << 62)
ENTRIES = st.builds(
    Entry,
    key=st.binary(min_size=1, max_size=400),
    kind=st.integers(0, 6),
    ip=st.text(max_size=40),
    first=NUMBERS,
    passes=NUMBERS,
    expires=NUMBERS,
    blocked=NUMBERS,
    passed=NUMBERS,
)


@given(st.lists(ENTRIES, max_size=12))
def test_records_come_out_as_they_went_in_and_fit_into_datagrams(entries: list[Entry]) -> None:
    bodies = list(batches(entries))
    assert [entry for body in bodies for entry in read_entries(body)] == entries
    whole = [seal(Kind.RECORDS, body, KEY, STREAM, 1, 2) for body in bodies]
    assert all(len(each) <= DATAGRAM_MAX for each in whole)
    assert [unseal(each, (OTHER, KEY)).body for each in whole] == bodies


def test_a_record_that_no_datagram_holds_is_left_out() -> None:
    large = Entry(b"k" * 9_000, 0, "192.0.2.1", 1, 2, 3, 4, 5)
    small = Entry(b"k", 0, "192.0.2.1", 1, 2, 3, 4, 5)
    assert [read_entries(body) for body in batches([small, large, small])] == [[small, small]]


@given(st.integers(0, 255) | st.none(), st.lists(st.integers(0, (1 << 32) - 1), min_size=SUMS, max_size=SUMS))
def test_sums_come_out_as_they_went_in(prefix: int | None, sums: list[int]) -> None:
    them = Sums(prefix, tuple(sums))
    assert read_sums(them.pack()) == them
    assert len(seal(Kind.SUMS, them.pack(), KEY, STREAM, 1, 2)) <= DATAGRAM_MAX


def test_a_sum_is_of_all_but_the_counts() -> None:
    entry = Entry(b"k", 0, "192.0.2.1", 1, 2, 3, 4, 5)
    same = Entry(b"k", 0, "192.0.2.1", 1, 2, 3, 9, 9)
    others = [Entry(b"k", 0, "192.0.2.1", 1, 2, 3, 4, -1), Entry(b"l", 0, "192.0.2.1", 1, 2, 3, 4, 5)]
    assert entry.sum() == same.sum()
    assert entry.sum() not in [each.sum() for each in others]


@pytest.mark.row("SYNC-01", "SYNC-04")
@given(st.integers(0, 90), st.integers(1, 255))
def test_who_changes_an_octet_or_has_another_key_is_not_understood(at: int, by: int) -> None:
    octets = bytearray(seal(Kind.RECORDS, b"body", KEY, STREAM, 7, 9))
    assert unseal(bytes(octets), (KEY,)) == Datagram(Kind.RECORDS, STREAM, 7, 9, b"body")
    with pytest.raises(NotUnderstood, match="another key"):
        unseal(bytes(octets), (OTHER,))
    octets[at % len(octets)] ^= by
    with pytest.raises(NotUnderstood):
        unseal(bytes(octets), (KEY,))


@pytest.mark.row("SYNC-01")
@given(st.binary(max_size=400), st.sampled_from((0, 1, 2, 3, 255)))
def test_any_octets_are_understood_or_refused(octets: bytes, kind: int) -> None:
    with pytest.raises(NotUnderstood):
        unseal(octets, (KEY,))
    try:
        made = unseal(seal(kind, octets, KEY, STREAM, 1, 2), (KEY,))  # type: ignore[arg-type]  # also unknown kinds
        (read_entries if made.kind is Kind.RECORDS else read_sums)(made.body)
    except NotUnderstood:
        pass


@pytest.mark.row("SYNC-02")
@given(st.lists(st.integers(0, 3 * WINDOW)))
def test_a_number_is_fresh_once(numbers: list[int]) -> None:
    window, seen, newest = Window(), set[int](), -1
    for number in numbers:
        expected = number not in seen and number > newest - WINDOW
        assert window.fresh(number) is expected
        seen.add(number)
        newest = max(newest, number)
