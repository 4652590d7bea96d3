"""TLSA records, and what they say about the certificates of a server (RFC 6698, RFC 7671, RFC 7672), sans-IO.

    all records --usable--> usages 2 and 3, well-formed --strongest--> the best digest of each --prove--> the one
                                                                                        that holds, or Unproven

DANE-EE (3) is the server's own certificate or key: neither its names nor its dates count (RFC 7672 §3.1.1).
DANE-TA (2) is an authority above it: signatures up to there, dates, name constraints and one of the reference
names must hold (§3.1.2). PKIX-TA (0) and PKIX-EE (1) are unusable for SMTP (§3.1.3).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from hashlib import sha256, sha512
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from gatepost.base.address import fold_domain
from gatepost.codec.constraints import Breach, Constraints

CHAIN_MAX: Final = 16  # certificates of a server that are looked at
SIGNATURES_MAX: Final = 32  # signatures checked for one server: bounds what a chain made for it can cost
RECORDS_MAX: Final = 32  # usable records of one server that are compared
_DIGEST_SIZE: Final = {1: 32, 2: 64}
_WEAK: Final = frozenset(("md5", "sha1"))
_CHECKED: Final = frozenset(
    (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.NAME_CONSTRAINTS,
    )
)
"""Critical extensions that do not make a certificate unusable."""


_BROKEN: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What a certificate of a stranger may raise when it, or something inside it, is looked at."""


class Usage(IntEnum):
    """What a record's data is (RFC 6698 §2.1.1, RFC 7218)."""

    PKIX_TA = 0
    PKIX_EE = 1
    DANE_TA = 2
    DANE_EE = 3


class Selector(IntEnum):
    """Which part of a certificate is compared (RFC 6698 §2.1.2)."""

    CERTIFICATE = 0
    PUBLIC_KEY = 1


class Matching(IntEnum):
    """How it is compared (RFC 6698 §2.1.3)."""

    FULL = 0
    SHA2_256 = 1
    SHA2_512 = 2


@dataclass(frozen=True, slots=True)
class Tlsa:
    """A TLSA record (RFC 6698 §2.1); its numbers may be any octet."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        """Return it as a zone file has it, long data cut."""
        data = self.data.hex()
        return f"{self.usage} {self.selector} {self.matching} {data if len(data) <= 24 else data[:16] + '…'}"


class Unproven(ValueError):
    """The server's certificates do not fit the records; the text says why."""


def usable(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Return the records that can authenticate an SMTP server (RFC 7672 §3.1), at most RECORDS_MAX."""
    return tuple(record for record in records if _usable(record))[:RECORDS_MAX]


def strongest(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """Leave out those with a weaker digest than another of the same usage and selector (RFC 7671 §9)."""
    best: dict[tuple[int, int], int] = {}
    for record in records:
        kind = (record.usage, record.selector)
        best[kind] = max(best.get(kind, 0), record.matching)
    return tuple(
        record for record in records if record.matching in (Matching.FULL, best[record.usage, record.selector])
    )


def prove(records: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[str], now: datetime) -> Tlsa:
    """Return the record that the chain (DER, leaf first, as the server sent it) fits; raises Unproven.

    `records` are usable ones; `names` are the reference identifiers for DANE-TA (RFC 7672 §3.2.2).
    """
    if not chain:
        raise Unproven("the server showed no certificate")
    compared = strongest(records)
    for record in compared:
        if record.usage == Usage.DANE_EE and _fits(record, chain[0]):
            return record
    anchors = tuple(record for record in compared if record.usage == Usage.DANE_TA)
    if not anchors:
        raise Unproven("the server's certificate fits none of the TLSA records")
    return _Climb(anchors, chain[:CHAIN_MAX], now).prove(names)


def matches_name(presented: str, reference: str) -> bool:
    """Tell whether a certificate's DNS name covers `reference`.

    A wildcard is a whole leftmost label and stands for exactly one (RFC 6125 §6.4.3, RFC 7672 §3.2.3).
    """
    presented, reference = fold_domain(presented), fold_domain(reference)
    if presented == reference:
        return True
    label, _, parent = reference.partition(".")
    return presented.startswith("*.") and bool(label) and "." in parent and presented[2:] == parent


def public_key_octets(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a DER certificate, octet by octet as it stands; ValueError when broken."""
    _, at, _ = _element(certificate, 0)  # Certificate
    _, at, _ = _element(certificate, at)  # TBSCertificate (RFC 5280 §4.1)
    kind, _, following = _element(certificate, at)
    if kind == 0xA0:  # [0] version
        at = following
    for _ in range(5):  # serialNumber, signature, issuer, validity, subject
        _, _, at = _element(certificate, at)
    _, _, end = _element(certificate, at)
    return certificate[at:end]


class _Climb:
    """The way up from a server's certificate to an authority that a record names."""

    def __init__(self, anchors: Sequence[Tlsa], chain: Sequence[bytes], now: datetime) -> None:
        self._anchors = anchors
        self._now = now
        self._left = SIGNATURES_MAX
        self._leaf = _certificate(chain[0])
        given = [record.data for record in anchors if (record.selector, record.matching) == (0, 0)]
        self._above = [certificate for der in (*chain[1:], *given) if (certificate := _loaded(der)) is not None]
        self._keys = [record for record in anchors if (record.selector, record.matching) == (1, 0)]
        self._constraints = Constraints(())
        self._breach = ""

    def prove(self, names: Sequence[str]) -> Tlsa:
        """Return the record at the end of the way, when the server's own certificate is good for `names`."""
        try:
            presented = _presented(self._leaf)
            matching = [each for each in names if any(matches_name(name, each) for name in presented)]
            self._constraints = Constraints(matching)
            record = self._from((self._leaf,))
            if record is None:
                why = self._breach and f": {self._breach}"
                raise Unproven(f"no certificate above the server's fits a TLSA record (usage 2){why}")
            if (wrong := _unfit(self._leaf, self._now)) is not None:
                raise Unproven(f"the server's certificate {wrong}")
            if not _may_serve(self._leaf):
                raise Unproven("the server's certificate is not one for servers")
        except _BROKEN as error:  # what it shows is broken further inside
            raise error if isinstance(error, Unproven) else Unproven(f"broken certificate: {error}") from error
        if not matching:
            raise Unproven(f"the certificate is for {', '.join(presented[:5]) or 'no name'}, not {names[0]}")
        return record

    def _from(self, way: tuple[x509.Certificate, ...]) -> Tlsa | None:
        """Return the record that the way up from the last of `way` (the server's certificate first) ends in."""
        certificate = way[-1]
        for record in self._keys:
            if self._afford() and _signed_with(certificate, record.data):
                return record
        for issuer in self._above:
            if issuer in way or issuer.subject != certificate.issuer or not self._afford():
                continue
            if not self._may_vouch(issuer, way):
                continue
            der = issuer.public_bytes(Encoding.DER)
            found = next((record for record in self._anchors if _fits(record, der)), None)
            found = found or self._from((*way, issuer))
            if found is not None:
                return found
        return None

    def _may_vouch(self, issuer: x509.Certificate, way: tuple[x509.Certificate, ...]) -> bool:
        """Tell whether `issuer` signed the last of `way`, and may sign it and all that is below."""
        if not _signed_by(way[-1], issuer) or not _may_sign(issuer, len(way) - 1, self._now):
            return False
        try:
            self._constraints.check(issuer, way)
        except Breach as breach:
            self._breach = str(breach)
            return False
        return True

    def _afford(self) -> bool:
        self._left -= 1
        return self._left >= 0


def _usable(record: Tlsa) -> bool:
    if record.usage not in (Usage.DANE_TA, Usage.DANE_EE) or record.selector not in (0, 1):
        return False
    if record.matching in _DIGEST_SIZE:
        return len(record.data) == _DIGEST_SIZE[record.matching]
    if record.matching != Matching.FULL:
        return False
    try:
        if record.selector == Selector.CERTIFICATE:
            x509.load_der_x509_certificate(record.data)
        else:
            load_der_public_key(record.data)
    except _BROKEN:
        return False
    return True


def _fits(record: Tlsa, certificate: bytes) -> bool:
    try:
        octets = public_key_octets(certificate) if record.selector == Selector.PUBLIC_KEY else certificate
    except (ValueError, IndexError):
        return False
    match record.matching:
        case Matching.SHA2_256:
            octets = sha256(octets).digest()
        case Matching.SHA2_512:
            octets = sha512(octets).digest()
    return octets == record.data


def _certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except _BROKEN as error:
        raise Unproven(f"broken certificate: {error}") from error


def _loaded(der: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der)
    except _BROKEN:
        return None


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if _weak(certificate):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _signed_with(certificate: x509.Certificate, spki: bytes) -> bool:
    """Tell whether a bare public key (TLSA 2 1 0) made the signature."""
    if _weak(certificate):
        return False
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        key, parameters = load_der_public_key(spki), certificate.signature_algorithm_parameters
        digest = certificate.signature_hash_algorithm
        if isinstance(key, rsa.RSAPublicKey) and digest is not None:
            if not isinstance(parameters, padding.PKCS1v15 | padding.PSS):
                return False
            key.verify(signature, signed, parameters, digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(signature, signed, parameters)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _weak(certificate: x509.Certificate) -> bool:
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return True
    return digest is not None and digest.name in _WEAK


def _may_sign(authority: x509.Certificate, below: int, now: datetime) -> bool:
    """Tell whether a certificate may sign others, `below` authorities down (RFC 5280 §6.1.4 (k)-(n))."""
    try:
        if _unfit(authority, now) is not None:
            return False
        basic = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not basic.ca or (basic.path_length is not None and below > basic.path_length):
            return False
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == ExtensionOID.KEY_USAGE  # without it, all uses are allowed (RFC 5280 §4.2.1.3)
    except _BROKEN:
        return False


def _unfit(certificate: x509.Certificate, now: datetime) -> str | None:
    """Return why a certificate does not count now."""
    if certificate.not_valid_after_utc < now:
        return f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if certificate.not_valid_before_utc > now:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _CHECKED:
            return f"has a critical extension that is not understood ({extension.oid.dotted_string})"
    return None


def _may_serve(leaf: x509.Certificate) -> bool:
    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in uses or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in uses


def _presented(leaf: x509.Certificate) -> tuple[str, ...]:
    """Return a certificate's DNS names; the common name where there are none (RFC 7672 §3.2.3)."""
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    common = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return names or tuple(str(each.value) for each in common[-1:])


def _element(octets: bytes, at: int) -> tuple[int, int, int]:
    """Return (tag, start of the content, end) of the DER element at `at`; ValueError when it is cut off."""
    if at + 2 > len(octets):
        raise ValueError("a cut certificate")
    size, start = octets[at + 1], at + 2
    if size >= 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4:
            raise ValueError("a length that DER does not have")
        size, start = int.from_bytes(octets[start : start + count]), start + count
    if start + size > len(octets):
        raise ValueError("a cut certificate")
    return octets[at], start, start + size
