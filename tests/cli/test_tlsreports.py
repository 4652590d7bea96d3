"""`gatepost tls report` tells how TLS to others went, `read` what they report of the TLS to us."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gatepost import cli
from gatepost.aio.clock import SystemClock
from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.codec.tlsrpt import NOTHING_ASKED, Failed, Failure
from gatepost.databases import reached
from gatepost.tlsrpt.results import Results
from gatepost.tlsrpt.settings import ReportSettings
from tests.support.loop import run

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
    assert "mail.eml: it is no TLS report" in out
    assert "nothing.json: No such file" in out
    assert "Example Inc." in out


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """A server that had sessions with far.example on 2026-11-23."""
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[server]\nhostname = "here.example"\ndata_dir = "{tmp_path}"\n')

    class Then(SystemClock):
        def now(self) -> Instant:
            return Instant(int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * MICROSECONDS)

    async def play() -> None:
        results = Results(ReportSettings(), Then())
        results.succeeded("far.example", NOTHING_ASKED)
        results.failed("far.example", NOTHING_ASKED, Failed(Failure.NO_STARTTLS, 2, "mx.far.example"))
        unit = results.unit()
        assert unit is not None
        async with reached(tmp_path) as databases:
            await databases.gate.commit(unit)

    run(play())
    return config


def test_a_day_is_told_as_the_document_of_the_rfc(capsys: pytest.CaptureFixture[str], counted: Path) -> None:
    words = ("report", "far.example", "--day", "2026-11-23", "--json", "-c", str(counted))
    status, out = tell(capsys, *words)
    assert status == 0
    told = json.loads(out)
    assert told["organization-name"] == "here.example"
    assert told["date-range"]["start-datetime"] == "2026-11-23T00:00:00Z"
    assert told["policies"][0]["summary"] == {
        "total-successful-session-count": 1,
        "total-failure-session-count": 2,
    }


def test_days_are_listed_and_a_day_without_sessions_is_said_so(
    capsys: pytest.CaptureFixture[str], counted: Path
) -> None:
    status, out = tell(capsys, "reports", "--json", "-c", str(counted))
    assert status == 0
    assert json.loads(out) == [{"day": "2026-11-23", "domain": "far.example", "successes": 1, "failures": 2}]
    _, out = tell(capsys, "report", "far.example", "--day", "2026-11-20", "-c", str(counted))
    assert "no session with far.example on 2026-11-20" in out
    status, out = tell(capsys, "report", "far.example", "--day", "yesterday", "-c", str(counted))
    assert (status, "write 2026-11-24" in out) == (1, True)
