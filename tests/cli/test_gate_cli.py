"""`gatepost gate expect`, `gatepost grey list --friendly` and `gatepost sync`, as an operator meets them."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatepost import cli

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """`gatepost WORDS`: its exit status, what it printed and what it complained of."""
    config = tmp_path / "gatepost.toml"
    (tmp_path / "password").write_text("a long password")
    config.write_text(
        f'[server]\nhostname = "mx.example.org"\ndata_dir = "{tmp_path / "data"}"\n'
        f'[feeds.sync]\npeers = ["192.0.2.2"]\nkey_files = ["{tmp_path / "key"}"]\n'
    )

    def called(*words: str, at: bool = True) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gatepost", *words, *(["-c", str(config)] if at else [])])
        status = cli.run()
        out, err = capfd.readouterr()
        return status, out, err

    return called


def test_a_user_expects_a_mail_for_ten_minutes_and_no_other_does(call: Call, tmp_path: Path) -> None:
    call("domain", "add", "example.org")
    call("user", "add", "ann@example.org", "--password-file", str(tmp_path / "password"))
    status, out, _ = call("gate", "expect", "ann@example.org")
    assert status == 0
    assert out.endswith("no sender waits that writes to ann@example.org.\n")
    (record,) = json.loads(call("grey", "list", "--friendly", "--json")[1])
    assert record["state"] == "EXPECTED"
    assert call("grey", "list")[1] == ""
    status, _, err = call("gate", "expect", "bob@example.org")
    assert (status, "there is no account bob@example.org" in err) == (1, True)
    for wrong in ("soon", "2d", "0s"):
        status, _, err = call("gate", "expect", "ann@example.org", wrong)
        assert status == 1, wrong
        assert "Write 10m" in err or "a day at most" in err


def test_a_sync_key_is_made_once_and_only_its_owner_reads_it(call: Call, tmp_path: Path) -> None:
    status, out, _ = call("sync", "show")
    assert (status, "failed to open sync key" in out) == (1, True)
    assert call("sync", "key", str(tmp_path / "key"), at=False)[0] == 0
    made = tmp_path / "key"
    assert (stat.S_IMODE(made.stat().st_mode), made.stat().st_size) == (0o600, 2048)
    status, _, err = call("sync", "key", str(made), at=False)
    assert (status, "never written over" in err) == (1, True)
    status, out, _ = call("sync", "show", "--json")
    assert (status, json.loads(out)["peers"]) == (0, ["192.0.2.2"])
