"""Sign our own mail with DKIM: one signature a key of the author's domain, on top of the header.

What is signed twice over (RFC 6376 §5.4.2, "oversigned") is named once more in h= than it stands in the mail,
so that nobody can add another From below our signature.
"""

import asyncio
import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from gatepost.base.address import fold_domain
from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.verdict import Custody
from gatepost.codec.arc import SETS_MAX, ArcSet, sealed_octets
from gatepost.codec.dkim import canonical_body, signed_octets

OVERSIGNED: Final = (b"from", b"to", b"cc", b"subject", b"date", b"message-id")
SIGNED: Final = (
    b"reply-to",
    b"in-reply-to",
    b"references",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
    b"sender",
    b"list-id",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
)
LIFETIME_S: Final = 14 * 86_400  # longer than any queue keeps a mail
LINE_MAX: Final = 76
OFF_LOOP_OCTETS: Final = 256 * 1024

Fields = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key in use. `algorithm` is rsa-sha256 or ed25519-sha256."""

    domain: str
    selector: str
    algorithm: str
    private: RSAPrivateKey | Ed25519PrivateKey

    def sign(self, digest: bytes) -> bytes:
        """Sign a SHA-256 digest: PKCS#1 v1.5, or Ed25519 over the digest (RFC 8463 §3)."""
        if isinstance(self.private, Ed25519PrivateKey):
            return self.private.sign(digest)
        return self.private.sign(digest, PKCS1v15(), Prehashed(SHA256()))


class Keys(Protocol):
    """Where private keys come from."""

    def of(self, domain: str) -> Awaitable[Sequence[SigningKey]]:
        """Return the keys that sign for `domain` (A-labels, lower case); none is a possible answer."""
        ...


class Seal:
    """Signs for every domain that has keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def seal(self, fields: Fields, body: bytes, domain: str, now: Instant) -> bytes:
        """Return the DKIM-Signature fields to put on top; empty where `domain` has no key."""
        keys = await self._keys.of(fold_domain(domain))
        if not keys:
            return b""
        if len(body) > OFF_LOOP_OCTETS:
            return await asyncio.to_thread(sign_all, keys, fields, body, now)
        return sign_all(keys, fields, body, now)

    async def vouch(self, fields: Fields, body: bytes, domain: str, custody: Custody, now: Instant) -> bytes:
        """Return the ARC set to put on top of a stranger's mail that goes on; empty where `domain` has no RSA key.

        RSA alone, because RFC 8617 asks every verifier for no more.
        """
        keys = await self._keys.of(fold_domain(domain))
        key = next((each for each in keys if each.algorithm == "rsa-sha256"), None)
        if key is None or len(custody.below) >= SETS_MAX:
            return b""
        below = [ArcSet(at, *each) for at, each in enumerate(custody.below, 1)]
        if len(body) > OFF_LOOP_OCTETS:
            return await asyncio.to_thread(arc_set, key, fields, body, below, custody.results, now)
        return arc_set(key, fields, body, below, custody.results, now)


def sign_all(keys: Sequence[SigningKey], fields: Fields, body: bytes, now: Instant) -> bytes:
    """Return one DKIM-Signature field a key, relaxed/relaxed."""
    body_hash = hashlib.sha256(canonical_body(body, relaxed=True)).digest()
    names = signed_names(fields)
    return b"".join(_sign(key, fields, names, body_hash, now) for key in keys)


def signed_names(fields: Fields) -> tuple[bytes, ...]:
    """Return what h= names: each field of ours as often as it stands, the oversigned once more."""
    counts = Counter(name for name, _ in fields)
    names = [name for name in OVERSIGNED for _ in range(counts[name] + 1)]
    names += [name for name in SIGNED for _ in range(counts[name])]
    return tuple(names)


def arc_set(
    key: SigningKey, fields: Fields, body: bytes, below: Sequence[ArcSet], results: bytes, now: Instant
) -> bytes:
    """Return the three fields of a new ARC set (RFC 8617 §5.1), the seal on top.

    `below` are the sets of a chain that was found valid, or none; `results` is what we found, as the value of an
    Authentication-Results field. The sets of `below` stand in `fields`.
    """
    instance, moment = len(below) + 1, now // MICROSECONDS
    body_hash = hashlib.sha256(canonical_body(body, relaxed=True)).digest()
    names = (*signed_names(fields), *(name for name, _ in fields if name == b"dkim-signature"))
    signer = [b"a=" + key.algorithm.encode(), b"d=" + key.domain.encode(), b"s=" + key.selector.encode()]
    numbered = [b"i=%d" % instance, *signer, b"t=%d" % moment]
    found = b"ARC-Authentication-Results: i=%d; " % instance + results.strip() + b"\r\n"
    tags = [*numbered, b"c=relaxed/relaxed", b"h=" + b":".join(names), b"bh=" + b64encode(body_hash), b"b="]
    unsigned = _folded(b"ARC-Message-Signature", tags)
    message = _with_value(unsigned, key, signed_octets(fields, names, unsigned, relaxed=True))
    bare = _folded(b"ARC-Seal", [*numbered, b"cv=" + (b"pass" if below else b"none"), b"b="])
    seal = _with_value(bare, key, sealed_octets((*below, ArcSet(instance, found, message, bare))))
    return seal + message + found


def _sign(key: SigningKey, fields: Fields, names: Sequence[bytes], body_hash: bytes, now: Instant) -> bytes:
    moment = now // MICROSECONDS
    tags = [
        b"v=1",
        b"a=" + key.algorithm.encode(),
        b"c=relaxed/relaxed",
        b"d=" + key.domain.encode(),
        b"s=" + key.selector.encode(),
        b"t=%d" % moment,
        b"x=%d" % (moment + LIFETIME_S),
        b"h=" + b":".join(names),
        b"bh=" + b64encode(body_hash),
        b"b=",
    ]
    unsigned = _folded(b"DKIM-Signature", tags)
    return _with_value(unsigned, key, signed_octets(fields, names, unsigned, relaxed=True))


def _with_value(unsigned: bytes, key: SigningKey, octets: bytes) -> bytes:
    """Return a field whose b= is empty with the signature over `octets` in it."""
    value = b64encode(key.sign(hashlib.sha256(octets).digest()))
    lines = [value[at : at + LINE_MAX - 1] for at in range(0, len(value), LINE_MAX - 1)]
    return unsigned.removesuffix(b"\r\n") + b"\r\n\t" + b"\r\n\t".join(lines) + b"\r\n"


def _folded(name: bytes, tags: Sequence[bytes]) -> bytes:
    """Lay the tags out in lines of at most 76 octets; h= is folded at its colons."""
    lines, line = [], name + b":"
    for at, tag in enumerate(tags):
        text = tag if at == len(tags) - 1 else tag + b";"
        for piece in _pieces(text):
            if len(line) + 1 + len(piece) > LINE_MAX:
                lines.append(line)
                line = b"\t" + piece
            else:
                line += piece if line.endswith(b":") and line != name + b":" else b" " + piece
    return b"\r\n".join([*lines, line]) + b"\r\n"


def _pieces(text: bytes) -> list[bytes]:
    if not text.startswith(b"h="):
        return [text]
    names = text.split(b":")
    return [name + b":" for name in names[:-1]] + [names[-1]]
