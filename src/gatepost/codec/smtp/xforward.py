"""XFORWARD and XCLIENT (Postfix XFORWARD_README, XCLIENT_README): a filter or proxy says for whom it speaks.

    EHLO filter.example                      250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE
    XFORWARD NAME=client.example ADDR=192.0.2.9 HELO=[UNAVAILABLE]                       250 2.0.0 Ok
    XCLIENT ADDR=IPV6:2001:db8::9 LOGIN=bob@here.example                                 220 mx.here.example ...

Values are xtext (RFC 3461 §4) of printable ASCII. Stricter than Postfix: an attribute stands once in a command, and
XCLIENT must not say that the address is unknown: who is nobody would have the rights of the proxy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, ip_address
from typing import Final

from gatepost.base.reply import Code, Refusal, Reply
from gatepost.codec.smtp.grammar import xtext_decode, xtext_encode

XFORWARD: Final = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
XCLIENT: Final = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
OFFERS: Final[Mapping[str, str]] = {"XFORWARD": " ".join(XFORWARD), "XCLIENT": " ".join(XCLIENT)}
"""What stands behind each keyword in the answer to EHLO."""

UNAVAILABLE: Final = "[UNAVAILABLE]"
TEMPUNAVAIL: Final = "[TEMPUNAVAIL]"
VALUE_MAX: Final = 255  # octets, decoded: "hostnames and protocol values"
PROTOCOL_MAX: Final = 64  # XFORWARD_README: "up to 64 characters"
LINE_MAX: Final = 512  # with CRLF: one command of ours

_WORD: Final = re.compile(rb"([A-Za-z]{1,16})=([!-~]{1,800})")
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_PROTOCOL: Final = re.compile(r"[A-Za-z0-9._+/-]{1,64}")


class Source(Enum):
    """Where the first of the chain had the mail from."""

    REMOTE = "REMOTE"
    LOCAL = "LOCAL"
    UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """Who gave a mail to the first of a chain of servers; empty and 0 is not known. `ip` is normalised text."""

    name: str = ""
    ip: str = ""
    port: int = 0
    proto: str = ""
    helo: str = ""
    ident: str = ""
    """The name of the mail there."""
    source: Source = Source.UNKNOWN


@dataclass(frozen=True, slots=True)
class Introduction:
    """An XFORWARD or XCLIENT command (`verb`) that was allowed: its attributes in capitals, decoded and checked.

    An empty value is one that the peer does not know. Answer with accept or refuse.
    """

    verb: str
    given: Mapping[str, str]


def parse_introduction(verb: str, rest: bytes) -> Introduction:
    """Read what follows XFORWARD or XCLIENT; raises Refusal with 501."""
    known = XFORWARD if verb == "XFORWARD" else XCLIENT
    given: dict[str, str] = {}
    for word in rest.split():
        found = _WORD.fullmatch(word)
        if found is None:
            raise _bad(f"Syntax: {verb} attribute=value...")
        name = found[1].decode("ascii").upper()
        if name not in known:
            raise _bad(f"Bad {verb} attribute name")
        if name in given:
            raise _bad(f"{name} was given twice")
        given[name] = _value(verb, name, found[2])
    if not given:
        raise _bad(f"Syntax: {verb} attribute=value...")
    return Introduction(verb, given)


def learn(before: Forwarded | None, given: Mapping[str, str]) -> Forwarded:
    """Return what is known after one more XFORWARD: commands before a mail add up."""
    known = before or Forwarded()
    return Forwarded(
        name=given.get("NAME", known.name),
        ip=given.get("ADDR", known.ip),
        port=int(given["PORT"] or 0) if "PORT" in given else known.port,
        proto=given.get("PROTO", known.proto),
        helo=given.get("HELO", known.helo),
        ident=given.get("IDENT", known.ident),
        source=Source(given["SOURCE"]) if "SOURCE" in given else known.source,
    )


def xforward(known: Forwarded, offered: frozenset[str]) -> tuple[bytes, ...]:
    """Build the XFORWARD commands, CRLFs included, with those attributes that the server offered."""
    port, source = str(known.port or ""), known.source.value
    values = (known.name, _address(known.ip), port, known.proto, known.helo, known.ident, source)
    lines: list[bytes] = []
    for name, value in zip(XFORWARD, values, strict=True):
        if name not in offered:
            continue
        octets = value.encode("ascii", "replace")[:VALUE_MAX]
        shown = xtext_encode(octets) if octets else UNAVAILABLE.encode()
        word = b" " + name.encode() + b"=" + shown
        if lines and len(lines[-1]) + len(word) + 2 <= LINE_MAX:
            lines[-1] += word
        elif len(word) + 10 <= LINE_MAX:
            lines.append(b"XFORWARD" + word)
    return tuple(line + b"\r\n" for line in lines)


def _bad(text: str) -> Refusal:
    return Refusal(Reply(Code.ARGUMENTS, "5.5.4", text))


def _value(verb: str, name: str, octets: bytes) -> str:
    try:
        value = xtext_decode(octets).decode("ascii")
    except ValueError as error:
        raise _bad(f"Bad {name} value") from error
    if value.upper() in (UNAVAILABLE, TEMPUNAVAIL):
        if verb == "XCLIENT" and name in ("ADDR", "DESTADDR"):
            raise _bad(f"{name} must be known")
        return ""
    if not value or len(value) > VALUE_MAX or not value.isprintable():
        raise _bad(f"Bad {name} value")
    match name:
        case "ADDR" | "DESTADDR":
            return _read_address(name, value)
        case "NAME":
            good = _HOST.fullmatch(value) is not None
        case "PORT" | "DESTPORT":
            good = value.isdigit() and len(value) <= 5 and 0 < int(value) < 65_536
        case "PROTO":
            value = value.upper() if verb == "XCLIENT" else value
            good = value in ("SMTP", "ESMTP") if verb == "XCLIENT" else _PROTOCOL.fullmatch(value) is not None
        case "SOURCE":
            value = value.upper()
            good = value in ("LOCAL", "REMOTE")
        case _:
            good = " " not in value
    if not good:
        raise _bad(f"Bad {name} value")
    return value


def _read_address(name: str, value: str) -> str:
    """Read `192.0.2.9`, `IPV6:2001:db8::9` or `2001:db8::9`; a v4-mapped address becomes the IPv4 one."""
    try:
        if "%" in value:
            raise ValueError(value)
        address = ip_address(value[5:] if value[:5].upper() == "IPV6:" else value)
        if value[:5].upper() == "IPV6:" and not isinstance(address, IPv6Address):
            raise ValueError(value)
    except ValueError as error:
        raise _bad(f"Bad {name} value") from error
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _address(ip: str) -> str:
    return f"IPV6:{ip}" if ":" in ip else ip
