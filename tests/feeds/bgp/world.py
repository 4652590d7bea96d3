"""Paths, prefixes and rules for tests of the BGP feed."""

from collections.abc import Iterable
from pathlib import Path as FilePath

from gatepost.codec.bgp.types import Path
from gatepost.feeds.bgp.conf import parse_filter
from gatepost.feeds.bgp.filter import NeighborFilter, Rule, Who
from gatepost.gate.prefix import Prefix, parse_prefix

GOOD, BAD = 65066 << 16 | 42, 65066 << 16 | 666
WHO = Who("192.0.2.7", 65066, 65500, "spam-bgp")


def path(*communities: int, as_path: tuple[int, ...] = (65066, 65043)) -> Path:
    return full_path(as_path, communities)


def full_path(
    as_path: tuple[int, ...] = (65066, 65043),
    communities: tuple[int, ...] = (),
    large: tuple[tuple[int, int, int], ...] = (),
    extended: tuple[bytes, ...] = (),
) -> Path:
    return Path(
        origin=0,
        as_path=as_path,
        as_path_text=" ".join(map(str, as_path)),
        next_hop=bytes((192, 0, 2, 7)),
        communities=communities,
        large_communities=large,
        extended_communities=extended,
    )


def rules(*texts: str) -> list[Rule]:
    return [parse_filter(text, FilePath("bgpd.conf"), f"bgpd.conf:{at}") for at, text in enumerate(texts, 1)]


ARTICLE_RULES = (
    'match from group "spam-bgp" community 65066:42 set pftable "bgp_spamd_bypass"',
    'match from group "spam-bgp" community 65066:666 set pftable "bgp_spamd"',
)


def neighbor_filter(*texts: str) -> NeighborFilter:
    return NeighborFilter(rules(*(texts or ARTICLE_RULES)), WHO)


def key(text: str) -> bytes:
    """Return a prefix as UPDATE has it: length, and as many octets as it needs."""
    prefix = parse_prefix(text)
    octets = prefix.number.to_bytes(4 if prefix.version == 4 else 16)
    return bytes([prefix.length]) + octets[: (prefix.length + 7) // 8]


def keys(*texts: str) -> list[bytes]:
    return [key(text) for text in texts]


def hosts(count: int, first: int = 0x05000000) -> list[bytes]:
    """Return many IPv4 hosts, spread over the networks."""
    return [b"\x20" + (first + each * 8_191 % 0x50000000).to_bytes(4) for each in range(count)]


def texts(version: int, packed: Iterable[int]) -> list[str]:
    return [Prefix(version, each & 0xFF, each >> 8).text for each in packed]
