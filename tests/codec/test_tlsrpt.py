"""TLS reports: who asks for them, and what they say (RFC 8460 §3, §4)."""

import gzip
import json

import pytest

from gatepost.codec.tlsrpt import (
    Failed,
    Failure,
    PolicyResults,
    PolicyType,
    Report,
    filename,
    mail_address,
    read_record,
)


@pytest.mark.parametrize(
    ("texts", "receivers"),
    [
        ([b"v=TLSRPTv1;rua=mailto:reports@example.com"], ("mailto:reports@example.com",)),  # RFC 8460 §3.1.1
        (
            [b"v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt"],
            ("https://reporting.example.com/v1/tlsrpt",),
        ),
        ([b"v=TLSRPTv1; rua=mailto:a@b, https://c/d ;x=y;"], ("mailto:a@b", "https://c/d")),
        ([b"v=TLSRPTv1; rua=http://c/d,ftp://e,mailto:a@b"], ("mailto:a@b",)),
        ([b"v=TLSRPTv1; rua=mailto:a@b", b"v=TLSRPTv1; rua=mailto:a@b"], ()),
        ([b"v=TLSRPTv10; rua=mailto:a@b"], ()),
        ([b"v=TLSRPTv1;"], ()),
        ([b"v=TLSRPTv1; rua=" + b",".join([b"mailto:a@b"] * 99)], ("mailto:a@b",) * 5),
        ([], ()),
    ],
)
def test_one_record_says_who_wants_reports(texts: list[bytes], receivers: tuple[str, ...]) -> None:
    assert read_record(texts) == receivers


def test_a_report_says_what_the_rfc_says() -> None:
    # RFC 8460, appendix B
    failed = (
        Failed(Failure.EXPIRED, 100, "mx1.mail.company-y.example", ours="2001:db8:abcd:0012::1"),
        Failed(Failure.NO_STARTTLS, 200, "mx2.mail.company-y.example", "203.0.113.56", "2001:db8:abcd:0013::1"),
    )
    lines = ("version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400")
    results = PolicyResults(PolicyType.STS, "company-y.example", lines, ("*.mail.company-y.example",), 5326, failed)
    begin, end = "2016-04-01T00:00:00Z", "2016-04-01T23:59:59Z"
    report = Report("Company-X", "sts-reporting@company-x.example", "5065427c@x", begin, end, (results,))
    told = json.loads(gzip.decompress(report.packed()))
    assert told["date-range"] == {"start-datetime": begin, "end-datetime": end}
    (policy,) = told["policies"]
    assert policy["policy"]["policy-type"] == "sts"
    assert policy["summary"] == {"total-successful-session-count": 5326, "total-failure-session-count": 300}
    assert policy["failure-details"][0] == {
        "result-type": "certificate-expired",
        "failed-session-count": 100,
        "sending-mta-ip": "2001:db8:abcd:0012::1",
        "receiving-mx-hostname": "mx1.mail.company-y.example",
    }
    assert report.packed() == report.packed()


def test_names_and_addresses() -> None:
    assert filename("mx.x.example", "y.example", 1_470_013_207, 1_470_186_007) == (
        "mx.x.example!y.example!1470013207!1470186007.json.gz"
    )
    assert mail_address("mailto:a%2Bb@c.example?subject=x") == "a+b@c.example"
