"""Modified UTF-7, and LIST's wildcards."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.imap.names import BadName, Pattern, decode_name, encode_name

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=200)
@given(NAMES)
def test_every_name_comes_back(name: str) -> None:
    encoded = encode_name(name)
    assert encoded.isascii()
    assert all(0x20 <= octet <= 0x7E for octet in encoded)
    assert decode_name(encoded) == name


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("~peter/mail/日本語/台北", b"~peter/mail/&ZeVnLIqe-/&U,BTFw-"),  # RFC 3501 §5.1.3
        ("台北日本語", b"&U,BTF2XlZyyKng-"),
        ("a & b", b"a &- b"),
        ("&&", b"&-&-"),
        ("é&", b"&AOk-&-"),
        ("😀", b"&2D3eAA-"),
        ("", b""),
    ],
)
def test_names_on_the_wire(name: str, encoded: bytes) -> None:
    assert encode_name(name) == encoded
    assert decode_name(encoded) == name


@pytest.mark.row("IMAP-12")
@pytest.mark.parametrize(
    "octets",
    [
        b"&",
        b"a&b",
        b"&AC8-",
        b"&AGE-",
        b"&-&invalid",
        b"&U,BTFw-&ZeVnLIqe-",
        b"&AOl-",
        b"&AOk",
        b"&AO-",
        b"&2D0-",
        b"&3gA-",
        b"&A-",
        b"&AO=k-",
        b"&AO/k-",
        b"\xff",
        b"\xc0\xaf",
        b"a\r\n",
    ],
)
def test_what_is_no_name(octets: bytes) -> None:
    with pytest.raises(BadName):
        decode_name(octets)


def test_plain_utf_8_is_taken() -> None:
    assert decode_name("Entwürfe".encode()) == "Entwürfe"


@settings(max_examples=200)
@given(st.text("ab/%*", max_size=8), st.text("ab/", max_size=8))
def test_wildcards_are_those_of_a_regular_expression(pattern: str, name: str) -> None:
    expression = "".join({"*": ".*", "%": "[^/]*"}.get(each, re.escape(each)) for each in pattern)
    assert Pattern(pattern).matches(name) is (re.fullmatch(expression, name) is not None)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("inbox", "INBOX", True),
        ("InBoX/%", "INBOX/a", True),
        ("inbox*", "INBOX", True),
        ("inbox", "INBOXES", False),
        ("sent", "Sent", False),
        ("a.c", "abc", False),
        ("", "", True),
    ],
)
def test_inbox_has_no_case_and_nothing_else_is_special(pattern: str, name: str, matches: bool) -> None:
    assert Pattern(pattern).matches(name) is matches


@pytest.mark.row("IMAP-13")
def test_a_long_pattern_is_linear() -> None:
    for pattern in ("%" * 100_000 + "x", "%*" * 50_000 + "x", "%/" * 30_000):
        assert not Pattern(pattern).matches("a/b/c" * 40)
