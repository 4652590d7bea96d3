"""POP3 on the wire (RFC 1939, RFC 2449): command lines in, byte-stuffed answers out."""

import re
from dataclasses import dataclass
from typing import Final

LINE_MAX: Final = 255  # RFC 2449 §4, CRLF included; AUTH's responses may be longer
AUTH_LINE_MAX: Final = 12_288
_COMMAND: Final = re.compile(rb"([A-Za-z]{3,4})(?: (.*))?", re.DOTALL)
_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Command:
    """A verb in capitals and its arguments as they stand."""

    verb: str
    rest: bytes

    def words(self) -> list[bytes]:
        """Return the arguments."""
        return self.rest.split(b" ") if self.rest else []


def parse_command(line: bytes) -> Command | None:
    """Read a line without its CRLF; None where it is no command."""
    found = _COMMAND.fullmatch(line)
    if found is None or len(line) > AUTH_LINE_MAX:
        return None
    return Command(found[1].decode("ascii").upper(), found[2] or b"")


def parse_number(text: bytes) -> int | None:
    """Read a message number; None where it is none (no sign, no underscore, ASCII digits only)."""
    return int(text) if _NUMBER.fullmatch(text) else None


def multiline(octets: bytes) -> bytes:
    """Return content as a multi-line answer: dots stuffed, ended by a lone dot (RFC 1939 §3)."""
    if octets.startswith(b".") or b"\r\n." in octets:
        octets = octets.replace(b"\r\n.", b"\r\n..")
        if octets.startswith(b"."):
            octets = b"." + octets
    return octets + (b".\r\n" if not octets or octets.endswith(b"\r\n") else b"\r\n.\r\n")


def top(octets: bytes, lines: int) -> bytes:
    """Return the header, the empty line and that many lines of the body (RFC 1939 §7 TOP)."""
    bare = octets.startswith(b"\r\n")  # no header at all: the empty line comes first
    end = octets.find(b"\r\n\r\n")
    if end < 0 and not bare:
        return octets
    at = 2 if bare else end + 4
    for _ in range(lines):
        following = octets.find(b"\r\n", at)
        if following < 0:
            return octets
        at = following + 2
    return octets[:at]
