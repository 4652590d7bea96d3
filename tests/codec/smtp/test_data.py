"""The end of a mail: CRLF.CRLF and nothing else, however the octets are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.smtp.client import DotStuffer
from gatepost.codec.smtp.data import LINE_TOLERATED, BareLines, Chunks, EndOfData, Flaw

Outcome = tuple[bytes, bytes | None, Flaw | None, int]


def scan(octets: bytes, size: int = 1 << 20, policy: BareLines = BareLines.REJECT) -> Outcome:
    """Return content, what follows the end (None: not ended), the flaw and the longest long line."""
    scanner = EndOfData(policy)
    content = b""
    for at in range(0, len(octets), size):
        content += scanner.feed(octets[at : at + size])
        if scanner.ended:
            return content, scanner.rest + octets[at + size :], scanner.lines.flaw, scanner.lines.longest
    return content, None, scanner.lines.flaw, scanner.lines.longest


pieces = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"..", b"x" * 998, b"\r\n."]), max_size=24)


@given(pieces, st.integers(1, 9), st.sampled_from(BareLines))
@settings(max_examples=200)
def test_what_is_found_does_not_depend_on_packets(parts: list[bytes], size: int, policy: BareLines) -> None:
    octets = b"".join(parts) + b"\r\n.\r\nQUIT\r\n"
    assert scan(octets, size, policy) == scan(octets, policy=policy)


@given(pieces, st.integers(1, 9))
@settings(max_examples=150)
def test_the_fast_scanner_agrees_with_a_plain_reading(parts: list[bytes], size: int) -> None:
    octets = b"".join(parts) + b"\r\n.\r\nQUIT\r\n"
    lines = octets.split(b"\r\n")
    end = lines.index(b".")
    content = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:end])
    found, rest, flaw, _ = scan(octets, size)
    assert found == content
    assert rest == b"\r\n".join(lines[end + 1 :])
    bare = content.replace(b"\r\n", b"")
    assert (flaw is Flaw.BARE) is (b"\r" in bare or b"\n" in bare)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b".."]), max_size=24), st.integers(1, 9))
@settings(max_examples=150)
def test_what_the_stuffer_sends_the_scanner_takes_back(parts: list[bytes], size: int) -> None:
    content = b"".join(parts)
    stuffer = DotStuffer()
    sent = b"".join(stuffer.stuff(content[at : at + size]) for at in range(0, len(content), size)) + stuffer.end()
    mended = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if mended and not mended.endswith(b"\r\n"):
        mended += b"\r\n"
    found, rest, flaw, _ = scan(sent + b"QUIT\r\n")
    assert (found, rest, flaw) == (mended, b"QUIT\r\n", None)


@pytest.mark.row("SMG-01", "SMG-02", "SMG-03", "SMG-04")
@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\n\n.\r\n", b"\r\n\x00.\r\n"]
)
@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
def test_only_crlf_dot_crlf_ends_a_mail(end: bytes, size: int) -> None:
    octets = b"Subject: x\r\n\r\na" + end + b"MAIL FROM:<smug@evil.example>\r\nrest"
    assert scan(octets + b"\r\n.\r\n", size)[1] == b""
    assert scan(octets, size)[1] is None


@pytest.mark.row("SMG-01")
def test_normalize_mends_bare_line_ends_and_keeps_one_mail() -> None:
    content, rest, flaw, _ = scan(b"a\n.\nMAIL\r.\rb\r\n.\r\n", policy=BareLines.NORMALIZE)
    assert (content, rest, flaw) == (b"a\r\n.\r\nMAIL\r\n.\r\nb\r\n", b"", None)


@pytest.mark.row("SMG-10")
def test_an_end_that_comes_octet_by_octet_is_found() -> None:
    assert scan(b"body\r\n.\r\n", 1) == (b"body\r\n", b"", None, 0)


@pytest.mark.row("SMG-12")
def test_stuffed_dots_are_taken_away() -> None:
    assert scan(b"..\r\n.a\r\n...\r\n.\r\n")[0] == b".\r\na\r\n..\r\n"
    assert scan(b".\r\nQUIT\r\n")[:2] == (b"", b"QUIT\r\n")


@pytest.mark.row("SMTP-25")
@pytest.mark.parametrize("size", [1, 100, 4096, 1 << 20])
def test_long_lines_are_tolerated_up_to_their_limit_and_never_split(size: int) -> None:
    for length, longest, flaw in (
        (998, 0, None),
        (999, 999, None),
        (LINE_TOLERATED, LINE_TOLERATED, None),
        (LINE_TOLERATED + 1, LINE_TOLERATED + 1, Flaw.LONG_LINE),
    ):
        if length > 999 and size == 1:
            continue
        line = b"x" * length + b"\r\n"
        assert scan(line + b".\r\n", size) == (line, b"", flaw, longest)


@pytest.mark.row("HDR-14")
@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_nul_is_a_flaw(size: int) -> None:
    assert scan(b"a\0b\r\n.\r\n", size)[2] is Flaw.NUL
    assert scan(b"a\0b\n\r\n.\r\n", size)[2] is Flaw.BARE


def chunked(octets: bytes, size: int, policy: BareLines = BareLines.REJECT) -> tuple[bytes, Flaw | None]:
    chunks = Chunks(policy)
    content = b"".join(chunks.feed(octets[at : at + size]) for at in range(0, len(octets), size)) + chunks.finish()
    return content, chunks.lines.flaw


@given(pieces, st.integers(1, 9), st.sampled_from(BareLines))
@settings(max_examples=100)
def test_chunks_do_not_depend_on_packets(parts: list[bytes], size: int, policy: BareLines) -> None:
    octets = b"".join(parts)
    assert chunked(octets, size, policy) == chunked(octets, len(octets) or 1, policy)


def test_dots_in_chunks_are_content() -> None:
    assert chunked(b"a\r\n.\r\nb", 1) == (b"a\r\n.\r\nb", None)


@pytest.mark.row("SMG-01")
def test_a_bare_lf_in_a_chunk_is_a_flaw() -> None:
    assert chunked(b"a\nb", 1) == (b"a\nb", Flaw.BARE)
    assert chunked(b"a\r", 1) == (b"a\r", Flaw.BARE)
