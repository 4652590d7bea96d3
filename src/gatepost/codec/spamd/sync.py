"""OpenBSD spamd's sync, version 2 (sync.h since 1.3, OpenBSD 4.4): datagrams that tell of greylist entries.

    header  version 2, af 2, length of all (u16), counter (u32), HMAC-SHA1 (20 octets), 4 of zero
    GREY    type 1, length, time (u32), IPv4 address, lengths of from, to, helo (u16, NUL included), these, zeros
            to a multiple of 16
    WHITE   type 2, length 16, time, end (u32), address;  TRAPPED: type 3, the same
    END     type 0, length 4

Version 1 (OpenBSD 4.1 to 4.3) has the counter before the length, 2 octets of zero for 4, and is only read.

Integers are big-endian. The HMAC is over the whole datagram with its own place zeroed; its key is the hexadecimal
SHA-1 of the key file, or nothing. The counter protects from nothing: each daemon of a host counts for itself, from
0 at its start. Nothing is said of IPv6.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

VERSION: Final = 2
VERSION_1: Final = 1
AF_INET: Final = 2
DATAGRAM_MAX: Final = 1408  # what a receiver reads
TEXT_MAX: Final = 1023  # of helo, from and to each, as spamd keeps them

_HEAD: Final = Struct(">BBHI20s4x")
_HEAD_1: Final = Struct(">BBIH20s2x")
_TLV: Final = Struct(">HH")
_GREY: Final = Struct(">HHI4sHHH")
_HOST: Final = Struct(">HHII4s")
_HMAC: Final = slice(8, 28)


class NotUnderstood(ValueError):
    """A datagram that is dropped whole: the text says why, for the log."""


class TooLong(ValueError):
    """Entries that no receiver would read."""


class _Type(IntEnum):
    END = 0
    GREY = 1
    WHITE = 2
    TRAPPED = 3


@dataclass(frozen=True, slots=True)
class Grey:
    """A tuple was offered: the client's address, and what it said, angle brackets kept."""

    ip: str
    helo: bytes
    sender: bytes
    recipient: bytes


@dataclass(frozen=True, slots=True)
class White:
    """A host is white until `expires`, in seconds since 1970."""

    ip: str
    expires: int


@dataclass(frozen=True, slots=True)
class Trapped:
    """A host is trapped until `expires`, in seconds since 1970."""

    ip: str
    expires: int


Entry = Grey | White | Trapped


@dataclass(frozen=True, slots=True)
class Told:
    """What a datagram says; `flaw` is where it broke off: the entries before that count."""

    counter: int
    entries: tuple[Entry, ...]
    flaw: str = ""


def key_of(content: bytes | None) -> bytes:
    """Return the key that a key file's content makes; None, where there is no file, makes the empty one."""
    return b"" if content is None else hashlib.sha1(content, usedforsecurity=False).hexdigest().encode()


def pack(entries: Sequence[Entry], counter: int, key: bytes, now: int) -> bytes:
    """Write a datagram; `now` in seconds since 1970. OpenBSD sends one entry in each. Raises TooLong."""
    body = b"".join(_packed(entry, now) for entry in entries) + _TLV.pack(_Type.END, _TLV.size)
    length = _HEAD.size + len(body)
    if length > DATAGRAM_MAX:
        raise TooLong(f"{length} octets")
    head = _HEAD.pack(VERSION, AF_INET, length, counter & 0xFFFFFFFF, bytes(20))
    mac = hmac.digest(key, head + body, "sha1")
    return _HEAD.pack(VERSION, AF_INET, length, counter & 0xFFFFFFFF, mac) + body


def parse(octets: bytes, key: bytes, *, accept_v1: bool = False) -> Told:
    """Read a datagram; raises NotUnderstood for one that is not for us."""
    head = _HEAD_1 if accept_v1 and octets[:1] == bytes((VERSION_1,)) else _HEAD
    if len(octets) < head.size:
        raise NotUnderstood(f"{len(octets)} octets are no datagram of spamd's")
    if head is _HEAD_1:
        version, family, counter, length, mac = head.unpack_from(octets)
    else:
        version, family, length, counter, mac = head.unpack_from(octets)
    if family != AF_INET or (version != VERSION and head is _HEAD):
        raise NotUnderstood(f"version {version}, address family {family}")
    if not head.size <= length <= len(octets):
        raise NotUnderstood(f"truncated: {len(octets)} octets of {length}")
    whole = octets[:length]
    if not hmac.compare_digest(mac, hmac.digest(key, whole[:8] + bytes(20) + whole[28:], "sha1")):
        raise NotUnderstood("signed with another key")
    return _entries(whole, head.size, counter)


def _entries(whole: bytes, at: int, counter: int) -> Told:
    entries: list[Entry] = []
    while True:
        if at + _TLV.size > len(whole):
            return Told(counter, tuple(entries), "no END")
        kind, length = _TLV.unpack_from(whole, at)
        if kind == _Type.END:
            return Told(counter, tuple(entries), "" if length == _TLV.size else f"an END of {length} octets")
        if length < _TLV.size or at + length > len(whole):
            return Told(counter, tuple(entries), f"an entry of {length} octets")
        entry = _entry(kind, whole[at : at + length])
        if entry is None:
            return Told(counter, tuple(entries), f"invalid type: {kind}" if kind > 3 else "a malformed entry")
        entries.append(entry)
        at += length


def _entry(kind: int, octets: bytes) -> Entry | None:
    if kind == _Type.GREY:
        return _grey(octets)
    if kind not in (_Type.WHITE, _Type.TRAPPED) or len(octets) != _HOST.size:
        return None
    _, _, _, expires, ip = _HOST.unpack(octets)
    return White(_text(ip), expires) if kind == _Type.WHITE else Trapped(_text(ip), expires)


def _grey(octets: bytes) -> Grey | None:
    if len(octets) < _GREY.size:
        return None
    _, _, _, ip, *lengths = _GREY.unpack_from(octets)
    if _GREY.size + sum(lengths) > len(octets):
        return None
    words, at = [], _GREY.size
    for length in lengths:
        word, at = octets[at : at + length], at + length
        # ended by its only NUL, and with no line feed, which would part a key otherwise than it was meant
        if not word.endswith(b"\0") or b"\0" in word[:-1] or b"\n" in word or len(word) > TEXT_MAX + 1:
            return None
        words.append(word[:-1])
    sender, recipient, helo = words
    return Grey(_text(ip), helo, sender, recipient)


def _packed(entry: Entry, now: int) -> bytes:
    if not isinstance(entry, Grey):
        kind = _Type.WHITE if isinstance(entry, White) else _Type.TRAPPED
        return _HOST.pack(kind, _HOST.size, now, min(entry.expires, 0xFFFFFFFF), _octets(entry.ip))
    words = [word + b"\0" for word in (entry.sender, entry.recipient, entry.helo)]
    length = _GREY.size + sum(map(len, words))
    padded = length + -length % 16
    if padded > DATAGRAM_MAX:
        raise TooLong(f"{padded} octets")
    head = _GREY.pack(_Type.GREY, padded, now, _octets(entry.ip), *map(len, words))
    return (head + b"".join(words)).ljust(padded, b"\0")


def _text(ip: bytes) -> str:
    return ".".join(map(str, ip))


def _octets(ip: str) -> bytes:
    return bytes(map(int, ip.split(".")))
