"""Mail addresses as values; their grammar is in codec/smtp, their comparison here."""

import re
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase
from typing import Final

import idna

_DOT_STRING: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+)*"
)
_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox: the local part without quotes and the domain as written (`[192.0.2.1]` for a literal)."""

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{quote_local(self.local)}@{self.domain}"

    @property
    def ascii(self) -> bool:
        """Tell whether it can be said without SMTPUTF8."""
        return self.local.isascii() and self.domain.isascii()

    @property
    def key(self) -> str:
        """Return the form in which addresses are compared: ASCII letters lowered, the domain as A-labels."""
        return f"{fold(self.local)}@{fold_domain(self.domain)}"


ReversePath = Address | None
"""The envelope's sender; None is the null reverse-path <> (RFC 5321 §4.5.5)."""


def fold(text: str) -> str:
    """Lower the 26 ASCII letters and nothing else: `str.lower` turns the Kelvin sign into k."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


@lru_cache(maxsize=8192)
def fold_domain(domain: str) -> str:
    """Return a domain in lower-case A-labels (RFC 5890); one that IDNA refuses is only lowered."""
    domain = domain.rstrip(".")
    if domain.isascii():
        return fold(domain)
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return fold(domain)


def quote_local(local: str) -> str:
    """Return a local part as it stands in a path, quoted where RFC 5321 §4.1.2 asks for it."""
    if _DOT_STRING.fullmatch(local):
        return local
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
