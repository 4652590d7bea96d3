"""A log line is one record, whatever a stranger said."""

import json
from pathlib import Path

import pytest

from gatepost.logs import configure


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
    said: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.rstrip("\n").isprintable()
    assert shown.isascii()
    assert len(shown) < 3_000
