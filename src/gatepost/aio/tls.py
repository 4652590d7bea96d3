"""Certificates and TLS contexts, as Mozilla's "intermediate" has them, AEAD with forward secrecy only.

A `TlsHolder` keeps the server's contexts. What it reads it checks first: that key and certificate belong together,
that the certificate is valid now, that nothing is cut off. A pair that fails is refused with a sentence for the
operator, and the contexts that serve are kept.
"""

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from gatepost.aio.tunnel import ServedObject
from gatepost.base.address import fold_domain
from gatepost.base.clock import MICROSECONDS, Instant

# TLS 1.2 suites; the stock context would still offer ECDHE with CBC. TLS 1.3 has AEAD only.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
SELF_SIGNED_DAYS: Final = 3650
FILE_MAX: Final = 1_048_576  # octets of a PEM file


class TlsUnusable(ValueError):
    """A certificate or key that cannot serve; the text tells the operator which and why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of one certificate: the chain, leaf first, and its private key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Clients:
    """Whose certificates clients may show: signed by `authorities`, a PEM file. One that does not hold ends the
    handshake; none at all only where it is `required`."""

    authorities: Path
    required: bool


@dataclass(frozen=True, slots=True)
class _Served:
    names: tuple[str, ...]
    expires: datetime
    chain: bytes
    key: bytes


class TlsHolder:
    """The contexts of a listener, by the name the client asks for; the first pair serves when none fits.

    `context` may change at `reload` and `rotate`: take it anew for each connection.
    """

    def __init__(self, pairs: Sequence[Pair], now: Instant, clients: Clients | None = None) -> None:
        """Read `pairs`; raises TlsUnusable. With `clients` their certificates are asked for."""
        self._pairs = tuple(pairs)
        self._clients = clients
        self._authorities = ""
        self._served: tuple[_Served, ...] = ()
        self._context: ssl.SSLContext
        self._by_name: dict[str, ssl.SSLContext] = {}
        self.reload(now)

    @property
    def context(self) -> ssl.SSLContext:
        """The context to serve the next connection with."""
        return self._context

    @property
    def expires(self) -> datetime:
        """The end of the first certificate to expire, for the alarms."""
        return min(served.expires for served in self._served)

    def reload(self, now: Instant, pairs: Sequence[Pair] | None = None) -> None:
        """Read the files again, or other files; raises TlsUnusable and then changes nothing."""
        pairs = self._pairs if pairs is None else tuple(pairs)
        if not pairs:
            raise TlsUnusable("no certificate is configured")
        moment = datetime.fromtimestamp(now / MICROSECONDS, UTC)
        served = tuple(_examine(pair, moment) for pair in pairs)
        if self._clients is not None:
            self._authorities = _authorities(self._clients.authorities)
        self._pairs, self._served = tuple(pairs), served
        self._serve()

    def rotate(self) -> None:
        """Make new contexts of what was read, with new session ticket keys; do it a few times a day."""
        self._serve()

    def asking(self, clients: Clients, now: Instant) -> "TlsHolder":
        """Return another holder of the same pairs that asks for the certificates of clients; raises TlsUnusable."""
        return TlsHolder(self._pairs, now, clients)

    def _serve(self) -> None:
        contexts = [self._made(each) for each in self._served]
        by_name: dict[str, ssl.SSLContext] = {}
        for served, context in zip(self._served, contexts, strict=True):
            for name in served.names:
                by_name.setdefault(name, context)
        self._by_name = by_name
        self._context = contexts[0]
        for context in contexts:
            context.sni_callback = self._named

    def _made(self, served: _Served) -> ssl.SSLContext:
        context = _server_context(served)
        if self._clients is not None:
            context.load_verify_locations(cadata=self._authorities)
            context.verify_mode = ssl.CERT_REQUIRED if self._clients.required else ssl.CERT_OPTIONAL
        return context

    def _named(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if not name:
            return
        name = fold_domain(name)
        if isinstance(connection, ServedObject):
            connection.server_name = name
        context = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
        if context is not None:
            connection.context = context


def self_signed(names: Sequence[str], now: Instant) -> tuple[bytes, bytes]:
    """Return (certificate, key) as PEM for DNS names and addresses: ECDSA on P-256, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    moment = datetime.fromtimestamp(now / MICROSECONDS, UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(hours=1))
        .not_valid_after(moment + timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def write_pair(pair: Pair, certificate: bytes, key: bytes) -> None:
    """Write a pair beside its final place and move it there, key first, readable by the owner alone."""
    for path, octets, mode in ((pair.key, key, 0o600), (pair.certificate, certificate, 0o644)):
        fresh = path.with_name(path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


def client_context(verify: bool, *, authorities: Path | None = None) -> ssl.SSLContext:
    """Return a context for talking to a server.

    With `verify` its chain and name must hold (against the system's authorities or `authorities`) and the suites
    are the modern ones. Without, any certificate does and TLS 1.2's older suites are allowed: opportunistic TLS
    would otherwise fall back to no TLS at all (RFC 7435 §3).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.set_ciphers(CIPHERS)
    if authorities is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(authorities)
    return context


def _server_context(served: _Served) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = ServedObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | getattr(ssl, "OP_PRIORITIZE_CHACHA", 0)
    # OpenSSL reads files only: give it exactly the octets that were examined, from memory.
    with _memory_file(served.chain) as chain, _memory_file(served.key) as key:
        context.load_cert_chain(chain, key)
    return context


@contextmanager
def _memory_file(octets: bytes) -> Iterator[str]:
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, octets)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _examine(pair: Pair, moment: datetime) -> _Served:
    chain, key = _read(pair.certificate), _read(pair.key)
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise TlsUnusable(f"{pair.certificate}: not a PEM certificate, or cut off: {error}") from error
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:  # TypeError: it asks for a passphrase
        raise TlsUnusable(f"{pair.key}: not an unencrypted PEM private key, or cut off: {error}") from error
    if chain.count(b"-----BEGIN CERTIFICATE-----") != len(certificates):
        raise TlsUnusable(f"{pair.certificate}: the last certificate of the chain is cut off")
    leaf = certificates[0]
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*encoding) != leaf.public_key().public_bytes(*encoding):
        raise TlsUnusable(f"{pair.key}: does not belong to the certificate in {pair.certificate}")
    if leaf.not_valid_after_utc <= moment:
        raise TlsUnusable(f"{pair.certificate}: expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if leaf.not_valid_before_utc > moment:
        raise TlsUnusable(f"{pair.certificate}: not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    served = _Served(_names(leaf), leaf.not_valid_after_utc, chain, key)
    try:
        _server_context(served)
    except ssl.SSLError as error:
        raise TlsUnusable(f"{pair.certificate}: OpenSSL refuses it: {error.reason or error}") from error
    return served


def _authorities(path: Path) -> str:
    """Read the authorities of clients; raises TlsUnusable."""
    octets = _read(path)
    try:
        x509.load_pem_x509_certificates(octets)
        return octets.decode("ascii")
    except ValueError as error:
        raise TlsUnusable(f"{path}: no PEM certificates, or cut off: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_MAX + 1)
    except OSError as error:
        raise TlsUnusable(f"{path}: cannot be read: {error.strerror}") from error
    if len(octets) > FILE_MAX:
        raise TlsUnusable(f"{path}: too big for a PEM file")
    return octets


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(fold_domain(name) for name in alternative.get_values_for_type(x509.DNSName))


def _general_name(name: str) -> x509.GeneralName:
    try:
        address = ip_address(name)
    except ValueError:
        return x509.DNSName(fold_domain(name))
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return x509.IPAddress(address)
