"""What the content says: one interface for scanners, and the one simple scanner that is built in.

A scanner is pure: it is handed the mail and gives a score with the names of what it found. Heavier ones
(SpamAssassin's rules, clamd) take the same place.
"""

import re
from dataclasses import dataclass
from typing import Final, Protocol

from gatepost.base.verdict import Finding, Result
from gatepost.codec.mail.header import Flaw, HeaderBlock

GTUBE: Final = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
EICAR: Final = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
_PROGRAM: Final = re.compile(
    rb'(?:file)?name\*?[0-9]*\*?\s*=\s*"?[^"\r\n;]{0,200}\.(?:exe|scr|pif|com|bat|cmd|vbs|js|jse|wsf|hta|lnk|iso|img)"?\s*(?:;|\r\n)',
    re.IGNORECASE,
)
_SCORES: Final = {
    "GTUBE": 1000.0,
    "EICAR": 1000.0,
    "PROGRAM_ATTACHED": 5.0,
    "SPF_FAIL": 2.0,
    "SPF_SOFTFAIL": 0.8,
    "DKIM_INVALID": 1.0,
    "SPF_PASS": -0.1,
    "DKIM_SIGNED": 0.1,
    "DKIM_VALID": -0.3,
    "DKIM_VALID_AU": -0.1,
    "DMARC_PASS": -0.2,
    "DMARC_FAIL": 1.8,
    "MISSING_DATE": 1.2,
    "MISSING_MESSAGE_ID": 0.8,
    "MISSING_SUBJECT": 0.8,
    "AMBIGUOUS_HEADER": 2.5,
    "SUBJECT_ALL_CAPS": 0.7,
}


_RESULTS: Final = {
    ("spf", Result.PASS): "SPF_PASS",
    ("spf", Result.FAIL): "SPF_FAIL",
    ("spf", Result.SOFTFAIL): "SPF_SOFTFAIL",
    ("dkim", Result.PASS): "DKIM_VALID",
    ("dkim", Result.FAIL): "DKIM_INVALID",
    ("dmarc", Result.PASS): "DMARC_PASS",
    ("dmarc", Result.FAIL): "DMARC_FAIL",
}


@dataclass(frozen=True, slots=True)
class Scanned:
    """A scanner's word: `score` as SpamAssassin counts, `rules` the names of what hit."""

    score: float
    rules: tuple[str, ...]


class Scanner(Protocol):
    """Anything that scores a mail."""

    def scan(self, raw: bytes, header: HeaderBlock, findings: tuple[Finding, ...]) -> Scanned:
        """Score one mail; at most 1 ms on the loop, else the scanner brings its own process."""
        ...


class SimpleScanner:
    """A dozen facts that need neither a rule file nor training."""

    def scan(self, raw: bytes, header: HeaderBlock, findings: tuple[Finding, ...]) -> Scanned:
        """Score one mail by its structure, its test strings and what SPF and DKIM found."""
        rules = [*_of_content(raw), *_of_header(header), *_of_findings(findings)]
        return Scanned(round(sum(_SCORES[rule] for rule in rules), 1), tuple(rules))


def _of_content(raw: bytes) -> list[str]:
    rules = []
    if GTUBE in raw:
        rules.append("GTUBE")
    if EICAR in raw:
        rules.append("EICAR")
    if _PROGRAM.search(raw):
        rules.append("PROGRAM_ATTACHED")
    return rules


def _of_header(header: HeaderBlock) -> list[str]:
    rules = []
    for name, rule in (
        (b"date", "MISSING_DATE"),
        (b"message-id", "MISSING_MESSAGE_ID"),
        (b"subject", "MISSING_SUBJECT"),
    ):
        if not header.get(name):
            rules.append(rule)
    if header.flaws & {Flaw.MULTIPLE_FROM, Flaw.MULTIPLE_CONTENT_TYPE, Flaw.SPACE_BEFORE_COLON}:
        rules.append("AMBIGUOUS_HEADER")
    subject = b"".join(header.get(b"subject")[:1]).strip()
    if len(subject) > 10 and subject.isupper():
        rules.append("SUBJECT_ALL_CAPS")
    return rules


def _of_findings(findings: tuple[Finding, ...]) -> list[str]:
    """Name the results as SpamAssassin does; a signature of the author's own domain is DKIM_VALID_AU."""
    authors = {finding.domain for finding in findings if finding.method == "dmarc" and finding.domain}
    rules = []
    for finding in findings:
        if finding.method == "dkim" and finding.result is not Result.NONE:
            rules.append("DKIM_SIGNED")
        rule = _RESULTS.get((finding.method, finding.result))
        if rule is not None:
            rules.append(rule)
        if rule == "DKIM_VALID" and finding.domain in authors:
            rules.append("DKIM_VALID_AU")
    return list(dict.fromkeys(rules))


def spam_fields(scanned: Scanned, threshold: float) -> bytes:
    """Return the X-Spam fields in SpamAssassin's form, that filters in the wild key on."""
    is_spam = scanned.score >= threshold
    lines = [b"X-Spam-Flag: YES\r\n"] if is_spam else []
    stars = b"*" * min(max(int(scanned.score), 0), 50)
    tests = ",".join(scanned.rules) or "none"
    status = f"{'Yes' if is_spam else 'No'}, score={scanned.score:.1f} required={threshold:.1f}"
    lines.append(b"X-Spam-Level: " + stars + b"\r\n")
    lines.append(f"X-Spam-Status: {status}\r\n\ttests={tests} autolearn=disabled\r\n".encode())
    return b"".join(lines)
