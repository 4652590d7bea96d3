"""`gatepost tls check` says what a mail would ask of each server's TLS, and why."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from gatepost import cli
from gatepost.codec.mtasts import Mode, Policy, read_policy, read_record
from gatepost.relay.mtasts import Policies
from tests.relay.authority import paper, serving
from tests.support.loop import run
from tests.support.nexthop import NextHop
from tests.support.zone import Fault, Zone

RECORDS = {
    "far.example": {"MX": ["10 mx1.far.example.", "20 mx2.far.example.", "30 mx3.far.example."]},
    "mx1.far.example": {"A": ["192.0.2.1"]},
    "mx2.far.example": {"A": ["192.0.2.2"]},
    "mx3.far.example": {"A": ["192.0.2.3"]},
    "_25._tcp.mx1.far.example": {"TLSA": ["3 1 1 " + "ab" * 32, "0 0 1 " + "cd" * 32]},
    "_25._tcp.mx3.far.example": {"TLSA": ["3 1 1 " + "ab" * 32]},
    "_mta-sts.strict.example": {"TXT": ['"v=STSv1; id=7;"']},
    "strict.example": {"MX": ["10 mx2.far.example."]},
    "_smtp._tls.far.example": {"TXT": ['"v=TLSRPTv1; rua=mailto:tls@far.example"']},
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
    assert rows[0]["tls_reports"] == ["mailto:tls@far.example"]
    assert rows[0]["names"] == ["mx1.far.example", "far.example"]
    assert rows[1]["why"] == "TLS where it is offered; no DANE: _25._tcp.mx2.far.example has no TLSA records"
    assert rows[2]["why"].startswith("the mail waits: the TLSA records of _25._tcp.mx3.far.example cannot be")


def test_people_read_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = check("far.example", capsys)
    assert status == 0
    assert "TLS reports go to mailto:tls@far.example\n" in out
    assert "mx1.far.example [192.0.2.1]:25  dane\n" in out
    assert "    TLSA 3 1 1 abababababababab…\n" in out


def connect(
    hop: NextHop, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str, record: str = ""
) -> tuple[int, str]:
    """Run the command with --connect against a server; `record`: its TLSA record."""

    async def play() -> int:
        async with hop:
            records = {"near.example": {"MX": ["10 mx.near.example."]}, "mx.near.example": {"A": ["127.0.0.1"]}}
            if record:
                records[f"_{hop.port}._tcp.mx.near.example"] = {"TLSA": [record]}
            file = tmp_path / "gatepost.toml"
            file.write_text(f'[server]\nhostname = "mx.here.example"\n[relay]\nport = {hop.port}\n')
            async with Zone(records, secure=True) as zone:
                dns = f"127.0.0.1:{zone.address[1]}"
                sys.argv = ["gatepost", "tls", "check", "near.example", "--dns", dns, "--connect", *words]
                return await asyncio.to_thread(cli.run)

    status = run(play())
    told = capsys.readouterr()
    return status, told.out + told.err


def test_a_server_that_is_spoken_to_proves_what_is_asked_or_the_command_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaf = paper("mx.near.example")
    for record, status in ((leaf.tlsa(3), 0), (paper("mx.near.example").tlsa(3), 1)):
        hop = NextHop(tls=serving(tmp_path, leaf))
        text = f"{record.usage} {record.selector} {record.matching} {record.data.hex()}"
        found, out = connect(hop, tmp_path, capsys, "--json", record=text)
        proof = json.loads(out)[0]["proof"]
        assert (found, proof["good"], hop.mails) == (status, status == 0, [])
        assert not any(line.upper().startswith(b"MAIL") for line in hop.commands)
    assert proof["why"] == "DANE: the server's certificate fits none of the TLSA records"
    status, out = connect(NextHop(tls=serving(tmp_path, leaf)), tmp_path, capsys, record=text)
    assert "    NOT good: DANE: the server's certificate fits none of the TLSA records\n" in out


def test_a_server_that_nothing_is_asked_of_is_good_without_tls_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = connect(NextHop(), tmp_path, capsys)
    assert (status, "    good: mail would go without TLS: none is offered\n" in out) == (0, True)
    broken = NextHop(answers={"STARTTLS": b"454 4.7.0 not now\r\n"}, extensions=("STARTTLS",))
    status, out = connect(broken, tmp_path, capsys)
    assert (status, "    good: mail would go without TLS: it said 454 not now\n" in out) == (0, True), out
    status, out = connect(NextHop(tls=serving(tmp_path, paper("mx.near.example"))), tmp_path, capsys)
    assert (status, "    good: TLSv1.3 TLS_" in out) == (0, True), out
    status, out = connect(NextHop(answers={"greeting": b"554 5.3.2 no\r\n"}), tmp_path, capsys)
    assert (status, "    NOT good: it said 554 no\n" in out) == (1, True), out


def test_a_policy_is_told_before_the_servers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def document(self: Policies, domain: str) -> bytes:
        return Policy(Mode.ENFORCE, 86_400, ("*.far.example",)).document()

    monkeypatch.setattr(Policies, "document", document)
    _, out = check("strict.example", capsys)
    assert out.startswith(
        "MTA-STS: strict.example has a policy, enforce: id 7, max_age 86400 s, mx *.far.example\n"
    )
    (row,) = json.loads(check("strict.example", capsys, "--json")[1])
    assert (row["asks"], row["mta_sts"]["mode"]) == ("verify", "enforce")


def test_a_policy_that_cannot_be_had_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    _, out = check("strict.example", capsys)
    assert "no MTA-STS: the policy of strict.example cannot be had: mta-sts.strict.example has no address" in out


def test_a_domain_without_mail_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = check("nomail.example", capsys)
    assert status == 1
    assert "nomail.example: " in out


def test_what_is_no_resolver_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    sys.argv = ["gatepost", "tls", "check", "far.example", "--dns", "nonsense"]
    assert cli.run() == 1
    assert "'nonsense' is no resolver: write 127.0.0.1:53" in capsys.readouterr().err


def policy(tmp_path: Path, settings: str, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Ask for our own policy under these settings."""
    file = tmp_path / "gatepost.toml"
    file.write_text(f'[server]\nhostname = "mx.here.example"\n{settings}')
    sys.argv = ["gatepost", "tls", "policy", "Here.example", "--config", str(file), *words]
    status = cli.run()
    told = capsys.readouterr()
    return status, told.out + told.err


def test_our_own_policy_is_told_with_the_records_that_announce_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = policy(tmp_path, '[tls.mta_sts]\nmode = "testing"\n', capsys, "--json")
    assert status == 0
    told = json.loads(out)
    announced, where = told["records"]
    assert read_record([announced.split('"')[1].encode()])
    assert where == "mta-sts.here.example. IN CNAME mx.here.example."
    assert read_policy(told["policy"].encode()) == Policy(Mode.TESTING, 604_800, ("mx.here.example",))
    assert told["served"] is False
    _, other = policy(tmp_path, '[tls.mta_sts]\nmode = "enforce"\n', capsys, "--json")
    assert json.loads(other)["records"][0] != announced


def test_people_are_told_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = policy(tmp_path, "", capsys)
    assert (status, out) == (1, 'gatepost: there is no policy: set [tls.mta_sts] mode = "testing"\n')
    status, out = policy(tmp_path, '[tls.mta_sts]\nmode = "enforce"\nmx = ["*.example.net"]\n', capsys)
    assert status == 0
    assert "\nmx: *.example.net\n" in out
    assert 'Nobody serves it yet: add [listen.web] with kind = "https".' in out


def test_a_policy_that_cannot_stand_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = policy(tmp_path, '[tls.mta_sts]\nmode = "enforce"\nmx = ["*.*.example"]\n', capsys)
    assert status != 0
    assert "'*.*.example' is neither a name nor *.name" in out
    assert "gatepost.toml:" in out
