"""The kinds of tables, and what an entry of each must look like (table(5))."""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from gatepost.policy.tables.target import read_target, runs, split_values

_DOMAIN: Final = re.compile(r"[^\s@,:]{1,255}")
_USERINFO: Final = re.compile(r"[0-9]{1,10}:[0-9]{1,10}:/[^\0]*")


class Kind(Enum):
    """What a table is for."""

    ALIASES = "aliases"
    """`user  user, user@domain`: the key is a name without a domain."""
    VIRTUAL = "virtual"
    """`user@domain  user`, also `user`, `@domain` and `@` as keys."""
    DOMAIN = "domain"
    """`example.org`, `*.example.org`"""
    CREDENTIALS = "credentials"
    """`label  user:password`, or a user and a hash."""
    NETADDR = "netaddr"
    """`192.0.2.0/24`, `2001:db8::/32`, `local`"""
    USERINFO = "userinfo"
    """`user  uid:gid:/home`"""
    MAILADDR = "mailaddr"
    """`user@domain`, `@domain`, `user`, `<>`; `*` in the domain"""
    ADDRNAME = "addrname"
    """`192.0.2.1  mx.example.org`"""
    SENDERS = "senders"
    """`user@domain  user@domain, @domain`: from which addresses a user may write; `*@*` for all"""
    SOURCE = "source"
    """`192.0.2.1`: addresses of this machine"""


MAPPINGS: Final = frozenset(
    (Kind.ALIASES, Kind.VIRTUAL, Kind.CREDENTIALS, Kind.USERINFO, Kind.ADDRNAME, Kind.SENDERS)
)


def check_entry(kind: Kind, key: str, value: str | None, *, programs: bool) -> None:
    """Raise ValueError where an entry is none of this kind; the text says what to write."""
    if value is None and kind in MAPPINGS:
        raise ValueError(f"{key!r} has no value: a table of {kind.value} has a key and a value in each entry")
    _CHECKS[kind](key, value or "", programs)


def read_network(text: str) -> IPv4Network | IPv6Network:
    """Read an address or a network; ValueError when it is none."""
    bare = text.removeprefix("ipv6:").removeprefix("IPv6:").strip("[]")
    if "%" in bare:
        raise ValueError(f"{text!r} is not an address or a network")
    try:
        return ip_network(bare, strict=False)
    except ValueError as wrong:
        raise ValueError(f"{text!r} is not an address or a network") from wrong


def read_userinfo(value: str) -> tuple[int, int, str]:
    """Read `uid:gid:/home`; raises ValueError."""
    if _USERINFO.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not uid:gid:/home")
    uid, gid, home = value.split(":", 2)
    return int(uid), int(gid), home


def _aliases(key: str, value: str, programs: bool) -> None:
    if "@" in key:
        raise ValueError(f"{key!r}: an alias is a name without a domain; a virtual table has addresses")
    _targets(key, value, programs)


def _targets(key: str, value: str, programs: bool) -> None:
    values = split_values(value)
    if not values:
        raise ValueError(f"{key!r} has no value: write `{key}: user`")
    for each in values:
        if runs(read_target(each)) and not programs:
            raise ValueError(
                f"{key!r} leads to {each!r}: this table may not start programs or write files (programs = true "
                "permits it, as the table's user; better deliver to a mailbox or hand the mail to an LMTP server)"
            )


def _domain(key: str, value: str, programs: bool) -> None:
    if _DOMAIN.fullmatch(key) is None:
        raise ValueError(f"{key!r} is no domain: write example.org or *.example.org")


def _credentials(key: str, value: str, programs: bool) -> None:
    if not value:
        raise ValueError(f"{key!r} has no password: write `label user:password`")


def _netaddr(key: str, value: str, programs: bool) -> None:
    if key != "local":
        read_network(key)


def _userinfo(key: str, value: str, programs: bool) -> None:
    read_userinfo(value)


def _mailaddr(key: str, value: str, programs: bool) -> None:
    if key != "<>" and (any(letter.isspace() for letter in key) or key == "@"):
        raise ValueError(f"{key!r} is no address: write user@domain, @domain or user")


def _addrname(key: str, value: str, programs: bool) -> None:
    ip_address(key)
    _domain(value, "", programs)


def _senders(key: str, value: str, programs: bool) -> None:
    values = split_values(value)
    if not values:
        raise ValueError(f"{key!r} has no address: write `{key}: info@example.org, @club.example`")
    for each in values:
        _mailaddr(each, "", programs)


def _source(key: str, value: str, programs: bool) -> None:
    ip_address(key)


_CHECKS: Final[Mapping[Kind, Callable[[str, str, bool], None]]] = {
    Kind.ALIASES: _aliases,
    Kind.VIRTUAL: _targets,
    Kind.DOMAIN: _domain,
    Kind.CREDENTIALS: _credentials,
    Kind.NETADDR: _netaddr,
    Kind.USERINFO: _userinfo,
    Kind.MAILADDR: _mailaddr,
    Kind.ADDRNAME: _addrname,
    Kind.SENDERS: _senders,
    Kind.SOURCE: _source,
}
