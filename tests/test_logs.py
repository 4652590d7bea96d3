"""A log line is one record, whatever a stranger said."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gatepost.logs import configure, set_level


@pytest.mark.row("SYS-01")
@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "said",
    [
        'x\n2026-01-01 LOGIN ok user="admin"',
        "x\r\n\x1b[2J\x1b]0;title\x07",
        "\u202eevil\u202c \u2028 \u0085 \x7f \x9b31m",
        "a" * 1_000_000,
        '"}{"event":"forged"}',
    ],
)
def test_what_a_stranger_said_stays_inside_its_record(
    said: str, form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(tmp_path, form=form, level="info", worker="w0").info("greeted", helo=said, port=25, tls=None)
    written = (tmp_path / "log" / "gatepost.log").read_bytes()
    assert written.isascii()
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    record = json.loads(written)
    assert record["event"] == "greeted"
    assert record["helo"] == (said if len(said) <= 1000 else said[:1000] + "...")
    assert record["port"] == 25
    assert record["tls"] is None
    shown = capfd.readouterr().err
    assert shown.count("\n") == 1
    assert shown.rstrip("\n").isprintable()
    assert shown.isascii()
    assert len(shown) < 3_000


def test_an_error_of_ours_comes_with_its_traceback_on_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = configure(tmp_path, form="text", level="info", worker="w0")
    try:
        raise ValueError("no\nway")
    except ValueError as error:
        log.exception("failed")
        log.error("failed", exc_info=error)
    lines = (tmp_path / "log" / "gatepost.log").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["level"] for record in records] == ["error", "error"]
    assert all("ValueError: no\nway" in record["exception"] for record in records)
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_the_level_can_be_changed_while_it_runs(tmp_path: Path) -> None:
    log = configure(tmp_path, form="text", level="warning", worker="w0")
    for level in ("warning", "debug", "error", "info"):
        set_level(level)
        for tell in (log.debug, log.info, log.warning, log.error):
            tell(level)
    set_level("info")
    lines = (tmp_path / "log" / "gatepost.log").read_text().splitlines()
    told = [(json.loads(line)["event"], json.loads(line)["level"]) for line in lines]
    assert [each[1] for each in told if each[0] == "warning"] == ["warning", "error"]
    assert [each[1] for each in told if each[0] == "debug"] == ["debug", "info", "warning", "error"]
    assert [each[1] for each in told if each[0] == "error"] == ["error"]
    assert [each[1] for each in told if each[0] == "info"] == ["info", "warning", "error"]


def test_times_are_in_utc_to_the_millisecond(tmp_path: Path) -> None:
    configure(tmp_path, form="json", level="info", worker="w0").info("now")
    at = json.loads((tmp_path / "log" / "gatepost.log").read_text())["at"]
    told = datetime.fromisoformat(at)
    assert abs((datetime.now(UTC) - told).total_seconds()) < 10
    assert len(at) == len("2026-11-23T08:00:00.000Z")
