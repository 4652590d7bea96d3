"""Aggregate reports of strangers are read within bounds; nothing in them is expanded or fetched."""

import gzip
import time
import tracemalloc
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from gatepost.codec import dmarcreport
from gatepost.codec.dmarcreport import DOCUMENT_MAX, read_document, read_report
from gatepost.codec.reportfile import BadReport

RECORD = (
    b"<record><row><source_ip>192.0.2.1</source_ip><count>3</count><policy_evaluated><disposition>none</disposition>"
    b"<dkim>pass</dkim><spf>fail</spf></policy_evaluated></row>"
    b"<identifiers><header_from>x.example</header_from></identifiers></record>"
)
META = b"<report_metadata><org_name>%b</org_name><report_id>1</report_id></report_metadata>"


def document(records: bytes = RECORD, name: bytes = b"Them", before: bytes = b"") -> bytes:
    return b'<?xml version="1.0"?>' + before + b"<feedback>" + META % name + records + b"</feedback>"


def zipped(octets: bytes, name: str = "report.xml") -> bytes:
    file = BytesIO()
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        archive.writestr(name, octets)
    return file.getvalue()


LAUGHS = b"".join(b'<!ENTITY l%d "%b">' % (n, b"&l%d;" % (n - 1) * 10 if n else b"ha") for n in range(10))
ENTITIES = {
    "a billion laughs": b"<!DOCTYPE feedback [" + LAUGHS + b"]>",
    "a file": b'<!DOCTYPE feedback [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>',
    "a document of the network": b'<!DOCTYPE feedback SYSTEM "http://192.0.2.1/report.dtd">',
    "a parameter": b'<!DOCTYPE feedback [<!ENTITY % p SYSTEM "http://192.0.2.1/p"> %p;]>',
}


@pytest.mark.row("AUTHN-22")
@pytest.mark.parametrize("which", ENTITIES)
def test_no_entity_is_declared(which: str) -> None:
    with pytest.raises(BadReport, match="declares a document type"):
        read_report(document(name=b"&l9;", before=ENTITIES[which]))


@pytest.mark.row("AUTHN-22")
@pytest.mark.parametrize("pack", [gzip.compress, zipped])
def test_a_bomb_is_put_away_before_it_goes_off(pack: "type[bytes]") -> None:
    bomb = pack(document(b" " * (1 << 28)))
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(BadReport, match="unpacked it has more than"):
        read_report(bomb)
    assert time.process_time() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 4 * DOCUMENT_MAX
    tracemalloc.stop()


@pytest.mark.row("AUTHN-22")
def test_a_hundredfold_is_too_much_beyond_a_megabyte() -> None:
    packed = gzip.compress(document(b" " * (2 << 20)))
    with pytest.raises(BadReport, match="unpacked it has more than"):
        read_report(packed)
    assert read_report(gzip.compress(document(b" " * 900_000 + RECORD))).rows[0].count == 3


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (b"", "no DMARC report"),
        (b"<html></html>", "it is of html"),
        (document()[:-200], "no XML that can be read"),
        (b"<feedback></feedback>", "neither the data of a report nor records"),
        (document(b"<a>" * 9), "nests"),
        (document(b"<record>" + b"<a/>" * 501 + b"</record>"), "repeats"),
        (document() + b" " * DOCUMENT_MAX, "more than 10485760 octets of XML"),
        (zipped(b""), "no element found"),
        (zipped(document())[:-40], "damaged"),
        (b'<?xml version="1.0" encoding="none-such"?><feedback/>', "no XML that can be read"),
    ],
)
def test_what_is_no_report_is_told(octets: bytes, problem: str) -> None:
    with pytest.raises(BadReport, match=problem):
        read_report(octets)


def test_records_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmarcreport, "RECORDS_MAX", 10)
    assert len(read_document(document(RECORD * 10)).rows) == 10
    with pytest.raises(BadReport, match="more than 10 records"):
        read_document(document(RECORD * 11))


def test_words_of_strangers_are_short_and_printable() -> None:
    report = read_document(document(name=b"\xc2\x9b31m" + b"x" * 100_000))
    assert len(report.organization) <= 300
    assert report.organization.isprintable()


def test_a_count_that_is_none_is_nought() -> None:
    for count in (b"-1", b"x", b"", "٣".encode(), b"1e9"):
        (row,) = read_document(document(RECORD.replace(b">3<", b">%b<" % count))).rows
        assert row.count == 0
    (row,) = read_document(document(RECORD.replace(b">3<", b">" + b"9" * 100 + b"<"))).rows
    assert row.count == dmarcreport.COUNT_MAX


def test_what_follows_the_end_does_not_matter() -> None:
    assert read_document(document() + b"\0\0\0").rows == read_document(document()).rows
