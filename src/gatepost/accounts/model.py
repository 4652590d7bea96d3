"""The values that describe who is here."""

from dataclasses import dataclass
from typing import Final, NewType

from gatepost.base.address import Address
from gatepost.base.clock import Instant

AccountId = NewType("AccountId", int)
"""63 bits, never used again."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much an account may keep; 0 stands for no limit."""

    octets: int = 0
    messages: int = 0


NO_QUOTA: Final = Quota()


@dataclass(frozen=True, slots=True)
class Account:
    """One who can log in. `address` is the key form: ASCII lower case, the domain in A-labels."""

    id: AccountId
    address: str
    admin: bool
    enabled: bool
    quota: Quota
    created_at: Instant


@dataclass(frozen=True, slots=True)
class Alias:
    """Mail for `address` goes to `targets`; `@domain` is the catch-all of a domain."""

    address: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain whose mail is for us; `name` in lower-case A-labels."""

    name: str
    created_at: Instant


# What an address turns out to be.


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Mail for one account; `detail` is what stood behind the + (RFC 5233), as written."""

    account: AccountId
    address: str
    detail: str = ""
    quota: Quota = NO_QUOTA


@dataclass(frozen=True, slots=True)
class Forward:
    """Mail for other addresses, which may be ours or anybody's."""

    targets: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """The domain is ours, nobody there has this address: 550 5.1.1."""


@dataclass(frozen=True, slots=True)
class NotOurs:
    """The domain is not ours."""


Found = Mailbox | Forward | Unknown | NotOurs


class AccountRefusal(Exception):
    """A verb that cannot be done; the text is for the operator."""


class Overloaded(Exception):
    """Too many passwords wait to be checked: 454 4.7.0, [UNAVAILABLE]."""
