"""Our own sync of greylists: signed datagrams that carry records, and sums by which peers find what they lack.

    head    "gps1", what it is (u8), 3 of zero, stream (8 octets), sequence (u64), sent at (u64, microseconds)
    body    by its kind
    mac     HMAC-SHA256 of head and body, 32 octets

    RECORDS   records, one after the other
    SUMS      depth (u8: 0 or 1), the first octet of the digests (depth 1), 256 sums of 4 octets

A stream is one sending process from its start to its end: it is random, so that no two are the same, and numbers
its datagrams. A record's digest names it; a sum is the exclusive or of the hashes of all records whose digests
begin alike, by the first octet (depth 0) or two (depth 1). Peers whose sums are the same have the same records.

Who replays a datagram within the receiver's window is known by its number (`Window`); who keeps one for later is
late: `AGE_MAX` is how far the sender's clock may be from ours. All of it is idempotent besides.
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from typing import Final

MAGIC: Final = b"gps1"
DATAGRAM_MAX: Final = 1200  # no fragments on any path; a single large record may take RECORD_MAX
RECORD_MAX: Final = 8_192
AGE_MAX: Final = 60_000_000  # microseconds
WINDOW: Final = 4096  # numbers that are remembered of a stream
STREAM: Final = 8  # octets
SUMS: Final = 256
KEY_MIN: Final = 32

_HEAD: Final = Struct(">4sB3x8sQQ")
_MAC: Final = 32
_RECORD: Final = Struct(">HHBxxxqqqqq")


class NotUnderstood(ValueError):
    """A datagram that is dropped; the text says why, for the log."""


class Kind(IntEnum):
    """What a datagram is."""

    RECORDS = 1
    SUMS = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One record: its key and kind, whose it is, its times in microseconds, its counts."""

    key: bytes
    kind: int
    ip: str
    first: int
    passes: int
    expires: int
    blocked: int
    passed: int

    def pack(self) -> bytes:
        """Write it."""
        ip = self.ip.encode()
        times = self.first, self.passes, self.expires, self.blocked, self.passed
        return _RECORD.pack(len(self.key), len(ip), self.kind, *times) + self.key + ip

    def sum(self) -> int:
        """Return its hash for the sums: of all of it but its counts, which every node has its own of."""
        words = f"{self.kind} {self.first} {self.passes} {self.expires} {self.passed < 0}".encode()
        return int.from_bytes(blake2b(self.key + b"\0" + words, digest_size=4).digest())


@dataclass(frozen=True, slots=True)
class Datagram:
    """One that was signed with a key of ours."""

    kind: Kind
    stream: bytes
    sequence: int
    sent: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Sums:
    """256 sums: of records by the first octet of their digests, or of those below `prefix` by the second."""

    prefix: int | None
    sums: tuple[int, ...]

    def pack(self) -> bytes:
        """Write them."""
        head = bytes((0, 0)) if self.prefix is None else bytes((1, self.prefix))
        return head + b"".join(each.to_bytes(4) for each in self.sums)


def seal(kind: Kind, body: bytes, key: bytes, stream: bytes, sequence: int, now: int) -> bytes:
    """Write and sign a datagram."""
    whole = _HEAD.pack(MAGIC, kind, stream, sequence, now) + body
    return whole + hmac.digest(key, whole, "sha256")


def unseal(octets: bytes, keys: Iterable[bytes]) -> Datagram:
    """Read a datagram that one of the keys signed; raises NotUnderstood."""
    if len(octets) < _HEAD.size + _MAC or octets[:4] != MAGIC:
        raise NotUnderstood(f"{len(octets)} octets are no datagram of ours")
    whole, mac = octets[:-_MAC], octets[-_MAC:]
    if not any(hmac.compare_digest(mac, hmac.digest(key, whole, "sha256")) for key in keys):
        raise NotUnderstood("signed with another key")
    _, kind, stream, sequence, sent = _HEAD.unpack_from(whole)
    if kind not in (Kind.RECORDS, Kind.SUMS):
        raise NotUnderstood(f"of kind {kind}")
    return Datagram(Kind(kind), stream, sequence, sent, whole[_HEAD.size :])


def batches(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Return the bodies that carry some records; one that is too large for any is left out."""
    room = DATAGRAM_MAX - _HEAD.size - _MAC
    body = b""
    for entry in entries:
        packed = entry.pack()
        if len(packed) > RECORD_MAX:
            continue
        if body and len(body) + len(packed) > room:
            yield body
            body = b""
        body += packed
    if body:
        yield body


def read_entries(body: bytes) -> Sequence[Entry]:
    """Read records; raises NotUnderstood."""
    entries, at = [], 0
    while at < len(body):
        if at + _RECORD.size > len(body):
            raise NotUnderstood("a record without its end")
        key_length, ip_length, kind, *numbers = _RECORD.unpack_from(body, at)
        at += _RECORD.size
        end = at + key_length + ip_length
        if end > len(body) or not key_length or end - at > RECORD_MAX:
            raise NotUnderstood("a record without its end")
        key, ip = body[at : at + key_length], body[at + key_length : end]
        try:
            entries.append(Entry(key, kind, ip.decode(), *numbers))
        except UnicodeDecodeError:
            raise NotUnderstood("a record of nobody") from None
        at = end
    return entries


def read_sums(body: bytes) -> Sums:
    """Read sums; raises NotUnderstood."""
    if len(body) != 2 + 4 * SUMS or body[0] > 1:
        raise NotUnderstood("no sums")
    sums = tuple(int.from_bytes(body[at : at + 4]) for at in range(2, len(body), 4))
    return Sums(body[1] if body[0] else None, sums)


class Window:
    """Which numbers of a stream were seen: the newest, and those of the last WINDOW before it."""

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._newest = -1
        self._seen = 0

    def fresh(self, sequence: int) -> bool:
        """Tell whether a number was not seen before, and note it; one before the window counts as seen."""
        ahead = sequence - self._newest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            self._newest = sequence
            return True
        bit = 1 << -ahead
        if -ahead >= WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True
