"""Lines of a story as octets: msgpack, compressed where that makes them shorter."""

import threading
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

import msgspec
import zstandard

COMPRESS_FROM: Final = 200
LINES_OCTETS_MAX: Final = 64 * 1024
"""Unpacked; `Story` stops before."""

_of_thread: Final = threading.local()
_PLAIN: Final = b"\0"
_ZSTD: Final = b"\1"


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One fact: `after` milliseconds behind the mail's id, which stage, an event word, and fields."""

    after: int
    stage: str
    event: str
    fields: dict[str, str | int]


def pack(lines: list[Line]) -> bytes:
    """Pack lines."""
    octets = _ENCODER.encode(lines)
    if len(octets) >= COMPRESS_FROM:
        shorter = _compressor().compress(octets)
        if len(shorter) < len(octets):
            return _ZSTD + shorter
    return _PLAIN + octets


def _compressor() -> zstandard.ZstdCompressor:
    """Return this thread's own: making one costs more than most stories take."""
    made = getattr(_of_thread, "compressor", None)
    if made is None:
        made = _of_thread.compressor = zstandard.ZstdCompressor(level=1)
    assert isinstance(made, zstandard.ZstdCompressor)
    return made


def unpack(octets: bytes) -> list[Line]:
    """Read what `pack` wrote."""
    if octets[:1] == _ZSTD:
        return _DECODER.decode(zstandard.decompress(octets[1:], max_output_size=2 * LINES_OCTETS_MAX))
    return _DECODER.decode(octets[1:])


def fingerprint(address_key: str) -> int:
    """Return the 64 bits under which an address (`Address.key`, folded by the caller) is found; 0 for none."""
    if not address_key:
        return 0
    digest = blake2b(address_key.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def clean(fields: Mapping[str, str | int]) -> dict[str, str | int]:
    """Return fields with long texts cut: a story is for reading, not for keeping what a stranger sent."""
    return {key: value[:500] if isinstance(value, str) else value for key, value in fields.items()}


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Line])
