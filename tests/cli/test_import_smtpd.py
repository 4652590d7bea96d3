"""`gatepost import smtpd.conf`, as an operator meets it."""

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from gatepost import cli
from gatepost.config import load, parse

Call = Callable[..., tuple[int, str, str]]
CONF = """\
max-message-size 35M
queue encryption key 00112233445566778899aabbccddeeff
accept for local deliver to mbox
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    file = tmp_path / "smtpd.conf"
    file.write_text(CONF)
    return file


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gatepost", "import", "smtpd.conf", *words])
        status = cli.run()
        return (status, *capfd.readouterr())

    return called


def test_what_is_printed_is_a_configuration_with_its_report(call: Call, conf: Path) -> None:
    status, out, err = call(str(conf))
    assert (status, err) == (0, "")
    assert parse(out, conf).intake.max_size == 35 << 20
    assert f"# {conf}:2: unsupported queue encryption key ***: bodies are not kept encrypted" in out
    assert "0011" not in out


def test_json_has_the_report_and_the_settings(call: Call, conf: Path) -> None:
    _, out, _ = call(str(conf), "--json")
    found = json.loads(out)
    assert tomllib.loads(found["toml"])["policy"]["rules"] == [{"match": {"for": "local"}, "action": "deliver"}]
    assert found["report"][0]["heed"] == "mapped"
    assert (found["report"][0]["file"], found["report"][0]["line"]) == (str(conf), 1)


def test_a_file_is_written_once_and_the_report_is_printed(call: Call, conf: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "gatepost.toml"
    status, out, _ = call(str(conf), "-o", str(out_file))
    assert status == 0
    assert f"{conf}:1: mapped" in out
    assert load(out_file).intake.max_size == 35 << 20
    out_file.write_text("mine")
    status, _, err = call(str(conf), "-o", str(out_file))
    assert (status, out_file.read_text()) == (1, "mine")
    assert "nothing was overwritten: name a new file" in err


def test_a_broken_file_is_refused_with_line_and_remedy(call: Call, conf: Path) -> None:
    conf.write_text("accept from any\n")
    status, out, err = call(str(conf))
    assert (status, out) == (1, "")
    assert f"{conf}:1: the rule has no for (write for any" in err
    assert "No such file" in call(str(conf.with_name("none")))[2]
