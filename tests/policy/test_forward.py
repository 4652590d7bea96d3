"""~/.forward: what counts, what it may do, and whom it leads to."""

import os
import pwd
from pathlib import Path

import pytest

from gatepost.base.reply import Refusal
from gatepost.base.settings import BadSetting, fill
from gatepost.policy.action import Route, RouteKind, ToRelay
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.settings import PolicySettings
from tests.policy.world import STRANGER, People, address_of, policy, refusal, route
from tests.support.loop import run
from tests.support.peers import cannot

UID = 54_321 if os.geteuid() == 0 else os.geteuid()
AT = "joe@here.example"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "joe"
    folder.mkdir(mode=0o755)
    own(folder)
    return folder


def own(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, UID, -1)


def forward(home: Path, text: str, mode: int = 0o644) -> None:
    file = home / ".forward"
    file.write_text(text)
    file.chmod(mode)
    own(file)


def settings(home: Path, **action: object) -> dict[str, object]:
    return {
        "tables": {
            "users": {"entries": {"joe": f"{UID}:{UID}:{home}", "ann@here.example": f"{UID}:{UID}:{home}2"}}
        },
        "actions": {"users": {"do": "deliver", "forward_files": True, "userbase": "users", **action}},
        "rules": [
            {"match": {"from": "any", "for": "own"}, "action": "users"},
            {"match": {"from": "local", "for": "any"}, "action": "relay"},
        ],
    }


@pytest.mark.row("MT-36", "MT-34")
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("joe@gmail.example\n", ["relay joe@gmail.example"]),
        ("# at work\njoe@gmail.example, ann\n", ["relay joe@gmail.example", "INBOX ann"]),
        ("\\joe\njoe@gmail.example\n", ["INBOX joe", "relay joe@gmail.example"]),
        ("joe@here.example, joe@gmail.example", ["INBOX joe", "relay joe@gmail.example"]),
        ("joe\njoe\n\\joe\njoe@here.example", ["INBOX joe"]),
        ("", ["INBOX joe"]),
        ("\n# nothing yet\n", ["INBOX joe"]),
    ],
)
def test_a_user_forwards_and_keeps(home: Path, text: str, where: list[str]) -> None:
    forward(home, text)
    assert route(policy(settings(home)), AT) == where


@pytest.mark.row("MT-36")
def test_without_the_file_the_setting_or_a_home_there_is_the_mailbox(home: Path) -> None:
    assert route(policy(settings(home)), AT) == ["INBOX joe"]
    forward(home, "x@far.example")
    assert route(policy(settings(home)), "ann@here.example") == ["INBOX ann"]
    off = settings(home)
    off["actions"] = {"users": {"do": "deliver"}}
    assert route(policy(off), AT) == ["INBOX joe"]


def test_the_detail_stays_with_the_user(home: Path) -> None:
    forward(home, "\\joe, x@far.example")
    assert route(policy(settings(home)), "joe+lists@here.example") == ["INBOX joe+lists", "relay x@far.example"]


@pytest.mark.row("MT-36")
@pytest.mark.parametrize("what", ["group", "world", "home", "owner", "link", "device", "broken", "program", "many"])
def test_a_file_that_does_not_count_is_named_and_the_mail_is_kept(home: Path, what: str) -> None:
    forward(home, "x@far.example")
    file = home / ".forward"
    match what:
        case "group":
            file.chmod(0o664)
        case "world":
            file.chmod(0o646)
        case "home":
            home.chmod(0o775)
        case "owner":
            if os.geteuid():
                cannot("only root gives files away")
            os.chown(file, UID + 1, -1)
        case "link":  # somebody else's file, which only the server could read
            file.unlink()
            file.symlink_to("/etc/passwd")
            if not os.geteuid():
                assert os.stat("/etc/passwd").st_uid != UID
        case "device":  # opened by nobody: a watchdog would begin to count
            file.unlink()
            file.symlink_to("/dev/null")
        case "broken":
            forward(home, "x@far.example> BODY=8BITMIME")
        case "program":
            forward(home, "|/usr/bin/vacation joe")
        case "many":
            forward(home, "".join(f"x{n}@far.example\n" for n in range(101)))
    said: list[str] = []
    filled = fill(PolicySettings, settings(home), ("policy",))
    rules = Policy(filled, load(filled, lambda event, **fields: said.append(f"{event} {fields['text']}")))
    assert route(rules, AT) == ["INBOX joe"]
    assert len(said) == 1
    assert said[0].startswith("forward_ignored ")
    assert str(home) in said[0]


@pytest.mark.row("MT-36")
def test_mail_waits_while_the_home_is_sticky(home: Path) -> None:
    forward(home, "x@far.example")
    home.chmod(0o1755)
    assert refusal(policy(settings(home)), AT) == (451, "4.3.0")


def test_a_program_runs_as_its_user_where_it_is_permitted(home: Path) -> None:
    forward(home, '\\joe, "|/usr/bin/vacation -a joe, joe"')
    rules = policy(settings(home, forward_programs=True))
    found = run(rules.route(STRANGER, None, address_of(AT), directory=People()))
    (program,) = (each for each in found if isinstance(each, ToRelay))
    assert program.route == Route(
        RouteKind.PROGRAM, "/bin/sh -c '/usr/bin/vacation -a joe, joe'", auth=f"joe={UID}:{UID}:{home}"
    )
    assert len(found) == 2


def test_forwards_that_lead_to_each_other_end(home: Path) -> None:
    other = Path(f"{home}2")
    other.mkdir()
    own(other)
    forward(home, "ann@here.example")
    forward(other, "joe@here.example")
    assert refusal(policy(settings(home)), AT) == (550, "5.4.6")
    forward(other, "joe, \\ann")
    assert route(policy(settings(home)), AT) == ["INBOX joe", "INBOX ann"]


def test_an_alias_leads_to_a_user_who_forwards(home: Path) -> None:
    forward(home, "x@far.example")
    rules = settings(home, alias="aliases")
    rules["tables"] = {**rules["tables"], "aliases": {"entries": {"root": "joe", "all": "\\joe"}}}  # type: ignore[dict-item]
    assert route(policy(rules), "root@here.example") == ["relay x@far.example"]
    assert route(policy(rules), "all@here.example") == ["INBOX joe"]


def test_an_included_file_is_the_users_own(home: Path) -> None:
    (home / "list").write_text("x@far.example\n")
    forward(home, f":include:{home}/list\n")
    if os.geteuid() == 0:
        assert route(policy(settings(home)), AT) == ["INBOX joe"]  # root's file: not the user's to show
    own(home / "list")
    assert route(policy(settings(home)), AT) == ["relay x@far.example"]


def test_the_system_knows_homes_too_but_never_roots() -> None:
    rules: dict[str, object] = {
        "actions": {"users": {"do": "deliver", "forward_files": True}},
        "rules": [{"match": {"from": "any", "for": "own"}, "action": "users"}],
    }
    people = People(
        accounts=("root@here.example", f"{pwd.getpwall()[1].pw_name}@here.example", "no-one@here.example")
    )
    for each in people.accounts:
        assert route(policy(rules), each, people=people) == [f"INBOX {each.partition('@')[0]}"]


def test_what_the_settings_cannot_mean() -> None:
    for wrong in (
        {"userbase": "users"},
        {"forward_programs": True},
        {"forward_files": True, "userbase": "nowhere"},
    ):
        with pytest.raises(BadSetting, match=r"forward_files|no table"):
            policy({"actions": {"users": {"do": "deliver", **wrong}}})
    bad = {"tables": {"u": {"entries": {"joe": "1000:/home/joe"}}}}
    with pytest.raises(BadSetting, match="uid:gid:/home"):
        policy({**bad, "actions": {"x": {"do": "deliver", "forward_files": True, "userbase": "u"}}})


def test_what_cannot_be_read_now_is_told(home: Path) -> None:
    forward(home, "x@far.example")
    rules = settings(home)
    rules["tables"] = {"users": {"entries": {"joe": f"{UID}:{UID}:{'/' + 'x' * 300}"}}}
    with pytest.raises(Refusal, match="File name too long"):
        route(policy(rules), AT)
