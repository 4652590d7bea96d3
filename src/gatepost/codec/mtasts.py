"""MTA-STS: a domain says which mail servers are its own, and that their TLS must hold (RFC 8461).

_mta-sts.DOMAIN TXT                                   v=STSv1; id=20260101T000000;     which policy is in force
https://mta-sts.DOMAIN/.well-known/mta-sts.txt        version, mode, max_age, mx ...   the policy
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gatepost.base.address import fold_domain

VERSION: Final = "STSv1"
PATH: Final = "/.well-known/mta-sts.txt"  # §3.3
OCTETS_MAX: Final = 65_536  # §3.3 suggests 64 KB
LINES_MAX: Final = 1_000
MAX_AGE_MOST: Final = 31_557_600  # s, about a year (§3.2)

_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}")  # §3.1
_FIELD: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([!-:<>-~]+)")
_LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*(\S(?:.*\S)?)[ \t]*")  # §3.2
_MX: Final = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]{0,252})")
_AGE: Final = re.compile(r"[0-9]{1,10}")


class Mode(Enum):
    """What becomes of mail for a server that does not fit the policy (§5)."""

    ENFORCE = "enforce"
    """It is not given to that server."""
    TESTING = "testing"
    """It is delivered all the same."""
    NONE = "none"
    """The domain takes its policy back."""


class BadPolicy(ValueError):
    """No policy; the text says why, for the operator."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. `max_age` is in seconds; `mx` are names in lower case, or `*.name` for one label more."""

    mode: Mode
    max_age: int
    mx: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.max_age <= MAX_AGE_MOST:
            raise BadPolicy(f"max_age must be between 0 and {MAX_AGE_MOST} s")
        wrong = next((pattern for pattern in self.mx if _MX.fullmatch(pattern) is None), None)
        if wrong is not None:
            raise BadPolicy(f"mx: {wrong!r} is neither a name nor *.name")
        if self.mode is not Mode.NONE and not self.mx:
            raise BadPolicy("no mx names a mail server")

    def fits(self, host: str) -> bool:
        """Tell whether a host of the MX records is one of the policy's (§4.1)."""
        host = fold_domain(host)
        first, _, parent = host.partition(".")
        return host in self.mx or (bool(first and parent) and f"*.{parent}" in self.mx)

    def document(self) -> bytes:
        """Return the policy as it is served."""
        lines = [f"version: {VERSION}", f"mode: {self.mode.value}", *(f"mx: {pattern}" for pattern in self.mx)]
        return "".join(f"{line}\r\n" for line in [*lines, f"max_age: {self.max_age}"]).encode("ascii")


def read_record(texts: Iterable[bytes]) -> str:
    """Return the id that the TXT records of `_mta-sts.DOMAIN` announce; "" where there is none or more (§3.1)."""
    records = [text for text in texts if text.startswith(b"v=STSv1;")]
    if len(records) != 1:
        return ""
    fields = [part.strip(" \t") for part in records[0].decode("ascii", "replace").split(";")]
    if not fields[-1]:
        fields.pop()
    found = [_FIELD.fullmatch(field) for field in fields]
    ids = [match[2] for match in found if match is not None and match[1] == "id"]
    good = None not in found and len(ids) == 1 and _ID.fullmatch(ids[0])
    return ids[0] if good else ""


def read_policy(octets: bytes) -> Policy:
    """Read a policy; raises BadPolicy. Of a field that may stand once the first counts, unknown ones do not."""
    if len(octets) > OCTETS_MAX:
        raise BadPolicy(f"more than {OCTETS_MAX} octets")
    try:
        lines = octets.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise BadPolicy("it is no text") from None
    if len(lines) > LINES_MAX:
        raise BadPolicy(f"more than {LINES_MAX} lines")
    once: dict[str, str] = {}
    mx: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise BadPolicy(f"line {number} is not `name: value`")
        if found[1] == "mx":
            mx.append(fold_domain(found[2]))
        else:
            once.setdefault(found[1], found[2])
    if once.get("version") != VERSION:
        raise BadPolicy(f"its version is not {VERSION}")
    age = once.get("max_age", "")
    if _AGE.fullmatch(age) is None:
        raise BadPolicy("its max_age is no number")
    try:
        mode = Mode(once.get("mode", ""))
    except ValueError:
        raise BadPolicy("its mode is none of enforce, testing and none") from None
    return Policy(mode, int(age), tuple(dict.fromkeys(mx)))
