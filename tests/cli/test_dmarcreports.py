"""`gatepost dmarc read` shows reports of files, `arrived` sums up what came to a mailbox; `tls arrived` too."""

import json
import sys
from pathlib import Path

import pytest

from gatepost import cli
from gatepost.accounts.password import Hasher
from gatepost.accounts.verbs import add_domain, add_user
from gatepost.aio.clock import SystemClock
from gatepost.base.clock import DAY, Instant
from gatepost.base.ids import Minter
from gatepost.blobs.bodies import Blobs
from gatepost.codec.dmarc import Policy, Request
from gatepost.codec.dmarcreport import Row, read_report
from gatepost.databases import reached
from gatepost.db.unit import Unit
from gatepost.dmarcrpt.results import Results
from gatepost.dmarcrpt.settings import DmarcReportSettings
from gatepost.store.mailbox import Mailboxes
from gatepost.store.verbs import create_default_mailboxes_steps
from tests.support.loop import run

CONFORMANCE = Path(__file__).parent.parent / "conformance"
OUTLOOK = CONFORMANCE / "dmarc" / "protection.outlook.com!example.com!1711756800!1711843200.xml"
MAIL = CONFORMANCE / "dmarc" / "twilight.eml"
OF_GOOGLE = CONFORMANCE / "tlsrpt" / "google.com.eml"
FORGED = Row("192.0.2.7", 1, "reject", "fail", "fail", "far.example", "evil.example")
NOTE = b"From: ann@far.example\r\nSubject: hello\r\n\r\nhello\r\n"


def tell(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command; return its status and output."""
    sys.argv = ["gatepost", *words]
    status = cli.run()
    told = capsys.readouterr()
    return status, told.out + told.err


@pytest.fixture(autouse=True)
def _argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A server whose dmarc@here.example got the same DMARC report twice, a TLS report, a note and an old report."""
    file = tmp_path / "gatepost.toml"
    file.write_text(f'[server]\nhostname = "here.example"\ndata_dir = "{tmp_path}"\n')
    now, minter = SystemClock().now(), Minter(0)
    old = Instant(now - 40 * DAY)

    async def play() -> None:
        async with reached(tmp_path) as databases:
            await add_domain(databases.mail, "here.example", now)
            account = await add_user(
                databases.mail, Hasher(), minter, "dmarc@here.example", b"a long password", now
            )
            steps = (*account.steps, *create_default_mailboxes_steps(account.id, minter, now))
            await databases.mail.commit(Unit(steps))
            mailboxes = Mailboxes(databases.mail, Blobs(databases.mail, tmp_path / "bodies"), minter)
            inbox = (await mailboxes.find(account.id, "INBOX")).id
            twice = (MAIL.read_bytes(), MAIL.read_bytes())
            for octets, date in (*((each, now) for each in twice), (NOTE, now), (OF_GOOGLE.read_bytes(), now)):
                await mailboxes.append(inbox, octets, 0, date, now)
            counted = Results(DmarcReportSettings(), SystemClock())
            counted.add("far.example", Policy(Request.REJECT), FORGED)
            unit = counted.unit()
            assert unit is not None
            await databases.gate.commit(unit)
            await mailboxes.append(inbox, next(CONFORMANCE.glob("dmarc/Report*.eml")).read_bytes(), 0, old, now)

    run(play())
    return file


def test_files_are_shown_line_by_line_and_what_is_no_report_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    note = tmp_path / "note.eml"
    note.write_bytes(NOTE)
    status, out = tell(capsys, "dmarc", "read", str(OUTLOOK), str(note), "--json")
    assert status == 1
    assert "note.eml: it is no DMARC report" in out
    rows = json.loads(out[: out.rindex("]") + 1])
    assert len(rows) >= 1
    assert {row["domain"] for row in rows} == {"example.com"}
    assert {row["dmarc"] for row in rows} <= {"pass", "fail"}


def test_what_came_to_a_mailbox_is_summed_up_once(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out = tell(capsys, "dmarc", "arrived", "dmarc@here.example", "-c", str(config), "--json")
    assert status == 0
    _, alone = tell(capsys, "dmarc", "read", str(MAIL), "--json")
    mails = sum(row["mails"] for row in json.loads(alone))
    assert mails > 0
    assert sum(row["mails"] for row in json.loads(out)) == mails


def test_those_that_bring_no_report_are_counted_and_old_ones_asked_for(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    _, out = tell(capsys, "dmarc", "arrived", "dmarc@here.example", "-c", str(config))
    assert "1 reports; 2 other mails" in out
    _, out = tell(capsys, "dmarc", "arrived", "dmarc@here.example", "--days", "60", "-c", str(config))
    assert "2 reports; 2 other mails" in out


def test_tls_reports_are_found_among_them(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out = tell(capsys, "tls", "arrived", "dmarc@here.example", "-c", str(config), "--json")
    assert status == 0
    assert [row["reporter"] for row in json.loads(out)] == ["Google Inc."]


def test_an_account_or_mailbox_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out = tell(capsys, "dmarc", "arrived", "eve@here.example", "-c", str(config))
    assert (status, "eve@here.example" in out) == (1, True)
    words = ("dmarc", "arrived", "dmarc@here.example", "--mailbox", "Reports", "-c", str(config))
    status, out = tell(capsys, *words)
    assert (status, "dmarc@here.example has no mailbox Reports" in out) == (1, True)


def test_what_is_told_to_others_can_be_looked_at(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out = tell(capsys, "dmarc", "reports", "-c", str(config), "--json")
    assert status == 0
    (day,) = json.loads(out)
    assert (day["domain"], day["mails"]) == ("far.example", 1)
    _, out = tell(capsys, "dmarc", "report", "Far.Example", "--day", day["day"], "-c", str(config), "--json")
    assert [(row["reporter"], row["ip"], row["done"]) for row in json.loads(out)] == [
        ("here.example", "192.0.2.7", "reject")
    ]
    _, out = tell(capsys, "dmarc", "report", "far.example", "--day", day["day"], "-c", str(config), "--xml")
    assert read_report(out.encode()).rows == (FORGED,)
    status, out = tell(capsys, "dmarc", "report", "far.example", "--day", "yesterday", "-c", str(config))
    assert (status, "write 2026-11-24" in out) == (1, True)
