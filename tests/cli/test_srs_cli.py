"""`gatepost srs`: a key, and what an address becomes or stands for."""

import json
import sys
from pathlib import Path

import pytest

from gatepost import cli


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    server = f'[server]\nhostname = "mx.here.example"\ndata_dir = "{tmp_path}/data"\n'
    Path("gatepost.toml").write_text(f'{server}[policy.srs]\nkey_file = "srs.key"\n')


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command; return its status and output."""
    sys.argv = ["gatepost", "srs", *words]
    status = cli.run()
    told = capsys.readouterr()
    return status, told.out + told.err


def test_an_address_and_back_with_keys_that_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "key", "srs.key")[0] == 0
    assert Path("srs.key").stat().st_mode & 0o777 == 0o600
    status, made = call(capsys, "test", "joe@far.example")
    assert status == 0
    assert made.startswith("SRS0=")
    assert made.endswith("=far.example=joe@mx.here.example\n")
    assert call(capsys, "key", "srs.key")[1] == "srs.key has a new first key: a running server reads it by itself\n"
    assert len(Path("srs.key").read_text().split()) == 2
    status, back = call(capsys, "test", made.strip(), "--json")
    assert json.loads(back) == {"stands_for": "joe@far.example"}
    assert call(capsys, "test", "joe@far.example")[1] != made


def test_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = call(capsys, "test", "joe@far.example")
    assert status == 1
    assert "make one: gatepost srs key" in out
    call(capsys, "key", "srs.key")
    assert "is no address" in call(capsys, "test", "joe")[1]
    assert "hash is not ours" in call(capsys, "test", "SRS0=abcd=AB=far.example=joe@mx.here.example")[1]
