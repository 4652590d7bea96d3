"""The parameters of MAIL by which a sender asks how its mail is handled on its way.

    REQUIRETLS        RFC 8689 §2

Each is offered on its own, so `Asked` tells which were given; server.py holds them against what it offered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gatepost.base.reply import Code, Refusal, Reply

REQUIRETLS: Final = b"REQUIRETLS"
PARAMETERS: Final = frozenset((REQUIRETLS,))


@dataclass(frozen=True, slots=True)
class Asked:
    """What MAIL asked for, as it was said."""

    requiretls: bool = False


def parse_asked(given: Mapping[bytes, bytes]) -> Asked | None:
    """Read them from MAIL's parameters by name, in capitals; None where there are none. Raises Refusal (501)."""
    if PARAMETERS.isdisjoint(given):
        return None
    return Asked(requiretls=_flag(given, REQUIRETLS))


def unsupported(name: bytes) -> Reply:
    """Return the answer to a parameter that is not offered here (RFC 5321 §4.1.1.11)."""
    return Reply(Code.PARAMETERS, "5.5.4", f"Unsupported parameter {name.decode('ascii')}")


def _flag(given: Mapping[bytes, bytes], name: bytes) -> bool:
    if given.get(name):
        raise _bad(f"{name.decode('ascii')} takes no value")
    return name in given


def _bad(text: str) -> Refusal:
    return Refusal(Reply(Code.ARGUMENTS, "5.5.4", text))
