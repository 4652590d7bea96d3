"""`gatepost tls read` shows what others report of the TLS to us."""

import json
import sys
from pathlib import Path

import pytest

from gatepost import cli

REPORTS = Path(__file__).parent.parent / "conformance" / "tlsrpt"


def tell(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command; return its status and output."""
    sys.argv = ["gatepost", "tls", *words]
    status = cli.run()
    told = capsys.readouterr()
    return status, told.out + told.err


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])


def test_reports_are_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = tell(capsys, "read", str(REPORTS / "rfc8460.json"), str(REPORTS / "google.com.eml"), "--json")
    assert status == 0
    rows = json.loads(out)
    assert [(row["sessions"], row["result"]) for row in rows] == [
        (5326, "success"),
        (100, "certificate-expired"),
        (200, "starttls-not-supported"),
        (3, "validation-failure"),
        (48, "success"),
    ]
    assert rows[2]["ip"] == "203.0.113.56"
    assert rows[4]["reporter"] == "Google Inc."


def test_what_is_no_report_is_named_and_the_others_are_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mail.eml").write_bytes(b"Subject: hello\r\n\r\nhello\r\n")
    status, out = tell(capsys, "read", "mail.eml", "nothing.json", str(REPORTS / "smtp_tls.json"), "--json")
    assert status == 1
    assert "mail.eml: it is neither JSON" in out
    assert "nothing.json: No such file" in out
    assert "Example Inc." in out
