"""The text of a message for searching: fields decoded, transfer encodings and charsets undone."""

import binascii
from collections.abc import Iterator
from typing import Final

from gatepost.codec.mail.charset import decode
from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.mail.words import decode_words
from gatepost.store.fields import fields_of
from gatepost.store.sections import Section, unpack

PART_OCTETS_MAX: Final = 16 << 20
"""A longer text part is searched in its first 16 MiB."""

_ASCII_LIKE: Final = ("", "us-ascii", "ascii", "utf-8", "utf8", "iso-8859-", "windows-12")
_BASE64: Final = bytes(b for b in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_NOT_BASE64: Final = bytes(set(range(256)) - set(_BASE64))


class Message:
    """A message to be searched, decoded as far as it is asked."""

    __slots__ = ("_header", "_raw", "_sections")

    def __init__(self, raw: bytes, sections: bytes) -> None:
        self._raw = raw
        self._sections = sections
        self._header: HeaderBlock | None = None

    def header_has(self, name: bytes, needle: str) -> bool:
        """Tell whether a field of this name holds the folded text; the empty text asks only for the field."""
        if needle and self._header_surely_lacks(needle):
            return False
        values = self._fields().get(name)
        return any(needle in fold_text(decode_words(_joined(value))) for value in values)

    def any_header_has(self, needle: str) -> bool:
        """Tell whether any header, of the message or of a part, holds the folded text."""
        return any(
            needle in fold_text(decode_words(_joined(self._raw[part.start : part.body])))
            for part in _walk(unpack(self._sections))
        )

    def body_has(self, needle: str) -> bool:
        """Tell whether a text part holds the folded text."""
        plain = needle.encode() if needle.isascii() else b""
        for part in _walk(unpack(self._sections)):
            if not part.parts and part.kind.startswith(b"text/") and self._part_has(part, needle, plain):
                return True
        return False

    def _header_surely_lacks(self, needle: str) -> bool:
        """Tell that the header's octets, where nothing in them is encoded, do not hold the text."""
        if not needle.isascii() or self._header is not None:
            return False
        end = self._raw.find(b"\r\n\r\n")
        octets = self._raw[:end] if end >= 0 else self._raw
        return octets.isascii() and b"=?" not in octets and needle.encode() not in _joined(octets).lower()

    def _part_has(self, part: Section, needle: str, plain: bytes) -> bool:
        octets = undo_encoding(self._raw[part.body : min(part.end, part.body + PART_OCTETS_MAX)], part.encoding)
        charset = part.charset.decode("ascii", "replace").lower()
        if plain and octets.isascii() and charset.startswith(_ASCII_LIKE):
            return plain in octets.lower()  # the same as below, without making text of it
        return needle in fold_text(decode(octets, charset))

    def _fields(self) -> HeaderBlock:
        if self._header is None:
            self._header = HeaderBlock.parse(self._raw)
        return self._header


def kept_has(kept: bytes, name: bytes, needle: str) -> bool:
    """Tell of kept fields (`store.fields`) what `Message.header_has` tells of the message; `name` is in `KEPT`."""
    plain = needle.isascii() and kept.isascii() and b"=?" not in kept
    if plain and needle.encode() not in _joined(kept).lower():
        return False
    values = [field[len(name) + 1 : -2] for each, field in fields_of(kept) if each == name]
    return any(needle in fold_text(decode_words(_joined(value))) for value in values)


def fold_text(text: str) -> str:
    """Return text as it is compared: without regard to case (RFC 9051 §6.4.4 leaves the comparator to us)."""
    return text.casefold()


def undo_encoding(octets: bytes, encoding: bytes) -> bytes:
    """Undo base64 or quoted-printable, leniently; anything else is as it is."""
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(octets)
    if encoding == b"base64":
        letters = octets.translate(None, _NOT_BASE64)
        return binascii.a2b_base64(letters[: len(letters) // 4 * 4] + _rest(letters))
    return octets


def _rest(letters: bytes) -> bytes:
    left = letters[len(letters) // 4 * 4 :]
    return left + b"=" * (4 - len(left)) if len(left) > 1 else b""


def _joined(value: bytes) -> bytes:
    """Join folded lines."""
    return value.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ")


def _walk(root: Section) -> Iterator[Section]:
    waiting = [root]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(reversed(part.parts))
