"""Name constraints of an authority, held against the certificates below it (RFC 5280 §4.2.1.10), sans-IO.

    kind of name      evaluated
    dNSName           yes; also the common name of a server's certificate that has no dNSName
    iPAddress         yes
    directoryName     yes, with the certificate's subject; case and runs of spaces do not count (RFC 4518)
    any other         no: a certificate with a name of a kind that the authority constrains is refused

`minimum` and `maximum` of a subtree are not looked at: RFC 5280 has them always 0 and absent.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from cryptography import x509

from gatepost.base.address import fold_domain

COMPARED_MAX: Final = 1 << 16
"""Names × subtrees of all certificates on one server's way up: bounds what a chain made for it can cost."""


class Breach(ValueError):
    """An authority does not vouch for a name that a certificate below it bears; the text says for which."""


class Constraints:
    """Holds certificates against the constraints of those above them, for one server.

    `asked`: names that the server's certificate is good for; one that it covers by a wildcard is not among its own.
    """

    def __init__(self, asked: Iterable[str]) -> None:
        self._asked = [x509.DNSName(name) for name in asked if name.isascii()]
        self._left = COMPARED_MAX

    def check(self, authority: x509.Certificate, below: Sequence[x509.Certificate]) -> None:
        """Raise Breach where a name of `below` (the server's certificate first) is not one for `authority`.

        What else a broken certificate makes `cryptography` raise goes through.
        """
        try:
            found = authority.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            return
        permitted, excluded = tuple(found.permitted_subtrees or ()), tuple(found.excluded_subtrees or ())
        for at, certificate in enumerate(below):
            if at and certificate.subject == certificate.issuer:
                continue  # RFC 5280 §6.1.3 (b): self-issued, and not the last one
            names = _borne(certificate) if at else [*_borne(certificate, server=True), *self._asked]
            self._left -= len(names) * (len(permitted) + len(excluded))
            if self._left < 0:
                raise Breach(f"{_called(authority)} has more name constraints than are looked at")
            for name in names:
                if not _allowed(name, permitted, excluded):
                    raise Breach(f"{_called(authority)} may not vouch for {_told(name)}")


def _borne(certificate: x509.Certificate, *, server: bool = False) -> list[x509.GeneralName]:
    """Return all names of a certificate that constraints speak of (RFC 5280 §4.2.1.10)."""
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    subject = certificate.subject
    if server and not any(isinstance(name, x509.DNSName) for name in names):
        names += [x509.DNSName(text) for text in _texts(subject, x509.NameOID.COMMON_NAME) if text.isascii()]
    names += [x509.RFC822Name(text) for text in _texts(subject, x509.NameOID.EMAIL_ADDRESS) if text.isascii()]
    if subject.rdns:
        names.append(x509.DirectoryName(subject))
    return names


def _texts(subject: x509.Name, kind: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in subject.get_attributes_for_oid(kind)]


def _allowed(
    name: x509.GeneralName, permitted: Iterable[x509.GeneralName], excluded: Iterable[x509.GeneralName]
) -> bool:
    kind = type(name)
    inside = [tree for tree in permitted if type(tree) is kind]
    outside = [tree for tree in excluded if type(tree) is kind]
    if not inside and not outside:
        return True
    if not isinstance(name, x509.DNSName | x509.IPAddress | x509.DirectoryName):
        return False
    if any(_within(name, tree) for tree in outside):
        return False
    return not inside or any(_within(name, tree) for tree in inside)


def _within(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    if isinstance(name, x509.DNSName) and isinstance(tree, x509.DNSName):
        return _dns_within(fold_domain(name.value), fold_domain(tree.value))
    if isinstance(name, x509.IPAddress) and isinstance(tree, x509.IPAddress):
        return _ip_within(name, tree)
    if isinstance(name, x509.DirectoryName) and isinstance(tree, x509.DirectoryName):
        root = _folded(tree.value)
        return _folded(name.value)[: len(root)] == root
    return False


def _dns_within(name: str, tree: str) -> bool:
    """Tell whether a name is `tree` or ends with it at a label; a leading dot leaves out `tree` itself.

    The dot is not in RFC 5280, but in certificates; OpenSSL reads it so too.
    """
    if not tree:
        return True
    return name == tree or name.endswith(tree if tree.startswith(".") else f".{tree}")


def _ip_within(name: x509.IPAddress, tree: x509.IPAddress) -> bool:
    network = tree.value
    return isinstance(network, IPv4Network | IPv6Network) and name.value in network


def _folded(name: x509.Name) -> list[frozenset[tuple[str, str | bytes]]]:
    return [frozenset((each.oid.dotted_string, _fold(each.value)) for each in rdn) for rdn in name.rdns]


def _fold(value: str | bytes) -> str | bytes:
    return " ".join(value.lower().split()) if isinstance(value, str) else value


def _called(certificate: x509.Certificate) -> str:
    return f"the authority {certificate.subject.rfc4514_string()[:100]!r}"


def _told(name: x509.GeneralName) -> str:
    return (name.value.rfc4514_string() if isinstance(name, x509.DirectoryName) else str(name.value))[:100]
