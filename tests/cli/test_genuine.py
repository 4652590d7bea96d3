"""`gatepost spf` and `gatepost verify`: what the judge finds, with its reasons, for a person and for a program."""

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gatepost import cli
from gatepost.judge.keys import generate, record_text
from gatepost.judge.seal import SigningKey, sign_all
from tests.support.loop import run
from tests.support.zone import Fault, Zone, txt

KEY = SigningKey("x.example", "s1", "rsa-sha256", generate("rsa-sha256"))
RECORDS = {
    "x.example": {"TXT": [txt("v=spf1 ip4:192.0.2.1 exp=why.x.example -all")]},
    "why.x.example": {"TXT": [txt("%{i} is not ours, says %{r}")]},
    "_dmarc.x.example": {"TXT": [txt("v=DMARC1; p=reject")]},
    "s1._domainkey.x.example": {"TXT": [txt(record_text(KEY.private))]},
}
FIELDS = b"From: joe@x.example\r\nTo: ann@y.example\r\nSubject: peas\r\n"
BODY = b"The peas are in.\r\n"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command against the zone; return its status and output."""

    async def play() -> int:
        async with Zone(RECORDS, faults={"down.example": Fault.SERVFAIL}) as zone:
            sys.argv = ["gatepost", *words, "--dns", f"127.0.0.1:{zone.address[1]}"]
            return await asyncio.to_thread(cli.run)

    status = run(play())
    told = capsys.readouterr()
    return status, told.out + told.err


def signed() -> bytes:
    """Return a mail that x.example signed."""
    fields = [(line.partition(b":")[0].lower(), line + b"\r\n") for line in FIELDS.split(b"\r\n")[:-1]]
    return sign_all([KEY], fields, BODY, 1_700_000_000_000_000) + FIELDS + b"\r\n" + BODY  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("192.0.2.1", "mx.x.example", "joe@x.example"), "pass: matched ip4 of x.example\n"),
        (
            ("192.0.2.9", "mx.x.example", "joe@x.example"),
            "fail: matched all of x.example\nx.example says: 192.0.2.9 is not ours, says localhost\n",
        ),
        (("192.0.2.1", "x.example", ""), "pass: matched ip4 of x.example\n"),
        (("2001:db8::1", "x.example", "<>"), "fail: matched all of x.example\n"),
        (("192.0.2.1", "mx", "a@none.example"), "none: no record\n"),
        (("192.0.2.1", "mx", "a@down.example"), "temperror: the DNS does not answer for down.example\n"),
    ],
)
def test_spf(words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = command(capsys, "spf", *words)
    assert status == 0
    assert out.startswith(expected.split(" says localhost")[0].rstrip("\n"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("spf", "192.0.2", "mx", "a@x.example"), "'192.0.2' is no IP address"),
        (("spf", "192.0.2.1", "mx", "nobody"), "'nobody' is no address"),
        (("verify", "gone.eml"), "gone.eml: No such file or directory"),
        (("verify", "mail.eml", "--ip", "here"), "'here' is no IP address"),
    ],
)
def test_mistakes_are_named(
    words: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mail.eml").write_bytes(FIELDS + b"\r\n" + BODY)
    status, out = command(capsys, *words)
    assert status == 1
    assert complaint in out


def verified(mail: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Verify a mail; return the JSON."""
    (tmp_path / "mail.eml").write_bytes(mail)
    status, out = command(capsys, "verify", "mail.eml", "--json", *words)
    assert status == 0, out
    return json.loads(out)


def test_a_signed_mail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = verified(signed(), tmp_path, capsys)
    assert old["dkim"][0]["reason"] == "the signature has expired"
    assert (old["spf"]["result"], old["spf"]["reason"]) == ("none", "no --ip was given")
    assert (old["dmarc"]["result"], old["request"]) == ("fail", "reject")


def test_the_line_ends_of_unix_are_mended_and_every_result_has_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mail = (FIELDS + b"\r\n" + BODY).replace(b"\r\n", b"\n")
    good = verified(mail, tmp_path, capsys, "--ip", "192.0.2.1", "--helo", "mx", "--mail-from", "joe@x.example")
    assert [good[method]["result"] for method in ("spf", "arc", "dmarc")] == ["pass", "none", "pass"]
    assert good["dkim"] == [{"result": "none", "domain": "", "reason": "no signature", "properties": {}}]
    assert good["request"] == "none"
    bad = verified(mail, tmp_path, capsys, "--ip", "192.0.2.9", "--helo", "mx", "--mail-from", "joe@x.example")
    assert (bad["dmarc"]["reason"], bad["request"]) == ("x.example asks for reject", "reject")


def test_a_mail_from_standard_input_for_a_person(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FIELDS + b"\r\n" + BODY)))
    status, out = command(capsys, "verify", "-", "--ip", "192.0.2.9")
    assert status == 0
    assert out.splitlines()[1:] == [
        "dkim=none: no signature",
        "dmarc=fail (x.example): x.example asks for reject",
        "DMARC asks this server: reject",
    ]
