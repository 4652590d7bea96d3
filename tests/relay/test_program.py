"""Mail for programs and files of this machine: real processes, as the user nobody."""

import contextlib
import mailbox
import os
import pwd
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.base.address import Address
from gatepost.base.envelope import Recipient
from gatepost.policy.action import Route, RouteKind
from gatepost.relay.model import Consignment, Fate, Result
from gatepost.relay.program import Programs, environment, owner_of
from tests.relay.world import Journal, consignment
from tests.support.loop import run
from tests.support.peers import MACHINE_CANNOT

JOE = Address("joe+lists", "here.example")
MAIL = b"Subject: hello\r\nFrom: ann@here.example\r\n\r\nFrom the start\r\nlast\r\n"
NOBODY = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


class Elsewhere:
    """What sends to other machines; nothing may reach it here."""

    def __init__(self) -> None:
        self.got: list[Consignment] = []
        self.closed = False

    async def deliver(self, consignment: Consignment) -> tuple[Result, ...]:
        self.got.append(consignment)
        return ()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that nobody may reach, which pytest's own is not, and write to."""
    with tempfile.TemporaryDirectory(prefix="gatepost-program-", dir="/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        inside = Path(name) / "place"
        inside.mkdir()
        if os.geteuid() == 0:
            os.chown(inside, pwd.getpwnam(NOBODY).pw_uid, -1)
        yield inside


def deliver(route: Route, content: bytes = MAIL, to: Address = JOE, time_limit: float = 20.0) -> Result:
    """Deliver one mail and return its result."""
    log = Journal()
    programs = Programs(Elsewhere(), log, time_limit=time_limit)
    sent = replace(consignment(content=content), recipients=(Recipient(to),), route=route)
    (result,) = run(programs.deliver(sent))
    assert result.fate.value in log.words()
    return result


def shell(line: str, user: str = NOBODY) -> Route:
    return Route(RouteKind.PROGRAM, shlex.join(("/bin/sh", "-c", line)), auth=user)


def test_the_program_gets_the_mail_and_knows_of_it_what_smtpd_tells(place: Path) -> None:
    result = deliver(shell(f"id -un >{place}/who; env >{place}/env; cat >{place}/mail; ps -o args= $$ >/dev/null"))
    assert (result.fate, result.reply.enhanced, result.host) == (Fate.DELIVERED, "2.0.0", f"program://{NOBODY}")
    assert (place / "who").read_text().strip() == NOBODY
    known = dict(line.split("=", 1) for line in (place / "env").read_text().splitlines())
    wanted = {
        "SENDER": "ann@here.example",
        "RECIPIENT": "joe+lists@here.example",
        "LOCAL": "joe",
        "EXTENSION": "lists",
        "DOMAIN": "here.example",
        "USER": NOBODY,
        "LOGNAME": NOBODY,
        "SHELL": "/bin/sh",
    }
    assert wanted.items() <= known.items()
    assert {"HOME", "PATH"} <= known.keys()
    assert not [name for name in known if name.startswith(("GATEPOST", "PYTEST"))]
    assert (place / "mail").read_bytes() == (
        b"Return-Path: <ann@here.example>\nDelivered-To: joe+lists@here.example\n" + MAIL.replace(b"\r\n", b"\n")
    )


@pytest.mark.parametrize(
    ("line", "fate", "enhanced", "says"),
    [
        ("exit 0", Fate.DELIVERED, "2.0.0", ""),
        ("exit 75", Fate.DEFERRED, "4.3.0", "75"),
        ("exit 71", Fate.DEFERRED, "4.3.0", "71"),
        ("echo no such thing; exit 67", Fate.FAILED, "5.1.1", "no such thing"),
        ("exit 1", Fate.FAILED, "5.3.0", "ended with 1"),
        ("kill -9 $$", Fate.DEFERRED, "4.3.0", "signal 9"),
        ("printf 'a\\r\\n\\033[1mb' >&2; exit 69", Fate.FAILED, "5.3.0", "a ?[1mb"),
    ],
)
def test_its_end_is_the_answer(line: str, fate: Fate, enhanced: str, says: str) -> None:
    result = deliver(shell(line))
    assert (result.fate, result.reply.enhanced) == (fate, enhanced)
    assert says in result.reply.text


def test_what_takes_too_long_is_ended_with_all_it_started(place: Path) -> None:
    result = deliver(shell(f"sleep 300 & echo $! >{place}/child; wait"), time_limit=0.5)
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.3.0")
    child = int((place / "child").read_text())
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().split()[2] in ("Z", "X")


def test_output_without_end_is_cut() -> None:
    result = deliver(shell("head -c 5000000 /dev/zero | tr '\\0' y; exit 1"))
    assert result.fate is Fate.FAILED
    assert len(result.reply.text) < 400


def test_a_child_that_keeps_the_output_open_holds_nobody_up() -> None:
    assert deliver(shell("sleep 3 & exit 0")).fate is Fate.DELIVERED


def test_without_a_shell_the_words_are_arguments(place: Path) -> None:
    route = Route(RouteKind.PROGRAM, shlex.join(("/usr/bin/touch", f"{place}/a; touch b")), auth=NOBODY)
    assert deliver(route).fate is Fate.DELIVERED
    assert [each.name for each in place.iterdir()] == ["a; touch b"] or (place / "a; touch b").exists()


@pytest.mark.row("OUT-12")
def test_a_recipient_is_never_part_of_a_command(place: Path) -> None:
    evil = Address(f"x;touch${{IFS}}{place}/evil;", "here.example")
    result = deliver(shell(f'echo "$RECIPIENT" >{place}/said'), to=evil)
    assert result.fate is Fate.DELIVERED
    assert (place / "said").exists()
    assert not (place / "evil").exists()


def test_mail_that_was_delivered_here_before_is_a_loop() -> None:
    again = b"Delivered-To: JOE+lists@Here.Example\r\n" + MAIL
    result = deliver(shell("exit 0"), again)
    assert (result.fate, result.reply.enhanced) == (Fate.FAILED, "5.4.6")
    assert deliver(shell("exit 0"), b"Delivered-To: ann@here.example\r\n" + MAIL).fate is Fate.DELIVERED


@pytest.mark.parametrize("user", ["root", "no-such-user-here", "joe=0:0:/root", "joe=x"])
def test_nothing_runs_as_root_or_as_nobody_knows_whom_and_the_mail_waits(user: str, place: Path) -> None:
    result = deliver(shell(f"touch {place}/ran", user))
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.3.5")
    assert not (place / "ran").exists()


def test_what_is_not_there_is_waited_for() -> None:
    result = deliver(Route(RouteKind.PROGRAM, "/nowhere/at/all", auth=NOBODY))
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.3.5")


@pytest.mark.skipif(os.geteuid() != 0, reason=MACHINE_CANNOT + "only root becomes somebody else")
def test_a_user_of_a_table_needs_no_entry_in_the_system(place: Path) -> None:
    os.chown(place, 54_321, 54_321)
    assert deliver(shell(f"id -u >{place}/uid; id -G >{place}/gids", f"joe=54321:54321:{place}")).reply.code == 250
    assert (place / "uid").read_text().strip() == "54321"
    assert (place / "gids").read_text().strip() == "54321"
    assert owner_of(f"joe=54321:54321:{place}").home == str(place)


def test_an_mbox_gets_the_mail_with_its_from_lines_quoted(place: Path) -> None:
    route = Route(RouteKind.MBOX, f"{place}/box", auth=NOBODY)
    assert [deliver(route).fate for _ in range(2)] == [Fate.DELIVERED] * 2
    box = (place / "box").read_bytes()
    assert box.startswith(b"From ann@here.example ")
    assert box.count(b"\n>From the start\nlast\n\n") == 2
    with contextlib.closing(mailbox.mbox(place / "box")) as read:
        assert len(read) == 2
    assert (place / "box").stat().st_mode & 0o777 == 0o600


def test_a_maildir_is_made_and_gets_the_mail_whole(place: Path) -> None:
    route = Route(RouteKind.MAILDIR, f"{place}/Maildir", auth=NOBODY)
    assert deliver(route).fate is Fate.DELIVERED
    (mail,) = mailbox.Maildir(place / "Maildir")
    assert (mail["Delivered-To"], mail["Subject"]) == ("joe+lists@here.example", "hello")
    assert not list((place / "Maildir" / "tmp").iterdir())


def test_a_file_that_cannot_be_written_is_tried_again(place: Path) -> None:
    result = deliver(Route(RouteKind.MBOX, f"{place}/no/box", auth=NOBODY))
    assert (result.fate, "No such file" in result.reply.text) == (Fate.DEFERRED, True)


def test_other_mail_goes_to_other_machines() -> None:
    others = Elsewhere()
    programs = Programs(others, Journal(), time_limit=1)
    run(programs.deliver(consignment()))
    programs.close()
    assert (len(others.got), others.closed) == (1, True)


def test_a_user_name_with_another_separator() -> None:
    owner = owner_of(NOBODY)
    assert environment(owner, None, Address("joe-x", "here.example"), "-")["EXTENSION"] == "x"
    assert environment(owner, None, Address("joe+x", "here.example"), "")["LOCAL"] == "joe+x"
    assert environment(owner, None, JOE)["SENDER"] == ""
