"""pfctl in its own words, `pf check`, `import pf.conf` and `gate explain`, over a server's databases."""

import io
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from gatepost import cli
from gatepost.cli.pfctl import COMMANDS, Misused, Request, read
from gatepost.config import parse
from gatepost.gate.decide import TABLE_NAMES
from tests.gate.pfconf.article import ARTICLE, BANNING_PRINTED

Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gatepost.toml"
    file.write_text(
        f'[server]\nhostname = "mx.example.org"\ndata_dir = "{tmp_path / "data"}"\n[gate]\nmode = "spamd"\n'
    )
    return file


@pytest.fixture
def call(config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Called:
    """Run a program by its name: its exit status, what it printed, and what it said on standard error."""
    monkeypatch.setenv("GATEPOST_CONFIG", str(config))

    def called(*words: str, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"/sbin/{words[0]}", *words[1:]])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        status = cli.run()
        return (status, *capfd.readouterr())

    return called


@pytest.fixture
def pfctl(call: Called) -> Called:
    def called(*words: str, given: str = "") -> tuple[int, str, str]:
        return call("pfctl", *words, given=given)

    return called


# --- pfctl ----------------------------------------------------------------------------------------------------


@pytest.mark.row("PF-22", "PF-23")
def test_the_commands_say_what_pfctl_says(pfctl: Called) -> None:
    assert pfctl("-t", "spamd", "-T", "add", "192.0.2.1", "!192.0.2.9", "192.0.2.0/24", "192.0.2.1") == (
        0,
        "",
        "3/4 addresses added.\n",
    )
    assert pfctl("-tspamd", "-Tshow") == (0, "   192.0.2.0/24\n   192.0.2.1\n  !192.0.2.9\n", "")
    assert pfctl("-q", "-t", "spamd", "-T", "delete", "192.0.2.1") == (0, "", "")
    assert pfctl("-t", "spamd", "-T", "delete", "192.0.2.1") == (0, "", "0/1 addresses deleted.\n")
    assert pfctl("-t", "spamd", "-T", "replace", "10/8", "192.0.2.9") == (
        0,
        "",
        "1 addresses added.\n1 addresses deleted.\n1 addresses changed.\n",
    )
    assert pfctl("-t", "spamd", "-T", "replace", "10/8", "192.0.2.9") == (0, "", "no changes.\n")
    assert pfctl("-t", "spamd", "-T", "zero") == (0, "", "1 table/stats cleared.\n")
    assert pfctl("-t", "spamd", "-T", "flush") == (0, "", "2 addresses deleted.\n")
    assert pfctl("-t", "spamd", "-T", "show") == (0, "", "")


@pytest.mark.row("PF-23")
def test_commands_may_be_shortened_as_far_as_one_letter() -> None:
    for command in COMMANDS:
        for length in range(1, len(command)):
            words = ["-t", "t", "-T", command[:length], *(["9"] if command == "expire" else [])]
            if command != "load":
                assert read(words).command == command
    assert read(["-nvv", "-t", "t", "-Tadd", "-f", "-", "1"]) == Request("t", "add", ("1",), "-", True, False, 2)


@pytest.mark.row("PF-03", "PF-23")
def test_tables_are_made_by_add_and_replace_and_dropped_by_kill(pfctl: Called) -> None:
    missing = (1, "", "pfctl: Table does not exist.\n")
    for words in (["show"], ["test", "192.0.2.1"], ["delete", "192.0.2.1"], ["flush"], ["expire", "5"], ["kill"]):
        assert pfctl("-t", "mine", "-T", *words) == missing
    assert pfctl("-n", "-t", "mine", "-T", "add", "192.0.2.1") == (0, "", "1 table created (dummy).\n")
    assert pfctl("-t", "mine", "-T", "add", "192.0.2.1") == (0, "", "1 table created.\n1/1 addresses added.\n")
    assert pfctl("-t", "mine", "-T", "kill") == (0, "", "1 table deleted.\n")
    assert pfctl("-t", "mine", "-T", "show") == missing
    for name in TABLE_NAMES:
        assert pfctl("-t", name, "-T", "show") == (0, "", "")


@pytest.mark.row("PF-23")
def test_a_dummy_changes_nothing_and_says_what_would_be(pfctl: Called) -> None:
    pfctl("-t", "spamd", "-T", "add", "192.0.2.1", "!192.0.2.2")
    before = pfctl("-t", "spamd", "-T", "show")
    for words, said in (
        (("add", "192.0.2.1", "192.0.2.3"), "1/2 addresses added (dummy).\n"),
        (("delete", "192.0.2.1", "192.0.2.2"), "1/2 addresses deleted (dummy).\n"),
        (("replace", "192.0.2.2"), "1 addresses deleted (dummy).\n1 addresses changed (dummy).\n"),
        (("replace", "192.0.2.1", "!192.0.2.2"), "no changes (dummy).\n"),
        (("flush",), "2 addresses deleted (dummy).\n"),
        (("expire", "0"), "2/2 addresses expired (dummy).\n"),
        (("zero",), "1 table/stats cleared (dummy).\n"),
        (("kill",), "1 table deleted (dummy).\n"),
    ):
        assert pfctl("-n", "-t", "spamd", "-T", *words) == (0, "", said)
    assert pfctl("-t", "spamd", "-T", "show") == before


@pytest.mark.row("PF-23")
def test_verbose_shows_a_letter_for_each_address(pfctl: Called) -> None:
    pfctl("-t", "spamd", "-T", "add", "192.0.2.1", "!192.0.2.2")
    words = ("-t", "spamd", "-T", "add", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.3")
    assert pfctl("-nv", *words)[1] == "Y  192.0.2.2\nA  192.0.2.3\nX  192.0.2.3\n"
    assert pfctl("-nvv", *words)[1] == "   192.0.2.1\nY  192.0.2.2\nA  192.0.2.3\nX  192.0.2.3\n"
    assert pfctl("-nv", "-t", "spamd", "-T", "replace", "192.0.2.2", "10/8")[1] == (
        "C  192.0.2.2\nA  10.0.0.0/8\nD  192.0.2.1\n"
    )
    assert pfctl("-v", "-t", "spamd", "-T", "delete", "192.0.2.1", "192.0.2.2", "192.0.2.7")[1] == (
        "D  192.0.2.1\nY  192.0.2.2\n"
    )
    status, out, _ = pfctl("-v", "-t", "spamd", "-T", "show")
    first, cleared, *counters = out.split("\n")
    assert (status, first) == (0, "  !192.0.2.2")
    assert cleared.startswith("\tCleared:     ")
    assert [line.split()[0] for line in counters[:4]] == ["In/Block:", "In/Pass:", "Out/Block:", "Out/Pass:"]


@pytest.mark.row("PF-23")
def test_test_answers_by_its_exit_status(pfctl: Called) -> None:
    pfctl("-t", "spamd", "-T", "add", "192.0.2.0/24", "!192.0.2.9", "2001:db8::/32")
    test = ("-t", "spamd", "-T", "test")
    assert pfctl(*test, "192.0.2.1", "2001:db8::1") == (0, "", "2/2 addresses match.\n")
    assert pfctl(*test, "192.0.2.1", "192.0.2.9", "10.0.0.1") == (2, "", "1/3 addresses match.\n")
    assert pfctl("-v", *test, "192.0.2.1", "10.0.0.1")[1] == "M  192.0.2.1\n"
    assert pfctl("-vv", *test, "192.0.2.1", "192.0.2.9", "10.0.0.1")[1] == (
        "M  192.0.2.1\t 192.0.2.0/24\n   192.0.2.9\t!192.0.2.9\n   10.0.0.1\t nomatch\n"
    )
    for wrong in ("192.0.2.0/24", "!192.0.2.1"):
        assert pfctl(*test, wrong) == (1, "", "pfctl: illegal test address\n")


@pytest.mark.row("PF-21")
def test_expire_goes_by_age(pfctl: Called) -> None:
    pfctl("-t", "bruteforce", "-T", "add", "192.0.2.1", "192.0.2.2")
    assert pfctl("-t", "bruteforce", "-T", "expire", "86400") == (0, "", "0/2 addresses expired.\n")
    assert pfctl("-v", "-t", "bruteforce", "-T", "expire", "0") == (
        0,
        "D  192.0.2.1\nD  192.0.2.2\n",
        "2/2 addresses expired.\n",
    )
    for age, problem in (("soon", "invalid"), ("-1", "too small"), ("4294967296", "too large")):
        assert pfctl("-t", "bruteforce", "-T", "expire", "--", age) == (1, "", f"pfctl: expiry time: {problem}\n")


@pytest.mark.row("PF-22", "PF-23")
def test_addresses_come_from_files_too(pfctl: Called, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("# all of it\n192.0.2.1 192.0.2.2 # two\n\n!!192.0.2.3\n!192.0.2.4\n")
    replace = ("-q", "-t", "spamd", "-T", "replace", "-f")
    assert pfctl(*replace, str(file)) == (0, "", "")
    assert pfctl("-t", "spamd", "-T", "show")[1] == "   192.0.2.1\n   192.0.2.2\n   192.0.2.3\n  !192.0.2.4\n"
    assert pfctl(*replace, "-", given="10.0.0.0/8\n") == (0, "", "")
    assert pfctl("-t", "spamd", "-T", "show")[1] == "   10.0.0.0/8\n"
    assert pfctl(*replace, str(tmp_path / "none")) == (
        1,
        "",
        f"pfctl: {tmp_path}/none: No such file or directory\n",
    )
    assert pfctl(*replace, "-", given="mail.example.org") == (1, "", "no IP address found for mail.example.org\n")
    assert pfctl("-t", "spamd", "-T", "show")[1] == "   10.0.0.0/8\n"


@pytest.mark.row("PF-05")
def test_more_entries_than_the_limit_change_nothing(pfctl: Called, config: Path) -> None:
    config.write_text(config.read_text() + "tables_max = 2\n")
    pfctl("-t", "spamd", "-T", "add", "192.0.2.1")
    full = (1, "", "pfctl: Cannot allocate memory\n")
    assert pfctl("-t", "spamd", "-T", "add", "192.0.2.2", "192.0.2.3") == full
    assert pfctl("-t", "spamd", "-T", "replace", "10.0.0.1", "10.0.0.2", "10.0.0.3") == full
    assert pfctl("-t", "spamd", "-T", "show")[1] == "   192.0.2.1\n"


def test_the_greylists_tables_are_shown_and_left_to_it(pfctl: Called, call: Called) -> None:
    call("spamdb", "-a", "192.0.2.1")
    call("spamdb", "-ta", "192.0.2.2")
    assert pfctl("-t", "spamd-white", "-T", "show")[1] == "   192.0.2.1\n"
    assert pfctl("-t", "spamd-greytrap", "-T", "test", "192.0.2.2")[0] == 0
    status, _, said = pfctl("-t", "spamd-white", "-T", "add", "192.0.2.3")
    assert (status, said) == (1, "pfctl: the greylist fills spamd-white: use gatepost grey add, or spamdb\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-t spamd -T frobnicate", "pfctl: Unknown table command 'frobnicate'\nusage: pfctl"),
        ("-t spamd", "usage: pfctl"),
        ("-T show", "usage: pfctl"),
        ("-x", "pfctl: option -x not recognized\nusage: pfctl"),
        ("-t spamd -T show 192.0.2.1", "usage: pfctl"),
        ("-t spamd -T flush -f -", "usage: pfctl"),
        ("-t spamd -T expire", "usage: pfctl"),
        (f"-t {'t' * 32} -T show", "usage: pfctl"),
        ("-t spamd -T load", "pfctl: load: a running server"),
    ],
)
def test_calls_that_cannot_be_meant(words: str, said: str) -> None:
    with pytest.raises(Misused) as wrong:
        read(words.split())
    assert str(wrong.value).startswith(said)


def test_it_is_a_command_of_ours_too(call: Called) -> None:
    assert call("gatepost", "pfctl", "-t", "spamd", "-T", "add", "192.0.2.1")[2] == "1/1 addresses added.\n"
    assert call("gatepost", "pfctl", "-t", "spamd", "-T", "test", "192.0.2.2")[0] == 2


# --- pf check, import -----------------------------------------------------------------------------------------


@pytest.fixture
def article(tmp_path: Path) -> Path:
    file = tmp_path / "pf.conf"
    file.write_text(ARTICLE)
    return file


@pytest.mark.row("PF-01", "PF-07", "PF-17")
def test_check_tells_of_every_statement_what_becomes_of_it(call: Called, article: Path) -> None:
    status, out, said = call("gatepost", "pf", "check", str(article))
    assert status == 0
    heeds = {int(line.split(":")[1]): line.split(":")[2].split()[0] for line in out.splitlines()}
    unsupported = [line for line, heed in heeds.items() if heed == "unsupported"]
    ignored = [line for line, heed in heeds.items() if heed == "ignored"]
    mapped = [line for line, heed in heeds.items() if heed == "mapped"]
    assert unsupported == [46]
    assert ignored == [10, 16, 43, 50, 51, 54, 93, 94, 95, 96]
    assert mapped == [7, 13, 19, 34, 35, 36, 37, 38, 39, 47, 58, 65, 70, 74, 78, 85, 89]
    assert "from urpf-failed label uRPF: only the kernel sees it: [gate.kernel] urpf = true drops it there" in out
    assert (
        "scrub (no-df random-id max-mss 1440): a match rule decides nothing; scrub: packets are the kernel's" in out
    )
    assert said == f"{article}:39: there is no /etc/mail/nospamd for <nospamd>; gate.rules needs it\n"
    status, out, _ = call("gatepost", "pf", "check", "--json", str(article))
    assert [each["line"] for each in json.loads(out)] == list(heeds)


@pytest.mark.row("PF-01")
def test_a_broken_file_is_an_error_with_its_line_and_a_remedy(call: Called, article: Path) -> None:
    article.write_text("set skip on lo\n" + BANNING_PRINTED)
    status, out, said = call("gatepost", "pf", "check", str(article))
    assert (status, out) == (1, "")
    assert f"{article}:2: syntax error at 'block' in table <bruteforce> (persist, const" in said


@pytest.mark.row("PF-01")
def test_import_prints_settings_that_this_server_takes(call: Called, article: Path, config: Path) -> None:
    status, out, _ = call("gatepost", "import", "pf.conf", str(article))
    assert status == 0
    found = tomllib.loads(out)
    assert found["gate"]["rules"] == str(article)
    assert found["gate"]["tables"] == {"nospamd": "/etc/mail/nospamd"}
    read_back = parse(out, config).gate
    assert (read_back.tables_max, read_back.mode.value) == (400_000, "spamd")
    assert read_back.rates["submission"].count == 25
    assert read_back.rates["imap"].count == 50


# --- explain --------------------------------------------------------------------------------------------------


@pytest.mark.row("PF-02")
def test_explain_tells_which_rule_decides_with_its_line(
    call: Called, pfctl: Called, article: Path, config: Path, tmp_path: Path
) -> None:
    nospamd = tmp_path / "nospamd"
    nospamd.write_text("198.51.100.0/24 # friends\n")
    article.write_text(ARTICLE.replace("/etc/mail/nospamd", str(nospamd)))
    config.write_text(config.read_text() + f'rules = "{article}"\n')
    pfctl("-t", "spamd", "-T", "add", "192.0.2.0/24", "198.51.100.7")

    def explained(*words: str) -> list[str]:
        status, out, said = call("gatepost", "gate", "explain", *words)
        assert (status, said) == (0, "")
        return out.splitlines()

    lines = explained("192.0.2.7", "25")
    assert any("(line 65): not from <bgp_spamd_bypass>, <nospamd>, <spamd-white>" in line for line in lines)
    assert lines[-3].startswith("DECIDES  pass in quick proto tcp from { <bgp_spamd> <spamd> }")
    assert "(line 70): in spamd: decided: in spamd: black" in lines[-3]
    assert lines[-2:] == [
        "192.0.2.7 is in <spamd> by 192.0.2.0/24",
        "192.0.2.7 to 25: black (held by the tarpit)",
    ]
    assert explained("198.51.100.7", "mx")[-1] == "198.51.100.7 to mx: pass"
    assert explained("198.51.100.7", "submission")[-1].startswith("198.51.100.7 to submission: black")
    assert explained("203.0.113.1", "993")[-1] == "203.0.113.1 to 993: pass"
    assert explained("127.0.0.1")[-1] == "127.0.0.1 to 25: pass"
    assert pfctl("-t", "nospamd", "-T", "show")[1] == "   198.51.100.0/24\n"
    status, out, _ = call("gatepost", "gate", "explain", "--json", "192.0.2.7", "465")
    assert json.loads(out)["decision"]["verdict"] == "black"
    status, _, said = call("gatepost", "gate", "explain", "192.0.2.7", "22")
    assert status == 1
    assert "nobody listens on 22" in said
    status, _, said = call("gatepost", "gate", "explain", "mail", "25")
    assert "is no address" in said


@pytest.mark.row("PF-02")
def test_explain_without_a_pf_conf_goes_by_our_own_rules(call: Called, pfctl: Called) -> None:
    pfctl("-t", "bruteforce", "-T", "add", "192.0.2.7")
    status, out, _ = call("gatepost", "gate", "explain", "192.0.2.7", "imap")
    assert status == 0
    assert "DECIDES  block quick from <bruteforce>: in bruteforce: block" in out
    assert call("gatepost", "gate", "explain", "192.0.2.8", "25")[1].splitlines()[-1] == (
        "192.0.2.8 to 25: grey (held by the tarpit)"
    )
