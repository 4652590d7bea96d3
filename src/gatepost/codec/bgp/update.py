"""UPDATE (RFC 4271 §4.3) with multiprotocol NLRI (RFC 4760), and what to do with broken ones (RFC 7606).

    withdrawn length u16, withdrawn | attributes length u16, attributes | announced
    attribute: flags u8, type u8, length u8 (u16 where 0x10 is set), value

Three things may be wrong. Where the prefixes cannot be found the session must end (`Broken`). Where an attribute
that matters is malformed, all prefixes of the message are *treated as withdrawn*, and the session lives. Where one
that does not matter is malformed it is *discarded*.

Theory of speed: a feed repeats few attribute blocks over very many prefixes. What became of a block is kept by its
octets, so most messages cost one look-up and the slicing of their prefixes.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from gatepost.codec.bgp.message import Broken, Code
from gatepost.codec.bgp.types import AS_TRANS, Afi, Complaint, EndOfRib, Path, Update

CACHE_MAX: Final = 4 << 20  # octets of attribute blocks whose meaning is kept
FREED: Final = 4  # blocks that are freed with each new one, once the cache was full
_ENTRY: Final = 256  # octets that one of them costs beside its own

ORIGIN: Final = 1
AS_PATH: Final = 2
NEXT_HOP: Final = 3
MED: Final = 4
LOCAL_PREF: Final = 5
ATOMIC_AGGREGATE: Final = 6
AGGREGATOR: Final = 7
COMMUNITIES: Final = 8  # RFC 1997
ORIGINATOR_ID: Final = 9  # RFC 4456
CLUSTER_LIST: Final = 10
MP_REACH: Final = 14  # RFC 4760 §3
MP_UNREACH: Final = 15
EXTENDED_COMMUNITIES: Final = 16  # RFC 4360
AS4_PATH: Final = 17  # RFC 6793
AS4_AGGREGATOR: Final = 18
LARGE_COMMUNITIES: Final = 32  # RFC 8092

_OPTIONAL: Final = 0x80
_TRANSITIVE: Final = 0x40
_EXTENDED_LENGTH: Final = 0x10
_WELL_KNOWN: Final = _TRANSITIVE
_KNOWN: Final = {  # their names, and what optional and transitive must be (RFC 4271 §5, RFC 7606 §3 c)
    ORIGIN: ("ORIGIN", _WELL_KNOWN),
    AS_PATH: ("AS_PATH", _WELL_KNOWN),
    NEXT_HOP: ("NEXT_HOP", _WELL_KNOWN),
    MED: ("MULTI_EXIT_DISC", _OPTIONAL),
    LOCAL_PREF: ("LOCAL_PREF", _WELL_KNOWN),
    ATOMIC_AGGREGATE: ("ATOMIC_AGGREGATE", _WELL_KNOWN),
    AGGREGATOR: ("AGGREGATOR", _OPTIONAL | _TRANSITIVE),
    COMMUNITIES: ("COMMUNITIES", _OPTIONAL | _TRANSITIVE),
    ORIGINATOR_ID: ("ORIGINATOR_ID", _OPTIONAL),
    CLUSTER_LIST: ("CLUSTER_LIST", _OPTIONAL),
    MP_REACH: ("MP_REACH_NLRI", _OPTIONAL),
    MP_UNREACH: ("MP_UNREACH_NLRI", _OPTIONAL),
    EXTENDED_COMMUNITIES: ("EXTENDED_COMMUNITIES", _OPTIONAL | _TRANSITIVE),
    AS4_PATH: ("AS4_PATH", _OPTIONAL | _TRANSITIVE),
    AS4_AGGREGATOR: ("AS4_AGGREGATOR", _OPTIONAL | _TRANSITIVE),
    LARGE_COMMUNITIES: ("LARGE_COMMUNITY", _OPTIONAL | _TRANSITIVE),
}

_DISCARDABLE: Final = frozenset((ATOMIC_AGGREGATE, AGGREGATOR, AS4_AGGREGATOR))

_SET: Final = 1
_SEQUENCE: Final = 2
_CONFEDERATION: Final = (3, 4)  # RFC 5065: nobody outside sends them

_WIDTHS: Final = {Afi.IPV4: 32, Afi.IPV6: 128}
_NEXT_HOPS: Final = {Afi.IPV4: (4,), Afi.IPV6: (16, 32)}  # octets (RFC 4760 §3, RFC 2545 §3)
_HOST: Final = b"\x20"  # the length octet of an IPv4 host

_Segments = list[tuple[int, tuple[int, ...]]]
"""Of an AS path: type and numbers."""


class Malformed(Exception):
    """An attribute whose error the session survives: all prefixes are treated as withdrawn (RFC 7606 §2)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed in the OPENs, as far as it changes the meaning of an UPDATE."""

    local_as: int
    peer_as: int
    four_octet_as: bool
    enforce_first_as: bool
    families: frozenset[Afi]

    @property
    def internal(self) -> bool:
        """Tell whether both are one AS."""
        return self.local_as == self.peer_as


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What became of an attribute block. `path` None: `fault` says why prefixes with it are withdrawn."""

    path: Path | None
    fault: str = ""
    malformed: bool = False
    """The fault is an error of an attribute, not one of policy nor a missing attribute."""
    complaints: tuple[Complaint, ...] = ()


@dataclass(slots=True)
class _Block:
    """An attribute block, taken apart: the first of each type; errors found so far."""

    values: dict[int, bytes] = field(default_factory=dict)
    kept: list[bytes] = field(default_factory=list)
    """All attributes whole, but those of multiprotocol."""
    fault: str = ""
    complaints: list[str] = field(default_factory=list)


class Updates:
    """Reads the UPDATEs of one session."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._known: dict[bytes | tuple[bytes, bytes], _Meaning] = {}
        self._known_size = 0
        self._forgotten: dict[bytes | tuple[bytes, bytes], _Meaning] = {}
        """What is freed little by little: all at once would take 30 ms."""

    def read(self, body: bytes) -> Sequence[Update | EndOfRib | Complaint]:
        """Read the body of an UPDATE, 4 octets at least; raises Broken."""
        withdrawn_end = 2 + (body[0] << 8 | body[1])
        if withdrawn_end + 2 > len(body):
            raise Broken(Code.UPDATE, 1, text="the withdrawn routes go beyond the message")
        at = withdrawn_end + 2
        end = at + (body[at - 2] << 8 | body[at - 1])
        if end > len(body):
            raise Broken(Code.UPDATE, 1, text="the attributes go beyond the message")
        withdrawn = read_prefixes(Afi.IPV4, body[2:withdrawn_end]) if withdrawn_end > 2 else ()
        announced = read_prefixes(Afi.IPV4, body[end:]) if end < len(body) else ()
        attributes = body[at:end]
        meaning = self._known.get(attributes)
        if meaning is None:
            if not attributes and not announced:
                return (Update(Afi.IPV4, (), withdrawn, None),) if withdrawn else (EndOfRib(Afi.IPV4),)
            block = self._take_apart(attributes)
            if MP_REACH in block.values or MP_UNREACH in block.values:
                return self._multiprotocol(withdrawn, announced, block)
            meaning = self._learn(attributes, block, None)
        if meaning.path is not None and not meaning.complaints and (announced or withdrawn):
            return (Update(Afi.IPV4, announced, withdrawn, meaning.path if announced else None),)
        return self._told(Afi.IPV4, announced, withdrawn, meaning)

    def _told(
        self, afi: Afi, announced: tuple[bytes, ...], withdrawn: tuple[bytes, ...], meaning: _Meaning
    ) -> list[Update | EndOfRib | Complaint]:
        """Return the events for prefixes whose attributes may have errors."""
        events: list[Update | EndOfRib | Complaint] = [*meaning.complaints]
        if meaning.path is None and announced:
            events.append(Complaint(f"treated as withdrawn: {meaning.fault}"))
            withdrawn, announced = withdrawn + announced, ()
        elif meaning.malformed:
            # RFC 7606 §5.2: attributes without a prefix; where one is malformed, prefixes may be hidden in it
            raise Broken(Code.UPDATE, 1, text=f"{meaning.fault}, and no prefixes are to be found")
        if announced or withdrawn:
            events.append(Update(afi, announced, withdrawn, meaning.path if announced else None))
        return events

    # --- multiprotocol --------------------------------------------------------------------------------------

    def _multiprotocol(
        self, withdrawn: tuple[bytes, ...], announced: tuple[bytes, ...], block: _Block
    ) -> list[Update | EndOfRib | Complaint]:
        """Read an UPDATE that has MP_REACH_NLRI or MP_UNREACH_NLRI, beside whatever else."""
        reach, unreach = self._reach(block), self._unreach(block)
        if unreach is not None and not (unreach[1] or withdrawn or announced or block.kept or reach or block.fault):
            return [EndOfRib(unreach[0]), *map(Complaint, block.complaints)]
        going: dict[Afi, tuple[bytes, ...]] = {Afi.IPV4: withdrawn} if withdrawn else {}
        if unreach is not None:
            going[unreach[0]] = going.get(unreach[0], ()) + unreach[1]
        rest = b"".join(block.kept)
        coming: list[tuple[Afi, tuple[bytes, ...], _Meaning]] = []
        if announced:
            coming.append((Afi.IPV4, announced, self._learn((rest, b""), block, None)))
        if reach is not None:
            afi, next_hop, prefixes = reach
            coming.append((afi, prefixes, self._learn((rest, next_hop), block, next_hop)))
        if not any(prefixes for _, prefixes, _ in coming) and (rest or block.fault):
            meaning = self._judge(block, b"", [])
            if meaning.malformed:
                raise Broken(Code.UPDATE, 1, text=f"{meaning.fault}, and no prefixes are to be found")
        events: list[Update | EndOfRib | Complaint] = list(map(Complaint, block.complaints))
        for afi, prefixes, meaning in coming:
            if prefixes:
                events += self._told(afi, prefixes, going.pop(afi, ()), meaning)
        events += [Update(afi, (), prefixes, None) for afi, prefixes in going.items() if prefixes]
        return events

    def _reach(self, block: _Block) -> tuple[Afi, bytes, tuple[bytes, ...]] | None:
        """Read MP_REACH_NLRI: family, next hop, prefixes (RFC 4760 §3). Raises Broken."""
        value = block.values.get(MP_REACH)
        if value is None:
            return None
        if len(value) < 5 or 5 + value[3] > len(value):
            raise Broken(Code.UPDATE, 9, text="MP_REACH_NLRI is too short")
        afi = self._family(value, block)
        if afi is None:
            return None
        end = 4 + value[3]
        next_hop = value[4:end]
        prefixes = _mp_prefixes(afi, value[end + 1 :])  # behind an octet that is reserved
        if len(next_hop) not in _NEXT_HOPS[afi]:
            block.fault = block.fault or f"MP_REACH_NLRI has a next hop of {len(next_hop)} octets"
        return afi, next_hop, prefixes

    def _unreach(self, block: _Block) -> tuple[Afi, tuple[bytes, ...]] | None:
        """Read MP_UNREACH_NLRI: family and prefixes (RFC 4760 §4)."""
        value = block.values.get(MP_UNREACH)
        if value is None:
            return None
        if len(value) < 3:
            raise Broken(Code.UPDATE, 9, text="MP_UNREACH_NLRI is too short")
        afi = self._family(value, block)
        return None if afi is None else (afi, _mp_prefixes(afi, value[3:]))

    def _family(self, value: bytes, block: _Block) -> Afi | None:
        afi, safi = value[0] << 8 | value[1], value[2]
        for each in self._terms.families:
            if each == afi and safi == 1:
                return each
        block.complaints.append(f"prefixes of a family that was not agreed on: {afi}/{safi}")
        return None

    # --- attributes -----------------------------------------------------------------------------------------

    def _take_apart(self, octets: bytes) -> _Block:
        """Walk an attribute block (RFC 7606 §3, §4). Raises Broken."""
        block = _Block()
        at, size = 0, len(octets)
        while at < size:
            start, flags = at, octets[at]
            at += 4 if flags & _EXTENDED_LENGTH else 3
            if at > size:
                block.fault = block.fault or "an attribute beyond the end of the attributes"
                break
            kind = octets[start + 1]
            end = at + (octets[at - 1] if at - start == 3 else octets[at - 2] << 8 | octets[at - 1])
            if end > size:
                block.fault = block.fault or f"{_name(kind)} goes beyond the end of the attributes"
                break
            self._take(block, flags, kind, octets[start:end], octets[at:end])
            at = end
        return block

    def _take(self, block: _Block, flags: int, kind: int, whole: bytes, value: bytes) -> None:
        if kind not in (MP_REACH, MP_UNREACH):
            block.kept.append(whole)
        if kind in block.values:
            if kind in (MP_REACH, MP_UNREACH):  # RFC 7606 §3 g
                raise Broken(Code.UPDATE, 1, text=f"{_name(kind)} is there twice")
            block.complaints.append(f"{_name(kind)} is there twice: the first counts")
            return
        if kind not in _KNOWN:
            if not flags & _OPTIONAL:  # RFC 4271 §6.3
                raise Broken(Code.UPDATE, 2, whole, f"attribute {kind} is unknown and not optional")
            return
        block.values[kind] = value
        if flags & (_OPTIONAL | _TRANSITIVE) != _KNOWN[kind][1]:
            block.fault = block.fault or f"{_name(kind)} has the flags {flags:#04x}"

    def _learn(self, key: bytes | tuple[bytes, bytes], block: _Block, next_hop: bytes | None) -> _Meaning:
        """Return what a block means, and remember it by its octets.

        Beside MP_REACH_NLRI the key is the other attributes' octets and its next hop; complaints about the block
        itself are then told by the caller.
        """
        alone = isinstance(key, bytes)
        if not alone and (block.fault or block.complaints):
            return self._judge(block, next_hop, [])  # what is wrong may be beyond the octets of the key
        meaning = self._known.get(key)
        if meaning is None:
            meaning = self._judge(block, next_hop, list(block.complaints) if alone else [])
            self._known_size += _ENTRY + len(key if isinstance(key, bytes) else key[0])
            if self._known_size > CACHE_MAX:
                self._forgotten, self._known, self._known_size = self._known, {}, 0
            self._known[key] = meaning
            for _ in range(min(FREED, len(self._forgotten))):
                self._forgotten.popitem()
        return meaning

    def _judge(self, block: _Block, next_hop: bytes | None, complaints: list[str]) -> _Meaning:
        """Make the path of an attribute block, or say why there is none. `next_hop` is that of MP_REACH_NLRI."""
        if block.fault:
            return _Meaning(None, block.fault, malformed=True, complaints=tuple(map(Complaint, complaints)))
        reader = _Attributes(block.values, self._terms, complaints)
        try:
            path = reader.path(next_hop)
            fault = reader.missing(next_hop) or ("" if path is None else self._refused(path))
        except Malformed as wrong:
            return _Meaning(None, str(wrong), malformed=True, complaints=tuple(map(Complaint, complaints)))
        return _Meaning(None if fault else path, fault, complaints=tuple(map(Complaint, complaints)))

    def _refused(self, path: Path) -> str:
        """Return why a path that is well-formed is not taken."""
        terms = self._terms
        if terms.local_as in path.as_path and not terms.internal:
            return f"our own AS {terms.local_as} is in the path"  # RFC 4271 §9.1.2
        if terms.enforce_first_as and not terms.internal and path.as_path[:1] != (terms.peer_as,):
            return f"the path does not begin with AS {terms.peer_as}: {path.as_path_text or 'it is empty'}"
        return ""


class _Attributes:
    """The values of one attribute block (RFC 7606 §7): each raises Malformed, or is discarded with a complaint."""

    def __init__(self, values: dict[int, bytes], terms: Terms, complaints: list[str]) -> None:
        self._values = values
        self._terms = terms
        self._complaints = complaints

    def missing(self, next_hop: bytes | None) -> str:
        """Return which mandatory attribute is missing (RFC 7606 §3 d)."""
        needed = (ORIGIN, AS_PATH) if next_hop is not None else (ORIGIN, AS_PATH, NEXT_HOP)
        return next((f"{_name(kind)} is missing" for kind in needed if kind not in self._values), "")

    def path(self, next_hop: bytes | None) -> Path | None:
        """Return the path; None where something is missing."""
        terms = self._terms
        origin = self._fixed(ORIGIN, 1)
        if origin is not None and origin[0] > 2:
            raise Malformed(f"ORIGIN is {origin[0]}")  # §7.1
        own_next_hop = self._fixed(NEXT_HOP, 4)  # §7.3
        values = self._values  # asked first, for most paths have few attributes
        med = self._fixed(MED, 4) if MED in values else None
        local_pref = self._fixed(LOCAL_PREF, 4) if terms.internal else None  # §7.5: from others it is discarded
        if terms.internal:  # §7.9, §7.10
            self._fixed(ORIGINATOR_ID, 4)
            self._several(CLUSTER_LIST, 4)
        communities = self._several(COMMUNITIES, 4) if COMMUNITIES in values else b""
        extended = self._several(EXTENDED_COMMUNITIES, 8) if EXTENDED_COMMUNITIES in values else b""
        large = self._several(LARGE_COMMUNITIES, 12) if LARGE_COMMUNITIES in values else b""
        if not _DISCARDABLE.isdisjoint(values):
            self._discardable()
        segments = self._segments()
        hop = own_next_hop if next_hop is None else next_hop
        if origin is None or segments is None or hop is None:
            return None
        return Path(
            origin=origin[0],
            as_path=segments[0][1] if len(segments) == 1 else tuple(_flat(segments)),
            as_path_text=_path_text(segments),
            next_hop=hop,
            med=None if med is None else int.from_bytes(med),
            local_pref=None if local_pref is None else int.from_bytes(local_pref),
            communities=struct.unpack(f">{len(communities) // 4}I", communities) if communities else (),
            large_communities=tuple(struct.iter_unpack(">III", large)) if large else (),
            extended_communities=tuple([extended[at : at + 8] for at in range(0, len(extended), 8)]),
        )

    def _fixed(self, kind: int, size: int) -> bytes | None:
        value = self._values.get(kind)
        if value is not None and len(value) != size:
            raise Malformed(f"{_name(kind)} has {len(value)} octets")
        return value

    def _several(self, kind: int, size: int) -> bytes:
        value = self._values.get(kind)
        if value is None:
            return b""
        if not value or len(value) % size:
            raise Malformed(f"{_name(kind)} has {len(value)} octets")
        return value

    def _discardable(self) -> None:
        """Discard what is malformed and does not matter (§7.6, §7.7; RFC 6793 §6, RFC 7607 §2)."""
        aggregator = 8 if self._terms.four_octet_as else 6
        for kind, size in ((ATOMIC_AGGREGATE, 0), (AGGREGATOR, aggregator), (AS4_AGGREGATOR, 8)):
            value = self._values.get(kind)
            if value is None:
                continue
            if len(value) != size:
                self._complaints.append(f"{_name(kind)} is discarded: it has {len(value)} octets")
            elif size and not any(value[:-4]):
                self._complaints.append(f"{_name(kind)} is discarded: AS 0")

    def _segments(self) -> _Segments | None:
        """Return the AS path; of a neighbour that knows two octets only, with AS4_PATH in it (RFC 6793 §4.2.3)."""
        value = self._values.get(AS_PATH)
        if value is None:
            return None
        wide = self._terms.four_octet_as
        segments = _read_segments(value, 4 if wide else 2, "AS_PATH")
        if any([kind in _CONFEDERATION for kind, _ in segments]):  # noqa: C419  (a generator takes twice as long)
            raise Malformed("AS_PATH has confederation segments")
        four = self._values.get(AS4_PATH)
        if four is None or wide:  # RFC 6793 §4.1: a neighbour that has the capability must not send it
            return segments
        aggregator = self._values.get(AGGREGATOR, b"")
        if len(aggregator) == 6 and int.from_bytes(aggregator[:2]) != AS_TRANS:
            return segments  # it was aggregated by somebody who did not know of AS4_PATH
        try:
            return _merge(segments, _read_segments(four, 4, "AS4_PATH"))
        except Malformed as wrong:
            self._complaints.append(f"AS4_PATH is discarded: {wrong}")
            return segments


def read_prefixes(afi: Afi, octets: bytes) -> tuple[bytes, ...]:
    """Read prefixes (RFC 4271 §4.3), their host bits made zero. Raises Broken with 3/10 (RFC 7606 §5.3)."""
    size = len(octets)
    if afi is Afi.IPV4 and size % 5 == 0 and octets[::5] == _HOST * (size // 5):
        return tuple([octets[at : at + 5] for at in range(0, size, 5)])
    sizes, host_bits = _SIZES[afi], _HOST_BITS
    found: list[bytes] = []
    keep = found.append
    at = 0
    while at < size:
        length = octets[at]
        end = at + sizes[length]
        if end == at or end > size:
            raise Broken(Code.UPDATE, 10, text=f"a prefix of {length} bits, {size - at - 1} octets before the end")
        if length & 7 and octets[end - 1] & host_bits[length & 7]:
            keep(octets[at : end - 1] + bytes((octets[end - 1] & ~host_bits[length & 7],)))
        else:
            keep(octets[at:end])
        at = end
    return tuple(found)


def _mp_prefixes(afi: Afi, octets: bytes) -> tuple[bytes, ...]:
    try:
        return read_prefixes(afi, octets)
    except Broken as wrong:
        raise Broken(Code.UPDATE, 9, text=wrong.text) from wrong  # RFC 4760 §7


def _sizes(width: int) -> tuple[int, ...]:
    """Return how many octets a prefix has, its length octet included, by its length; 0 for no such length."""
    return tuple(1 + (length + 7) // 8 if length <= width else 0 for length in range(256))


_SIZES: Final = {afi: _sizes(width) for afi, width in _WIDTHS.items()}
_HOST_BITS: Final = tuple(0xFF >> bits for bits in range(8))  # of the last octet, by how many bits of it count


def _read_segments(value: bytes, width: int, name: str) -> _Segments:
    """Read an AS path (RFC 7606 §7.2). Raises Malformed."""
    segments: _Segments = []
    at = 0
    while at < len(value):
        if at + 2 > len(value):
            raise Malformed(f"{name} has an octet too many")
        kind, count = value[at], value[at + 1]
        end = at + 2 + count * width
        if kind not in (_SET, _SEQUENCE, *_CONFEDERATION):
            raise Malformed(f"{name} has a segment of type {kind}")
        if not count or end > len(value):
            raise Malformed(f"{name} has a segment of {count} numbers, {len(value) - at - 2} octets before the end")
        numbers = struct.unpack(f">{count}{'I' if width == 4 else 'H'}", value[at + 2 : end])
        if 0 in numbers:
            raise Malformed(f"{name} has AS 0")  # RFC 7607 §2
        segments.append((kind, numbers))
        at = end
    return segments


def _merge(two: _Segments, four: _Segments) -> _Segments:
    """Put AS4_PATH in place of the end of AS_PATH that it stands for (RFC 6793 §4.2.3)."""
    four = [each for each in four if each[0] not in _CONFEDERATION]  # §6: these are discarded
    lead = _count(two) - _count(four)
    if lead < 0:
        return two
    merged: _Segments = []
    for kind, numbers in two:
        if lead <= 0:
            break
        if kind == _SEQUENCE:
            merged.append((kind, numbers[:lead]))
            lead -= len(numbers)
        else:
            merged.append((kind, numbers))
            lead -= 1
    return merged + four


def _count(segments: _Segments) -> int:
    """Return the length of a path: a set counts as one (RFC 4271 §9.1.2.2)."""
    return sum(len(numbers) if kind == _SEQUENCE else 1 for kind, numbers in segments)


def _flat(segments: _Segments) -> Iterator[int]:
    for _, numbers in segments:
        yield from numbers


def _path_text(segments: _Segments) -> str:
    if len(segments) == 1 and segments[0][0] == _SEQUENCE:
        return " ".join(map(str, segments[0][1]))
    texts = (" ".join(map(str, numbers)) for _, numbers in segments)
    return " ".join(
        f"{{ {text} }}" if kind == _SET else text for (kind, _), text in zip(segments, texts, strict=True)
    )


def _name(kind: int) -> str:
    return _KNOWN[kind][0] if kind in _KNOWN else f"attribute {kind}"
