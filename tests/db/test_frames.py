"""Frames between a keeper and its workers."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.db.frames import (
    FRAME_MAX,
    BadFrame,
    FrameReader,
    LetGo,
    News,
    answer_frame,
    let_go_frame,
    news_frame,
    read_answer,
    read_request,
    request_frame,
)
from gatepost.db.unit import Clash, NoRoom, NotCommitted, Notice, Rows, Unhealthy, Unmet

VALUES = st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.binary(max_size=40) | st.text(max_size=20)


def contents(octets: bytes, size: int) -> list[bytes]:
    reader = FrameReader()
    return [each for at in range(0, len(octets), size) for each in reader.feed(octets[at : at + size])]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES), max_size=4), st.integers(1, 30))
def test_requests_do_not_depend_on_packets(params: list[dict[str, int | bytes | str | None]], size: int) -> None:
    octets = b"".join(
        request_frame(number, [("t.x", each)], [Notice("n", number)]) for number, each in enumerate(params, 1)
    )
    requests = [read_request(content) for content in contents(octets, size)]
    assert [request.steps for request in requests] == [[("t.x", each)] for each in params]
    assert [request.notices for request in requests] == [[("n", at + 1)] for at in range(len(params))]


@pytest.mark.parametrize("refused", [Unmet("t.x"), Clash("c"), NoRoom("n"), Unhealthy("u")])
def test_a_refusal_keeps_its_kind_and_words(refused: NotCommitted) -> None:
    (content,) = contents(answer_frame(7, refused), 3)
    number, what = read_answer(content)
    assert (number, type(what), str(what)) == (7, type(refused), str(refused))


def test_rows_come_back_as_they_were() -> None:
    rows: tuple[Rows, ...] = ([(1, None, b"\0", "é", 1.5)], [])
    (content,) = contents(answer_frame(7, rows), 1)
    assert read_answer(content) == (7, rows)


def test_what_everybody_is_told() -> None:
    octets = news_frame([("mailbox", 3)]) + let_go_frame(closed=True)
    told = [read_answer(content) for content in contents(octets, 5)]
    assert told == [(0, News((Notice("mailbox", 3),))), (0, LetGo(closed=True))]


def test_a_frame_longer_than_the_limit_is_refused_before_it_is_held() -> None:
    assert list(FrameReader().feed(struct.pack("!I", FRAME_MAX))) == []
    with pytest.raises(BadFrame):
        list(FrameReader().feed(struct.pack("!I", FRAME_MAX + 1)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_no_octets_raise_anything_but_bad_frame(octets: bytes) -> None:
    for read in (read_request, read_answer):
        try:
            read(octets)
        except BadFrame:
            continue
