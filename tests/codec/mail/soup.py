"""Octets that look like mail: what hypothesis makes of the pieces that parsers of mail stumble over."""

from typing import Final

from hypothesis import strategies as st

HEADER_PIECES: Final = (
    b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\t", b":", b" ", b"\t", b"\0", b"\xff", b"\x7f", b"\xc3\xa4", b"From",
    b"From: a@b.example\r\n", b"from : a@b.example\r\n", b"To: c@d.example\r\n", b"Subject: x\r\n", b"\r\n\r\n",
    b"Content-Type: text/plain\r\n", b"=?utf-8?q?=41?=", b"x", b"-", b"\x0b", b"\x85",
)  # fmt: skip
"""Pieces of header blocks: half of them are sane."""

MIME_PIECES: Final = (
    b"\r\n", b"\r\n", b"\n", b"\r\n\r\n", b"\n\n", b"\r", b" ", b"\t", b"-", b"--", b"x", b"\0", b"\xff",
    b"--a", b"--b", b"--a--", b"--b--", b"--ab", b"--c\r\n", b"\r\n--a\r\n", b"\r\n--b\r\n", b"\r\n--a--\r\n",
    b"\r\n--b--\r\n", b"Content-Type: multipart/mixed; boundary=a\r\n", b"begin 644 x.exe\r\n",
    b'Content-Type: multipart/digest; boundary="b"\r\n', b"Content-Type: message/rfc822\r\n\r\n",
    b"Content-Type: text/html; charset=utf-8\r\n", b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Disposition: attachment; filename*0*=utf-8''a; filename=b\r\n", b"Content-Type: multipart/mixed\r\n",
)  # fmt: skip
"""Pieces of mails with parts, whose boundaries are a and b."""

VALUE_PIECES: Final = (
    b'"', b"\\", b"(", b")", b"<", b">", b"@", b",", b":", b";", b"[", b"]", b" ", b"\t", b"\r\n ", b"\0", b"\xff",
    b"a", b"Ann", b"b.example", b"=?utf-8?q?=41?=", b"=?", b"?=", b"=", b"*0*=", b"utf-8''%41", b"%", b"/",
    b"\xc3\xa4", b"1", b"Jan", b"2026", b"12:00:00", b"+0100", b"-", b"Mon,", b"EST", b"99999",
    b"=?iso-2022-jp?b?GyRC?=",
)  # fmt: skip
"""Pieces of addresses, dates, parameters and encoded words."""


def soup(pieces: tuple[bytes, ...], most: int = 40) -> st.SearchStrategy[bytes]:
    """Return octets: any at all, or any of these pieces, one behind the other."""
    return st.one_of(st.lists(st.sampled_from(pieces), max_size=most).map(b"".join), st.binary(max_size=most * 4))
