"""Read the TLS reports of others (RFC 8460 §4.4, §5): a document, gzipped or not, or the mail that brings one.

Whoever knows our address can send one, so everything is bounded: what is unpacked, how many policies and lines
there are, how long a text is. A count that is none, or a result that no RFC names, does not make the rest
unreadable.
"""

import json
from collections.abc import Mapping
from typing import Final

from gatepost.codec.mail.build import printable
from gatepost.codec.reportfile import BadReport, Kind
from gatepost.codec.tlsrpt import Failed, Failure, PolicyResults, PolicyType, Report

DOCUMENT_MAX: Final = 16 << 20
"""Octets of JSON: some 50,000 lines of failures."""
POLICIES_MAX: Final = 1_000
LINES_MAX: Final = 50_000  # of all policies together
TEXT_MAX: Final = 300
COUNT_MAX: Final = 1 << 53  # I-JSON (RFC 7493 §2.2)
KIND: Final = Kind(
    "TLS report", b"{", "json", (b"application/tlsrpt+gzip", b"application/tlsrpt+json"), DOCUMENT_MAX
)
_FAILURES: Final = {each.value: each for each in Failure}
_POLICIES: Final = {each.value: each for each in PolicyType}


def read_report(octets: bytes) -> Report:
    """Return the report of a file: JSON, gzipped JSON, or a mail with either; raises BadReport."""
    return read_document(KIND.document(octets))


def read_document(octets: bytes) -> Report:
    """Return what a JSON document says; raises BadReport."""
    if len(octets) > DOCUMENT_MAX:
        raise BadReport(f"more than {DOCUMENT_MAX} octets of JSON")
    try:
        said = json.loads(octets.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except (ValueError, RecursionError) as wrong:
        raise BadReport(f"it is not JSON: {str(wrong)[:TEXT_MAX]}") from None
    if not isinstance(said, dict) or not isinstance(said.get("policies"), list):
        raise BadReport("it is JSON, but no TLS report: it has no policies")
    if len(said["policies"]) > POLICIES_MAX:
        raise BadReport(f"more than {POLICIES_MAX} policies")
    results, lines = [], 0
    for each in said["policies"]:
        found = _results(_object(each))
        lines += len(found.failed)
        if lines > LINES_MAX:
            raise BadReport(f"more than {LINES_MAX} lines of failures")
        results.append(found)
    span = _object(said.get("date-range"))
    return Report(
        _text(said, "organization-name"),
        _text(said, "contact-info"),
        _text(said, "report-id"),
        _text(span, "start-datetime"),
        _text(span, "end-datetime"),
        tuple(results),
    )


def _results(said: Mapping[str, object]) -> PolicyResults:
    policy, summary = _object(said.get("policy")), _object(said.get("summary"))
    details = said.get("failure-details")
    return PolicyResults(
        _POLICIES.get(_text(policy, "policy-type"), PolicyType.NONE),
        _text(policy, "policy-domain"),
        _texts(policy, "policy-string"),
        _texts(policy, "mx-host"),
        _count(summary, "total-successful-session-count"),
        tuple(_failed(_object(each)) for each in details[: LINES_MAX + 1]) if isinstance(details, list) else (),
        _count(summary, "total-failure-session-count"),
    )


def _failed(said: Mapping[str, object]) -> Failed:
    """Read a line of failures; a result that §4.3 does not name is told as the reason."""
    result = _text(said, "result-type")
    reasons = (_text(said, "failure-reason-code"), _text(said, "additional-information"))
    unknown = "" if result in _FAILURES else result
    return Failed(
        _FAILURES.get(result, Failure.OTHER),
        _count(said, "failed-session-count"),
        _text(said, "receiving-mx-hostname"),
        _text(said, "receiving-ip"),
        _text(said, "sending-mta-ip"),
        "; ".join(filter(None, (unknown, *reasons))),
    )


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(said: Mapping[str, object], name: str) -> str:
    value = said.get(name)
    return printable(value, TEXT_MAX) if isinstance(value, str) else ""


def _texts(said: Mapping[str, object], name: str) -> tuple[str, ...]:
    """Read a list of texts; appendix B has a single text where §4.4 asks for a list."""
    value = said.get(name)
    listed = value[:POLICIES_MAX] if isinstance(value, list) else [value]
    return tuple(printable(each, TEXT_MAX) for each in listed if isinstance(each, str))


def _count(said: Mapping[str, object], name: str) -> int:
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return min(max(value, 0), COUNT_MAX)
