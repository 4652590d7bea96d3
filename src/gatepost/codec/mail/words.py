"""Encoded words (RFC 2047) both ways; charsets by an allowlist, for some decoders make text into markup."""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Final

TEXT_MAX: Final = 64 << 10
CHARSETS: Final = {
    "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "ascii": "ascii", "ansi_x3.4-1968": "ascii",
    **{f"iso-8859-{n}": f"iso8859-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)},
    **{f"windows-{n}": f"cp{n}" for n in (874, *range(1250, 1259))},
    **{f"cp{n}": f"cp{n}" for n in range(1250, 1259)},
    "latin1": "iso8859-1", "koi8-r": "koi8-r", "koi8-u": "koi8-u", "macintosh": "mac-roman", "ibm850": "cp850",
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "big5": "big5hkscs", "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949", "shift_jis": "cp932", "euc-jp": "euc-jp", "iso-2022-jp": "iso-2022-jp",
    "iso-2022-kr": "iso-2022-kr", "tis-620": "tis-620", "utf-16": "utf-16",
    "utf-16le": "utf-16-le", "utf-16be": "utf-16-be",
}  # fmt: skip
_WORD: Final = re.compile(rb"=\?([A-Za-z0-9_.:-]{1,40})(?:\*[A-Za-z0-9-]{0,20})?\?([BbQq])\?([^?\s]{0,2000})\?=")
_BETWEEN: Final = re.compile(rb"(\?=)[ \t\r\n]+(?==\?[A-Za-z0-9_.:*-]{1,61}\?[BbQq]\?[^?\s]{0,2000}\?=)")
_QUOTED: Final = re.compile(rb"=([0-9A-Fa-f]{2})")
_JUNK: Final = re.compile(rb"[^A-Za-z0-9+/]")


def decode_charset(octets: bytes, charset: str) -> str:
    """Decode octets; an unknown or dangerous charset reads as UTF-8 with replacements."""
    codec = CHARSETS.get(charset.lower().strip(), "utf-8")
    return octets.decode(codec, "replace")


def decode_words(value: bytes) -> str:
    """Return a value as text: encoded words decoded, blanks between them gone, raw octets as UTF-8."""
    value = value[:TEXT_MAX]
    if b"=?" not in value:
        return value.decode("utf-8", "replace")
    value = _BETWEEN.sub(rb"\1", value)
    parts, at = [], 0
    for found in _WORD.finditer(value):
        parts.append(value[at : found.start()].decode("utf-8", "replace"))
        parts.append(_decode(found))
        at = found.end()
    parts.append(value[at:].decode("utf-8", "replace"))
    return "".join(parts)


def encode_words(text: str) -> bytes:
    """Return text for a header value: as it is when ASCII, else as UTF-8 encoded words of at most 75 octets."""
    if text.isascii() and text.isprintable() and "=?" not in text:
        return text.encode("ascii")
    words, piece = [], b""
    for character in text:
        octets = character.encode("utf-8", "replace")
        if len(piece) + len(octets) > 45:  # 45 octets are 60 of base64: with its frame, 72
            words.append(piece)
            piece = b""
        piece += octets
    words.append(piece)
    return b" ".join(b"=?utf-8?b?" + b64encode(word) + b"?=" for word in words if word)


def _decode(found: re.Match[bytes]) -> str:
    text = found[3]
    if found[2] in b"Qq":
        octets = _QUOTED.sub(lambda each: bytes([int(each[1], 16)]), text.replace(b"_", b" "))
    else:
        bare = _JUNK.sub(b"", text)
        try:
            octets = b64decode(bare[: len(bare) - (len(bare) % 4 == 1)] + b"=" * (-len(bare) % 4 % 3))
        except Base64Error:
            return text.decode("ascii", "replace")
    return decode_charset(octets, found[1].decode("ascii"))
