"""DKIM keys: made here, kept in the database under AES-256-GCM with the key file's key, published as TXT.

A stored private key is 0x01, a 12-octet nonce, then ciphertext and tag over its PKCS#8 DER, with
`dkim:DOMAIN:SELECTOR` as associated data: a row that was moved to another domain does not open.
"""

import os
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkstemp
from typing import Final, NamedTuple, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from gatepost.base.clock import Instant
from gatepost.db.unit import Database, Step, Value
from gatepost.judge.seal import SigningKey
from gatepost.judge.sql import ADD_KEY, KEYS_OF

RSA_BITS: Final = 2048
RSA_BITS_MIN: Final = 1024
RSA_BITS_MAX: Final = 4096
KEY_FILE_OCTETS: Final = 32
DOMAINS_KNOWN: Final = 10_000  # with keys or without; what more authors write as is asked for again
TOPIC: Final = "dkim"
PrivateKey = RSAPrivateKey | Ed25519PrivateKey
_VERSION: Final = b"\x01"
_NONCE_OCTETS: Final = 12


class KeyFileWrong(Exception):
    """The key file is missing, malformed or not the one that the keys were stored under."""


class KeyFile:
    """The secret that private keys are stored under: 32 octets in a file of mode 0600."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_FILE_OCTETS:
            raise KeyFileWrong(f"the key file has {len(secret)} octets, not {KEY_FILE_OCTETS}")
        self._cipher = AESGCM(secret)

    @classmethod
    def open(cls, path: Path) -> "KeyFile":
        """Read `path`; made with fresh random octets where there is none."""
        if not path.exists():
            _make_key_file(path)
        return cls(path.read_bytes())

    def close_up(self, content: bytes, context: str) -> bytes:
        """Encrypt; `context` must be the same when it is opened."""
        nonce = os.urandom(_NONCE_OCTETS)
        return _VERSION + nonce + self._cipher.encrypt(nonce, content, context.encode())

    def open_up(self, stored: bytes, context: str) -> bytes:
        """Decrypt what `close_up` made; KeyFileWrong where this is not its key."""
        if stored[:1] != _VERSION:
            raise KeyFileWrong("a stored key has a version that is not known here")
        nonce, text = stored[1 : 1 + _NONCE_OCTETS], stored[1 + _NONCE_OCTETS :]
        try:
            return self._cipher.decrypt(nonce, text, context.encode())
        except InvalidTag:
            raise KeyFileWrong("this is not the key file that the DKIM keys were stored under") from None


class StoredKeys:
    """Keys by domain, read from the database once and again after each notice."""

    def __init__(self, database: Database, key_file: KeyFile) -> None:
        self._database = database
        self._key_file = key_file
        self._known: dict[str, tuple[_Turn, ...]] = {}
        database.listen(TOPIC, lambda _: self._known.clear())

    async def of(self, domain: str, now: Instant) -> Sequence[SigningKey]:
        """Return the keys of `domain` whose turn it is, oldest first."""
        known = self._known.get(domain)
        if known is None:
            rows = await self._database.read(KEYS_OF, {"domain": domain})
            known = tuple(
                _Turn(
                    self._opened(domain, str(row[0]), str(row[1]), _octets(row[2])),
                    cast(int, row[3]),
                    cast("int | None", row[4]),
                )
                for row in rows
            )
            if len(self._known) >= DOMAINS_KNOWN:
                self._known.clear()
            self._known[domain] = known
        return [each.key for each in known if each.begins <= now and (each.ends is None or now < each.ends)]

    def _opened(self, domain: str, selector: str, algorithm: str, stored: bytes) -> SigningKey:
        private = load_der_private_key(self._key_file.open_up(stored, _context(domain, selector)), None)
        assert isinstance(private, RSAPrivateKey | Ed25519PrivateKey)
        return SigningKey(domain, selector, algorithm, private)


class _Turn(NamedTuple):
    """When a key signs."""

    key: SigningKey
    begins: int
    ends: int | None


def _make_key_file(path: Path) -> None:
    """Put fresh random octets at `path`, whole and on the disk; of several that do so the first one stays."""
    handle, fresh = mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    with os.fdopen(handle, "wb") as file:
        file.write(os.urandom(KEY_FILE_OCTETS))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    Path(fresh).unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def generate(algorithm: str, bits: int = RSA_BITS) -> RSAPrivateKey | Ed25519PrivateKey:
    """Make a private key for rsa-sha256 (of so many bits) or ed25519-sha256."""
    if algorithm == "ed25519-sha256":
        return Ed25519PrivateKey.generate()
    return generate_private_key(65537, bits)


def read_pem(text: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    """Read an existing private key (`default.private` of dkim-genkey); ValueError where it is none of ours."""
    try:
        private = load_pem_private_key(text, None)
    except TypeError as wrong:
        raise ValueError("it has a passphrase: take that off first (openssl pkey)") from wrong
    if isinstance(private, RSAPrivateKey) and not RSA_BITS_MIN <= private.key_size <= RSA_BITS_MAX:
        raise ValueError(f"it has {private.key_size} bits; RFC 8301 has {RSA_BITS_MIN} to {RSA_BITS_MAX}")
    if not isinstance(private, RSAPrivateKey | Ed25519PrivateKey):
        raise ValueError("it is neither an RSA nor an Ed25519 key")
    return private


def algorithm_of(private: RSAPrivateKey | Ed25519PrivateKey) -> str:
    """Return the signing algorithm that a key is for."""
    return "ed25519-sha256" if isinstance(private, Ed25519PrivateKey) else "rsa-sha256"


def add_step(
    key_file: KeyFile,
    domain: str,
    selector: str,
    private: RSAPrivateKey | Ed25519PrivateKey,
    now: Instant,
    *,
    waits: bool = False,
) -> Step:
    """Return the step that stores a key, which signs from now on, or `waits` to be seen; notify TOPIC after it."""
    content = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    stored = key_file.close_up(content, _context(domain, selector))
    params: dict[str, Value] = {
        "domain": domain,
        "selector": selector,
        "algorithm": algorithm_of(private),
        "private": stored,
        "record": record_text(private),
        "made_at": now,
        "begins_at": None if waits else now,
    }
    return Step(ADD_KEY, params)


def record_text(private: RSAPrivateKey | Ed25519PrivateKey) -> str:
    """Return the TXT record's text that publishes the key (RFC 6376 §3.6.1, RFC 8463 §4)."""
    if isinstance(private, Ed25519PrivateKey):
        return "v=DKIM1; k=ed25519; p=" + b64encode(private.public_key().public_bytes_raw()).decode()
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "v=DKIM1; k=rsa; p=" + b64encode(public).decode()


def _context(domain: str, selector: str) -> str:
    return f"dkim:{domain}:{selector}"


def _octets(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
