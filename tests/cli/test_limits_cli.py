"""`gatepost user limits`: who sends how much, limits of one account, and what is let go."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from gatepost import cli
from gatepost.accounts.verbs import find_user
from gatepost.allowance.allowance import Allowance
from gatepost.allowance.settings import AllowanceSettings
from gatepost.base.envelope import Envelope, Recipient
from gatepost.base.ids import Minter
from gatepost.blobs.bodies import Blobs
from gatepost.cli.common import CLOCK
from gatepost.databases import reached
from gatepost.db.unit import Unit
from gatepost.policy.action import Route, ToRelay
from gatepost.queue.submit import hold_step, submit_steps
from tests.queue.world import address

ANN = "ann@here.example"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    Path("gatepost.toml").write_text(f'[server]\nhostname = "mx.here.example"\ndata_dir = "{tmp_path}/data"\n')
    Path("password").write_text("a long password")
    call(capsys, "domain", "add", "here.example")
    call(capsys, "user", "add", ANN, "--password-file", "password")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command; return its status and output."""
    sys.argv = ["gatepost", *words]
    status = cli.run()
    told = capsys.readouterr()
    return status, told.out + told.err


def send(recipients: int) -> None:
    """Let Ann send a mail, as the intake does."""

    async def work() -> None:
        async with reached(Path("data")) as databases:
            now, minter = CLOCK.now(), Minter(3)
            account, mail = await find_user(databases.mail, ANN), minter.mint(now)
            ruling = await Allowance(AllowanceSettings(), databases.mail).rule(account.id, mail, recipients, now)
            to = address("x@far.example")
            envelope = Envelope(mail, now, address(ANN), (Recipient(to),))
            body = await Blobs(databases.mail, Path("data/bodies")).put(mail, b"x", 1)
            rows = submit_steps(envelope, mail, (ToRelay(to, Route()),), now)
            held = (hold_step(mail, ruling.why),) if ruling.why else ()
            await databases.mail.commit(Unit((*body, *rows, *held, *ruling.steps)))

    asyncio.run(work())


def test_limits_of_one_account(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = call(capsys, "user", "limits", ANN, "--hour", "5", "--day", "0", "--json")
    assert status == 0
    (row,) = json.loads(out)
    assert row == {"account": ANN, "last_hour": 0, "of": 5, "last_day": 0, "of_a_day": "no limit", "held": 0}
    (row,) = json.loads(call(capsys, "user", "limits", ANN, "--hour", "usual", "--day", "usual", "--json")[1])
    assert (row["of"], row["of_a_day"]) == (50, 200)  # it is new


def test_who_is_near_and_what_is_held_is_shown_and_let_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "user", "limits")[1] == "no account holds mail or is near a limit\n"
    send(50)
    send(1)
    (row,) = json.loads(call(capsys, "user", "limits", "--json")[1])
    assert (row["last_hour"], row["held"]) == (50, 1)
    (waiting,) = [row for row in json.loads(call(capsys, "queue", "list", "--json")[1]) if row["state"] == "held"]
    assert "the limit is 50" in json.dumps(waiting)
    status, out = call(capsys, "user", "limits", ANN, "--release")
    assert status == 0
    assert out.startswith(f"1 mails of {ANN} go out now\n")
    assert not [row for row in json.loads(call(capsys, "queue", "list", "--json")[1]) if row["state"] == "held"]


def test_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name the account" in call(capsys, "user", "limits", "--release")[1]
    assert "'many' is no number" in call(capsys, "user", "limits", ANN, "--hour", "many")[1]
    assert call(capsys, "user", "limits", "nobody@here.example")[0] == 1
