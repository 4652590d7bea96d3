"""Verify DKIM signatures (RFC 6376 §6, RFC 8301, RFC 8463): each signature gives one finding."""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.verdict import Finding, Result
from gatepost.codec.dkim import (
    BadKey,
    BadSignature,
    KeyRecord,
    Signature,
    Signer,
    canonical_body,
    parse_key,
    parse_signature,
    signed_octets,
)
from gatepost.judge.spf import Trouble

SIGNATURES_MAX: Final = 10  # more are not looked at: each costs a DNS question and a public key operation
RSA_MIN_BITS: Final = 1024  # RFC 8301 §3.2
RSA_MAX_BITS: Final = 4096
CLOCK_SKEW_S: Final = 300
OFF_LOOP_OCTETS: Final = 256 * 1024  # canonicalising and hashing more than this takes over a millisecond

Fields = Sequence[tuple[bytes, bytes]]
"""(lower-case name, raw octets with CRLF) of each header field, from the top down."""


REMEMBERED_MAX: Final = 1024  # octets of a key record that is kept parsed: RSA keys of 4096 bits have 750
_parsed_key = lru_cache(maxsize=1024)(parse_key)


class KeyNames(Protocol):
    """Where keys are found: TXT records with their strings joined; Trouble where nobody knows."""

    def txt(self, name: str) -> Awaitable[Sequence[bytes]]: ...


async def verify(fields: Fields, body: bytes, names: KeyNames, now: Instant) -> tuple[Finding, ...]:
    """Return one finding a signature, from the top; a mail without any gives a single `none`."""
    signatures = [raw for name, raw in fields if name == b"dkim-signature"]
    if not signatures:
        return (Finding("dkim", Result.NONE, reason="no signature"),)
    hashes = BodyHashes(body)
    found = [await _verify_one(raw, fields, hashes, names, now) for raw in signatures[:SIGNATURES_MAX]]
    return tuple(found)


class BodyHashes:
    """The body's two canonical hashes, each made at most once."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._made: dict[bool, bytes] = {}

    async def get(self, *, relaxed: bool) -> bytes:
        if relaxed not in self._made:
            large = len(self._body) > OFF_LOOP_OCTETS
            self._made[relaxed] = (
                await asyncio.to_thread(_hash, self._body, relaxed) if large else _hash(self._body, relaxed)
            )
        return self._made[relaxed]


def _hash(body: bytes, relaxed: bool) -> bytes:
    return hashlib.sha256(canonical_body(body, relaxed=relaxed)).digest()


async def _verify_one(raw: bytes, fields: Fields, hashes: BodyHashes, names: KeyNames, now: Instant) -> Finding:
    try:
        signature = parse_signature(raw)
    except BadSignature as wrong:
        return Finding("dkim", Result.PERMERROR, reason=str(wrong))
    result, reason = await check_signature(signature, raw, fields, hashes, names, now)
    properties = (
        ("header.d", signature.domain),
        ("header.s", signature.selector),
        ("header.a", signature.algorithm),
    )
    return Finding("dkim", result, signature.domain, properties, reason)


async def check_signature(
    signature: Signature, raw: bytes, fields: Fields, hashes: BodyHashes, names: KeyNames, now: Instant
) -> tuple[Result, str]:
    if signature.algorithm == "rsa-sha1":
        return Result.POLICY, "rsa-sha1 proves nothing (RFC 8301)"
    if signature.algorithm not in ("rsa-sha256", "ed25519-sha256"):
        return Result.NEUTRAL, f"unknown algorithm {signature.algorithm}"
    moment = now // MICROSECONDS
    if signature.expires_at is not None and signature.expires_at + CLOCK_SKEW_S < moment:
        return Result.FAIL, "the signature has expired"
    if signature.signed_at is not None and signature.signed_at - CLOCK_SKEW_S > moment:
        return Result.FAIL, "the signature is from the future"
    if not hmac.compare_digest(await hashes.get(relaxed=signature.body_relaxed), signature.body_hash):
        if signature.length is not None:
            return Result.POLICY, "l= covers only a part of the body"
        return Result.FAIL, "the body was changed"
    try:
        record = await find_key(signature, names)
    except Trouble as trouble:
        return Result.TEMPERROR, str(trouble)
    except BadKey as wrong:
        return Result.PERMERROR, str(wrong)
    signed = signed_octets(fields, signature.signed, raw, relaxed=signature.header_relaxed)
    result, reason = check_value(signature, record, signed)
    if result is Result.PASS and signature.length is not None:
        return Result.POLICY, "l= leaves room for more text"
    return result, reason


async def find_key(signer: Signer, names: KeyNames) -> KeyRecord:
    """Return the key that may verify `signer`; BadKey where there is none that may, Trouble where nobody knows."""
    records = await names.txt(signer.key_name)
    if not records:
        raise BadKey("there is no key")
    if len(records) > 1:
        raise BadKey("there are several keys")
    record = _parsed_key(records[0]) if len(records[0]) <= REMEMBERED_MAX else parse_key(records[0])
    if not record.key:
        raise BadKey("the key was revoked")
    if record.hashes is not None and "sha256" not in record.hashes:
        raise BadKey("the key is not for sha256")
    if not record.services & {"*", "email"}:
        raise BadKey("the key is not for mail")
    if record.kind != signer.algorithm.partition("-")[0]:
        raise BadKey(f"the key is of kind {record.kind}")
    if record.strict and signer.identity_domain != signer.domain:
        raise BadKey("the key forbids i= of a subdomain")
    return record


def check_value(signer: Signer, record: KeyRecord, signed: bytes) -> tuple[Result, str]:
    """Check the signature's value over the signed octets with a key of the right kind."""
    digest = hashlib.sha256(signed).digest()
    try:
        if record.kind == "ed25519":
            Ed25519PublicKey.from_public_bytes(record.key).verify(signer.value, digest)
            return Result.PASS, ""
        key = _rsa_key(record.key)
        if key.key_size < RSA_MIN_BITS:
            return Result.POLICY, f"an RSA key of {key.key_size} bits proves nothing (RFC 8301)"
        if key.key_size > RSA_MAX_BITS:
            return Result.NEUTRAL, f"an RSA key of {key.key_size} bits is not evaluated"
        key.verify(signer.value, digest, PKCS1v15(), Prehashed(SHA256()))
    except InvalidSignature:
        return Result.FAIL, "the signature does not match"
    except (ValueError, UnsupportedAlgorithm) as wrong:
        return Result.PERMERROR, f"the key cannot be read: {wrong}"
    return Result.PASS, ""


@lru_cache(maxsize=1024)
def _rsa_key(der: bytes) -> RSAPublicKey:
    """Read an RSA key as SubjectPublicKeyInfo, or as the bare RSAPublicKey that RFC 6376 §3.6.1 speaks of."""
    try:
        key = load_der_public_key(der)
    except ValueError:
        key = _bare_rsa_key(der)
    if not isinstance(key, RSAPublicKey):
        raise ValueError("it is not an RSA key")
    return key


def _bare_rsa_key(der: bytes) -> RSAPublicKey:
    """Read PKCS#1's SEQUENCE { modulus INTEGER, publicExponent INTEGER }."""
    sequence, rest = _element(der, 0x30)
    modulus, after = _element(sequence, 0x02)
    exponent, end = _element(after, 0x02)
    if rest or end:
        raise ValueError("octets after the key")
    return RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()


def _element(der: bytes, tag: int) -> tuple[bytes, bytes]:
    if len(der) < 2 or der[0] != tag:
        raise ValueError("it is not DER")
    length, start = der[1], 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3:
            raise ValueError("it is not DER")
        length, start = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
    if len(der) < start + length:
        raise ValueError("it is cut short")
    return der[start : start + length], der[start + length :]
