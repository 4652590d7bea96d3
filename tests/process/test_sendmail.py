"""sendmail, mailq and newaliases: the programs of a machine against a real server, running and away."""

import imaplib
import os
import pwd
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatepost.cli.sendmail import hand_over
from gatepost.intake import offline
from gatepost.intake.offline import SOCKET, Slip
from tests.process.served import PASSWORD, Served, until

NOBODY = 65_534
pytestmark = pytest.mark.process
SETTINGS = """
[accounts]
postmaster = "bob@here.example"
[intake]
local_dir = "{folder}/local"
[policy.tables.aliases]
file = "{folder}/aliases"
[policy.actions.here]
do = "deliver"
alias = "aliases"
[policy.actions.away]
do = "relay"
[[policy.rules]]
match = {{ for = "here.example", from = "local" }}
action = "here"
[[policy.rules]]
match = {{ for = "any", from = "local" }}
action = "away"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("sendmail")
    folder.chmod(0o755)
    (folder / "aliases").write_text("root: bob\n")
    with Served(folder, workers=1, settings=SETTINGS.format(folder=folder)) as served:
        served.command("queue", "pause", "--all")
        bin_dir = folder / "bin"
        bin_dir.mkdir()
        for name in ("sendmail", "mailq", "newaliases"):
            path = bin_dir / name
            path.write_text(
                f"#!{sys.executable}\nimport sys\nsys.argv[0] = {str(path)!r}\n"
                "from gatepost.__main__ import main\nmain()\n"
            )
            path.chmod(0o755)
        yield served


def call(server: Served, *words: str, given: bytes = b"", status: int = 0) -> str:
    """Run one of the programs by its name."""
    environment = {**os.environ, "GATEPOST_CONFIG": str(server.config)}
    argv = [str(server.folder / "bin" / words[0]), *words[1:]]
    done = subprocess.run(argv, input=given, capture_output=True, timeout=60, env=environment)
    assert done.returncode == status, done.stdout + done.stderr
    return (done.stdout + done.stderr).decode()


def inbox(server: Served) -> list[bytes]:
    """Return the mails of bob."""
    with imaplib.IMAP4("127.0.0.1", server.ports["imap"]) as client:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client.starttls(context)
        client.login("bob@here.example", PASSWORD)
        client.select("INBOX", readonly=True)
        _, found = client.search(None, "ALL")
        mails = []
        for number in found[0].split():
            _, data = client.fetch(number, "(BODY.PEEK[])")
            assert isinstance(data[0], tuple)
            mails.append(data[0][1])
        return mails


def subject(server: Served, text: str) -> bytes:
    """Return the one mail with that subject, once it is there."""
    mark = b"Subject: " + text.encode() + b"\r\n"
    until(lambda: any(mark in each for each in inbox(server)), 20, server.last_words)
    (mail,) = [each for each in inbox(server) if mark in each]
    return mail


def test_a_mail_reads_its_recipients_from_the_header_and_loses_its_bcc(server: Served) -> None:
    mail = b"To: Bob <bob@here.example>\nBcc: bob@here.example,\n x@far.example\nSubject: with t\n\n.hidden\nend\n"
    call(server, "sendmail", "-t", "-oi", "-F", "Jo (Ops)", "-fann@here.example", given=mail)
    got = subject(server, "with t")
    assert b"\r\nBcc:" not in got
    assert b'From: "Jo (Ops)" <ann@here.example>\r\n' in got
    assert b"\r\nMessage-ID: <" in got
    assert b"\r\nDate: " in got
    assert b"(user root of this machine)" in got
    assert got.endswith(b"\r\n\r\n.hidden\r\nend\r\n")
    text = call(server, "mailq")
    assert "ann@here.example\n" in text
    assert text.endswith("\t\tTotal requests: 1\n")


def test_what_cron_says_reaches_the_alias_of_root(server: Served) -> None:
    mail = b"From: root (Cron Daemon)\nTo: root@here.example\nSubject: Cron <root@host> true\n\nout\n.\nnot this\n"
    call(server, "sendmail", "-FCronDaemon", "-odi", "-oem", "-B8BITMIME", "root@here.example", given=mail)
    got = subject(server, "Cron <root@host> true")
    assert got.endswith(b"\r\n\r\nout\r\n")


def test_a_refused_recipient_is_told_with_its_status(server: Served) -> None:
    said = call(server, "sendmail", "nobody@here.example", given=b"Subject: x\n\nx\n", status=67)
    assert "nobody@here.example: 550" in said


def test_smtp_on_standard_input_and_output(server: Served) -> None:
    argv = [str(server.folder / "bin" / "sendmail"), "-bs"]
    environment = {**os.environ, "GATEPOST_CONFIG": str(server.config)}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        talk = b"MAIL FROM:<ann@here.example>\r\nRCPT TO:<bob@here.example>\r\nDATA\r\n"
        for octets, answer in ((b"EHLO me\r\n", b"250 "), (talk, b"354 ")):
            process.stdin.write(octets)
            process.stdin.flush()
            while not (said := process.stdout.readline()).startswith(answer):
                assert said, server.last_words()
        process.stdin.write(b"Subject: by bs\r\n\r\nx\r\n.\r\nQUIT\r\n")
        process.stdin.close()
        rest = process.stdout.read()
    assert rest.startswith(b"250 2.0.0 ")
    assert process.returncode == 0
    subject(server, "by bs")


def test_newaliases_checks_and_lets_the_server_read_them_anew(server: Served) -> None:
    (server.folder / "aliases").write_text("root: bob\nops: bob\n")
    assert "the server reads them anew" in call(server, "newaliases")
    until(lambda: bool(server.events("reloaded")), 20, server.last_words)
    call(server, "sendmail", "ops@here.example", given=b"Subject: to ops\n\nx\n")
    subject(server, "to ops")


def test_while_the_server_is_away_mail_waits_in_a_folder_and_is_taken_at_its_start(server: Served) -> None:
    assert server.process is not None
    server.process.terminate()
    server.process.wait(40)
    folder = server.folder / "local" / "offline"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o3733
    call(server, "sendmail", "-t", given=b"To: bob@here.example\nSubject: while away\n\nx\n")
    refused_later = Slip("ann@here.example", ("nobody@here.example",))
    offline.put(server.folder / "local", refused_later, b"Subject: refused later\r\n\r\nx\r\n")
    (folder / "junk").write_bytes(b"no envelope\n")
    (folder / ".half").write_bytes(b"")
    (folder / "link").symlink_to("/etc/passwd")
    server.start()
    subject(server, "while away")
    until(lambda: len(list((server.folder / "local" / "refused").iterdir())) == 3, 20, server.last_words)
    assert sorted(each.name for each in folder.iterdir()) == [".half"]


def as_nobody(folder: Path, work: Callable[[], object]) -> None:
    """Do something in a child that is `nobody`, and stands in a folder whose path nobody could walk."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(folder)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_of_the_machine_is_named_by_the_kernel_and_may_leave_mail(server: Served) -> None:
    slip = Slip("ann@here.example", ("bob@here.example",))
    by_socket = b"Subject: nobody speaks\r\n\r\nx\r\n"
    left = b"Subject: nobody leaves\r\n\r\nx\r\n"
    as_nobody(server.folder / "local", lambda: hand_over(Path(SOCKET), slip, by_socket))

    def leave() -> None:
        facts = offline.put(Path(), slip, left).stat()
        assert (facts.st_uid, stat.S_IMODE(facts.st_mode), facts.st_gid) == (NOBODY, 0o640, group)

    group = (server.folder / "local" / "offline").stat().st_gid
    as_nobody(server.folder / "local", leave)
    name = pwd.getpwuid(NOBODY).pw_name.encode()
    assert b"(user %b of this machine)" % name in subject(server, "nobody speaks")


@pytest.mark.peer("neomutt")
def test_mail_written_with_neomutt_arrives(server: Served) -> None:
    environment = {**os.environ, "GATEPOST_CONFIG": str(server.config), "HOME": str(server.folder)}
    settings = f'set sendmail="{server.folder}/bin/sendmail -oem -oi"; set use_envelope_from; set copy=no'
    argv = ["neomutt", "-n", "-F", "/dev/null", "-e", settings, "-e", 'set from="ann@here.example"']
    argv += ["-s", "from neomutt", "-b", "bob@here.example", "--", "bob@here.example"]
    done = subprocess.run(argv, input=b"text\n.\n", env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    got = subject(server, "from neomutt")
    assert b"\r\n\r\ntext\r\n.\r\n" in got
    assert b"Return-Path: <ann@here.example>" in got
