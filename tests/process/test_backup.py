"""Backup of a running server, restore into an empty place, and verify that sees damage."""

import smtplib
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from tests.process.test_real_clients import Held, server

pytestmark = pytest.mark.process
__all__ = ["server"]


def gatepost(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "gatepost", *map(str, words)], capture_output=True, text=True)


@pytest.mark.row("STO-03", "STO-04")
def test_a_backup_of_a_running_server_restores_and_verify_sees_damage(server: Held, tmp_path: Path) -> None:
    address, _ = server.user(12)
    large = "x" * 76 + "\r\n"
    with smtplib.SMTP(server.host, server.port("mx")) as client:
        for subject, body in (("small", "hi\r\n"), ("large", "".join(f"{n:06}{large}" for n in range(30_000)))):
            client.sendmail(
                "ann@sender.example", [address], f"From: <ann@sender.example>\r\nSubject: {subject}\r\n\r\n{body}"
            )
    server.find(12, "large")
    done = gatepost("backup", tmp_path / "backup", "-c", server.facts["config_file"])
    assert done.returncode == 0, done.stderr
    assert gatepost("backup", tmp_path / "backup", "-c", server.facts["config_file"]).returncode == 1
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[server]\nhostname = "mx.example"\ndata_dir = "{tmp_path}/data"\n')
    done = gatepost("restore", tmp_path / "backup", "-c", config)
    assert done.returncode == 0, done.stderr
    assert "new UIDVALIDITY" in done.stdout
    assert gatepost("verify", "-c", config).returncode == 0
    assert gatepost("restore", tmp_path / "backup", "-c", config).returncode == 1
    bodies = [path for path in (tmp_path / "data" / "bodies").rglob("*") if path.is_file()]
    assert len(bodies) == 1
    octets = bytearray(bodies[0].read_bytes())
    octets[len(octets) // 2] ^= 1
    bodies[0].write_bytes(octets)
    done = gatepost("verify", "-c", config)
    assert done.returncode == 1
    assert bodies[0].name in done.stdout


def test_verify_says_that_a_server_runs(server: Held) -> None:
    done = gatepost("verify", "-c", server.facts["config_file"])
    assert done.returncode == 1
    assert "stop it first" in done.stderr


def test_a_file_that_is_no_database_is_reported_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mail.db").write_bytes(b"not a database" * 1000)
    done = gatepost("verify", tmp_path)
    assert done.returncode == 1
    assert "mail.db" in done.stdout
    with pytest.raises(apsw.NotADBError):
        apsw.Connection(str(tmp_path / "mail.db")).execute("SELECT 1 FROM sqlite_master")
