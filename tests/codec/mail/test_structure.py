"""The structure: whatever the octets are, its parts lie in the mail, in order, and miss nothing."""

import mmap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.mail import structure as codec
from gatepost.codec.mail.imap import render_envelope, render_structure
from gatepost.codec.mail.structure import Fault, Part, count_lines, parse
from tests.codec.mail.imap_lists import check_body, check_envelope, read
from tests.codec.mail.offsets import check_structure
from tests.codec.mail.soup import MIME_PIECES, soup

HEADS = (
    b"",
    b"Content-Type: multipart/mixed; boundary=a\r\n\r\n",
    b"From: x@y\r\nContent-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n",
    b"Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n",
)
MAILS = st.tuples(st.sampled_from(HEADS), soup(MIME_PIECES)).map(b"".join)

NESTED = (
    b"From: a@b.example\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\npreamble\r\n--a\r\n\r\none\r\n"
    b"--a\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<b>\r\n"
    b"--b--\r\n\r\n--a\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n"
    b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\ntwo\r\n--c--\r\nafter\r\n--a--\r\nepilogue\r\n"
)


@pytest.fixture(params=[2_000, -1], ids=["line by line", "by the chunk"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for delimiters in both ways."""
    monkeypatch.setattr(codec, "_MISSES_MAX", request.param)


def told(raw: bytes) -> list[object]:
    """Return all that the codec says of a mail's parts."""
    return [
        (part.start, part.body, part.end, part.content_type, part.encoding, part.lines, part.faults, part.epilogue)
        for part in parse(raw).walk()
    ]


@given(MAILS)
@settings(max_examples=400, deadline=None)
def test_any_octets_are_tiled_by_parts(raw: bytes) -> None:
    root = parse(raw)
    check_structure(raw, root)
    assert root.all_faults() >= root.faults
    for part in root.walk():
        part.filenames()


@given(MAILS)
@settings(max_examples=200, deadline=None)
def test_any_octets_are_told_in_valid_imap(raw: bytes) -> None:
    root = parse(raw)
    whole, short = render_structure(root)
    check_body(read(whole), extended=True)
    check_body(read(short), extended=False)
    check_envelope(read(render_envelope(root.header)))


@given(MAILS)
@settings(max_examples=300, deadline=None)
def test_both_ways_to_look_for_delimiters_find_the_same(raw: bytes) -> None:
    line_by_line = told(raw)
    for chunk in (1, 7, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codec, "_MISSES_MAX", -1)
            patch.setattr(codec, "_CHUNK", chunk)
            assert told(raw) == line_by_line


@pytest.mark.usefixtures("_either_way")
def test_a_mail_that_is_cut_anywhere_is_tiled() -> None:
    for end in range(len(NESTED) + 1):
        check_structure(NESTED[:end], parse(NESTED[:end]))


def test_a_mapped_file_is_read_as_octets_are(tmp_path: Path) -> None:
    file = tmp_path / "mail"
    file.write_bytes(NESTED)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        shapes = [
            [(part.start, part.body, part.end, part.lines, part.faults) for part in parse(raw).walk()]
            for raw in (mapped, NESTED)
        ]
        assert shapes[0] == shapes[1]
        assert count_lines(mapped, 3, 200) == count_lines(NESTED, 3, 200)


def test_parts_bodies_and_lines_of_a_nested_mail() -> None:
    def shape(part: Part) -> object:
        kind = part.content_type.value.decode()
        return [kind, *map(shape, part.children)] if part.children else (kind, NESTED[part.body : part.end])

    root = parse(NESTED)
    assert shape(root) == [
        "multipart/mixed",
        ("text/plain", b"one"),
        ["multipart/alternative", ("text/html", b"<b>")],
        ["message/rfc822", ["multipart/mixed", ("text/plain", b"two")]],
    ]
    assert root.preamble is not None
    assert root.epilogue is not None
    assert NESTED[slice(*root.preamble)] == b"preamble"
    assert NESTED[slice(*root.epilogue)] == b"epilogue\r\n"
    assert [part.lines for part in root.walk() if part.lines] == [1, 1, 8, 1]
    assert root.all_faults() == frozenset()


@pytest.mark.usefixtures("_either_way")
def test_delimiters_behind_the_closing_one_are_one_fault_however_many_there_are() -> None:
    head = b"From: a@b.example\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\none\r\n--a--\r\n"
    for more in (b"--a\r\n\r\ntwo\r\n", b"--a--\r\n" * 3):
        root = parse(head + more)
        assert root.faults == {Fault.AFTER_CLOSE}
        assert len(root.children) == 1
        assert root.epilogue is not None
        assert (head + more)[slice(*root.epilogue)] == more


def test_a_part_whose_header_does_not_end_ends_at_the_next_delimiter() -> None:
    head = b"From: a@b.example\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n"
    root = parse(head + b"--a\r\nX: 1\r\n--a\r\nX: 2\r\n--a--\r\n")
    assert [part.header.first(b"x") for part in root.children] == [b"1", b"2"]
    check_structure(head, parse(head))
