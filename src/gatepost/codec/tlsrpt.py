"""TLS reports: a domain asks to be told how TLS to its mail servers went, and gets a document a day (RFC 8460).

_smtp._tls.DOMAIN TXT      v=TLSRPTv1; rua=mailto:tls@example.org,https://example.org/tls
the report                 JSON (I-JSON, RFC 7493), gzipped: counts of successes and failures for each policy
"""

import gzip
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import unquote

LABEL: Final = "_smtp._tls."
RECEIVERS_MAX: Final = 5  # ours: §3 names no limit, and each is a mail or a request
_RUA: Final = re.compile(r"(mailto:[!-~]{3,320}|https://[!-~]{1,1000})")


class Failure(Enum):
    """What went wrong (§4.3)."""

    NO_STARTTLS = "starttls-not-supported"
    HOST_MISMATCH = "certificate-host-mismatch"
    EXPIRED = "certificate-expired"
    NOT_TRUSTED = "certificate-not-trusted"
    OTHER = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"
    POLICY_NOT_FETCHED = "sts-policy-fetch-error"
    POLICY_INVALID = "sts-policy-invalid"
    POLICY_HOST_INVALID = "sts-webpki-invalid"


class PolicyType(Enum):
    """What was asked of the TLS (§4.4)."""

    TLSA = "tlsa"
    STS = "sts"
    NONE = "no-policy-found"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of the TLS: `lines` are the TLSA records or the policy's lines, `mx` the policy's patterns."""

    type: PolicyType
    lines: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()


NOTHING_ASKED: Final = Asked(PolicyType.NONE)


@dataclass(frozen=True, slots=True)
class Failed:
    """Sessions that failed alike: `host` is the MX, `ip` its address, `ours` the address that we came from."""

    failure: Failure
    sessions: int
    host: str = ""
    ip: str = ""
    ours: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PolicyResults:
    """What came of one policy: `lines` are its TLSA records or the policy's lines, `mx` the policy's patterns.

    `told` is how many failed as a report says it, which need not be the sum of its lines.
    """

    type: PolicyType
    domain: str
    lines: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()
    successes: int = 0
    failed: tuple[Failed, ...] = ()
    told: int | None = None

    @property
    def failures(self) -> int:
        """Return how many sessions failed."""
        return sum(each.sessions for each in self.failed) if self.told is None else self.told


@dataclass(frozen=True, slots=True)
class Report:
    """One day of one domain. `start` and `end` are RFC 3339 in UTC."""

    organization: str
    contact: str
    id: str
    start: str
    end: str
    results: tuple[PolicyResults, ...]

    def document(self) -> bytes:
        """Return the JSON of §4.4."""
        facts = {
            "organization-name": self.organization,
            "date-range": {"start-datetime": self.start, "end-datetime": self.end},
            "contact-info": self.contact,
            "report-id": self.id,
            "policies": [_policy(each) for each in self.results],
        }
        return json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode("utf-8")

    def packed(self) -> bytes:
        """Return it as it is sent: the same report gives the same octets."""
        return gzip.compress(self.document(), mtime=0)


def read_record(texts: Iterable[bytes]) -> tuple[str, ...]:
    """Return where the TXT records of `_smtp._tls.DOMAIN` ask reports to; () for none, or more than one (§3)."""
    records = [text for text in texts if re.match(rb"v=TLSRPTv1[ \t]*;", text)]
    if len(records) != 1:
        return ()
    for field in records[0].decode("ascii", "replace").split(";")[1:]:
        name, _, value = field.strip(" \t").partition("=")
        if name == "rua":
            found = [_RUA.fullmatch(uri.strip(" \t")) for uri in value.split(",")]
            return tuple(match[0] for match in found if match is not None)[:RECEIVERS_MAX]
    return ()


def mail_address(uri: str) -> str:
    """Return the address of a `mailto:` of a record; its headers are not ours to set."""
    return unquote(uri.removeprefix("mailto:").partition("?")[0])


def filename(sender: str, domain: str, begin: int, end: int) -> str:
    """Return the report's name (§5.1): who reports, on whom, from and to in seconds since 1970."""
    return f"{sender}!{domain}!{begin}!{end}.json.gz"


def _policy(results: PolicyResults) -> dict[str, object]:
    policy: dict[str, object] = {"policy-type": results.type.value, "policy-domain": results.domain}
    if results.lines:
        policy["policy-string"] = list(results.lines)
    if results.mx:
        policy["mx-host"] = list(results.mx)
    summary = {
        "total-successful-session-count": results.successes,
        "total-failure-session-count": results.failures,
    }
    shown: dict[str, object] = {"policy": policy, "summary": summary}
    if results.failed:
        shown["failure-details"] = [_failed(each) for each in results.failed]
    return shown


def _failed(failed: Failed) -> dict[str, object]:
    optional = {
        "sending-mta-ip": failed.ours,
        "receiving-mx-hostname": failed.host,
        "receiving-ip": failed.ip,
        "failure-reason-code": failed.reason,
    }
    said = {name: value for name, value in optional.items() if value}
    return {"result-type": failed.failure.value, "failed-session-count": failed.sessions, **said}
