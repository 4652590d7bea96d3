"""`gatepost rules tables`: what is in them, and whether they are good."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from gatepost import cli

Call = Callable[..., tuple[int, str, str]]
SETTINGS = """\
[server]
hostname = "mx.here.example"
data_dir = "{folder}/data"
[policy.tables.blocked]
values = ["blocked@here.example"]
[policy.tables.aliases]
file = "{folder}/aliases"
[policy.tables.users]
sql = "sqlite://{folder}/users.db"
query = "SELECT target FROM users WHERE name = :key"
[policy.tables.isp]
kind = "credentials"
entries = {{ isp = "ann:secret" }}
[policy.actions.team]
do = "deliver"
alias = "aliases"
[[policy.rules]]
match = {{ from = "any", for = "here.example", recipient = "!<blocked>" }}
action = "team"
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    config = tmp_path / "gatepost.toml"
    config.write_text(SETTINGS.format(folder=tmp_path))
    (tmp_path / "aliases").write_text("root: joe, ann\nTeam: joe\n")
    with apsw.Connection(str(tmp_path / "users.db")) as database:
        database.execute("CREATE TABLE users (name, target); INSERT INTO users VALUES ('joe', 'x@far.example')")
    database.close()

    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gatepost", "rules", "tables", *words, "-c", str(config)])
        status = cli.run()
        return (status, *capfd.readouterr())

    return called


@pytest.mark.row("MT-10")
def test_the_tables_are_listed_with_their_source_and_use(call: Call, tmp_path: Path) -> None:
    status, out, _ = call("list", "--json")
    assert status == 0
    listed = {row["table"]: (row["source"], row["used_as"], row["entries"]) for row in json.loads(out)}
    assert listed == {
        "blocked": ("the configuration", "mailaddr", 1),
        "aliases": (f"{tmp_path}/aliases", "virtual", 2),
        "users": (f"sqlite://{tmp_path}/users.db", "", "asked"),
        "isp": ("the configuration", "credentials", 1),
    }


def test_an_entry_is_looked_up_in_memory_and_in_a_database(call: Call) -> None:
    assert call("lookup", "aliases", "team", "nobody")[:2] == (0, "team: joe\nnobody: nothing\n")
    assert call("lookup", "users", "joe")[:2] == (0, "joe: x@far.example\n")
    assert call("lookup", "blocked", "blocked@here.example")[1] == "blocked@here.example: it is there\n"
    assert call("lookup", "users", "ann")[0] == 1


def test_passwords_are_not_shown(call: Call) -> None:
    status, out, err = call("lookup", "isp", "isp")
    assert (status, "secret" in out + err) == (1, False)


@pytest.mark.row("MT-10")
def test_a_wrong_table_is_named_before_the_server_is_asked(call: Call, tmp_path: Path) -> None:
    status, _, err = call("update")
    assert (status, "no server runs here" in err) == (1, True)
    (tmp_path / "aliases").write_text("root: joe\nteam: /etc/passwd\n")
    status, _, err = call("update", "aliases")
    assert status != 0
    assert f"{tmp_path}/aliases line 2" in err
    status, _, err = call("lookup", "nowhere", "x")
    assert status != 0
