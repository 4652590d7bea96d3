"""ARC on the wire (RFC 8617): the sets that hands on the way left, and what each of their signatures covers.

As in `codec/dkim`: no cryptography, no DNS; a header field is its raw octets with the final CRLF.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.codec.dkim import (
    BadSignature,
    Signature,
    Signer,
    canonical_field,
    read_signature,
    read_signer,
    signature_tags,
    without_value,
)

SETS_MAX: Final = 50  # §4.2.1
RESULTS: Final = b"arc-authentication-results"
MESSAGE: Final = b"arc-message-signature"
SEAL: Final = b"arc-seal"
_INSTANCE: Final = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,2})[ \t\r\n]*(?:;|\Z)")
_CHAINS: Final = (b"none", b"pass", b"fail")

Fields = Sequence[tuple[bytes, bytes]]
"""(lower-case name, raw octets with CRLF) of each header field, from the top down."""


class BrokenChain(ValueError):
    """A chain that cannot be valid, before any key is asked for; the text says why."""


@dataclass(frozen=True, slots=True)
class ArcSet:
    """What one hand added: its three fields' raw octets."""

    instance: int
    results: bytes
    message: bytes
    seal: bytes


@dataclass(frozen=True, slots=True)
class Seal(Signer):
    """A parsed ARC-Seal (§4.1.3); `chain` is cv=: what its maker found of the sets below."""

    chain: str
    signed_at: int | None = None


def collect(fields: Fields) -> tuple[ArcSet, ...]:
    """Return the mail's sets from the oldest to the newest; BrokenChain where they do not make a chain (§5.2)."""
    found: dict[bytes, dict[int, bytes]] = {RESULTS: {}, MESSAGE: {}, SEAL: {}}
    for name, raw in fields:
        if name in found:
            instance = _instance(name, raw)
            if instance in found[name]:
                raise BrokenChain(f"{name.decode()} {instance} stands twice")
            found[name][instance] = raw
    seals = found[SEAL]
    if not any(found.values()):
        return ()
    if any(kind.keys() != seals.keys() for kind in found.values()):
        raise BrokenChain("a set lacks one of its fields")
    if sorted(seals) != list(range(1, len(seals) + 1)):
        raise BrokenChain("a set is missing")
    return tuple(ArcSet(at, found[RESULTS][at], found[MESSAGE][at], seals[at]) for at in sorted(seals))


def parse_message_signature(raw: bytes) -> Signature:
    """Read an ARC-Message-Signature (§4.1.2): DKIM's tags, but i= is the instance and there is no v=."""
    tags = signature_tags(raw, ("i", "a", "b", "bh", "d", "h", "s"))
    signature = read_signature({name: value for name, value in tags.items() if name != "i"})
    if SEAL in signature.signed:
        raise BadSignature("h= names ARC-Seal")
    return signature


def parse_seal(raw: bytes) -> Seal:
    """Read an ARC-Seal (§4.1.3)."""
    tags = signature_tags(raw, ("i", "a", "b", "cv", "d", "s"))
    if "h" in tags or "bh" in tags:
        raise BadSignature("a seal has no h= and no bh=")
    if tags["cv"] not in _CHAINS:
        raise BadSignature("cv= is none of none, pass, fail")
    signer = read_signer(tags)
    return Seal(
        signer.algorithm, signer.domain, signer.selector, signer.value, tags["cv"].decode(), _signed_at(tags)
    )


def sealed_octets(sets: Sequence[ArcSet]) -> bytes:
    """Return what the seal of the last of `sets` signs: all sets, in order, its own b= emptied (§5.1.1)."""
    *below, last = sets
    pieces = [
        canonical_field(raw, relaxed=True) for each in below for raw in (each.results, each.message, each.seal)
    ]
    pieces += [canonical_field(raw, relaxed=True) for raw in (last.results, last.message)]
    pieces.append(canonical_field(without_value(last.seal), relaxed=True).removesuffix(b"\r\n"))
    return b"".join(pieces)


def results_of(each: ArcSet) -> bytes:
    """Return the results that a set's maker reports, as an Authentication-Results value: behind its `i=;`."""
    return each.results.partition(b":")[2].partition(b";")[2]


def _instance(name: bytes, raw: bytes) -> int:
    value = raw.partition(b":")[2]
    if name == RESULTS:
        found = _INSTANCE.match(value)
        number = int(found[1]) if found else 0
    else:
        try:
            text = signature_tags(raw, ("i",))["i"]
        except BadSignature as wrong:
            raise BrokenChain(f"{name.decode()}: {wrong}") from wrong
        number = int(text) if re.fullmatch(rb"[0-9]{1,2}", text) else 0
    if not 1 <= number <= SETS_MAX:
        raise BrokenChain(f"{name.decode()} has no instance from 1 to {SETS_MAX}")
    return number


def _signed_at(tags: Mapping[str, bytes]) -> int | None:
    text = tags.get("t")
    if text is None:
        return None
    if re.fullmatch(rb"[0-9]{1,12}", text) is None:
        raise BadSignature("t= is not a number")
    return int(text)
