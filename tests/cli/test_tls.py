"""`gatepost tls check` says what a mail would ask of each server's TLS, and why."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from gatepost import cli
from tests.support.loop import run
from tests.support.zone import Fault, Zone

RECORDS = {
    "far.example": {"MX": ["10 mx1.far.example.", "20 mx2.far.example.", "30 mx3.far.example."]},
    "mx1.far.example": {"A": ["192.0.2.1"]},
    "mx2.far.example": {"A": ["192.0.2.2"]},
    "mx3.far.example": {"A": ["192.0.2.3"]},
    "_25._tcp.mx1.far.example": {"TLSA": ["3 1 1 " + "ab" * 32, "0 0 1 " + "cd" * 32]},
    "_25._tcp.mx3.far.example": {"TLSA": ["3 1 1 " + "ab" * 32]},
    "nomail.example": {"MX": ["0 ."]},
}


def check(domain: str, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command against a zone; return its status and output."""

    async def play() -> int:
        async with Zone(RECORDS, secure=True, faults={"_25._tcp.mx3.far.example": Fault.SERVFAIL}) as zone:
            sys.argv = ["gatepost", "tls", "check", domain, "--dns", f"127.0.0.1:{zone.address[1]}", *words]
            return await asyncio.to_thread(cli.run)

    status = run(play())
    told = capsys.readouterr()
    return status, told.out + told.err


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])


def test_each_server_is_told_with_what_is_asked_of_it_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = check("far.example", capsys, "--json")
    assert status == 0
    rows = json.loads(out)
    assert [(row["host"], row["asks"]) for row in rows] == [
        ("mx1.far.example", "dane"),
        ("mx2.far.example", "may"),
        ("mx3.far.example", "delay"),
    ]
    assert rows[0]["tlsa"] == ["3 1 1 " + "ab" * 8 + "…"]
    assert rows[0]["mx_validated"] is True
    assert rows[0]["names"] == ["mx1.far.example", "far.example"]
    assert rows[1]["why"] == "TLS where it is offered; no DANE: _25._tcp.mx2.far.example has no TLSA records"
    assert rows[2]["why"].startswith("the mail waits: the TLSA records of _25._tcp.mx3.far.example cannot be")


def test_people_read_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = check("far.example", capsys)
    assert status == 0
    assert "mx1.far.example [192.0.2.1]:25  dane\n" in out
    assert "    TLSA 3 1 1 abababababababab…\n" in out


def test_a_domain_without_mail_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = check("nomail.example", capsys)
    assert status == 1
    assert "nomail.example: " in out


def test_what_is_no_resolver_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    sys.argv = ["gatepost", "tls", "check", "far.example", "--dns", "nonsense"]
    assert cli.run() == 1
    assert "'nonsense' is no resolver: write 127.0.0.1:53" in capsys.readouterr().err
