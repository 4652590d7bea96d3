"""TLS reports as real reporters write them are read (see tlsrpt/README.md)."""

from pathlib import Path

import pytest

from gatepost.codec.tlsrptread import read_report

FOLDER = Path(__file__).parent / "tlsrpt"


@pytest.mark.parametrize(
    ("name", "organization", "domain", "successes", "failures"),
    [
        ("google.com.eml", "Google Inc.", "cardinalhealth.ca", 48, 0),
        ("mail.ru.json", "Mail.ru", "example.com", 0, 1),
        ("rfc8460.json", "Company-X", "company-y.example", 5326, 303),
        ("smtp_tls.json", "Example Inc.", "example.com", 0, 3),
    ],
)
def test_reports_of_others_are_read(
    name: str, organization: str, domain: str, successes: int, failures: int
) -> None:
    report = read_report((FOLDER / name).read_bytes())
    (results,) = report.results
    assert (report.organization, results.domain) == (organization, domain)
    assert (results.successes, results.failures) == (successes, failures)
