"""POP3's lines and answers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.pop3 import AUTH_LINE_MAX, Command, multiline, parse_command, parse_number, top

LINES = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a.", b"text"]), max_size=8)


def unstuffed(octets: bytes) -> bytes:
    """Return what a client reads, up to the lone dot; nothing may follow it."""
    lines = octets.split(b"\r\n")
    end = lines.index(b".")
    assert lines[end + 1 :] == [b""]
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:end])


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"QUIT", Command("QUIT", b"")),
        (b"retr 1", Command("RETR", b"1")),
        (b"TOP 1 2", Command("TOP", b"1 2")),
        (b"PASS  a b ", Command("PASS", b" a b ")),
        (b"PASS a\nb\r", Command("PASS", b"a\nb\r")),
        (b"USER ", Command("USER", b"")),
        (b"", None),
        (b"NO", None),
        (b"NOOPS", None),
        (b" QUIT", None),
        (b"QUIT\t1", None),
        (b"QUIT\n", None),
        (b"QU\xc4T", None),
        (b"AUTH " + b"a" * AUTH_LINE_MAX, None),
    ],
)
def test_lines_are_commands_or_not(line: bytes, command: Command | None) -> None:
    assert parse_command(line) == command


@pytest.mark.row("POP-01")
@pytest.mark.parametrize(
    "text", [b"0", b"-1", b"+1", b"1_0", b"1 ", b" 1", b"01", b"99999999999", b"\xd9\xa1", b"", b"1\n"]
)
def test_what_is_no_number(text: bytes) -> None:
    assert parse_number(text) is None


def test_numbers() -> None:
    assert [parse_number(text) for text in (b"1", b"10", b"9999999999")] == [1, 10, 9_999_999_999]


@pytest.mark.row("POP-02")
@settings(max_examples=50)
@given(LINES)
def test_what_is_stuffed_is_unstuffed(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    assert unstuffed(multiline(content)) == content


@settings(max_examples=50)
@given(LINES, LINES, st.integers(0, 10))
def test_top_is_the_header_and_so_many_lines(header: list[bytes], body: list[bytes], count: int) -> None:
    fields = [b"a: b", *filter(None, header)]
    content = b"".join(line + b"\r\n" for line in (*fields, b"", *body))
    assert top(content, count) == b"".join(line + b"\r\n" for line in (*fields, b"", *body[:count]))


def test_top_of_a_header_alone_is_all() -> None:
    assert top(b"Subject: x\r\n", 5) == b"Subject: x\r\n"
    assert top(b"a: b\r\n\r\nno end", 5) == b"a: b\r\n\r\nno end"
