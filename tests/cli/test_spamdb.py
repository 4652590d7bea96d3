"""spamdb, word for word: what it prints, what it warns of, its exit statuses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatepost import cli
from gatepost.cli import spamdb
from gatepost.cli.spamdb import Action, Misused, Request, Type, read

Spamdb = Callable[..., tuple[int, str, str]]
DAY = 86_400


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A server's configuration that knows no more than where its greylist is."""
    file = tmp_path / "gatepost.toml"
    file.write_text(f'[server]\nhostname = "mx.example.org"\ndata_dir = "{tmp_path / "data"}"\n')
    return file


@pytest.fixture
def call(config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Spamdb:
    """`spamdb WORDS`: its exit status, what it printed and what it warned of."""
    monkeypatch.setenv("GATEPOST_CONFIG", str(config))

    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/usr/sbin/spamdb", *words])
        status = cli.run()
        out, err = capfd.readouterr()
        return status, out, err

    return called


def fields(line: str) -> list[str]:
    return line.rstrip("\n").split("|")


@pytest.mark.row("GR-09")
def test_a_white_host_is_one_for_36_days_and_its_line_has_nine_fields(call: Spamdb) -> None:
    assert call("-a", "192.0.2.1") == (0, "", "")
    status, out, err = call()
    word, ip, helo, sender, first, passes, expire, blocked, passed = fields(out)
    assert (status, err, word, ip, helo, sender, blocked, passed) == (0, "", "WHITE", "192.0.2.1", "", "", "1", "0")
    assert first == passes
    assert int(expire) == int(first) + 36 * DAY
    assert call("-a", "192.0.2.1") == (0, "", "")
    assert fields(call()[1])[-2:] == ["1", "1"]


@pytest.mark.row("GR-09", "GR-10")
def test_trapped_hosts_and_spamtraps(call: Spamdb) -> None:
    assert call("-ta", "192.0.2.1") == (0, "", "")
    assert call("-T", "-a", "Nobody@Example.ORG") == (0, "", "")
    _, out, _ = call()
    trap, trapped = sorted(map(fields, out.splitlines()))
    assert trap == ["SPAMTRAP", "nobody@example.org"]
    assert trapped[:2] == ["TRAPPED", "192.0.2.1"]
    assert len(trapped) == 3
    assert call("-dT", "nobody@example.org") == (0, "", "")
    assert call("-dt", "192.0.2.1") == (0, "", "")
    assert call() == (0, "", "")


@pytest.mark.row("GR-09")
def test_a_trapped_host_becomes_white_by_hand(call: Spamdb) -> None:
    call("-t", "-a", "192.0.2.1")
    call("-a", "192.0.2.1")
    assert fields(call()[1])[0] == "WHITE"


@pytest.mark.row("GR-09")
def test_keys_are_looked_up_and_the_status_counts_those_that_are_not_there(call: Spamdb) -> None:
    call("-a", "192.0.2.1", "192.0.2.2")
    status, out, err = call("192.0.2.2", "192.0.2.8", "192.0.2.1", "nobody@example.org")
    assert [fields(line)[1] for line in out.splitlines()] == ["192.0.2.2", "192.0.2.1"]
    assert (status, err) == (2, "")


@pytest.mark.row("GR-09")
def test_what_is_not_there_is_warned_of_and_the_rest_is_done(call: Spamdb) -> None:
    call("-a", "192.0.2.1")
    warnings = "spamdb: no entry for 192.0.2.8\nspamdb: no entry for nobody@example.org\n"
    assert call("-d", "192.0.2.8", "192.0.2.1", "nobody@example.org") == (2, "", warnings)
    assert call("-dG", "192.0.2.1") == (1, "", "spamdb: no entry for 192.0.2.1\n")
    assert call() == (0, "", "")


@pytest.mark.row("GR-09")
def test_a_key_must_be_an_address_and_others_are_added_all_the_same(call: Spamdb) -> None:
    told = "spamdb: invalid ip address mx.example.net\n"
    assert call("-a", "192.0.2.1", "mx.example.net", "192.0.2.2") == (1, "", told)
    assert len(call()[1].splitlines()) == 2
    assert call("-t", "-a", "mx.example.net") == (1, "", told)


@pytest.mark.row("GR-09")
def test_a_spamtrap_without_an_at_is_fatal(call: Spamdb) -> None:
    told = "spamdb: not an email address: nobody\n"
    assert call("-Ta", "a@example.org", "nobody", "b@example.org") == (255, "", told)
    assert call()[1] == "SPAMTRAP|a@example.org\n"


@pytest.mark.row("GR-09")
@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("-a", 2, "spamdb: no addresses specified\n"),
        ("-d", 2, "spamdb: no addresses specified\n"),
        ("-dG", 2, "spamdb: no addresses specified\n"),
        ("-a -G", 2, "spamdb: cannot add GREY entries\n"),
        ("-Ga 192.0.2.1", 2, "spamdb: cannot add GREY entries\n"),
        ("-t", 1, "usage: spamdb [-adGTt] [keys ...]\n"),
        ("-T 192.0.2.1", 1, "usage: spamdb [-adGTt] [keys ...]\n"),
        ("-G", 1, "usage: spamdb [-adGTt] [keys ...]\n"),
        ("-x", 1, "spamdb: option -x not recognized\nusage: spamdb [-adGTt] [keys ...]\n"),
    ],
)
def test_what_cannot_be_meant(call: Spamdb, words: str, status: int, told: str) -> None:
    assert call(*words.split()) == (status, "", told)


def test_of_two_actions_or_types_the_last_counts_as_with_getopt() -> None:
    assert read(["-a", "-d", "-T", "-t", "x"]) == Request(Action.DELETE, Type.TRAPPED, ("x",))
    assert read(["-a", "192.0.2.1", "-d"]).keys == ("192.0.2.1", "-d")
    assert read(["-d", "--", "-x"]) == Request(Action.DELETE, Type.WHITE, ("-x",))
    with pytest.raises(Misused):
        read(["--help"])


def test_no_status_is_taken_for_success_because_it_is_large(call: Spamdb) -> None:
    assert call(*(f"{n}@example.org" for n in range(256)))[0] == spamdb.STATUS_MAX


@pytest.mark.row("GR-09")
def test_gatepost_spamdb_is_the_same(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gatepost", "spamdb", "--config", str(config), "-Ta", "a@example.org"])
    assert cli.run() == 0
    monkeypatch.setattr(sys, "argv", ["gatepost", "spamdb", "-c", str(config), "a@example.org", "b@example.org"])
    assert cli.run() == 1
    assert capfd.readouterr().out == "SPAMTRAP|a@example.org\n"


@pytest.mark.process
@pytest.mark.row("GR-09")
def test_a_link_of_that_name_is_spamdb(config: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("gatepost")
    (tmp_path / "spamdb").symlink_to(program)
    environment = os.environ | {"GATEPOST_CONFIG": str(config)}
    done = subprocess.run(
        [tmp_path / "spamdb", "-d", "192.0.2.1"], env=environment, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"spamdb: no entry for 192.0.2.1\n")
