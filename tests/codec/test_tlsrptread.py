"""Reports of others are read within bounds, and what is no report is told in words."""

import gzip
import json
from base64 import encodebytes

import pytest

from gatepost.codec.reportfile import PACKED_MAX, BadReport
from gatepost.codec.tlsrpt import Failed, Failure, PolicyResults, PolicyType, Report
from gatepost.codec.tlsrptread import DOCUMENT_MAX, read_report

RESULTS = PolicyResults(
    PolicyType.STS,
    "y.example",
    ("version: STSv1", "mode: testing"),
    ("*.y.example",),
    7,
    (Failed(Failure.EXPIRED, 3, "mx.y.example", "192.0.2.1", "192.0.2.2", "old"),),
    3,
)
REPORT = Report("X", "tls@x.example", "1@x", "2026-11-23T00:00:00Z", "2026-11-23T23:59:59Z", (RESULTS,))
MAIL = (
    b"From: a@x.example\r\nContent-Type: multipart/report; report-type=tlsrpt; boundary=b\r\n\r\n"
    b"--b\r\n\r\nA report.\r\n--b\r\nContent-Type: application/tlsrpt+gzip\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + encodebytes(REPORT.packed()) + b"--b--\r\n"
)


@pytest.mark.parametrize("octets", [REPORT.document(), REPORT.packed(), MAIL, b"\xef\xbb\xbf" + REPORT.document()])
def test_what_we_write_we_read(octets: bytes) -> None:
    assert read_report(octets) == REPORT


def test_a_result_that_is_not_known_is_told_as_the_reason() -> None:
    said = json.loads(REPORT.document())
    said["policies"][0]["failure-details"][0] |= {"result-type": "new", "failed-session-count": "3"}
    (results,) = read_report(json.dumps(said).encode()).results
    assert results.failed[0] == Failed(Failure.OTHER, 0, "mx.y.example", "192.0.2.1", "192.0.2.2", "new; old")


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (b"", "no TLS report"),
        (b"Subject: hello\r\n\r\nhello\r\n", "no TLS report"),
        (b"{", "not JSON"),
        (b"{" * 100_000, "not JSON"),
        (b'{"a":' + b"[" * 200_000, "not JSON"),
        (b"{}", "no policies"),
        (b'{"policies": 7}', "no policies"),
        (b'{"policies": [' + b"1," * 2000 + b"1]}", "more than 1000 policies"),
        (REPORT.packed()[:-20], "its end is missing"),
        (REPORT.packed()[:12] + b"xxxxxxxxxxxxxxxxxxxx", "damaged"),
        (gzip.compress(bytes(DOCUMENT_MAX + 1)), "unpacked it has more than"),
        (bytes(PACKED_MAX + 1), "more than"),
        (MAIL.replace(b"H4sI", b"=H4s"), "base64|damaged|no TLS report"),
    ],
)
def test_what_is_no_report_is_told(octets: bytes, problem: str) -> None:
    with pytest.raises(BadReport, match=problem):
        read_report(octets)


@pytest.mark.parametrize("said", ['{"policies": [1, {"policy": 2, "summary": [], "failure-details": [3]}]}'])
def test_what_has_the_wrong_shape_counts_as_nothing(said: str) -> None:
    first, second = read_report(said.encode()).results
    assert (first.successes, first.failures, second.failed) == (0, 0, (Failed(Failure.OTHER, 0),))
