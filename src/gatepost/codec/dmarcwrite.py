"""DMARC's aggregate report as we send it (RFC 9990 §3): XML of one policy's mails in a span of time, gzipped."""

import gzip
from collections.abc import Iterable
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from gatepost.codec.dmarc import Policy
from gatepost.codec.dmarcreport import Report, Row

NAMESPACE: Final = "urn:ietf:params:xml:ns:dmarc-2.0"
GENERATOR: Final = "gatepost"
_PUBLISHED: Final = ("p", "sp", "np", "adkim", "aspf", "testing")
"""The order of the schema; `discovery_method` follows."""


def published(policy: Policy) -> tuple[tuple[str, str], ...]:
    """Return what a domain publishes in the words of `policy_published`."""
    said = {
        "p": policy.request.word,
        "sp": "" if policy.subdomains is None else policy.subdomains.word,
        "np": "" if policy.missing is None else policy.missing.word,
        "adkim": "s" if policy.strict_dkim else "r",
        "aspf": "s" if policy.strict_spf else "r",
        "testing": "y" if policy.testing else "n",
    }
    return tuple((name, said[name]) for name in _PUBLISHED if said[name])


def document(report: Report) -> bytes:
    """Return the XML of §3.1; the same report gives the same octets."""
    root = Element("feedback", {"xmlns": NAMESPACE})
    _texts(root, (("version", "1.0"),))
    metadata = SubElement(root, "report_metadata")
    _texts(metadata, (("org_name", report.organization), ("email", report.contact), ("report_id", report.id)))
    span = SubElement(metadata, "date_range")
    _texts(span, (("begin", str(report.begin)), ("end", str(report.end))))
    _texts(metadata, (("error", each) for each in report.problems))
    _texts(metadata, (("generator", GENERATOR),))
    policy = SubElement(root, "policy_published")
    _texts(policy, (("domain", report.domain), *report.policy, ("discovery_method", "treewalk")))
    for row in report.rows:
        _record(SubElement(root, "record"), row)
    octets: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return octets


def packed(report: Report) -> bytes:
    """Return it as it is sent."""
    return gzip.compress(document(report), mtime=0)


def filename(receiver: str, report: Report) -> str:
    """Return the file's name (§3.5.2): who reports, on whose policy, from and to in seconds, and which."""
    return f"{receiver}!{report.domain}!{report.begin}!{report.end}!{report.id.partition('@')[0]}.xml.gz"


def _record(record: Element, row: Row) -> None:
    mails = SubElement(record, "row")
    _texts(mails, (("source_ip", row.ip), ("count", str(row.count))))
    evaluated = SubElement(mails, "policy_evaluated")
    _texts(evaluated, (("disposition", row.disposition), ("dkim", row.dkim), ("spf", row.spf)))
    for reason in row.reasons:
        kind, _, comment = reason.partition(": ")
        _texts(SubElement(evaluated, "reason"), (("type", kind), ("comment", comment)))
    _texts(SubElement(record, "identifiers"), (("header_from", row.author), ("envelope_from", row.sender)))
    results = SubElement(record, "auth_results")
    for proof in sorted(row.proofs, key=lambda each: each.method):
        scope = (("scope", "mfrom" if row.sender else "helo"),) if proof.method == "spf" else ()
        texts = (("domain", proof.domain), ("selector", proof.selector), *scope, ("result", proof.result))
        _texts(SubElement(results, proof.method), texts)


def _texts(parent: Element, texts: Iterable[tuple[str, str]]) -> None:
    """Add elements of text; those without any are left out."""
    for name, text in texts:
        if text:
            SubElement(parent, name).text = text
