"""Encoded words, both ways (RFC 2047, with the language of RFC 2231 §5).

Reading is lenient as readers must be: a word may touch other text, the padding may be missing, and a character may
be split over two words of one charset. Writing gives UTF-8 words of at most 75 characters.
"""

import binascii
import re
from typing import Final

from gatepost.codec.mail.charset import codec_of, decode

WORD_MAX: Final = 75  # RFC 2047 §2
_PAYLOAD_MAX: Final = WORD_MAX - len("=?utf-8?q??=")
_WORD: Final = re.compile(rb"=\?([!-)+->@-~]{1,60})(?:\*[!->@-~]{0,40})?\?([bBqQ])\?([^?\r\n]*)\?=")
_QUOTED: Final = re.compile(rb"=([0-9A-Fa-f]{2})")
_ESCAPE: Final = re.compile(rb"[^A-Za-z0-9!*+/-]")  # RFC 2047 §5 (3): what needs no escape even in a phrase


def decode_words(value: bytes) -> str:
    """Return an unfolded header value as text; words in an unknown charset stay as they are."""
    if b"=?" not in value:
        return decode(value)
    pieces: list[str] = []
    run, run_charset, at = bytearray(), "", 0
    for found in _WORD.finditer(value):
        charset = found[1].decode("ascii").lower()
        if codec_of(charset) is None:
            continue
        between = value[at : found.start()]
        apart = bool(between.strip(b" \t\r\n")) or not (run or pieces)
        if apart or charset != run_charset:
            pieces.append(_flush(run, run_charset))
        if apart:  # RFC 2047 §6.2: blanks between two encoded words are not shown
            pieces.append(decode(between))
        run += _payload(found[2], found[3])
        run_charset, at = charset, found.end()
    pieces.append(_flush(run, run_charset))
    pieces.append(decode(value[at:]))
    return "".join(pieces)


def encode_words(text: str) -> bytes:
    """Return text for an unstructured field or a phrase: as it is when plain, else as encoded words with a blank between.

    Nothing of the text can end the line or begin another field.
    """
    if text.isascii() and text.isprintable() and "=?" not in text:
        return text.encode("ascii")
    octets = text.encode("utf-8", "replace")
    quoted = len(_ESCAPE.findall(octets.replace(b" ", b"_"))) * 3 <= len(octets)
    size = _PAYLOAD_MAX if quoted else _PAYLOAD_MAX // 4 * 3
    words: list[bytes] = []
    chunk = b""
    for letter in text:
        piece = letter.encode("utf-8", "replace")
        cost = len(_q(chunk + piece)) if quoted else len(chunk + piece)
        if cost > size:
            words.append(chunk)
            chunk = b""
        chunk += piece
    words.append(chunk)
    if quoted:
        return b" ".join(b"=?utf-8?q?" + _q(word) + b"?=" for word in words)
    return b" ".join(b"=?utf-8?b?" + binascii.b2a_base64(word, newline=False) + b"?=" for word in words)


def _flush(run: bytearray, charset: str) -> str:
    text = decode(bytes(run), charset)
    run.clear()
    return text


def _payload(kind: bytes, payload: bytes) -> bytes:
    if kind in b"qQ":
        return _QUOTED.sub(lambda found: bytes.fromhex(found[1].decode("ascii")), payload.replace(b"_", b" "))
    letters = payload.translate(None, b"= \t")
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    try:
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
    except binascii.Error:
        return b""


def _q(octets: bytes) -> bytes:
    return b"".join(
        b"_" if octet == 0x20 else bytes((octet,)) if octet in _PLAIN else b"=%02X" % octet for octet in octets
    )


_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+/-")
