"""Passwords: argon2id in a pool of threads with a bounded queue, and the same work for users who do not exist."""

import unicodedata
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from gatepost.accounts.model import Overloaded
from gatepost.accounts.settings import AccountSettings
from gatepost.aio.offload import Overfull, ThreadPool

P = ParamSpec("P")
T = TypeVar("T")

PASSWORD_OCTETS_MAX: Final = 1024
"""Longer ones are wrong without a look: hashing them would be work for a stranger."""

_NOBODYS_PASSWORD: Final = "the password of somebody who does not exist"  # noqa: S105


class Hasher:
    """Hashes and checks passwords off the loop; at most `password_threads` at once, others wait in line."""

    def __init__(self, settings: AccountSettings | None = None) -> None:
        given = settings or AccountSettings()
        self._argon2 = PasswordHasher(
            time_cost=given.password_rounds,
            memory_cost=given.password_memory // 1024,
            parallelism=1,
            hash_len=32,
            salt_len=16,
            type=Type.ID,
        )
        self._pool = ThreadPool(threads=given.password_threads, waiting=given.password_queue, name="password")
        self._nobody = self._argon2.hash(_NOBODYS_PASSWORD)

    async def hash(self, password: bytes) -> str:
        """Return the PHC string of a new password.

        Raises ValueError for one that is empty or above 1,024 octets, Overloaded.
        """
        prepared = prepare(password)
        if not 0 < len(prepared) <= PASSWORD_OCTETS_MAX:
            raise ValueError(f"a password has 1 to {PASSWORD_OCTETS_MAX} octets")
        return await self._run(self._hash, prepared)

    async def matches(self, kept: str | None, password: bytes) -> bool:
        """Tell whether `password` is the one of `kept`; None, for nobody, takes as long and is False.

        Raises Overloaded.
        """
        if len(password) > PASSWORD_OCTETS_MAX:
            return False
        return await self._run(self._matches, kept, prepare(password))

    def outdated(self, kept: str) -> bool:
        """Tell whether a PHC string was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(kept)

    def close(self) -> None:
        """Let running checks end."""
        self._pool.close()

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._pool.run(function, *args, **kwargs)
        except Overfull as full:
            raise Overloaded(str(full)) from None

    def _hash(self, password: bytes) -> str:
        return self._argon2.hash(password)

    def _matches(self, kept: str | None, password: bytes) -> bool:
        return self._check(self._nobody if kept is None else kept, password) and kept is not None

    def _check(self, kept: str, password: bytes) -> bool:
        try:
            return self._argon2.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False


def prepare(password: bytes) -> bytes:
    """Return the octets that are hashed: RFC 8265 §4.2 (OpaqueString) as far as clients differ.

    Composed and decomposed letters are one, and every space is the ASCII one. What is not UTF-8 stays as it is.
    """
    if password.isascii():
        return password
    try:
        text = password.decode("utf-8")
    except UnicodeDecodeError:
        return password
    spaced = "".join(" " if unicodedata.category(each) == "Zs" else each for each in text)
    return unicodedata.normalize("NFC", spaced).encode("utf-8")
