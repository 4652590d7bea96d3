"""`gatepost doctor` and `gatepost dns zone`, as an operator meets them; the letters of `--watch`."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gatepost import cli
from gatepost.accounts.verbs import add_domain
from gatepost.base.clock import Instant
from gatepost.cli import alarm
from gatepost.cli.alarm import Alarm
from gatepost.cli.sendmail import Away
from gatepost.config import ConfigError, load
from gatepost.databases import reached
from gatepost.intake.offline import Slip
from gatepost.watch.finding import Finding, ok, problem, unknown, warning
from gatepost.watch.records import Record
from tests.support.loop import run
from tests.support.zone import Zone

NOW = Instant(1_795_420_800_000_000)
TOML = (
    '[server]\nhostname = "mx.here.example"\ndata_dir = "{}"\n[watch]\nlists = []\naddresses = ["198.51.100.7"]\n'
)
LINE = Record("here.example", "MX", "10 mx.here.example.", "where mail goes")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gatepost.toml"
    file.write_text(TOML.format(tmp_path))
    return file


def command(
    capsys: pytest.CaptureFixture[str],
    config: Path,
    *words: str,
    records: dict[str, dict[str, list[str]]] | None = None,
) -> tuple[int, str]:
    """Run a command; with records, against a DNS that has them."""

    async def play() -> int:
        async with Zone(records or {}) as served:
            asked = ["--dns", f"127.0.0.1:{served.address[1]}"] if records is not None else []
            sys.argv = ["gatepost", *words, "-c", str(config), *asked]
            return await asyncio.to_thread(cli.run)

    before = sys.argv
    try:
        status = run(play())
    finally:
        sys.argv = before
    told = capsys.readouterr()
    return status, told.out + told.err


def with_domain(config: Path) -> None:
    async def play() -> None:
        async with reached(load(config).data_dir) as databases:
            await add_domain(databases.mail, "here.example", NOW)

    run(play())


def test_what_is_wrong_is_told_with_the_lines_that_mend_it(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    with_domain(config)
    status, out = command(capsys, config, "doctor", "--quick", records={})
    assert status == 1
    assert "here.example. 3600 IN MX 10 mx.here.example." in out
    assert "problem  dkim" not in out.replace("problem mx", "")
    assert "gatepost dkim new here.example" in out
    assert "problem" in out.splitlines()[-1]


def test_json_has_every_check_with_its_records(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out = command(capsys, config, "doctor", "Here.Example", "--quick", "--json", records={})
    assert status == 1
    found: list[dict[str, Any]] = json.loads(out)
    (mx,) = (each for each in found if each["check"] == "mx")
    assert (mx["of"], mx["state"], mx["add"][0]["line"]) == (
        "here.example", "problem", "here.example. 3600 IN MX 10 mx.here.example.",
    )  # fmt: skip
    assert {"port 25", "clock"}.isdisjoint(each["check"] for each in found)


def test_without_a_domain_it_says_how_to_get_one(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out = command(capsys, config, "doctor", "--quick", records={})
    assert (status, "gatepost domain add" in out) == (1, True)


@pytest.mark.parametrize(("form", "begins"), [("bind", "; where mail"), ("json", "["), ("nsupdate", "zone here.")])
def test_a_zone_is_printed_in_three_forms(
    capsys: pytest.CaptureFixture[str], config: Path, form: str, begins: str
) -> None:
    status, out = command(
        capsys, config, "dns", "zone", "here.example", "--format", form, "--address", "2001:db8::9"
    )
    assert status == 0
    assert out.startswith(begins)
    assert "2001:db8::9" in out
    assert "198.51.100.7" not in out


def test_what_stands_in_no_zone_of_ours_is_said_in_comments(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    _, out = command(capsys, config, "dns", "zone", "club.example")
    assert "; where you rent 198.51.100.7, set its name (PTR) to mx.here.example" in out
    assert "; mx.here.example has its addresses in another zone" in out
    assert "; no DKIM key signs its mail yet: gatepost dkim new club.example" in out


@pytest.mark.parametrize(
    "wrong",
    [
        'lists = ["-"]',
        'addresses = ["here"]',
        'outside = "a b"',
        'time = "x:99999"',
        "every = 5",
        "certificate_days = 1",
    ],
)
def test_settings_are_checked(config: Path, wrong: str) -> None:
    config.write_text(f"[watch]\n{wrong}\n")
    with pytest.raises(ConfigError):
        load(config)


class Heard:
    """What was written to the postmaster."""

    def __init__(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.letters: list[tuple[tuple[str, ...], str]] = []
        self.away = False
        self._config = config
        monkeypatch.setattr(alarm, "hand_over", self._take)

    def _take(self, _path: Path, slip: Slip, content: bytes) -> None:
        if self.away:
            raise Away("nobody is there")
        self.letters.append((slip.recipients, content.decode()))

    def hear(self, *findings: Finding) -> list[str]:
        """Let a new process hear of findings."""

        async def play() -> list[str]:
            settings = load(self._config)
            async with reached(settings.data_dir) as databases:
                return await Alarm(databases.mail, settings).hear(findings, NOW)

        return run(play())


def test_a_problem_is_told_once_over_restarts_and_once_when_it_is_mended(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(config, monkeypatch)
    wrong = problem("mx", "here.example", "nobody is named", LINE)
    assert heard.hear(wrong, warning("tls-rpt", "here.example", "nobody is told")) == [
        "a letter to postmaster@mx.here.example: 1 thing is wrong"
    ]
    ((to, text),) = heard.letters
    assert to == ("postmaster@mx.here.example",)
    assert "Subject: [mx.here.example] 1 thing is wrong\r\n" in text
    assert f"mx here.example: nobody is named\r\n    {LINE.line}\r\n" in text
    assert "tls-rpt" not in text
    assert heard.hear(wrong) == []
    assert heard.hear(unknown("mx", "here.example", "the DNS does not answer")) == []
    assert heard.hear(ok("mx", "here.example", "fine")) == [
        "a letter to postmaster@mx.here.example: 1 thing is mended"
    ]
    assert "mx here.example: it was that nobody is named" in heard.letters[1][1]
    assert heard.hear(ok("mx", "here.example", "fine")) == []


def test_what_could_not_be_told_is_told_later(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(config, monkeypatch)
    heard.away = True
    wrong = [problem("mx", f"d{n}.example", "nobody is named") for n in range(3)]
    assert heard.hear(*wrong) == ["no letter could be written (nobody is there): 3 things are wrong"]
    heard.away = False
    assert heard.hear(*wrong) == ["a letter to postmaster@mx.here.example: 3 things are wrong"]
