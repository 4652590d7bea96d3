"""A whole server that keeps its mail encrypted: from the making of the key to its change, and to the wrong one."""

import asyncio
import io
import json
import smtplib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.backup import verify
from gatepost.blobs.bodies import Progress
from gatepost.cli.commands import app
from gatepost.cli.common import Failed
from gatepost.config import ConfigError
from gatepost.db.files import DatabaseInUse
from tests.process.served import HEAD, USER, Served, free_ports, until

pytestmark = [pytest.mark.process]

SETTINGS = """
[gate]
exempt = ["127.0.0.0/8"]
[policy.actions.out]
do = "relay"
host = "127.0.0.1"
port = {closed}
tls = "none"
[policy.actions.here]
do = "deliver"
[[policy.rules]]
match = {{ from = "any", for = "own" }}
action = "here"
[[policy.rules]]
match = {{ from = "local", for = "any" }}
action = "out"
[queue]
encryption_key_file = "{keys}"
"""
TEXT = b"From: <informant@sender.example>\r\nSubject: leaked papers\r\n\r\nleaked text: \xe2\x98\x83\r\n"
TO = "journalist@far.example"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="gatepost-rest-", dir="/tmp", ignore_cleanup_errors=True) as name:
        keys = Path(name) / "keys"
        said = gatepost("queue", "key", "new", "-o", str(keys))
        assert f'encryption_key_file = "{keys}"' in said
        assert keys.stat().st_mode & 0o777 == 0o600
        before = keys.read_bytes()
        assert len(before) == 33
        with pytest.raises(Failed, match="is there already"):
            gatepost("queue", "key", "new", "-o", str(keys))
        assert keys.read_bytes() == before
        settings = SETTINGS.format(closed=free_ports(1)[0], keys=keys)
        with Served(Path(name), workers=1, settings=settings) as running:
            yield running


def gatepost(*words: str) -> str:
    """Run a command in this process, for each takes long to begin; return what it printed."""
    octets = io.BytesIO()
    printed = io.TextIOWrapper(octets, "utf-8", newline="", write_through=True)
    with redirect_stdout(printed):
        status = app(list(words), standalone_mode=False)
    assert not status, octets.getvalue()
    return octets.getvalue().decode()


def command(server: Served, line: str) -> str:
    return gatepost(*line.split(), "-c", str(server.config))


def let_go(server: Served) -> bool:
    """Tell whether the generation before, which drains, has let the databases go."""
    try:
        return bool(command(server, "queue key check"))
    except DatabaseInUse:
        return False


def waiting(server: Served) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(command(server, "queue list --json"))
    return found


@pytest.mark.row("MT-01", "MT-02", "MT-03", "MT-04")
def test_mail_waits_encrypted_and_its_operator_reads_it(server: Served) -> None:
    with smtplib.SMTP("127.0.0.1", server.ports["mx"]) as client:
        client.sendmail("informant@sender.example", [TO], TEXT)
        client.sendmail("informant@sender.example", [USER], HEAD + b"hello\r\n\r\nleaked text\r\n")
    (row,) = waiting(server)
    assert (row["from"], row["to"]) == ("informant@sender.example", TO)
    envelope = command(server, f"queue envelope {row['id']}")
    assert "sender: informant@sender.example\nctime: " in envelope
    assert f"rcpt: {TO}\n" in envelope
    assert command(server, f"queue message {row['id']}").encode().endswith(TEXT)
    assert "everything can be read" in command(server, "queue key check")
    assert server.subjects() == ["hello"]  # the mailboxes' bodies are encrypted too, and served
    data = server.folder / "data"
    octets = b"".join(path.read_bytes() for path in [*data.glob("mail.db*"), *data.glob("bodies/*/*")])
    assert b"leaked" not in octets


@pytest.mark.row("MT-02")
def test_a_key_is_changed_beside_the_running_server(server: Served) -> None:
    keys = server.folder / "keys"
    old = keys.read_text()
    keys.write_text("f" * 32 + "\n" + old)
    with pytest.raises(Failed, match="does not know key"):
        command(server, "queue key rotate")
    command(server, "upgrade")
    until(lambda: let_go(server), 40, server.last_words)
    counted = json.loads(command(server, "queue key rotate --dry-run --json"))
    done = json.loads(command(server, "queue key rotate --json"))
    (name,) = done["struck_out"]
    assert (counted["envelopes"], counted["bodies"]) == ({name: 2}, {name: 2})
    assert done["changed"] == {"envelopes": 2, "bodies": 2}
    keys.write_text("f" * 32 + "\n")
    (row,) = waiting(server)
    assert row["to"] == TO
    assert "everything can be read" in command(server, "queue key check")
    assert "is good" in command(server, "check")


@pytest.mark.row("MT-02")
def test_a_backup_says_that_the_key_is_not_in_it(server: Served) -> None:
    backup = server.folder / "backup"
    assert "encryption_key_file is NOT" in command(server, f"backup {backup}")
    assert f"{backup} is sound" in command(server, f"verify {backup}")
    octets = b"".join(path.read_bytes() for path in backup.rglob("*") if path.is_file())
    assert b"f" * 32 not in octets
    assert b"leaked" not in octets
    (wrong,) = asyncio.run(verify(backup, SystemClock(), Progress()))
    assert "cannot be checked" in wrong


@pytest.mark.row("MT-02")
def test_a_wrong_key_is_refused_at_the_start_and_nothing_is_lost(server: Served) -> None:
    assert server.process is not None
    server.process.terminate()
    server.process.wait(40)
    keys = server.folder / "keys"
    keys.write_text("0" * 32 + "\n")
    line = server.config.read_text().split("\n").index(f'encryption_key_file = "{keys}"') + 1
    wrong = f"gatepost.toml:{line}: queue.encryption_key_file: mail here is encrypted under key"
    serve = [sys.executable, "-m", "gatepost", "serve", "-c", str(server.config)]
    done = subprocess.run(serve, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert wrong in done.stderr
    with pytest.raises(ConfigError, match=wrong):
        command(server, "check")
    keys.write_text("0" * 31 + "\n")
    with pytest.raises(
        ConfigError, match=f"toml:{line}: .*{keys}:1: a key is exactly 32 characters, this one has 31"
    ):
        command(server, "check")
    keys.write_text("f" * 32 + "\n")
    (row,) = waiting(server)
    assert (row["to"], row["from"]) == (TO, "informant@sender.example")
