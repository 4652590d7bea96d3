"""The list of valid recipients that a primary publishes for its backups: written, signed, read, asked.

    gatepost-recipients 1
    serial 1793491200000000              microseconds since 1970; a later list has a greater one
    server mx1.example.org
    complete yes                         `no`: who is not in it may exist all the same
    separator +                          parts ann from ann+detail; may be empty
    size 52428800                        octets of a mail at most
    domain example.org                   any number
    catch-all example.org                any number: every address there is valid
    address 00112233445566778899aabbccddeeff     any number, in order
    hmac-sha256 <64 hexadecimal digits>  of all octets before this line

An address is HMAC-SHA256 of its key form (`Address.key`), cut to 128 bits: whoever reads the list without the key
learns how many there are, not who. With the key, guesses can be checked, but nothing can be read off. Two keys are
derived from the one that both servers have, so that neither use tells anything about the other.
"""

import hmac
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Final

from gatepost.base.address import Address, fold, fold_domain

MAGIC: Final = b"gatepost-recipients 1\n"
DIGEST: Final = 16
ADDRESSES_MAX: Final = 1_000_000
DOMAINS_MAX: Final = 100_000
OCTETS_MAX: Final = 64 << 20
PROOF_S: Final = 300
"""Seconds by which the clocks of the two servers may differ."""
_SIGNATURE: Final = b"hmac-sha256 "
_SEAL: Final = len(_SIGNATURE) + 2 * sha256().digest_size + 1


class BadList(ValueError):
    """Octets that are no list, or not from who has the key; the text is for the operator."""


class Known(Enum):
    """What a list says of an address."""

    YES = "yes"
    NO = "no"
    OPEN = "open"
    """Nothing: its domain is not in the list, or the list is not complete."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What is derived from the key that primary and backup share."""

    signing: bytes
    addresses: bytes

    @staticmethod
    def derive(secret: bytes) -> "Keys":
        """Derive both (HMAC as the expanding half of RFC 5869)."""
        return Keys(_mac(secret, b"gatepost recipients: signing"), _mac(secret, b"gatepost recipients: addresses"))

    def digest(self, key: str) -> bytes:
        """Return what stands for an address, given in its key form."""
        return _mac(self.addresses, key.encode("utf-8", "surrogateescape"))[:DIGEST]

    def proof(self, backup: str, at: int) -> str:
        """Return what shows that `backup` asks, at a time in seconds since 1970."""
        return _mac(self.signing, f"pull {backup} {at}".encode()).hex()

    def proves(self, given: str, backup: str, at: int, now: int) -> bool:
        """Tell whether a proof holds, and is of this time."""
        return abs(now - at) <= PROOF_S and hmac.compare_digest(
            self.proof(backup, at).encode(), given.encode("utf-8", "replace")
        )


@dataclass(frozen=True, slots=True)
class RecipientList:
    """Who has mail at the primary. `digests` are sorted, each once, and stand one behind the other."""

    serial: int
    server: str
    complete: bool
    separator: str
    size: int
    domains: frozenset[str]
    catch_alls: frozenset[str]
    digests: bytes

    @property
    def addresses(self) -> int:
        """Return how many addresses it has."""
        return len(self.digests) // DIGEST

    def knows(self, address: Address, keys: Keys) -> Known:
        """Tell what the primary would say of an address."""
        domain = fold_domain(address.domain)
        if domain not in self.domains:
            return Known.OPEN
        if domain in self.catch_alls:
            return Known.YES
        local = fold(address.local)
        at = local.find(self.separator, 1) if self.separator else -1
        spellings = (local, local[:at]) if at > 0 else (local,)
        if any(self._has(keys.digest(f"{each}@{domain}")) for each in spellings):
            return Known.YES
        return Known.NO if self.complete else Known.OPEN

    def _has(self, digest: bytes) -> bool:
        rows = _Rows(self.digests)
        at = bisect_left(rows, digest)
        return at < len(rows) and rows[at] == digest


class _Rows(Sequence[bytes]):
    """Digests that stand one behind the other, without an object for each."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def __len__(self) -> int:
        return len(self._octets) // DIGEST

    def __getitem__(self, at: int) -> bytes:  # type: ignore[override]  # no slices: bisect asks for none
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._octets[at * DIGEST : (at + 1) * DIGEST]


def pack(digests: Iterable[bytes]) -> bytes:
    """Return digests as `RecipientList.digests` has them."""
    return b"".join(sorted(set(digests)))


def tag(listed: RecipientList) -> str:
    """Return what is the same as long as the content is, whatever the serial: an entity tag, without quotes."""
    return sha256(_body(listed)).hexdigest()[:32]


def write(listed: RecipientList, keys: Keys) -> bytes:
    """Return the signed document."""
    text = MAGIC + b"serial %d\n" % listed.serial + _body(listed)
    return text + _SIGNATURE + _mac(keys.signing, text).hex().encode() + b"\n"


def read(octets: bytes, keys: Keys) -> RecipientList:
    """Read and check a document; raises BadList."""
    if len(octets) > OCTETS_MAX:
        raise BadList(f"the list has more than {OCTETS_MAX} octets")
    if not octets.startswith(MAGIC):
        raise BadList("this is no list of recipients, or one of a later version")
    text, seal = octets[:-_SEAL], octets[-_SEAL:]
    if not hmac.compare_digest(seal, _SIGNATURE + _mac(keys.signing, text).hex().encode() + b"\n"):
        raise BadList("the signature does not hold: another key, or somebody has changed it")
    return _read_body(text[len(MAGIC) :])


def _body(listed: RecipientList) -> bytes:
    lines = [
        f"server {listed.server}",
        f"complete {'yes' if listed.complete else 'no'}",
        f"separator {listed.separator}",
        f"size {listed.size}",
        *(f"domain {name}" for name in sorted(listed.domains)),
        *(f"catch-all {name}" for name in sorted(listed.catch_alls)),
        *(f"address {each.hex()}" for each in _Rows(listed.digests)),
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _read_body(text: bytes) -> RecipientList:
    """Read the lines between the first and the last; unknown words are left for later versions."""
    single: dict[str, str] = {}
    domains, catch_alls, digests = set[str](), set[str](), list[bytes]()
    try:
        for line in text.decode().split("\n"):
            word, _, value = line.partition(" ")
            match word:
                case "address":
                    digests.append(bytes.fromhex(value))
                case "domain":
                    domains.add(value)
                case "catch-all":
                    catch_alls.add(value)
                case _:
                    single[word] = value
        if len(digests) > ADDRESSES_MAX or len(domains) > DOMAINS_MAX:
            raise BadList(f"more than {ADDRESSES_MAX} addresses or {DOMAINS_MAX} domains")
        if any(len(each) != DIGEST for each in digests):
            raise BadList(f"an address has {DIGEST} octets")
        return RecipientList(
            serial=int(single["serial"]),
            server=single["server"],
            complete=single["complete"] == "yes",
            separator=single["separator"],
            size=int(single["size"]),
            domains=frozenset(domains),
            catch_alls=frozenset(catch_alls),
            digests=pack(digests),
        )
    except KeyError as missing:
        raise BadList(f"the line {missing} is missing") from missing
    except BadList:
        raise
    except ValueError as wrong:
        raise BadList(str(wrong)) from wrong


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")
