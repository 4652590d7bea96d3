"""`gatepost rules test` says what the server would decide, and why."""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from gatepost import cli

Call = Callable[..., tuple[int, str, str]]
RULES = """\
[server]
hostname = "mx.here.example"
data_dir = "{folder}/data"
[policy.tables.blocked]
values = ["blocked@here.example"]
[policy.tables.aliases]
entries = {{ all = "ann@here.example, x@far.example" }}
[policy.actions.scan]
do = "relay"
host = "127.0.0.1"
port = 10025
tls = "none"
[policy.actions.team]
do = "deliver"
alias = "aliases"
[[policy.rules]]
match = {{ tag = "SPAM_IN", for = "here.example" }}
action = "team"
[[policy.rules]]
match = {{ from = "any", for = "here.example", recipient = "!<blocked>" }}
action = "scan"
[[policy.rules]]
match = {{ for = "any" }}
action = "relay"
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    config = tmp_path / "gatepost.toml"
    config.write_text(RULES.format(folder=tmp_path))
    (tmp_path / "password").write_text("a long password")

    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gatepost", *words, "-c", str(config)])
        status = cli.run()
        return (status, *capfd.readouterr())

    called("domain", "add", "here.example")
    called("user", "add", "ann@here.example", "--password-file", str(tmp_path / "password"))
    return called


def test_every_rule_before_the_one_that_decides_says_why_it_did_not(call: Call) -> None:
    status, out, _ = call("rules", "test", "--from", "192.0.2.7", "--rcpt", "ann@here.example")
    assert status == 0
    why = "not from local (the default): 192.0.2.7 is not local; not tag SPAM_IN: there is none"
    assert out.splitlines() == [
        f"   -     ann@here.example: rule 1: match tag SPAM_IN for here.example action team: {why}",
        "DECIDES  ann@here.example: rule 2: match from any for here.example recipient !<blocked> action scan",
        "ann@here.example: to smtp://127.0.0.1:10025 for ann@here.example, TLS none",
    ]


def test_no_rule_is_a_refusal_with_its_reason(call: Call) -> None:
    _, out, _ = call("rules", "test", "--from", "192.0.2.7", "--rcpt", "blocked@here.example")
    assert "not recipient !<blocked>: it is blocked@here.example" in out
    assert "DECIDES" not in out
    assert out.splitlines()[-1] == (
        "blocked@here.example: refused: 550 5.1.1 Invalid recipient "
        "(no rule takes blocked@here.example from 192.0.2.7)"
    )


def test_who_is_logged_in_is_local(call: Call) -> None:
    words = ("rules", "test", "--from", "192.0.2.7", "--rcpt", "x@far.example", "--sender", "ann@here.example")
    assert "refused: 550 5.7.1" in call(*words)[1]
    out = call(*words, "--auth", "ann@here.example")[1]
    assert "DECIDES  x@far.example: rule 3" in out
    assert out.endswith("x@far.example: to the MX of far.example for x@far.example, TLS may\n")


def test_addresses_that_come_out_of_an_alias_are_looked_at_too(call: Call) -> None:
    words = ("rules", "test", "--from", "127.0.0.1", "--tag", "SPAM_IN", "--rcpt", "all@here.example", "--json")
    found = json.loads(call(*words)[1])
    assert [(each["address"], each["rule"][:6]) for each in found["looks"] if each["decides"]] == [
        ("all@here.example", "rule 1"),
        ("ann@here.example", "rule 1"),
        ("x@far.example", "rule 3"),
    ]
    assert found["deliveries"] == [
        "into INBOX of ann@here.example",
        "to the MX of far.example for x@far.example, TLS may",
    ]
    assert found["refused"] == ""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--from", "here", "--rcpt", "a@b.example"), "--from: 'here' is no address: write 192.0.2.7"),
        (("--from", "192.0.2.7", "--rcpt", "nobody"), "--rcpt: 'nobody' is no address: write user@domain"),
    ],
)
def test_what_is_no_address_is_refused_with_a_remedy(call: Call, words: tuple[str, ...], complaint: str) -> None:
    status, out, err = call("rules", "test", *words)
    assert (status, out) == (1, "")
    assert complaint in err


def test_a_table_in_a_database_is_asked_and_each_rule_is_looked_at_once(call: Call, tmp_path: Path) -> None:
    with contextlib.closing(apsw.Connection(str(tmp_path / "users.db"))) as database:
        database.execute("CREATE TABLE domains (name); INSERT INTO domains VALUES ('hosted.example')")
    config = tmp_path / "gatepost.toml"
    table = f'sql = "sqlite://{tmp_path}/users.db"\nquery = "SELECT 1 FROM domains WHERE name = :key"\n'
    rule = '[[policy.rules]]\nmatch = { from = "any", for = "<hosted>" }\naction = "relay"\n'
    config.write_text(f"{config.read_text()}{rule}[policy.tables.hosted]\n{table}")
    status, out, _ = call("rules", "test", "--from", "192.0.2.7", "--rcpt", "x@hosted.example", "--json")
    said = json.loads(out)
    assert (status, [look["decides"] for look in said["looks"]]) == (0, [False, False, False, True])
    assert said["deliveries"] == ["to the MX of hosted.example for x@hosted.example, TLS may"]
    _, out, _ = call("rules", "test", "--from", "192.0.2.7", "--rcpt", "x@other.example")
    assert "not for <hosted>: other.example is not ours" in out
    (tmp_path / "users.db").unlink()
    _, out, _ = call("rules", "test", "--from", "192.0.2.7", "--rcpt", "x@hosted.example")
    assert "refused: 451 4.3.0" in out


def test_a_program_is_named_with_its_user(call: Call, tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    text = config.read_text().replace(
        'entries = { all = "ann@here.example, x@far.example" }',
        "entries = { ticket = \"|/usr/bin/tickets --new\" }\nprograms = true\nuser = 'tickets'",
    )
    config.write_text(text)
    _, out, _ = call("rules", "test", "--from", "127.0.0.1", "--tag", "SPAM_IN", "--rcpt", "ticket@here.example")
    assert "to the program /usr/bin/tickets --new as tickets" in out


def test_how_long_mail_is_tried_is_said_where_a_rule_says_it(call: Call, tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    config.write_text(config.read_text().replace("port = 10025\n", 'port = 10025\nlifetime = "14d"\n'))
    _, out, _ = call("rules", "test", "--from", "192.0.2.7", "--rcpt", "ann@here.example")
    assert "TLS none, tried for 14d" in out
    _, out, _ = call("rules", "test", "--from", "127.0.0.1", "--rcpt", "x@far.example")
    assert "tried for" not in out
