"""ETRN (RFC 1985): a client asks that the mail for a node be sent now. Its grammar and its replies."""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from gatepost.base.reply import Code, Refusal, Reply
from gatepost.codec.smtp.grammar import BadAddress, parse_domain

_ARGUMENT: Final = re.compile(rb"([@#]?)([!-~]{1,255})")


class Offer(Enum):
    """What a client is told of ETRN."""

    NONE = auto()
    """It is not implemented here."""
    OTHERS = auto()
    """It is, but not for this client: 459."""
    YES = auto()
    """It is announced."""


@dataclass(frozen=True, slots=True)
class Etrn:
    """ETRN for a node, in small letters; `subdomains`: and for all below it (`@`, §5.3)."""

    node: str
    subdomains: bool = False


def parse_etrn(rest: bytes) -> Etrn:
    """Read what follows the verb; raises Refusal (501, or 458 for `#queue`: no queue here has a name, §5.3)."""
    found = _ARGUMENT.fullmatch(rest.strip(b" "))
    if found is None:
        raise Refusal(Reply(Code.ARGUMENTS, "5.5.4", "Syntax: ETRN domain"))
    option, name = found[1], found[2].decode("ascii")
    if option == b"#":
        raise Refusal(unable(name))
    try:
        return Etrn(parse_domain(name).lower(), option == b"@")
    except BadAddress as bad:
        raise Refusal(Reply(Code.ARGUMENTS, "5.5.4", "Syntax: ETRN domain"), detail=str(bad)) from bad


def started(node: str) -> Reply:
    """Return the reply where mail waits (§5.2)."""
    return Reply(Code.OK, "2.0.0", f"Queuing for node {node} started")


def nothing(node: str) -> Reply:
    """Return the reply where no mail waits."""
    return Reply(Code.WILL_FORWARD, "2.0.0", f"OK, no messages waiting for node {node}")


def unable(node: str) -> Reply:
    """Return the reply where it cannot be done now."""
    return Reply(Code.CANNOT_QUEUE, "4.3.0", f"Unable to queue messages for node {node}")


def not_allowed(node: str) -> Reply:
    """Return the reply to a client that may not ask."""
    return Reply(Code.NODE_NOT_ALLOWED, "4.7.1", f"Node {node} not allowed: you are not on the list")
