"""Directories asked by LDAP, by ldap3. The query is a filter (RFC 4515), what is put into it is escaped.

    ldaps://ldap.example/ou=people,dc=example,dc=org?mail
    ldap://ldap.example/dc=example,dc=org?mail?sub?bind=cn=gatepost%2Cdc=example%2Cdc=org,passfile=/etc/gatepost/ldap

An attribute with several values gives a row for each; several attributes (`uidNumber,gidNumber,homeDirectory`) give
one row for each entry. `ldap://` to another machine uses StartTLS, and its certificate must hold: neither a
password nor who exists here goes over a network in the clear.
"""

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from gatepost.policy.tables.passfile import read_password
from gatepost.policy.tables.token import TOKEN

PORTS: Final = {"ldap": 389, "ldaps": 636}
SCOPES: Final = {"": "SUBTREE", "sub": "SUBTREE", "one": "LEVEL", "base": "BASE"}
_EXTENSIONS: Final = ("bind", "passfile", "ca")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.;-]{0,100}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to ask for what."""

    host: str
    port: int
    tls: bool
    base: str
    attributes: tuple[str, ...]
    scope: str
    user: str = ""
    password: str = ""
    authorities: str = ""

    @property
    def near(self) -> bool:
        """Tell whether it is this machine."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read_url(url: str) -> Place:
    """Read an LDAP URL (RFC 4516), its extensions being `bind`, `passfile` and `ca`; raises ValueError."""
    parts = urlsplit(url.partition("?")[0])
    attributes, scope, extensions = (*url.split("?")[1:], "", "", "")[:3]
    chosen = tuple(filter(None, map(unquote, attributes.split(","))))
    given = dict(each.partition("=")[::2] for each in map(unquote, _split(extensions)))
    base = unquote(parts.path.removeprefix("/"))
    if not (parts.hostname and base and chosen) or scope not in SCOPES or given.keys() - set(_EXTENSIONS):
        raise ValueError(
            "sql: write ldaps://host/base?attribute?sub?bind=dn,passfile=/path "
            f"(scopes: {', '.join(filter(None, SCOPES))}; extensions: {', '.join(_EXTENSIONS)})"
        )
    wrong = next((each for each in chosen if _ATTRIBUTE.fullmatch(each) is None), None)
    if wrong is not None:
        raise ValueError(f"sql: {wrong!r} is no attribute")
    return Place(
        parts.hostname,
        parts.port or PORTS[parts.scheme],
        parts.scheme == "ldaps",
        base,
        chosen,
        SCOPES[scope],
        given.get("bind", ""),
        read_password(given["passfile"]) if "passfile" in given else "",
        given.get("ca", ""),
    )


class Session:
    """A connection to a directory, bound."""

    def __init__(self, ldap3: Any, place: Place, time_limit: float, rows_max: int) -> None:  # Any: a module
        self._ldap3 = ldap3
        self._place = place
        self._rows_max = rows_max
        self._time_limit = max(1, int(time_limit))
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=place.authorities or None)
        server = ldap3.Server(
            place.host, place.port, use_ssl=place.tls, tls=tls, connect_timeout=time_limit, get_info=ldap3.NONE
        )
        self._connection = ldap3.Connection(
            server,
            place.user or None,
            place.password or None,
            read_only=True,
            receive_timeout=time_limit,
            raise_exceptions=True,
        )
        try:
            self._connection.open()
            if not (place.tls or place.near):
                self._connection.start_tls()
            self._connection.bind()
        except BaseException:
            if self._connection.socket is not None:
                self._connection.socket.close()
            raise

    def rows(self, query: str, values: Mapping[str, str]) -> Sequence[Sequence[object]]:
        """Return the values of the attributes of what a filter finds."""
        filled = TOKEN.sub(lambda found: escape(values[found[1]]) if found[1] else found[0], query)
        try:
            self._connection.search(
                self._place.base,
                filled,
                self._place.scope,
                attributes=list(self._place.attributes),
                size_limit=self._rows_max,
                time_limit=self._time_limit,
            )
        except self._ldap3.core.exceptions.LDAPNoSuchObjectResult:
            return []
        return [row for entry in self._connection.response or () for row in self._of(entry)]

    def _of(self, entry: Mapping[str, Any]) -> list[Sequence[object]]:
        """Return the rows of an entry; what the directory refers to elsewhere has none."""
        if entry.get("type") != "searchResEntry":
            return []
        found = [_listed(entry["attributes"].get(name)) for name in self._place.attributes]
        if len(found) == 1:
            return [(value,) for value in found[0]]
        return [tuple(values[0] for values in found)] if all(found) else []

    def close(self) -> None:
        """End it."""
        self._connection.unbind()


def escape(value: str) -> str:
    """Return a value as it stands in a filter (RFC 4515 §3): nothing in it is more than a letter."""
    return "".join(c if c.isalnum() or c in "@.-_ " else "".join(f"\\{o:02x}" for o in c.encode()) for c in value)


def _listed(value: object) -> list[str]:
    values = value if isinstance(value, list | tuple) else () if value is None or value == "" else (value,)
    return [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in values]


def _split(extensions: str) -> list[str]:
    return [each for each in extensions.split(",") if each]
