"""Header fields that we write ourselves: folded at 78 columns, and never with an octet that could begin another."""

import re
from collections.abc import Sequence
from typing import Final

from gatepost.base.ids import id_text
from gatepost.codec.mail.header import HeaderBlock

FOLD_AT: Final = 78
_NAME: Final = re.compile(rb"[!-9;-~]{1,76}")
_FORBIDDEN: Final = re.compile(rb"[\0\r\n]")


class Unwritable(ValueError):
    """A name or value that cannot stand in a header field."""


def field(name: bytes, value: bytes) -> bytes:
    """Return `Name: value` folded at blanks, CRLF included; Unwritable where it holds CR, LF or NUL."""
    if _NAME.fullmatch(name) is None or _FORBIDDEN.search(value):
        raise Unwritable(f"{name!r}: {value[:80]!r}")
    lines, line = [], name + b":"
    for word in value.split(b" "):
        if len(line) + 1 + len(word) > FOLD_AT and line.strip(b" \t") and line != name + b":":
            lines.append(line)
            line = b"\t" + word
        else:
            line += b" " + word
    lines.append(line)
    return b"\r\n".join(each for each in lines if each.strip(b" \t")) + b"\r\n"


def printable(text: str, limit: int = 500) -> str:
    """Return what a stranger said so that it can stand in a header or a log: one line, printable, cut."""
    text = text[:limit]
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def message_id(mail_id: int, hostname: str) -> bytes:
    """Return a Message-ID of our own, brackets included."""
    return f"<{id_text(mail_id)}@{hostname}>".encode()


def missing_fields(header: HeaderBlock, mail_id: int, hostname: str, date: str) -> bytes:
    """Return the Date and Message-ID fields that a submitted mail lacks (RFC 6409 §8)."""
    made = b""
    if not header.get(b"date"):
        made += field(b"Date", date.encode())
    if not header.get(b"message-id"):
        made += field(b"Message-ID", message_id(mail_id, hostname))
    return made


def bcc_ranges(header: HeaderBlock) -> Sequence[tuple[int, int]]:
    """Return where the Bcc fields stand: they leave before anybody else sees the mail (RFC 5322 §3.6.3)."""
    return [(each.start, each.end) for each in header.fields if each.name.lower() in (b"bcc", b"resent-bcc")]


def without(raw: bytes, ranges: Sequence[tuple[int, int]]) -> bytes:
    """Return `raw` without the given octet ranges [start, end)."""
    if not ranges:
        return raw
    pieces, at = [], 0
    for start, end in sorted(ranges):
        pieces.append(raw[at:start])
        at = max(at, end)
    pieces.append(raw[at:])
    return b"".join(pieces)
