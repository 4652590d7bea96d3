"""What the judge found out: authentication results and the content's verdict."""

from dataclasses import dataclass
from enum import Enum


class Result(Enum):
    """Results of RFC 8601 §2.7, the same words for SPF, DKIM and what comes later."""

    NONE = "none"
    PASS = "pass"  # noqa: S105  (a result, not a password)
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"
    POLICY = "policy"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class Finding:
    """One method's result: `method` spf, dkim, arc or dmarc, `domain` what it speaks for, `reason` for the log."""

    method: str
    result: Result
    domain: str = ""
    properties: tuple[tuple[str, str], ...] = ()
    """(ptype.property, value) pairs for Authentication-Results."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Custody:
    """What is needed to vouch for a mail that goes on (ARC, RFC 8617).

    `results` is the value of our Authentication-Results; `below` the raw fields (results, message signature, seal)
    of each set of the mail's valid chain, the oldest first.
    """

    results: bytes
    below: tuple[tuple[bytes, bytes, bytes], ...] = ()


class Action(Enum):
    """What the judge advises; intake acts."""

    ACCEPT = "accept"
    JUNK = "junk"
    DEFER = "defer"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The advice of all judges together, with the header fields to put on top of the mail (CRLF-ended)."""

    action: Action
    findings: tuple[Finding, ...] = ()
    score: float = 0.0
    reasons: tuple[str, ...] = ()
    header: bytes = b""
    refusal: str = ""
    """Why a mail is refused, in words for its sender; empty for its content."""
    custody: Custody | None = None
    """None where nothing can be vouched for: nobody was asked, or the chain is broken."""
    strip: tuple[tuple[int, int], ...] = ()
    """Octet ranges [start, end) of the header block that must go: forged results in our name (RFC 8601 §5)."""
