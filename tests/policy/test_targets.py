"""What the values of aliases lead to: includes, refusals, programs, files."""

import os
import pwd
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.base.reply import Reply
from gatepost.base.settings import BadSetting, fill
from gatepost.policy.action import Route, RouteKind, ToRelay
from gatepost.policy.rules import load
from gatepost.policy.settings import PolicySettings
from gatepost.policy.table import TableSettings, load_table
from gatepost.policy.tables.include import VALUES_MAX, included
from gatepost.policy.tables.kind import Kind
from gatepost.policy.tables.target import (
    BadTarget,
    Refused,
    ToAddress,
    ToFile,
    ToProgram,
    ToUser,
    read_target,
    split_values,
)
from tests.policy.world import STRANGER, People, address_of, policy, refusal, route
from tests.support.loop import run
from tests.support.peers import MACHINE_CANNOT

US = (os.geteuid(),)


def aliases(entries: dict[str, str], **table: object) -> dict[str, object]:
    return {
        "tables": {"aliases": {"entries": entries, **table}},
        "actions": {"alias": {"do": "deliver", "alias": "aliases"}},
        "rules": [
            {"match": {"from": "any", "for": "here.example"}, "action": "alias"},
            {"match": {"from": "local", "for": "any"}, "action": "relay"},
        ],
    }


def routes(settings: dict[str, object], recipient: str) -> list[Route]:
    found = run(policy(settings).route(STRANGER, None, address_of(recipient), directory=People()))
    return [each.route for each in found if isinstance(each, ToRelay)]


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("joe", ToUser("joe")),
        ("\\joe", ToUser("joe", own=True)),
        ("x@far.example", ToAddress(address_of("x@far.example"))),
        ("error:550 5.1.6 has moved", Refused(Reply(550, "5.1.6", "has moved"))),
        ("error:450 later", Refused(Reply(450, "4.1.1", "later"))),
        ("error:521", Refused(Reply(521, "5.1.1", "Recipient refused"))),
        ("|/bin/cat -n", ToProgram("/bin/cat -n")),
        ('"|/bin/echo a, b"', ToProgram("/bin/echo a, b")),
        ('|"/bin/echo a, b"', ToProgram("/bin/echo a, b")),
        ("/var/mail/joe", ToFile("/var/mail/joe")),
        ("maildir:/srv/joe/Maildir", ToFile("/srv/joe/Maildir", maildir=True)),
    ],
)
def test_each_form_of_a_value(value: str, target: object) -> None:
    assert read_target(value) == target


@pytest.mark.parametrize(
    "value",
    [
        "",
        "|",
        "| ",
        "|'",
        "a b",
        "error:200 ok",
        "error:550 4.1.1 what",
        "maildir:mail",
        "/a/../../etc/x",
        "/dir/",
        "@",
    ],
)
def test_what_leads_nowhere_says_so(value: str) -> None:
    with pytest.raises(BadTarget):
        read_target(value)


@given(st.text())
def test_any_text_is_a_target_or_a_bad_one(text: str) -> None:
    for value in split_values(text):
        try:
            read_target(value)
        except BadTarget:
            pass


@pytest.mark.row("MT-05")
def test_programs_and_files_only_where_the_table_says_so_and_as_its_user() -> None:
    entries = {"tickets": "|/usr/bin/tickets --new", "log": "/var/log/mail, maildir:/srv/all, joe"}
    with pytest.raises(BadSetting, match=r"tables\.aliases: 'tickets' leads to .*programs = true"):
        policy(aliases(entries))
    permitted = aliases(entries, programs=True, user="daemon")
    assert routes(permitted, "tickets+7@here.example") == [
        Route(RouteKind.PROGRAM, "/usr/bin/tickets --new", auth="daemon")
    ]
    assert routes(permitted, "log@here.example") == [
        Route(RouteKind.MBOX, "/var/log/mail", auth="daemon"),
        Route(RouteKind.MAILDIR, "/srv/all", auth="daemon"),
    ]
    assert "INBOX joe" in route(policy(permitted), "log@here.example")


def test_a_shell_only_where_it_is_asked_for() -> None:
    entries = {"x": "|cat > /tmp/x"}
    (plain,) = routes(aliases(entries, programs=True), "x@here.example")
    (shell,) = routes(aliases(entries, programs=True, shell=True), "x@here.example")
    assert (plain.host, shell.host) == ("cat '>' /tmp/x", "/bin/sh -c 'cat > /tmp/x'")


def test_nothing_runs_as_root_by_the_settings() -> None:
    for wrong in ({"user": "root", "programs": True}, {"shell": True}):
        with pytest.raises(BadSetting, match=r"root|programs"):
            policy(aliases({"x": "joe"}, **wrong))


@pytest.mark.row("MT-05")
def test_user_and_tag_come_before_the_user_and_a_backslash_ends_it() -> None:
    rules = policy(
        aliases({"ann+lists": "x@far.example", "ann": "joe", "joe": "\\joe, y@far.example", "me": "ann"}),
    )
    assert route(rules, "ann+lists@here.example") == ["relay x@far.example"]
    assert route(rules, "ann+other@here.example") == ["INBOX joe", "relay y@far.example"]
    assert route(rules, "me@here.example") == ["INBOX joe", "relay y@far.example"]
    assert refusal(policy(aliases({"gone": "error:551 5.1.6 moved"})), "gone@here.example") == (551, "5.1.6")


@pytest.mark.row("MT-05")
def test_an_included_file_has_a_value_a_line_or_several(tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.write_text("carl@far.example\n")
    team = tmp_path / "team"
    team.write_text(f"# who is who\nann, joe\r\n\n:include:{more} # the others\n")
    found = route(policy(aliases({"team": f":include:{team}, eve@far.example"})), "team@here.example")
    assert found == ["INBOX ann", "INBOX joe", "relay carl@far.example", "relay eve@far.example"]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_an_included_file_that_others_may_write_is_not_read(tmp_path: Path, mode: int) -> None:
    team = tmp_path / "team"
    team.write_text("ann\n")
    team.chmod(mode)
    with pytest.raises(BadSetting, match=f"{team}: others may write to it .chmod go-w"):
        policy(aliases({"team": f":include:{team}"}))


@pytest.mark.skipif(os.geteuid() != 0, reason=MACHINE_CANNOT + "only root gives files away")
def test_an_included_file_belongs_to_root_to_us_or_to_the_owner_of_the_table(tmp_path: Path) -> None:
    team, table = tmp_path / "team", tmp_path / "aliases"
    team.write_text("ann\n")
    os.chown(team, 54_321, -1)
    table.write_text(f"team: :include:{team}\n")
    with pytest.raises(BadSetting, match=r"aliases line 1: .*team: owned by uid 54321"):
        load_table("t", TableSettings(file=str(table)))
    os.chown(table, 54_321, -1)
    assert load_table("t", TableSettings(file=str(table))).mapping() == {"team": ("ann",)}


def test_what_cannot_be_included_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin").write_bytes(b"ann\n\xe4\n")
    for name, says in {"fifo": "no plain file", "nowhere": "No such file", "latin": "not UTF-8 at octet 4"}.items():
        with pytest.raises(ValueError, match=f"{tmp_path / name}: {says}"):
            included((f":include:{tmp_path / name}",), US)
    with pytest.raises(ValueError, match="not whole"):
        included((":include:team",), US)


def test_an_included_file_has_no_more_values_than_can_be_used(tmp_path: Path) -> None:
    team = tmp_path / "team"
    team.write_text("a\n" * VALUES_MAX)
    assert len(included((f":include:{team}",), US)) == VALUES_MAX
    with pytest.raises(ValueError, match="more than"):
        included((f":include:{team}", "b"), US)


@pytest.mark.row("MT-10")
@pytest.mark.parametrize(
    ("kind", "good", "bad", "says"),
    [
        (Kind.ALIASES, "root: joe", "root@here.example: joe", "without a domain"),
        (Kind.VIRTUAL, "@here.example joe", "joe@here.example |/bin/x", "programs = true"),
        (Kind.DOMAIN, "*.example.org", "joe@example.org", "no domain"),
        (Kind.CREDENTIALS, "isp ann:secret", "isp", "no value"),
        (Kind.NETADDR, "2001:db8::/32", "192.0.2.300", "not an address"),
        (Kind.USERINFO, "joe 1000:1000:/home/joe", "joe 1000:/home/joe", "uid:gid:/home"),
        (Kind.MAILADDR, "@example.org", "@", "no address"),
        (Kind.ADDRNAME, "192.0.2.1 mx.example.org", "mx.example.org 192.0.2.1", "does not appear"),
        (Kind.SOURCE, "192.0.2.1", "192.0.2.0/24", "does not appear"),
    ],
)
def test_each_kind_of_table_is_checked_line_by_line(
    tmp_path: Path, kind: Kind, good: str, bad: str, says: str
) -> None:
    file = tmp_path / "table"
    file.write_text(f"# one\n{good}\n")
    assert load_table("t", TableSettings(file=str(file), kind=kind)).items
    file.write_text(f"# one\n\n{bad}\n")
    with pytest.raises(BadSetting, match=rf"t: {re.escape(str(file))} line 3: .*{re.escape(says)}"):
        load_table("t", TableSettings(file=str(file), kind=kind))


@pytest.mark.row("MT-10")
def test_the_rules_say_what_a_table_holds(tmp_path: Path) -> None:
    file = tmp_path / "relays"
    file.write_text("192.0.2.7\nnot-a-network\n")
    settings = {
        "tables": {"relays": {"file": str(file)}},
        "rules": [{"match": {"from": "!<relays>", "for": "any"}, "action": "reject"}],
    }
    with pytest.raises(BadSetting, match=rf"policy\.tables\.relays: {file} line 2: 'not-a-network'"):
        policy(settings)


def test_an_action_hands_the_mail_of_known_users_to_a_program() -> None:
    settings: dict[str, object] = {
        "actions": {"drop": {"do": "deliver", "program": "/usr/bin/maildrop -d joe", "program_user": "vmail"}},
        "rules": [{"match": {"from": "any", "for": "own"}, "action": "drop"}],
    }
    (way,) = routes(settings, "joe+lists@here.example")
    assert way == Route(RouteKind.PROGRAM, "/usr/bin/maildrop -d joe", auth="vmail")
    assert refusal(policy(settings), "nobody@here.example") == (550, "5.1.1")


@pytest.mark.parametrize(
    "wrong", [{"program": "'"}, {"program": "x", "lmtp": "/y"}, {"program": "x", "program_user": "root"}]
)
def test_a_program_of_an_action_is_checked(wrong: dict[str, str]) -> None:
    with pytest.raises(BadSetting, match=r"no command|not both|never run as root"):
        policy({"actions": {"drop": {"do": "deliver", **wrong}}})


def test_a_user_that_the_server_cannot_become_is_told_when_the_rules_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told(user: str) -> list[str]:
        said: list[str] = []
        shape = aliases({"x": "joe"}, programs=True, user=user)
        load(
            fill(PolicySettings, shape, ("policy",)),
            lambda event, **fields: said.append(f"{event} {fields['user']}"),
        )
        return said

    daemon = pwd.getpwnam("daemon").pw_uid
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert (told("daemon"), told("no-such-user")) == ([], ["program_user_unknown no-such-user"])
    monkeypatch.setattr("os.geteuid", lambda: daemon)
    assert (told("daemon"), told("nobody")) == ([], ["program_user_out_of_reach nobody"])
