"""Encoded words, both ways (RFC 2047, with the language of RFC 2231 §5).

Reading is lenient as readers must be: a word may touch other text, the padding may be missing, and a character may
be split over two words of one charset. Writing gives UTF-8 words of at most 75 characters.
"""

import binascii
import re
from typing import Final

from gatepost.codec.mail.charset import codec_of, decode

TEXT_MAX: Final = 64 << 10
WORD_MAX: Final = 75  # RFC 2047 §2
_PAYLOAD_MAX: Final = WORD_MAX - len("=?utf-8?q??=")
_WORD: Final = re.compile(rb"=\?([!-)+->@-~]{1,60})(?:\*[!->@-~]{0,40})?\?([bBqQ])\?([^?\r\n]*)\?=")
_QUOTED: Final = re.compile(rb"=([0-9A-Fa-f]{2})")
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+/-")
"""RFC 2047 §5 (3): what needs no escape in a word, even in a phrase."""


def decode_words(value: bytes) -> str:
    """Return an unfolded value as text; words in a charset that is not decoded stay as they are."""
    value = value[:TEXT_MAX]
    if b"=?" not in value:
        return decode(value)
    texts: list[str] = []
    run, run_charset, at = bytearray(), "", 0
    for found in _WORD.finditer(value):
        charset = found[1].decode("ascii").lower()
        if codec_of(charset) is None:
            continue
        between = value[at : found.start()]
        apart = at == 0 or bool(between.strip(b" \t\r\n"))
        if apart or charset != run_charset:
            texts.append(decode(bytes(run), run_charset))
            run.clear()
        if apart:  # RFC 2047 §6.2: blanks between two encoded words are not shown
            texts.append(decode(between))
        run += _payload(found[2], found[3])
        run_charset, at = charset, found.end()
    texts.append(decode(bytes(run), run_charset))
    texts.append(decode(value[at:]))
    return "".join(texts)


def encode_words(text: str) -> bytes:
    """Return text for an unstructured field or a phrase: as it is when plain, else as encoded words.

    Nothing in the text can end the line or begin another field.
    """
    if text.isascii() and text.isprintable() and "=?" not in text:
        return text.encode("ascii")
    escapes = sum(octet not in _PLAIN and octet != 0x20 for octet in text.encode("utf-8", "replace"))
    if 3 * escapes <= len(text):
        chunks = _chunks(text, _PAYLOAD_MAX, quoted=True)
        return b" ".join(b"=?utf-8?q?" + _quoted(chunk) + b"?=" for chunk in chunks)
    chunks = _chunks(text, _PAYLOAD_MAX // 4 * 3, quoted=False)
    return b" ".join(b"=?utf-8?b?" + binascii.b2a_base64(chunk, newline=False) + b"?=" for chunk in chunks)


def _chunks(text: str, size: int, *, quoted: bool) -> list[bytes]:
    """Cut text between characters so that each chunk fits into a word."""
    chunks, chunk, used = [], b"", 0
    for letter in text:
        octets = letter.encode("utf-8", "replace")
        cost = len(_quoted(octets)) if quoted else len(octets)
        if used + cost > size:
            chunks.append(chunk)
            chunk, used = b"", 0
        chunk += octets
        used += cost
    return [*chunks, chunk]


def _payload(kind: bytes, payload: bytes) -> bytes:
    if kind in b"qQ":
        return _QUOTED.sub(lambda found: bytes.fromhex(found[1].decode("ascii")), payload.replace(b"_", b" "))
    letters = payload.translate(None, b"= \t")
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    try:
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
    except binascii.Error:
        return b""


def _quoted(octets: bytes) -> bytes:
    return b"".join(
        b"_" if octet == 0x20 else bytes((octet,)) if octet in _PLAIN else b"=%02X" % octet for octet in octets
    )
