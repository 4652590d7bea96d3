"""The Sender Rewriting Scheme: an envelope sender that leads back through us, so that a forward passes SPF.

    joe@far.example                    -> SRS0=hash=day=far.example=joe@us.example
    SRS0=h=d=far.example=joe@b.example -> SRS1=hash=b.example==h=d=far.example=joe@us.example

The format and the hash are those of Mail::SRS (Shevek, 2003), libsrs2 and postsrsd: HMAC-SHA1 over the rest in
lower case, of which four base64 digits are kept; `day` counts days modulo 1024 in two base32 digits. Addresses are
case-insensitive on their way, so the hash is compared without regard to case, as those do.
"""

import hmac
import re
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha1
from typing import Final

from gatepost.base.address import Address

HASH_DIGITS: Final = 4
DAYS_CYCLE: Final = 1024
DAY_S: Final = 86_400
ADDRESS_MAX: Final = 254  # RFC 5321 §4.5.3.1.3, without the brackets
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SCHEME: Final = re.compile(r"SRS([01])([=+-])", re.IGNORECASE)


class NotOurs(ValueError):
    """A rewritten address that we did not make: its hash is wrong, or it makes no sense."""


class Expired(ValueError):
    """A rewritten address of ours that is too old."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The keys: the first makes hashes, all of them check."""

    keys: tuple[bytes, ...]

    def made(self, text: str) -> str:
        """Return the hash of a text."""
        return _hash(self.keys[0], text)

    def holds(self, digits: str, text: str) -> bool:
        """Tell whether one of the keys made these digits."""
        given = digits.lower().encode("ascii", "replace")
        return len(digits) >= HASH_DIGITS and any(
            hmac.compare_digest(given[:HASH_DIGITS], _hash(key, text).lower().encode()) for key in self.keys
        )


def rewritten(address: Address) -> bool:
    """Tell whether an address has the form of a rewritten one, whoever made it."""
    return _SCHEME.match(address.local) is not None


def forward(address: Address, domain: str, secrets: Secrets, day: int) -> Address | None:
    """Return the sender of a mail that is sent on from `domain`; None where it would be too long.

    `day` is the number of days since 1970.
    """
    found = _SCHEME.match(address.local)
    rest = address.local[5:] if found is not None else ""  # behind SRS0 and its separator
    if found is not None and found[1] == "0":
        host, user = address.domain, address.local[4:]
        local = f"SRS1={secrets.made(host + user)}={host}={user}"
    elif found is not None and rest.count("=") >= 2:
        _, host, user = rest.split("=", 2)
        local = f"SRS1={secrets.made(host + user)}={host}={user}"
    else:
        stamp = _stamp(day)
        text = stamp + address.domain + address.local
        local = f"SRS0={secrets.made(text)}={stamp}={address.domain}={address.local}"
    made = Address(local, domain)
    return made if len(str(made).encode()) <= ADDRESS_MAX else None


def reverse(address: Address, secrets: Secrets, day: int, days: int) -> Address:
    """Return whom a report to a rewritten address is for; raises NotOurs, or Expired after `days`."""
    found = _SCHEME.match(address.local)
    if found is None:
        raise NotOurs("it is no rewritten address")
    rest = address.local[5:]
    if found[1] == "1":
        digits, host, user = _parts(rest, 3)
        if not secrets.holds(digits, host + user):
            raise NotOurs("its hash is not ours")
        return Address(f"SRS0{user}", host)
    digits, stamp, host, user = _parts(rest, 4)
    if not secrets.holds(digits, stamp + host + user):
        raise NotOurs("its hash is not ours")
    age = (day - _days(stamp)) % DAYS_CYCLE
    if age > days:
        raise Expired(f"it is {age} days old")
    return Address(user, host)


def _parts(rest: str, count: int) -> list[str]:
    parts = rest.split("=", count - 1)
    if len(parts) != count or not all(parts):
        raise NotOurs("a part of it is missing")
    return parts


def _hash(key: bytes, text: str) -> str:
    return b64encode(hmac.digest(key, text.lower().encode(), sha1))[:HASH_DIGITS].decode()


def _stamp(day: int) -> str:
    return _ALPHABET[day >> 5 & 31] + _ALPHABET[day & 31]


def _days(stamp: str) -> int:
    if len(stamp) != 2 or any(digit not in _ALPHABET for digit in stamp.upper()):
        raise NotOurs("its day makes no sense")
    return _ALPHABET.index(stamp[0].upper()) << 5 | _ALPHABET.index(stamp[1].upper())
