"""DMARC aggregate reports as real reporters write them are read (see dmarc/README.md)."""

from pathlib import Path

import pytest

from gatepost.codec.dmarcreport import Proof, Report, read_report
from gatepost.codec.reportfile import BadReport

FOLDER = Path(__file__).parent / "dmarc"
READ = {  # the reporter, the domain, its rows, their mails, and those that passed
    "!example.com!1538204542!1538463818.xml": ("", "example.com", 1, 1, 0),
    "!large-example.com!1711897200!1711983600.xml.gz": ("", "example.com", 2286, 2286, 0),
    "Report domain- borschow.com Submitter- google.com Report-ID- 949348866075514174.eml": (
        "google.com", "borschow.com", 1, 1, 0,
    ),
    "addisonfoods.com!example.com!1536105600!1536191999.xml": ("addisonfoods.com", "example.com", 1, 1, 0),
    "empty_reason.xml": ("example.org", "example.com", 1, 2, 2),
    "estadocuenta1.infonacot.gob.mx!example.com!1536853302!1536939702!2940.xml.zip": (
        "XYZ Corporation", "example.com", 1, 1, 0,
    ),
    "example.net!example.com!1529366400!1529452799.xml": ("example.net", "example.com", 1, 1, 0),
    "fastmail.com!example.com!1516060800!1516147199!102675056.xml.gz": (
        "FastMail Pty Ltd", "indemed.com", 1, 1, 0,
    ),
    "ikea.com!example.de!1538690400!1538776800.xml": ("ikea.com", "example.de", 1, 1, 0),
    "invalid_utf_8.xml": ("", "example.com", 1, 1, 0),
    "mimecast-weird-gzip.eml": ("Mimecast", "ab.id.au", 1, 1, 1),
    "old_draft_from_wiki.xml": ("acme.com", "example.com", 1, 2, 2),
    "protection.outlook.com!example.com!1711756800!1711843200.xml": ("Outlook.com", "example.com", 1, 1, 0),
    "report_with_upper_cased_pass.xml": ("example.com", "example.com", 1, 1, 1),
    "rfc9990-example.net!example.com!1700000000!1700086399.xml": ("example.net", "example.com", 2, 7, 5),
    "rfc9990-sample.xml": ("Sample Reporter", "example.com", 1, 123, 123),
    "twilight.eml": ("google.com", "twlnet.com", 1, 1, 1),
    "usssa.com!example.com!1538784000!1538870399.xml": ("usssa.com", "example.com", 2, 2, 0),
    "veeam.com!example.com!1530133200!1530219600.xml": ("veeam.com", "example.com", 1, 1, 0),
}  # fmt: skip
REFUSED = {"invalid_xml.xml": "no XML that can be read", "README.md": "no DMARC report"}


def report(name: str) -> Report:
    return read_report((FOLDER / name).read_bytes())


def test_every_sample_is_read_or_refused() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {*READ, *REFUSED}


@pytest.mark.parametrize("name", READ)
def test_reports_of_others_are_read(name: str) -> None:
    read = report(name)
    mails = sum(row.count for row in read.rows)
    passed = sum(row.count for row in read.rows if row.passed)
    assert (read.organization, read.domain, len(read.rows), mails, passed) == READ[name]
    assert read.begin <= read.end
    assert all(row.ip for row in read.rows)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_report_is_told(name: str) -> None:
    with pytest.raises(BadReport, match=REFUSED[name]):
        report(name)


def test_the_report_of_rfc_9990_is_read_whole() -> None:
    (row,) = report("rfc9990-sample.xml").rows
    assert (row.ip, row.count, row.author, row.sender) == ("192.0.2.123", 123, "example.com", "example.com")
    assert (row.disposition, row.dkim, row.spf) == ("pass", "pass", "fail")
    assert row.proofs == (
        Proof("dkim", "example.com", "pass", "abc123"),
        Proof("spf", "example.com", "fail"),
    )
