"""AES-GCM written from its definition (NIST SP 800-38D) over the bare block cipher: what frames are held against.

Only for IVs of 12 octets and without associated data, which is what OpenSMTPD's queue has.
"""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_POLYNOMIAL = 0xE1 << 120


def decrypt(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    """Return the text; AssertionError where the tag does not fit."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update
    hash_key = int.from_bytes(block(bytes(16)))
    pieces = [ciphertext[at : at + 16] for at in range(0, len(ciphertext), 16)]
    y = 0
    for piece in (*pieces, (len(ciphertext) * 8).to_bytes(16)):
        y = _times(y ^ int.from_bytes(piece.ljust(16, b"\0")), hash_key)
    masks = (block(iv + counter.to_bytes(4)) for counter in range(1, len(pieces) + 2))
    assert _xor(next(masks), y.to_bytes(16)) == tag
    return b"".join(_xor(mask, piece) for mask, piece in zip(masks, pieces, strict=True))


def _times(x: int, y: int) -> int:
    """Multiply in GF(2^128), bits from the left (§6.3)."""
    z = 0
    for at in range(127, -1, -1):
        if x >> at & 1:
            z ^= y
        y = y >> 1 ^ (_POLYNOMIAL if y & 1 else 0)
    return z


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(one, other, strict=False))
