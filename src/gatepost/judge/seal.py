"""Sign our own mail with DKIM: one signature a key of the author's domain, on top of the header.

The key is the one of the author's domain or of the nearest domain above it.

What is signed twice over (RFC 6376 §5.4.2, "oversigned") is named once more in h= than it stands in the mail,
so that nobody can add another From below our signature.
"""

import asyncio
import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from gatepost.base.address import fold_domain
from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.verdict import Custody
from gatepost.codec import domainkeys
from gatepost.codec.arc import SETS_MAX, ArcSet, sealed_octets
from gatepost.codec.dkim import canonical_body, signed_octets
from gatepost.codec.mail.address import mailboxes
from gatepost.codec.mail.header import unfold
from gatepost.judge.settings import DomainSigning, SigningSettings

OVERSIGNED: Final = (
    b"from",
    b"to",
    b"cc",
    b"subject",
    b"date",
    b"message-id",
    b"reply-to",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
)
SIGNED: Final = (
    b"in-reply-to",
    b"references",
    b"sender",
    b"list-id",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
)
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


@dataclass(frozen=True, slots=True)
class Style:
    """How a domain signs. `lifetime` in seconds, 0 for no x=; `identity` is i=, left out where empty."""

    header_relaxed: bool = True
    body_relaxed: bool = True
    lifetime: int = 14 * 86_400
    identity: str = ""
    domainkeys: bool = False
    selectors: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: SigningSettings, own: DomainSigning) -> "Style":
        """Return what a domain's own settings make of those for all."""
        way = own.canonicalization or settings.canonicalization
        header, _, body = way.value.partition("/")
        return cls(
            header_relaxed=header == "relaxed",
            body_relaxed=body == "relaxed",
            lifetime=int(settings.lifetime if own.lifetime is None else own.lifetime),
            identity=own.identity,
            domainkeys=settings.domainkeys if own.domainkeys is None else own.domainkeys,
            selectors=frozenset(own.selectors),
        )

    @property
    def canonicalization(self) -> bytes:
        """Return c=."""
        ways = (b"simple", b"relaxed")
        return ways[self.header_relaxed] + b"/" + ways[self.body_relaxed]


PLAIN: Final = Style()


class Keys(Protocol):
    """Where private keys come from."""

    def of(self, domain: str, now: Instant) -> Awaitable[Sequence[SigningKey]]:
        """Return the keys that sign for `domain` (A-labels, lower case) now; none is a possible answer."""
        ...


class Seal:
    """Signs for every domain that has keys."""

    def __init__(self, keys: Keys, settings: SigningSettings) -> None:
        self._keys = keys
        self.renew(settings)

    def renew(self, settings: SigningSettings) -> None:
        """Sign by these settings from now on."""
        self._plain = Style.of(settings, DomainSigning())
        self._styles: Mapping[str, Style] = {
            fold_domain(domain): Style.of(settings, own) for domain, own in settings.domain.items()
        }
        self._foreign = fold_domain(settings.foreign)

    async def seal(self, fields: Fields, body: bytes, domain: str, now: Instant) -> bytes:
        """Return the DKIM-Signature fields to put on top; empty where `domain` has no key."""
        keys = await self._keys_for(fold_domain(domain), now)
        if not keys:
            return b""
        style = self._styles.get(keys[0].domain, self._plain)
        if style.selectors:
            keys = [key for key in keys if key.selector in style.selectors]
        if len(body) > OFF_LOOP_OCTETS:
            return await asyncio.to_thread(sign_all, keys, fields, body, now, style)
        return sign_all(keys, fields, body, now, style)

    async def _keys_for(self, domain: str, now: Instant) -> Sequence[SigningKey]:
        """Return the keys of `domain`, of the nearest domain above it that has any, or of who signs for others."""
        while domain:
            keys = await self._keys.of(domain, now)
            if keys:
                return keys
            domain = domain.partition(".")[2]
        return await self._keys.of(self._foreign, now) if self._foreign else ()

    async def vouch(self, fields: Fields, body: bytes, domain: str, custody: Custody, now: Instant) -> bytes:
        """Return the ARC set to put on top of a stranger's mail that goes on; empty where `domain` has no RSA key.

        RSA alone, because RFC 8617 asks every verifier for no more.
        """
        keys = await self._keys.of(fold_domain(domain), now)
        key = next((each for each in keys if each.algorithm == "rsa-sha256"), None)
        if key is None or len(custody.below) >= SETS_MAX:
            return b""
        below = [ArcSet(at, *each) for at, each in enumerate(custody.below, 1)]
        if len(body) > OFF_LOOP_OCTETS:
            return await asyncio.to_thread(arc_set, key, fields, body, below, custody.results, now)
        return arc_set(key, fields, body, below, custody.results, now)


def sign_all(keys: Sequence[SigningKey], fields: Fields, body: bytes, now: Instant, style: Style = PLAIN) -> bytes:
    """Return one DKIM-Signature field a key, below them a DomainKey-Signature where `style` wants one."""
    body_hash = hashlib.sha256(canonical_body(body, relaxed=style.body_relaxed)).digest()
    names = signed_names(fields)
    signed = b"".join(_sign(key, fields, names, body_hash, now, style) for key in keys)
    return signed + domain_key(keys, fields, body) if style.domainkeys else signed


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


def _sign(
    key: SigningKey, fields: Fields, names: Sequence[bytes], body_hash: bytes, now: Instant, style: Style
) -> bytes:
    moment = now // MICROSECONDS
    tags = [
        b"v=1",
        b"a=" + key.algorithm.encode(),
        b"c=" + style.canonicalization,
        b"d=" + key.domain.encode(),
        b"s=" + key.selector.encode(),
        *([b"i=" + style.identity.encode()] if style.identity else ()),
        b"t=%d" % moment,
        *([b"x=%d" % (moment + style.lifetime)] if style.lifetime else ()),
        b"h=" + b":".join(names),
        b"bh=" + b64encode(body_hash),
        b"b=",
    ]
    unsigned = _folded(b"DKIM-Signature", tags)
    return _with_value(unsigned, key, signed_octets(fields, names, unsigned, relaxed=style.header_relaxed))


def domain_key(keys: Sequence[SigningKey], fields: Fields, body: bytes, *, nofws: bool = True) -> bytes:
    """Return a DomainKey-Signature field (RFC 4870); empty without an RSA key or where the author is elsewhere.

    Its domain must be the one of Sender, else From, or one above it (§3.2.3).
    """
    key = next((each for each in keys if isinstance(each.private, RSAPrivateKey)), None)
    if key is None or not _within(_responsible(fields), key.domain):
        return b""
    known = {b"sender", *OVERSIGNED, *SIGNED}
    chosen = [(name, raw) for name, raw in fields if name in known]
    digest = hashlib.sha1(
        domainkeys.signed_octets([raw for _, raw in chosen], body, nofws=nofws), usedforsecurity=False
    ).digest()
    assert isinstance(key.private, RSAPrivateKey)
    tags = [
        b"a=rsa-sha1",
        b"q=dns",
        b"c=" + (b"nofws" if nofws else b"simple"),
        b"d=" + key.domain.encode(),
        b"s=" + key.selector.encode(),
        b"h=" + b":".join(dict.fromkeys(name for name, _ in chosen)),
        b"b=",
    ]
    return _with_octets(_folded(b"DomainKey-Signature", tags), _sha1_signature(key.private, digest))


def _sha1_signature(private: RSAPrivateKey, digest: bytes) -> bytes:
    return private.sign(digest, PKCS1v15(), Prehashed(SHA1()))  # noqa: S303 - RFC 4870 knows no other


def _responsible(fields: Fields) -> str:
    """Return the domain of Sender, or of From where there is none."""
    for wanted in (b"sender", b"from"):
        for name, raw in fields:
            if name == wanted:
                found = next(iter(mailboxes(unfold(raw.partition(b":")[2]))), None)
                return fold_domain(found.domain.decode("utf-8", "replace")) if found is not None else ""
    return ""


def _within(domain: str, above: str) -> bool:
    return domain == above or domain.endswith("." + above)


def _with_value(unsigned: bytes, key: SigningKey, octets: bytes) -> bytes:
    """Return a field whose b= is empty with the signature over `octets` in it."""
    return _with_octets(unsigned, key.sign(hashlib.sha256(octets).digest()))


def _with_octets(unsigned: bytes, signature: bytes) -> bytes:
    value = b64encode(signature)
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
