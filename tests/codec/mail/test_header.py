"""The header block: tiled whatever it is, and read alike by its two ways."""

from email.parser import BytesHeaderParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.mail import header as codec
from gatepost.codec.mail.header import FIELD_MAX, FIELDS_MAX, HEADER_MAX, Flaw, HeaderBlock, unfold, without
from tests.codec.mail.offsets import check_header
from tests.codec.mail.soup import HEADER_PIECES, soup

NAMES = st.text(alphabet="ABCxyz-019", min_size=1, max_size=12)
VALUES = st.text(alphabet="abc :,<>@\"'=?()", max_size=60).map(str.strip)


@given(soup(HEADER_PIECES), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=400, deadline=None)
def test_any_octets_are_tiled_by_fields(octets: bytes, start: int, cut: int) -> None:
    start, end = min(start, len(octets)), max(min(start, len(octets)), len(octets) - cut)
    block = HeaderBlock.parse(octets, start, end)
    assert block.end <= end
    check_header(octets, block)
    assert b"".join(block.raw_field(field) for field in block.fields) == block.octets
    for field in block.fields:
        assert field in block.all(field.name) or field.name == b""
        assert block.raw_field(field).startswith(block.octets[field.start - start : field.colon + 1 - start])
    for name in {field.name for field in block.fields} - {b""}:
        assert block.count(name) == len(block.get(name)) == len(block.all(name))
        assert block.first(name) == unfold(block.get(name)[0])


@given(soup(HEADER_PIECES))
@settings(max_examples=400, deadline=None)
def test_the_quick_way_finds_what_the_other_finds(octets: bytes) -> None:
    block = HeaderBlock.parse(octets)
    flaws: set[Flaw] = set()
    assert list(block.fields) == codec._tile(block.octets, 0, flaws)
    assert flaws <= block.flaws
    assert block.flaws - flaws <= {
        Flaw.NO_FROM, Flaw.MULTIPLE_FROM, Flaw.DUPLICATE, Flaw.MULTIPLE_CONTENT_TYPE, Flaw.BARE_CR, Flaw.BARE_LF,
    }  # fmt: skip


@given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_well_formed_fields_are_those_of_the_standard_library(fields: list[tuple[str, str]]) -> None:
    raw = "".join(f"{name}: {value}\r\n" for name, value in fields).encode() + b"\r\nbody"
    told = BytesHeaderParser().parsebytes(raw)
    block = HeaderBlock.parse(raw)
    assert [field.name.decode() for field in block.fields] == [name.lower() for name in told.keys()]  # noqa: SIM118
    assert [unfold(block.value(field)).decode() for field in block.fields] == [v.strip() for v in told.values()]
    assert raw[block.end :] == b"body"
    for name, _ in fields:
        assert len(block.get(name.lower().encode())) == len(told.get_all(name, []))


@given(soup(HEADER_PIECES), st.data())
@settings(max_examples=200, deadline=None)
def test_fields_that_are_taken_out_leave_the_others_as_they_are(octets: bytes, data: st.DataObject) -> None:
    block = HeaderBlock.parse(octets)
    gone = data.draw(st.sets(st.sampled_from(block.fields))) if block.fields else set()
    left = [block.raw_field(field) for field in block.fields if field not in gone]
    ranges = tuple((field.start, field.end) for field in gone)
    assert without(octets, ranges) == b"".join(left) + octets[block.fields_end :]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_block_is_bounded_in_octets_fields_and_one_fields_octets(end: bytes) -> None:
    sane = b"From: a@b.example" + end
    big = HeaderBlock.parse(sane + (b"X: " + b"x" * 990 + end) * (HEADER_MAX // 990) + end + b"body")
    assert Flaw.TOO_BIG in big.flaws
    assert big.end == big.fields_end <= HEADER_MAX
    many = HeaderBlock.parse(sane + (b"X: y" + end) * FIELDS_MAX + end)
    assert Flaw.TOO_MANY in many.flaws
    assert len(many.fields) == FIELDS_MAX
    wide = HeaderBlock.parse(sane + b"X: " + (b"x" * 70 + end + b" ") * (FIELD_MAX // 70) + end + end)
    assert Flaw.FIELD_TOO_BIG in wide.flaws
    for block in (big, many, wide):
        assert block.ambiguous
