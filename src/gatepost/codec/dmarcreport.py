"""DMARC's aggregate reports as others send them (RFC 9990, and RFC 7489 appendix C before it): read, never trusted.

Reporters differ in everything that a schema could fix: namespaces, the case of words, fields that are missing or
doubled. What tells something is kept; only what is no report at all is refused. A document type is refused at its
first word, so no entity is ever declared, expanded or fetched.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.etree.ElementTree import ParseError, XMLParser

from gatepost.codec.mail.build import printable
from gatepost.codec.reportfile import BadReport, Kind

DOCUMENT_MAX: Final = 10 << 20
"""Octets of XML: some 15,000 records."""
DEPTH_MAX: Final = 8
RECORDS_MAX: Final = 50_000
ELEMENTS_MAX: Final = 500  # of one record
PROOFS_MAX: Final = 50
REASONS_MAX: Final = 10
TEXT_MAX: Final = 300
COUNT_MAX: Final = 1 << 53
_WRAPPER: Final = "schema"  # some send the schema's own example, with their report in it
KIND: Final = Kind(
    "DMARC report",
    b"<",
    "xml",
    (b"application/gzip", b"application/zip", b"application/xml", b"text/xml", b"application/x-zip-compressed"),
    DOCUMENT_MAX,
)


@dataclass(frozen=True, slots=True)
class Proof:
    """What one method found: `method` is dkim or spf, `result` its word; `selector` is of dkim alone."""

    method: str
    domain: str
    result: str
    selector: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Mails that fared alike: `disposition` is what was done, `dkim` and `spf` whether an aligned one passed."""

    ip: str
    count: int
    disposition: str
    dkim: str
    spf: str
    author: str
    """The domain of From."""
    sender: str = ""
    """The domain of the reverse-path, where the report tells it."""
    reasons: tuple[str, ...] = ()
    """Why the receiver did not do as the policy asks."""
    proofs: tuple[Proof, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether DMARC passed."""
        return "pass" in (self.dkim, self.spf)


@dataclass(frozen=True, slots=True)
class Report:
    """One reporter's days: `begin` and `end` in seconds since 1970, `policy` as the reporter saw it in the DNS."""

    organization: str
    contact: str
    id: str
    begin: int
    end: int
    domain: str
    policy: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    problems: tuple[str, ...] = ()
    """What the reporter says went wrong on its side."""


def read_report(octets: bytes) -> Report:
    """Return the report of a file: XML, gzipped or zipped XML, or a mail with one of these; raises BadReport."""
    return read_document(KIND.document(octets))


def read_document(octets: bytes) -> Report:
    """Return what an XML document says; raises BadReport."""
    if len(octets) > DOCUMENT_MAX:
        raise BadReport(f"more than {DOCUMENT_MAX} octets of XML")
    reader = _Reader()
    parser = XMLParser(target=reader)  # noqa: S314  (a document type is refused: see _Reader.doctype)
    try:
        parser.feed(_encoded(octets))
        parser.close()
    except (ParseError, LookupError, ValueError) as wrong:
        if isinstance(wrong, BadReport):
            raise
        if reader.whole:
            return reader.report()
        raise BadReport(f"it is no XML that can be read: {printable(str(wrong), TEXT_MAX)}") from None
    return reader.report()


def _encoded(octets: bytes) -> bytes:
    """Return it in the encoding that it says it has; some say UTF-8 and write whatever was in the mail."""
    head = octets[:200].lower()
    if octets.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"encoding=" in head and b"utf-8" not in head):
        return octets
    return octets.decode("utf-8", "replace").encode()


@dataclass(slots=True)
class _Element:
    name: str
    text: str = ""
    children: list["_Element"] = field(default_factory=list)

    def first(self, *path: str) -> "_Element":
        found = self
        for name in path:
            found = next(found.all(name), _NOTHING)
        return found

    def all(self, name: str) -> Iterator["_Element"]:
        return (each for each in self.children if each.name == name)

    def said(self, *path: str) -> str:
        return printable(self.first(*path).text.strip(), TEXT_MAX)

    def word(self, *path: str) -> str:
        return self.said(*path).lower()

    def count(self, *path: str) -> int:
        text = self.said(*path)
        return min(int(text), COUNT_MAX) if text.isascii() and text.isdecimal() else 0


_NOTHING: Final = _Element("")


class _Reader:
    """Builds one record after the other, and forgets what a report does not have."""

    def __init__(self) -> None:
        self._open: list[_Element] = []
        self._elements = 0
        self._parts: dict[str, _Element] = {}
        self._rows: list[Row] = []
        self.whole = False
        """Whether the report's end was seen: what follows it does not matter."""

    def doctype(self, name: str, _public: str | None, _system: str | None) -> None:
        """Refuse what entities come from."""
        raise BadReport(f"it declares a document type, {printable(name, 40)}: no report does")

    def start(self, tag: str, _attributes: dict[str, str]) -> None:
        """Open an element."""
        element = _Element(tag.rpartition("}")[2])
        if not self._open and element.name == _WRAPPER:
            return
        self._elements += 1
        if len(self._open) >= DEPTH_MAX or self._elements > ELEMENTS_MAX:
            raise BadReport("it nests, or repeats, more than a report does")
        if self._open:
            if len(self._open) > 1:
                self._open[-1].children.append(element)
        elif element.name != "feedback":
            raise BadReport(f"it is XML, but no DMARC report: it is of {printable(element.name, 40)}")
        self._open.append(element)

    def data(self, text: str) -> None:
        """Add to the text of the open element, up to its bound."""
        if self._open and len(self._open[-1].text) <= TEXT_MAX:
            self._open[-1].text += text[: TEXT_MAX + 1]

    def end(self, _tag: str) -> None:
        """Close an element; a whole record becomes a row."""
        if not self._open:
            return
        element = self._open.pop()
        self.whole = self.whole or not self._open
        if len(self._open) != 1:
            return
        self._elements = 0
        if element.name != "record":
            self._parts.setdefault(element.name, element)
        elif len(self._rows) >= RECORDS_MAX:
            raise BadReport(f"more than {RECORDS_MAX} records")
        else:
            self._rows.append(_row(element))

    def close(self) -> None:
        """Do nothing more: `report` tells."""

    def report(self) -> Report:
        """Return what was read; raises BadReport where there is none in it."""
        metadata = self._parts.get("report_metadata", _NOTHING)
        published = self._parts.get("policy_published", _NOTHING)
        if not (metadata.children or self._rows):
            raise BadReport("it has neither the data of a report nor records")
        return Report(
            metadata.said("org_name"),
            metadata.said("email"),
            metadata.said("report_id"),
            metadata.count("date_range", "begin"),
            metadata.count("date_range", "end"),
            published.word("domain"),
            tuple((each.name, published.word(each.name)) for each in published.children if each.name != "domain"),
            tuple(self._rows),
            tuple(printable(each.text.strip(), TEXT_MAX) for each in metadata.all("error")),
        )


def _row(record: _Element) -> Row:
    evaluated = record.first("row", "policy_evaluated")
    return Row(
        record.said("row", "source_ip"),
        record.count("row", "count"),
        evaluated.word("disposition"),
        evaluated.word("dkim"),
        evaluated.word("spf"),
        record.word("identifiers", "header_from"),
        record.word("identifiers", "envelope_from"),
        tuple(_reasons(evaluated)),
        tuple(_proofs(record.first("auth_results"))),
    )


def _reasons(evaluated: _Element) -> Iterator[str]:
    for each in list(evaluated.all("reason"))[:REASONS_MAX]:
        told = [text for text in (each.word("type"), each.said("comment")) if text]
        if told:
            yield ": ".join(told)


def _proofs(results: _Element) -> Iterator[Proof]:
    for each in results.children[:PROOFS_MAX]:
        if each.name in ("dkim", "spf") and (each.word("domain") or each.word("result") not in ("", "none")):
            yield Proof(each.name, each.word("domain"), each.word("result"), each.said("selector"))
