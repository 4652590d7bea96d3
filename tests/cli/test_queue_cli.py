"""`gatepost queue`: what an operator types, against a data directory without a server."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from gatepost import cli
from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.envelope import Envelope, Recipient
from gatepost.base.ids import MailId, Minter, id_text
from gatepost.blobs.bodies import Blobs
from gatepost.databases import Databases, reached
from gatepost.db.unit import Unit
from gatepost.diary import Story
from gatepost.policy.action import Route, ToRelay
from gatepost.queue import submit_steps

Call = Callable[..., tuple[int, str, str]]
NAMES = ("mailq", "newaliases", "sendmail")
"""Names under which the program may be called."""
NOW = Instant(time.time_ns() // 1000)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[server]\nhostname = "mx.here.example"\ndata_dir = "{tmp_path}/data"\n')
    (tmp_path / "data").mkdir()

    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [*([] if words[0] in NAMES else ["gatepost", "queue"]), *words])
        monkeypatch.setenv("GATEPOST_CONFIG", str(config))
        status = cli.run()
        return (status, *capfd.readouterr())

    return called


@pytest.fixture
def mails(tmp_path: Path, call: Call) -> list[str]:
    """Two mails: to x@far.example and y@near.example from ann, to z@far.example from eve."""
    minter = Minter(3)

    async def fill() -> list[MailId]:
        async with reached(tmp_path / "data") as databases:
            blobs = Blobs(databases.mail, tmp_path / "data" / "bodies")
            return [
                await put(blobs, databases, "ann", "x@far.example", "y@near.example"),
                await put(blobs, databases, "eve", "z@far.example"),
            ]

    async def put(blobs: Blobs, databases: Databases, sender: str, *to: str) -> MailId:
        number = minter.mint(NOW)
        recipients = tuple(Recipient(Address(*each.split("@"))) for each in to)
        envelope = Envelope(number, NOW, Address(sender, "here.example"), recipients)
        relays = [ToRelay(each.address, Route()) for each in recipients]
        steps = [*await blobs.put(number, b"Subject: x\r\n\r\nx\r\n", len(to)), Story(number).step()]
        await databases.mail.commit(Unit((*steps, *submit_steps(envelope, number, relays, NOW))))
        return number

    return [id_text(each) for each in asyncio.run(fill())]


def listed(call: Call, *words: str) -> list[str]:
    return [row["to"] for row in json.loads(call("list", "--json", *words)[1])]


def test_lists_by_destination_by_sender_and_page_by_page(call: Call, mails: list[str]) -> None:
    assert listed(call) == ["x@far.example", "y@near.example", "z@far.example"]
    assert listed(call, "--destination", "far.example") == ["x@far.example", "z@far.example"]
    assert listed(call, "--sender", "Eve@here.example") == ["z@far.example"]
    assert listed(call, "--after", mails[0]) == ["z@far.example"]
    assert json.loads(call("count", "--json", "--sender", "ann@here.example")[1]) == [
        {"recipients": 2, "mails": 1, "held": 0, "under_way": 0}
    ]


def test_a_pause_is_shown_and_ended(call: Call, mails: list[str]) -> None:
    assert call("pause", "far.example", "--why", "full")[:2] == (0, "far.example is paused\n")
    _, out, _ = call("destinations")
    assert out.startswith("paused since ")
    assert "far.example (full)" in out
    shown = {row["destination"]: row for row in json.loads(call("destinations", "--json")[1])}
    assert (shown["far.example"]["waiting"], shown["far.example"]["paused"]) == (2, True)
    assert shown["near.example"]["paused"] is False
    assert call("pause", "--all")[1] == "all outbound mail is paused\n"
    assert call("resume", "--all")[1] == "all outbound mail goes on\n"
    status, _, err = call("resume", "--all")
    assert (status, "was not paused" in err) == (1, True)
    assert call("pause")[0] == 1


def test_what_is_chosen_is_held_released_and_retried(call: Call, mails: list[str]) -> None:
    assert call("hold", "--destination", "far.example")[1] == "2 recipients held\n"
    assert call("release", "--sender", "eve@here.example")[1] == "1 recipients released\n"
    assert call("retry", "--all")[1] == "2 recipients are due now\n"
    assert call("retry", "--destination", "near.example")[1] == "1 recipients are due now\n"
    status, _, err = call("hold", mails[0], "--sender", "eve@here.example")
    assert (status, "either an id" in err) == (1, True)


def test_removal_counts_first_and_asks(call: Call, mails: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def no(text: str, *, abort: bool) -> None:
        asked.append(text)
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", no)
    count = "2 recipients of 2 mails, 0 of them being sent now\n"
    assert call("remove", "--destination", "far.example", "--dry-run")[1] == count
    assert call("remove", "--destination", "far.example") == (1, count, "Nothing was done.\n")
    assert len(asked) == 1
    assert call("remove", "--destination", "far.example", "--yes")[1] == f"{count}2 recipients removed\n"
    assert listed(call) == ["y@near.example"]
    assert call("remove", mails[0])[1] == "1 recipients removed\n"
    assert call("remove", mails[0])[0] == 1


def test_a_recipient_is_redirected_and_a_mail_returned(call: Call, mails: list[str]) -> None:
    status, _, err = call("redirect", mails[0], "joe@other.example")
    assert (status, "--recipient (x@far.example, y@near.example)" in err) == (1, True)
    _, out, _ = call("redirect", mails[0], "joe@other.example", "--recipient", "x@far.example")
    assert out == "x@far.example is joe@other.example now, by other.example\n"
    assert call("bounce", mails[0])[1] == "2 recipients are returned to the sender\n"
    shown = json.loads(call("show", mails[0], "--json")[1])
    assert {row["destination"] for row in shown} == {"(sender)"}
    assert call("bounce", "0" * 13)[0] == 1
    assert call("show", "0" * 13)[0] == 1


def test_mailq_is_what_scripts_expect(call: Call, mails: list[str]) -> None:
    call("hold", mails[1])
    status, out, _ = call("mailq")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].startswith("-Queue ID-")
    assert [line[:14] for line in lines[1:] if not line.startswith((" ", "\t"))] == [f"{mails[0]} ", f"{mails[1]}!"]
    assert lines[1].endswith(" ann@here.example")
    assert [line.strip() for line in lines[2:4]] == ["x@far.example", "y@near.example"]
    assert lines[-1] == "\t\tTotal requests: 2"
    shown = json.loads(call("mailq", "--json")[1])
    assert [(row["recipient"], row["state"]) for row in shown][-1] == ("z@far.example", "held")
    call("remove", mails[0])
    call("remove", mails[1])
    assert call("sendmail", "-bp")[1] == "Mail queue is empty\n"
    assert call("mailq", "-x")[0] == 64


def test_newaliases_says_what_is_wrong_in_a_table(call: Call, tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    assert call("newaliases")[:2] == (
        0,
        "alias tables: none; 0 aliases of accounts; the server does not run\n",
    )
    action = '[policy.actions.a]\ndo = "deliver"\nalias = "t"\n[[policy.rules]]\naction = "a"\n'
    config.write_text(f'{config.read_text()}[policy.tables.t]\nfile = "{tmp_path}/t"\n{action}')
    status, _, err = call("sendmail", "-bi")
    assert (status, str(tmp_path / "t") in err) == (78, True)
    (tmp_path / "t").write_text("root: ann@far.example\n")
    assert call("newaliases")[1].startswith("alias tables: t (1 names); ")


def test_sendmail_without_a_configuration_or_a_server_says_so(call: Call, tmp_path: Path) -> None:
    status, _, err = call("sendmail", "-bs")
    assert (status, "the server does not answer" in err) == (75, True)
    assert call("sendmail", "-Z")[0] == 64
    assert call("sendmail", "-bd")[0] == 64
    (tmp_path / "gatepost.toml").write_text("[nothing]\n")
    assert call("sendmail", "a@b.example")[0] == 78
