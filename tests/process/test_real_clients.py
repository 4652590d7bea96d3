"""Real programs against a real server: swaks, curl, mbsync, neomutt, msmtp, and the stdlib's clients."""

import imaplib
import json
import os
import poplib
import smtplib
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.peers import program

pytestmark = pytest.mark.process
PATIENCE: Final = 15.0


@dataclass(frozen=True, slots=True)
class Held:
    """A held server: what its JSON says."""

    facts: dict[str, Any]

    @property
    def host(self) -> str:
        """Its address."""
        return str(self.facts["host"])

    def port(self, kind: str) -> int:
        """One of its ports."""
        return int(self.facts["ports"][kind])

    def user(self, at: int) -> tuple[str, str]:
        """An account: address and password."""
        account = self.facts["accounts"][at]
        return account["address"], account["password"]

    def imap(self, at: int) -> imaplib.IMAP4_SSL:
        """A logged-in IMAP client."""
        client = imaplib.IMAP4_SSL(self.host, self.port("imaps"), ssl_context=self.context(), timeout=20)
        client.login(*self.user(at))
        return client

    def context(self) -> ssl.SSLContext:
        """TLS that trusts the demonstration's CA."""
        return ssl.create_default_context(cafile=self.facts["ca"])

    def find(self, at: int, subject: str, mailbox: str = "INBOX") -> bytes:
        """Return the mail with a subject, waiting for it."""
        ends = time.monotonic() + PATIENCE
        while True:
            with self.imap(at) as client:
                client.select(mailbox)
                _, found = client.search(None, "SUBJECT", f'"{subject}"')
                if found[0]:
                    _, data = client.fetch(found[0].split()[-1].decode(), "(BODY.PEEK[])")
                    assert isinstance(data[0], tuple)
                    return bytes(data[0][1])
            assert time.monotonic() < ends, f"no mail with subject {subject!r}"
            time.sleep(0.05)

    def relayed(self, subject: str) -> bytes:
        """Return the mail in the sink with a subject, waiting for it."""
        ends = time.monotonic() + PATIENCE
        while True:
            for path in Path(self.facts["sink"], "new").iterdir():
                mail = path.read_bytes()
                if subject.encode() in mail:
                    return mail
            assert time.monotonic() < ends, f"nothing relayed with {subject!r}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """One held server with two workers for all tests of this module."""
    folder = tmp_path_factory.mktemp("held")
    words = ["try", "--hold", "--json", str(folder / "facts.json"), "--data-dir", str(folder / "data")]
    command = [sys.executable, "-m", "gatepost", *words, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 60
        while not (folder / "facts.json").exists():
            assert time.monotonic() < ends
            assert process.poll() is None
            time.sleep(0.05)
        yield Held(json.loads((folder / "facts.json").read_text()))
    finally:
        process.terminate()
        assert process.wait(60) == 0


def run(*words: str | Path, text: str = "", **more: str) -> str:
    """Run a program to its good end; return its output."""
    done = subprocess.run(
        [str(word) for word in words], input=text, capture_output=True, text=True, timeout=60, env=os.environ | more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.peer("swaks")
@pytest.mark.parametrize("tls", [False, True])
def test_swaks_delivers_to_the_mx(server: Held, tls: bool) -> None:
    subject = f"swaks mx {tls}"
    address, _ = server.user(1)
    words = ["--server", server.host, "--port", str(server.port("mx")), "--to", address]
    words += ["--from", "ann@sender.example", "--header", f"Subject: {subject}", "--body", "hello\n.dot\n..two"]
    run(program("swaks"), *words, *(["--tls"] if tls else []))
    mail = server.find(1, subject)
    assert b"\r\n.dot\r\n..two" in mail
    assert mail.startswith(b"Return-Path: <ann@sender.example>\r\n")


@pytest.mark.peer("swaks")
@pytest.mark.parametrize(
    ("port", "tls", "mechanism"), [("submission", "--tls", "PLAIN"), ("submissions", "--tlsc", "LOGIN")]
)
def test_swaks_submits_and_the_mail_is_signed_and_relayed(
    server: Held, port: str, tls: str, mechanism: str
) -> None:
    subject = f"swaks {port}"
    address, password = server.user(0)
    words = [
        "--server",
        server.host,
        "--port",
        str(server.port(port)),
        tls,
        "--auth",
        mechanism,
        "--auth-user",
        address,
    ]
    words += ["--auth-password", password, "--from", address, "--to", "friend@friends.example"]
    run(program("swaks"), *words, "--header", f"Subject: {subject}")
    mail = server.relayed(subject)
    assert mail.count(b"DKIM-Signature:") == 2
    assert b"with ESMTPSA" in mail


@pytest.mark.peer("curl")
def test_curl_sends_and_reads(server: Held, tmp_path: Path) -> None:
    address, password = server.user(2)
    (tmp_path / "mail").write_bytes(
        f"From: <{address}>\r\nTo: <{address}>\r\nSubject: by curl\r\n\r\nhi\r\n".encode()
    )
    trust = ["--silent", "--show-error", "--cacert", server.facts["ca"], "--user", f"{address}:{password}"]
    url = f"smtps://{server.host}:{server.port('submissions')}"
    run(
        program("curl"),
        *trust,
        url,
        "--mail-from",
        address,
        "--mail-rcpt",
        address,
        "--upload-file",
        tmp_path / "mail",
    )
    server.find(2, "by curl")
    imap = f"imaps://{server.host}:{server.port('imaps')}"
    assert '"/" INBOX' in run(program("curl"), *trust, imap)
    assert "Subject: by curl" in run(program("curl"), *trust, f"{imap}/INBOX;MAILINDEX=1")
    run(program("curl"), *trust, f"{imap}/Drafts", "--upload-file", tmp_path / "mail")
    assert "by curl" in run(program("curl"), *trust, f"{imap}/Drafts;MAILINDEX=1")


@pytest.mark.peer("mbsync")
def test_mbsync_syncs_both_ways(server: Held, tmp_path: Path) -> None:
    address, password = server.user(3)
    with smtplib.SMTP(server.host, server.port("mx")) as client:
        for number in range(3):
            client.sendmail(
                "ann@sender.example",
                [address],
                f"From: <ann@sender.example>\r\nSubject: sync {number}\r\n\r\nx\r\n",
            )
    (tmp_path / "mail").mkdir()
    (tmp_path / "rc").write_text(
        f"""\
IMAPAccount a
Host localhost
Port {server.port("imaps")}
User {address}
Pass {password}
SSLType IMAPS
CertificateFile {server.facts["ca"]}

IMAPStore far
Account a

MaildirStore near
Path {tmp_path}/mail/
Inbox {tmp_path}/mail/INBOX
SubFolders Verbatim

Channel c
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
"""
    )
    sync: list[str | Path] = [program("mbsync"), "-c", tmp_path / "rc", "-a"]
    run(*sync)
    arrived = sorted((tmp_path / "mail" / "INBOX" / "new").iterdir())
    assert len(arrived) == 3
    names = [path.name.split(":")[0] for path in arrived]
    arrived[0].rename(tmp_path / "mail" / "INBOX" / "cur" / f"{names[0]}:2,FS")
    arrived[1].rename(tmp_path / "mail" / "INBOX" / "cur" / f"{names[1]}:2,T")
    run(*sync)
    with server.imap(3) as client:
        client.select("INBOX")
        _, found = client.search(None, "FLAGGED", "SEEN")
        assert len(found[0].split()) == 1
        _, left = client.search(None, "ALL")
        assert len(left[0].split()) == 2
        client.copy("1", "Archive")
    run(*sync)
    assert (
        len(
            list((tmp_path / "mail" / "Archive").rglob("*:2,*"))
            or list((tmp_path / "mail" / "Archive" / "new").iterdir())
        )
        == 1
    )


@pytest.mark.peer("msmtp")
def test_msmtp_submits(server: Held) -> None:
    address, password = server.user(4)
    to, _ = server.user(5)
    words = [f"--host={server.host}", f"--port={server.port('submission')}", "--auth=plain", f"--user={address}"]
    words += [
        "--tls=on",
        f"--tls-trust-file={server.facts['ca']}",
        f"--passwordeval=echo {password}",
        f"--from={address}",
    ]
    run(program("msmtp"), *words, to, text=f"From: <{address}>\nTo: <{to}>\nSubject: by msmtp\n\nhello\n")
    mail = server.find(5, "by msmtp")
    assert b"\r\nMessage-ID: <" in mail
    assert b"\r\nDate: " in mail


@pytest.mark.peer("neomutt")
def test_neomutt_sends_in_batch(server: Held, tmp_path: Path) -> None:
    address, password = server.user(6)
    to, _ = server.user(7)
    user, _, domain = address.partition("@")
    (tmp_path / "rc").write_text(
        f"""\
set from="{address}"
set smtp_url="smtps://{user}%40{domain}@{server.host}:{server.port("submissions")}"
set smtp_pass="{password}"
set copy=no
set ssl_ca_certificates_file="{server.facts["ca"]}"
set certificate_file="{server.facts["ca"]}"
set ssl_verify_host=no
set smtp_authenticators="plain"
"""
    )
    run(
        program("neomutt"),
        "-F",
        tmp_path / "rc",
        "-s",
        "by neomutt",
        to,
        text="hello\n",
        HOME=str(tmp_path),
        TERM="dumb",
    )
    server.find(7, "by neomutt")


def test_pop3_lists_reads_and_deletes(server: Held) -> None:
    address, password = server.user(8)
    body = "first\r\n.\r\n..dots\r\n"
    with smtplib.SMTP(server.host, server.port("mx")) as client:
        client.sendmail(
            "ann@sender.example", [address], f"From: <ann@sender.example>\r\nSubject: pop\r\n\r\n{body}"
        )
    server.find(8, "pop")
    client3 = poplib.POP3_SSL(server.host, server.port("pop3s"), context=server.context())
    client3.user(address)
    client3.pass_(password)
    count, size = client3.stat()
    assert count == 1
    lines = client3.retr(1)[1]
    assert lines[-3:] == [b"first", b".", b"..dots"]
    assert sum(len(line) + 2 for line in lines) == size
    client3.dele(1)
    client3.quit()
    with server.imap(8) as client4:
        assert client4.select("INBOX")[1] == [b"0"]


def test_idle_hears_of_mail_that_another_worker_stored(server: Held) -> None:
    address, _ = server.user(9)
    with server.imap(9) as client:
        client.select("INBOX")
        client.send(b"i IDLE\r\n")
        assert client.readline().startswith(b"+")
        for number in range(4):  # over both workers
            with smtplib.SMTP(server.host, server.port("mx")) as sender:
                text = f"From: <ann@sender.example>\r\nSubject: idle {number}\r\n\r\nx\r\n"
                sender.sendmail("ann@sender.example", [address], text)
        seen = b""
        while b"* 4 EXISTS" not in seen:
            seen = client.readline()
        client.send(b"DONE\r\n")
        while not client.readline().startswith(b"i OK"):
            pass


def gatepost(server: Held, *words: str) -> str:
    """Run a command against the held server."""
    return run(sys.executable, "-m", "gatepost", *words, "-c", server.facts["config_file"])


def test_the_story_of_a_mail_is_told(server: Held) -> None:
    address, _ = server.user(10)
    with smtplib.SMTP(server.host, server.port("mx")) as client:
        client.sendmail("ann@sender.example", [address], "From: <ann@sender.example>\r\nSubject: told\r\n\r\nx\r\n")
    server.find(10, "told")
    lines = json.loads(gatepost(server, "trace", address, "--json"))
    assert {"intake", "judge", "policy"} <= {line["stage"] for line in lines}, lines


def test_commands_work_while_the_server_runs(server: Held) -> None:
    gatepost(server, "domain", "add", "new.example")
    gatepost(server, "alias", "add", "team@new.example", server.user(11)[0])
    with smtplib.SMTP(server.host, server.port("mx")) as client:
        client.sendmail(
            "ann@sender.example", ["team@new.example"], "From: <ann@sender.example>\r\nSubject: team\r\n\r\nx\r\n"
        )
    server.find(11, "team")
    assert "new.example" in {each["domain"] for each in json.loads(gatepost(server, "domain", "list", "--json"))}
    assert (
        "1/1 addresses added."
        in subprocess.run(
            [
                sys.executable,
                "-m",
                "gatepost",
                "tables",
                "add",
                "nospamd",
                "192.0.2.7",
                "-c",
                server.facts["config_file"],
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    )
    assert "192.0.2.7" in gatepost(server, "tables", "show", "nospamd")
    assert json.loads(gatepost(server, "queue", "list", "--json")) == []
    assert json.loads(gatepost(server, "status", "--json"))["running"]


def test_an_unknown_user_and_a_foreign_domain_are_refused_at_rcpt(server: Held) -> None:
    with smtplib.SMTP(server.host, server.port("mx"), source_address=("127.0.1.10", 0)) as client:
        client.ehlo()
        client.mail("ann@sender.example")
        assert client.rcpt("nobody@home.example")[0] == 550
        assert client.rcpt("postmaster@home.example")[0] == 250
