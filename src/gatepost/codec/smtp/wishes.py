"""The parameters of MAIL by which a sender asks how its mail is handled on its way.

    REQUIRETLS        RFC 8689 §2
    MT-PRIORITY=-9..9 RFC 6710 §3
    BY=n;R|N[T]       RFC 2852 §3

Each is offered on its own, so `Asked` tells which were given; server.py holds them against what it offered.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gatepost.base.reply import Code, Refusal, Reply

REQUIRETLS: Final = b"REQUIRETLS"
MT_PRIORITY: Final = b"MT-PRIORITY"
BY: Final = b"BY"
PARAMETERS: Final = frozenset((REQUIRETLS, MT_PRIORITY, BY))

_PRIORITY: Final = re.compile(rb"-?[1-9]|0")
_BY: Final = re.compile(rb"([+-]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class By:
    """Within how many seconds a mail is to be delivered; not positive: that time is over, possible with N only."""

    seconds: int
    returns: bool
    trace: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What MAIL asked for, as it was said."""

    requiretls: bool = False
    priority: int | None = None
    by: By | None = None


def parse_asked(given: Mapping[bytes, bytes]) -> Asked | None:
    """Read them from MAIL's parameters by name, in capitals; None where there are none. Raises Refusal (501)."""
    if PARAMETERS.isdisjoint(given):
        return None
    return Asked(requiretls=_flag(given, REQUIRETLS), priority=_priority(given), by=_by(given))


def unsupported(name: bytes) -> Reply:
    """Return the answer to a parameter that is not offered here (RFC 5321 §4.1.1.11)."""
    return Reply(Code.PARAMETERS, "5.5.4", f"Unsupported parameter {name.decode('ascii')}")


def _flag(given: Mapping[bytes, bytes], name: bytes) -> bool:
    if given.get(name):
        raise _bad(f"{name.decode('ascii')} takes no value")
    return name in given


def _priority(given: Mapping[bytes, bytes]) -> int | None:
    value = given.get(MT_PRIORITY)
    if value is None:
        return None
    if _PRIORITY.fullmatch(value) is None:
        raise _bad("MT-PRIORITY is a number from -9 to 9")
    return int(value)


def _by(given: Mapping[bytes, bytes]) -> By | None:
    value = given.get(BY)
    if value is None:
        return None
    found = _BY.fullmatch(value)
    if found is None:
        raise _bad("BY is seconds;R or seconds;N, perhaps with T behind")
    by = By(int(found[1]), found[2] in b"Rr", bool(found[3]))
    if by.returns and by.seconds <= 0:
        raise _bad("BY with R needs a time that is still to come")
    return by


def _bad(text: str) -> Refusal:
    return Refusal(Reply(Code.ARGUMENTS, "5.5.4", text))
