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
    strip: tuple[tuple[int, int], ...] = ()
    """Octet ranges [start, end) of the header block that must go: forged results in our name (RFC 8601 §5)."""
