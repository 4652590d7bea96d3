"""Certificates for tests: an authority, those below it, and the TLSA records that name them."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gatepost.codec.tlsa import Tlsa

NOW = datetime.now(UTC).replace(microsecond=0)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Paper:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def spki(self) -> bytes:
        return self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def private(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def tlsa(self, usage: int, selector: int = 1, matching: int = 1) -> Tlsa:
        """Return the record that names it."""
        octets = self.spki if selector else self.der
        digests = {1: lambda: sha256(octets).digest(), 2: lambda: sha512(octets).digest()}
        return Tlsa(usage, selector, matching, digests.get(matching, lambda: octets)())


def paper(
    *names: str,
    issuer: Paper | None = None,
    authority: bool = False,
    common: str = "",
    key: Key | None = None,
    begins: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=30),
    path_length: int | None = None,
    digest: Any = None,
    signs: bool = True,
    uses: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.SERVER_AUTH,),
    critical: bool = False,
    permitted: Sequence[x509.GeneralName] | None = None,
    excluded: Sequence[x509.GeneralName] | None = None,
    more: Sequence[x509.GeneralName] = (),
    subject: x509.Name | None = None,
) -> Paper:
    """Make a certificate, signed by itself without `issuer`.

    `critical`: with an extension nobody knows; `more`: names of other kinds; `subject`: instead of a common name.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    named = x509.NameAttribute(NameOID.COMMON_NAME, common or (names[0] if names else "nobody"))
    subject = subject or x509.Name([named])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    if names or more:
        alternative = x509.SubjectAlternativeName([*(x509.DNSName(name) for name in names), *more])
        builder = builder.add_extension(alternative, False)
    if permitted or excluded:
        builder = builder.add_extension(x509.NameConstraints(permitted, excluded), True)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(True, path_length), True)
        usage = x509.KeyUsage(True, False, False, False, False, signs, True, False, False)
        builder = builder.add_extension(usage, True)
    else:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), False)
    if critical:
        odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
        builder = builder.add_extension(odd, True)
    signer = issuer.key if issuer else key
    plain = isinstance(signer, ed25519.Ed25519PrivateKey)
    return Paper(builder.sign(signer, None if plain else digest or hashes.SHA256()), key)


def serving(folder: Path, leaf: Paper, *above: Paper) -> ssl.SSLContext:
    """Return a server's context that shows `leaf` and what is above it."""
    file = folder / "served.pem"
    file.write_bytes(leaf.pem + b"".join(each.pem for each in above) + leaf.private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
