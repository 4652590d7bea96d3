"""Encryption at rest: AES-256-GCM in the framing of OpenSMTPD's queue, under one key, or several while they change.

    0x01 | 12 octets of random IV | ciphertext | 16 octets of tag    (smtpd's crypto.c; no associated data)

A key is 32 characters whose octets *are* the key: the hexadecimal text of `openssl rand -hex 16` is not decoded, as
smtpd does not. A key file has one key a line: the first encrypts, all of them decrypt, so that a new one is put on
top and the old one taken out when nothing is under it any more (`gatepost queue key rotate`).
"""

import hmac
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION: Final = b"\x01"
KEY_CHARACTERS: Final = 32
IV_OCTETS: Final = 12
TAG_OCTETS: Final = 16
OVERHEAD: Final = len(VERSION) + IV_OCTETS + TAG_OCTETS
FILE_MAX: Final = 64 << 10
"""Octets of a key file: more is some other file."""
KEYS_MAX: Final = 16


class BadKeyFile(ValueError):
    """A key file that cannot be used; the text names file, line and remedy."""


class Unreadable(Exception):
    """No key here opens it: it is damaged, or encrypted under a key that is not in the file."""


class Key:
    """One key. `name` tells it from others without telling anything of it: 16 hexadecimal digits."""

    __slots__ = ("_aead", "_octets", "name")

    def __init__(self, octets: bytes) -> None:
        if len(octets) != KEY_CHARACTERS:
            raise ValueError(f"a key is exactly {KEY_CHARACTERS} characters, this one has {len(octets)}")
        self._octets = octets
        self._aead = AESGCM(octets)
        self.name = hmac.digest(octets, b"gatepost queue key", "sha256").hex()[:16]

    def seal(self, content: bytes) -> bytes:
        """Encrypt under a fresh IV."""
        iv = os.urandom(IV_OCTETS)
        return VERSION + iv + self._aead.encrypt(iv, content, None)

    def seal_alike(self, content: bytes) -> bytes:
        """Encrypt so that equal texts become equal frames: the IV is a digest of the text under the key."""
        iv = hmac.digest(self._octets, b"alike\0" + content, "sha256")[:IV_OCTETS]
        return VERSION + iv + self._aead.encrypt(iv, content, None)

    def open(self, frame: bytes) -> bytes:
        """Decrypt what `seal` made; raises Unreadable."""
        if frame[:1] != VERSION or len(frame) < OVERHEAD:
            raise Unreadable("it is cut off, or was not encrypted")
        try:
            return self._aead.decrypt(frame[1 : 1 + IV_OCTETS], frame[1 + IV_OCTETS :], None)
        except InvalidTag:
            raise Unreadable(f"it is damaged, or not encrypted under key {self.name}") from None

    def mark(self, digest: bytes) -> bytes:
        """Return what stands for a digest: it tells nothing of the text to who has not the key."""
        return hmac.digest(self._octets, digest, "sha256")

    def sealing(self, sink: "Sink") -> "Sealing":
        """Return what encrypts a long text piece by piece on its way to `sink`."""
        return Sealing(self._octets, sink)


class Sink(Protocol):
    """Where octets go: a file."""

    def write(self, octets: bytes, /) -> int:
        """Take octets."""
        ...


class Sealing:
    """One frame that is written in pieces; `finish` writes its tag."""

    def __init__(self, key: bytes, sink: Sink) -> None:
        iv = os.urandom(IV_OCTETS)
        self._sink = sink
        self._encryptor = Cipher(algorithms.AES(key), modes.GCM(iv)).encryptor()
        sink.write(VERSION + iv)

    def write(self, octets: bytes, /) -> int:
        """Encrypt a piece."""
        self._sink.write(self._encryptor.update(octets))
        return len(octets)

    def finish(self) -> None:
        """End the frame."""
        self._sink.write(self._encryptor.finalize() + self._encryptor.tag)


class Keys:
    """The keys of one file, perhaps none: then everything is kept in clear."""

    __slots__ = ("_by_name", "first")

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self.first = keys[0] if keys else None
        """Encrypts; None where nothing is encrypted."""
        self._by_name = {key.name: key for key in keys}

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all keys, that of the first at first."""
        return tuple(self._by_name)

    def key(self, name: str) -> Key | None:
        """Return the key of that name."""
        return self._by_name.get(name)

    def under(self, name: str) -> "Keys":
        """Return the same keys with another one to encrypt under; "" encrypts nothing."""
        other = Keys(tuple(self._by_name.values()))
        other.first = self._by_name[name] if name else None
        return other

    def open(self, frame: bytes) -> bytes:
        """Decrypt under whichever key fits; raises Unreadable."""
        return self.opened(frame)[1]

    def opened(self, frame: bytes) -> tuple[Key, bytes]:
        """Return the key that fits and what it opens; raises Unreadable."""
        for key in self._by_name.values():
            try:
                return key, key.open(frame)
            except Unreadable:
                continue
        raise Unreadable("it is damaged, or encrypted under a key that is not in the key file")


NO_KEYS: Final = Keys()


def read_keys(path: Path) -> Keys:
    """Read a key file; raises BadKeyFile."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                why = f"others than its owner may use it (mode {stat.S_IMODE(mode):04o})"
                raise BadKeyFile(f"{path}: {why}: chmod 600 {path}")
            text = file.read(FILE_MAX + 1)
    except FileNotFoundError:
        raise BadKeyFile(f"{path}: there is no such file: gatepost queue key new -o {path}") from None
    except OSError as wrong:
        raise BadKeyFile(f"{path}: it cannot be read: {wrong.strerror}: it must be the server's user's") from wrong
    return Keys(_keys(path, text))


def new_key() -> str:
    """Return a fresh key, as `openssl rand -hex 16` would."""
    return os.urandom(KEY_CHARACTERS // 2).hex()


def _keys(path: Path, text: bytes) -> Sequence[Key]:
    """Read the lines of a key file; what begins with # and empty ones are for people."""
    found: dict[str, Key] = {}
    if len(text) > FILE_MAX:
        raise BadKeyFile(f"{path}: it has more than {FILE_MAX} octets: this is no key file")
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if not line or (line.startswith(b"#") and len(line) != KEY_CHARACTERS):
            continue
        try:
            key = Key(line)
        except ValueError as wrong:
            remedy = "write one key a line, without blanks around it; gatepost queue key new makes one"
            raise BadKeyFile(f"{path}:{number}: {wrong}: {remedy}") from None
        if key.name in found:
            raise BadKeyFile(f"{path}:{number}: this key stands there twice: take one line out")
        found[key.name] = key
    if not found:
        raise BadKeyFile(f"{path}: there is no key in it: gatepost queue key new makes one")
    if len(found) > KEYS_MAX:
        raise BadKeyFile(f"{path}: there are more than {KEYS_MAX} keys in it: take out those that are out of use")
    return tuple(found.values())
