"""The parameters of MAIL by which a sender asks how its mail is handled on its way.

    REQUIRETLS        RFC 8689 §2
    MT-PRIORITY=-9..9 RFC 6710 §3
    BY=n;R|N[T]       RFC 2852 §3
    HOLDFOR=n, HOLDUNTIL=date-time    RFC 4865 §4

Each is offered on its own, so `Asked` tells which were given; server.py holds them against what it offered.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gatepost.base.clock import Instant
from gatepost.base.reply import Code, Refusal, Reply

REQUIRETLS: Final = b"REQUIRETLS"
MT_PRIORITY: Final = b"MT-PRIORITY"
BY: Final = b"BY"
HOLDFOR: Final = b"HOLDFOR"
HOLDUNTIL: Final = b"HOLDUNTIL"
PARAMETERS: Final = frozenset((REQUIRETLS, MT_PRIORITY, BY, HOLDFOR, HOLDUNTIL))

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PRIORITY: Final = re.compile(rb"-?[1-9]|0")
_BY: Final = re.compile(rb"([+-]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE)
_HOLDFOR: Final = re.compile(rb"[1-9][0-9]{0,8}")
_DATE_TIME: Final = re.compile(  # RFC 3339 §5.6; the RFC's own production dangles (erratum 2040)
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})",
    re.IGNORECASE,
)


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
    hold_for: int = 0
    """Seconds."""
    hold_until: Instant | None = None

    @property
    def holds(self) -> bool:
        """Tell whether it is to be released later."""
        return self.hold_for > 0 or self.hold_until is not None


def parse_asked(given: Mapping[bytes, bytes]) -> Asked | None:
    """Read them from MAIL's parameters by name, in capitals; None where there are none. Raises Refusal (501)."""
    if PARAMETERS.isdisjoint(given):
        return None
    if HOLDFOR in given and HOLDUNTIL in given:  # RFC 4865 §4: one of them
        raise _bad("HOLDFOR and HOLDUNTIL exclude each other")
    return Asked(_flag(given, REQUIRETLS), _priority(given), _by(given), _hold_for(given), _hold_until(given))


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


def _hold_for(given: Mapping[bytes, bytes]) -> int:
    value = given.get(HOLDFOR)
    if value is None:
        return 0
    if _HOLDFOR.fullmatch(value) is None:
        raise _bad("HOLDFOR is a number of seconds")
    return int(value)


def _hold_until(given: Mapping[bytes, bytes]) -> Instant | None:
    value = given.get(HOLDUNTIL)
    if value is None:
        return None
    try:
        if _DATE_TIME.fullmatch(value) is None:
            raise ValueError(value)
        at = datetime.fromisoformat(value.decode("ascii").upper())
        return Instant((at - _EPOCH) // timedelta(microseconds=1))
    except (ValueError, OverflowError):
        raise _bad("HOLDUNTIL is a date-time as 2027-01-31T08:00:00Z") from None


def _bad(text: str) -> Refusal:
    return Refusal(Reply(Code.ARGUMENTS, "5.5.4", text))
