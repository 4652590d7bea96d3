"""The article's daisy chain with the real programs, on a server that was made from its smtpd.conf.

inbound    25 -> clamsmtp -> CLAMAV_IN -> spampd -> SPAM_IN -> Dovecot's LMTP
outbound  587 -> a signer on Mail::DKIM (dkimproxy is not in Debian) -> DKIM_OUT -> the MX of remote.example

The smtpd.conf is the article's with other paths and ports and its author's later step through clamsmtp; `ADDED` is
what the operator adds to the imported file. Clients of port 25 come by PROXY from 198.51.100.7.
"""

import asyncio
import contextlib
import io
import re
import shutil
import smtplib
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gatepost.aio.tls import Pair, self_signed, write_pair
from gatepost.base.clock import Instant
from gatepost.cli.commands import app
from tests.policy.smtpdconf import ARTICLE
from tests.process.served import PASSWORD, Line, Served, free_ports, until
from tests.support.peers import can_mount, cannot, program
from tests.support.zone import Zone

pytestmark = [pytest.mark.process, pytest.mark.peer("spampd")]

CLIENT: Final = "198.51.100.7"
JOE: Final = "joe.bloggs@example.com"
JANE: Final = "jane@remote.example"
EICAR: Final = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
GTUBE: Final = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
NAMES: Final = (
    "mx", "smtps", "submission", "lo0", "spam_in", "clamav_in", "dkim_out", "clamsmtp", "spampd", "signer",
    "remote", "clamsmtp_xclient",
)  # fmt: skip
ZONE: Final = {"remote.example": {"MX": ["10 mx.remote.example."]}, "mx.remote.example": {"A": ["127.0.0.2"]}}
NEEDED: Final = {
    "spampd": "/usr/sbin/spampd",
    "clamd": "/usr/sbin/clamd",
    "clamsmtpd": "/usr/sbin/clamsmtpd",
    "dovecot": "/usr/sbin/dovecot",
    "dovecot's lmtp": "/usr/lib/dovecot/lmtp",
    "Mail::DKIM": "/usr/share/perl5/Mail/DKIM/Signer.pm",
    "perl": "/usr/bin/perl",
}
TABLES: Final = {
    "aliases": "root: joe\n",
    "domains": "example.com\n",
    "users": f"{JOE} joe\n",
    "blacklist-recipients": "blocked@example.com\n",
    "other-relays": "192.0.2.25\n",
}
ADDED: Final = """
[server]
hostname = "mx.example.com"
data_dir = "{folder}/data"
workers = 1
[resolver]
servers = ["{resolver}"]
[relay]
port = {remote}
allow_loopback = true
[gate]
greylist = false
"""
LOCAL_CF: Final = """
use_bayes 0
use_auto_whitelist 0
skip_rbl_checks 1
dns_available no
required_score 5.0
report_safe 0
"""
DOVECOT: Final = """
base_dir = {folder}/dovecot
state_dir = {folder}/dovecot-state
instance_name = daisy-chain
log_path = {folder}/dovecot.log
protocols = lmtp
listen = 127.0.0.1
ssl = no
mail_location = maildir:~/Maildir
auth_username_format = %Ln
first_valid_uid = 8
first_valid_gid = 8
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%Ln {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%Ln {folder}/users
  default_fields = uid=mail gid=mail home={folder}/home/%Ln
}}
service lmtp {{
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
}}
protocol lmtp {{
  postmaster_address = postmaster@example.com
}}
"""
PRIVATE_DEV: Final = (  # spampd dies without a /dev/log: it gets one that nobody else sees
    "mount -t tmpfs -o mode=755 none /mnt"
    " && for n in null zero random urandom; do touch /mnt/$n && mount --bind /dev/$n /mnt/$n; done"
    ' && touch /mnt/log && mount --bind "$0" /mnt/log && mount --rbind /mnt /dev && exec "$@"'
)


class Remote(socketserver.ThreadingTCPServer):
    """The MX of remote.example; `mails` is what it took."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.2", port), _Taking)  # 127.0.0.1 is where we listen ourselves
        self.mails: list[bytes] = []
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()


class _Taking(socketserver.StreamRequestHandler):
    server: Remote

    def handle(self) -> None:
        self.wfile.write(b"220 mx.remote.example ESMTP\r\n")
        while line := self.rfile.readline():
            match line[:4].upper():
                case b"EHLO":
                    self.wfile.write(b"250-mx.remote.example\r\n250 8BITMIME\r\n")
                case b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    mail = b""
                    while (line := self.rfile.readline()) not in (b".\r\n", b""):
                        mail += line[1:] if line.startswith(b".") else line
                    self.server.mails.append(mail)
                    self.wfile.write(b"250 2.0.0 taken\r\n")
                case _:
                    self.wfile.write(b"250 2.0.0 ok\r\n")


class Names:
    """A DNS in a thread: remote.example has an MX on loopback, nobody else has anything."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._zone = Zone(ZONE)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._zone.__aenter__(), self._loop).result(10)
        self.address = "{}:{}".format(*self._zone.address)

    def close(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._zone.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Syslog:
    """What programs say to /dev/log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while octets := self._socket.recv(65_536):
                self.lines.append(octets.decode(errors="replace"))

    def said(self, pattern: str) -> bool:
        """Tell whether a line matches."""
        return any(re.search(pattern, line) for line in self.lines)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@dataclass
class Chain(Served):
    """The server and all the programs of the chain."""

    programs: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def __enter__(self) -> Self:
        self.stack = ExitStack()
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self.names = Names()
        self.stack.callback(self.names.close)
        self.remote = Remote(self.ports["remote"])
        self.stack.callback(self.remote.server_close)
        self.stack.callback(self.remote.shutdown)
        self.syslog = Syslog(self.folder / "log.sock")
        self.stack.callback(self.syslog.close)
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *problem: object) -> None:
        try:
            super().__exit__(*problem)
        finally:
            self._end()

    def _begin(self) -> None:
        for begin in (self.start_spampd, self._clamd, self._clamsmtp, self._dovecot, self._signer):
            begin()  # all at the same time: each takes seconds
        self.write_config("")
        (self.folder / "password").write_text(PASSWORD)
        password = ["--password-file", str(self.folder / "password")]
        self.told(["domain", "add", "example.com"], ["user", "add", JOE, *password])
        self.start()
        for name in ("clamsmtp", "clamsmtp_xclient", "spampd", "signer"):
            self.wait_for(name)
        for path in (self.folder / "clamd.sock", self.folder / "lmtp"):
            until(path.exists, 30, lambda: self.words_of("clamd") + self.words_of("dovecot"))

    def wait_for(self, name: str) -> None:
        """Wait until a program listens."""
        until(lambda: _listens(self.ports[name]), 30, lambda: self.words_of(name))

    def _end(self) -> None:
        for name in list(self.programs):
            self.stop_program(name)
        self.stack.close()

    # The programs

    def run_program(self, name: str, *argv: str) -> None:
        """Start a program of the chain; what it says is in a file."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.programs[name] = subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.folder)

    def stop_program(self, name: str) -> None:
        """End it."""
        process = self.programs.pop(name)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def words_of(self, name: str) -> str:
        """Return the end of what a program said."""
        return name + ": " + (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def start_spampd(self) -> None:
        """Start spampd with the article's flags, and without the network."""
        (self.folder / "local.cf").write_text(LOCAL_CF)
        flags = ("--tagall", "--aw", "--rh", "--maxsize=256", "--local-only", "--children=2", "--nodetach")
        private = ("unshare", "--mount", "sh", "-c", PRIVATE_DEV, str(self.syslog.path))
        self.run_program(
            "spampd",
            *(*private, program("spampd", NEEDED["spampd"]), *flags),
            f"--port={self.ports['spampd']}",
            f"--relayhost=127.0.0.1:{self.ports['spam_in']}",
            f"--pid={self.folder}/spampd.pid",
            "--user=spampd",
            "--group=spampd",
            f"--saconfig={self.folder}/local.cf",
        )

    def _clamd(self) -> None:
        (self.folder / "signatures").mkdir()
        (self.folder / "signatures" / "eicar.ndb").write_text(f"Eicar-Test-Signature:0:*:{EICAR.hex()}\n")
        (self.folder / "clamd.conf").write_text(
            f"DatabaseDirectory {self.folder}/signatures\nLocalSocket {self.folder}/clamd.sock\nForeground yes\n"
            f"TemporaryDirectory {self.folder}\nUser root\n"
        )
        self.run_program("clamd", program("clamd", NEEDED["clamd"]), "-c", f"{self.folder}/clamd.conf")

    def _clamsmtp(self) -> None:
        """Start two: that of the chain, and one that says XCLIENT and stands before SPAM_IN."""
        for name, behind, more in (
            ("clamsmtp", "clamav_in", "Header: X-Virus-Scanned: ClamAV using ClamSMTP\n"),
            ("clamsmtp_xclient", "spam_in", "XClient: on\n"),
        ):
            (self.folder / f"{name}.conf").write_text(
                f"OutAddress: 127.0.0.1:{self.ports[behind]}\nListen: 127.0.0.1:{self.ports[name]}\n"
                f"ClamAddress: {self.folder}/clamd.sock\nTempDirectory: {self.folder}\n{more}"
            )
            clamsmtp = program("clamsmtpd", NEEDED["clamsmtpd"])
            self.run_program(name, clamsmtp, "-d", "1", "-f", f"{self.folder}/{name}.conf")

    def _dovecot(self) -> None:
        (self.folder / "users").write_text("joe:{PLAIN}not-used::::::\n")
        (self.folder / "home").mkdir()
        shutil.chown(self.folder / "home", "mail", "mail")
        (self.folder / "dovecot.conf").write_text(DOVECOT.format(folder=self.folder))
        self.run_program(
            "dovecot", program("dovecot", NEEDED["dovecot"]), "-F", "-c", f"{self.folder}/dovecot.conf"
        )

    def _signer(self) -> None:
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        (self.folder / "default.private").write_bytes(pem)
        script = Path(__file__).parent.parent / "support" / "dkim_signer.pl"
        where = [f"127.0.0.1:{self.ports[name]}" for name in ("signer", "dkim_out")]
        key = str(self.folder / "default.private")
        self.run_program("signer", program("perl"), str(script), *where, "example.com", "default", key)

    # The server

    def write_config(self, settings: str) -> None:
        """Import the article's smtpd.conf, and add to the result what it cannot say."""
        (self.folder / "mail").mkdir()
        for name, content in TABLES.items():
            (self.folder / "mail" / name).write_text(content)
        (self.folder / "ssl" / "private").mkdir(parents=True)
        for host in ("smtp", "mail", "mx"):
            name = f"{host}.example.com"
            files = Pair(self.folder / "ssl" / f"{name}.crt", self.folder / "ssl" / "private" / f"{name}.key")
            write_pair(files, *self_signed([name], Instant(1_790_000_000_000_000)))
        (self.folder / "smtpd.conf").write_text(self.article())
        imported = self.folder / "imported.toml"
        self.commands(["import", "smtpd.conf", str(self.folder / "smtpd.conf"), "--out", str(imported)])
        text = imported.read_text()
        text = text.replace("[intake]\n", '[intake]\nxforward = ["127.0.0.1/32"]\nxclient = ["127.0.0.1/32"]\n', 1)
        text = re.sub(r'(host = "127\.0\.0\.1"\nport = \d+\n)', r"\1xforward = true\n", text)
        listen = f'address = ["127.0.0.1:{self.ports["mx"]}"]\n'
        assert listen in text
        text = text.replace(listen, listen + 'proxy = ["127.0.0.1/32"]\n')
        added = ADDED.format(folder=self.folder, resolver=self.names.address, remote=self.ports["remote"])
        self.config.write_text(text + added)

    def article(self) -> str:
        """Return the article's smtpd.conf with our paths and ports, and with clamsmtp as its author put it in."""
        ports = self.ports
        clamav = (
            f"listen on 127.0.0.1 port {ports['clamav_in']} tag CLAMAV_IN\n"
            f"accept tagged CLAMAV_IN for domain <domains> relay via smtp://127.0.0.1:{ports['spampd']}\n"
        )
        text = ARTICLE
        for theirs, ours in (
            ("/etc/mail/", f"{self.folder}/mail/"),
            ("/etc/ssl/", f"{self.folder}/ssl/"),
            ("/var/dovecot/lmtp", f"{self.folder}/lmtp"),
            ("listen on egress tls auth-optional", f"listen on 127.0.0.1 port {ports['mx']} tls auth-optional"),
            ("listen on egress smtps auth", f"listen on 127.0.0.1 port {ports['smtps']} smtps auth"),
            ("listen on egress port submission", f"listen on 127.0.0.1 port {ports['submission']}"),
            ("listen on lo0 port 10026", f"listen on 127.0.0.1 port {ports['spam_in']}"),
            ("listen on lo0 port 10028", f"listen on 127.0.0.1 port {ports['dkim_out']}"),
            ("listen on lo0\n", f"listen on 127.0.0.1 port {ports['lo0']}\n"),
            ("# untagged mail is sent", f"{clamav}\n# untagged mail is sent"),
            ("smtp://127.0.0.1:10025", f"smtp://127.0.0.1:{ports['clamsmtp']}"),
            ("smtp://127.0.0.1:10027", f"smtp://127.0.0.1:{ports['signer']}"),
        ):
            assert theirs in text, theirs
            text = text.replace(theirs, ours)
        return text

    # Mail

    def bring(self, subject: str, body: bytes = b"Hello Joe\r\n", to: str = JOE, ip: str = CLIENT) -> str:
        """Bring a mail to port 25 as `ip`; return the name that it was given."""
        with contextlib.closing(Line(self.ports["mx"])) as line:
            line.send(f"PROXY TCP4 {ip} 127.0.0.1 40000 25\r\n".encode())
            assert line.reply().startswith(b"220")
            line.say(b"EHLO mail.sender.example", b"250")
            line.say(b"MAIL FROM:<ann@sender.example>", b"250")
            line.say(b"RCPT TO:<%s>" % to.encode(), b"250")
            line.say(b"DATA", b"354")
            date = b"Mon, 23 Nov 2026 10:00:00 +0000"
            line.send(b"From: Ann <ann@sender.example>\r\nTo: <%s>\r\nDate: %s\r\n" % (to.encode(), date))
            line.send(b"Message-ID: <%s@sender.example>\r\n" % subject.replace(" ", "-").encode())
            line.send(b"Subject: %s\r\n\r\n%s" % (subject.encode(), body))
            return line.say(b".", b"250 2.0.0").split()[2].decode()

    def inbox(self) -> dict[str, bytes]:
        """Return Joe's mails in Dovecot by their subjects."""
        mails = {}
        for path in (self.folder / "home" / "joe" / "Maildir" / "new").glob("*"):
            octets = path.read_bytes()
            found = re.search(rb"^Subject: (.*)$", octets, re.MULTILINE)
            mails[found[1].decode().strip() if found else ""] = octets.replace(b"\r\n", b"\n")
        return mails

    def arrived(self, subject: str) -> bytes:
        """Wait for a mail in Dovecot."""
        until(lambda: subject in self.inbox(), 30, lambda: self.words_of("dovecot") + self.last_words())
        return self.inbox()[subject]

    def path(self, message: str) -> list[str]:
        """Return the names of a mail along the chain: each filter passes on the answer that we gave it."""
        names = [message]
        for event in self.events("delivered"):
            found = re.search(r"250 2\.0\.0 (\S+) accepted", str(event["reply"]))
            if event["message"] == names[-1] and found:
                names.append(found[1])
        return names

    def commands(self, *lines: list[str]) -> str:
        """Run commands of gatepost in this process, which has paid for the start; return what they print."""
        with contextlib.redirect_stdout(io.StringIO()) as said:
            for line in lines:
                assert not app(line, standalone_mode=False), said.getvalue()
        return said.getvalue()

    def told(self, *lines: list[str]) -> str:
        """Run commands that ask this server."""
        return self.commands(*([*line, "-c", str(self.config)] for line in lines))


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    for name, place in NEEDED.items():
        program(name, place)
    why = can_mount()
    if why:
        cannot(f"run spampd with a /dev/log of its own ({why})")
    with tempfile.TemporaryDirectory(prefix="daisy-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Chain(folder, workers=1) as chain:
            yield chain


@pytest.mark.row("MT-16", "MT-20", "MT-25", "FI-01", "FI-02", "FI-04", "FI-09")
def test_ham_goes_through_both_filters_into_dovecot(chain: Chain) -> None:
    first = chain.bring("ham")
    mail = chain.arrived("ham")
    header = mail.partition(b"\n\n")[0]
    for found in (
        rb"^X-Spam-Checker-Version: SpamAssassin ",  # --tagall
        rb"^X-Spam-Status: No, score=",
        rb"^X-Virus-Scanned: ClamAV using ClamSMTP$",
    ):
        assert re.search(found, header, re.MULTILINE), header
    received = re.findall(
        rb"^Received: from mail\.sender\.example \(unknown \[198\.51\.100\.7\]\)", header, re.MULTILINE
    )
    assert len(received) == 3  # port 25, CLAMAV_IN, SPAM_IN: each names the true client
    assert header.count(b"(handed on by 127.0.0.1)") == 2
    assert mail.endswith(b"\n\nHello Joe\n")
    assert len(chain.path(first)) == 3
    assert chain.syslog.said(r"clean message <ham@sender.example>")
    assert chain.syslog.said(r"rules hit for <ham@sender.example>")  # --rh


@pytest.mark.row("FI-12")
def test_each_story_tells_its_listener_the_true_client_and_the_name_before(chain: Chain) -> None:
    first = chain.bring("traced")
    chain.arrived("traced")
    names = chain.path(first)
    stories = chain.told(*(["trace", name] for name in names))
    for word in ("listener=mx", "listener=clamav_in", "listener=spam_in", f"ident={names[0]}", f"ident={names[1]}"):
        assert word in stories, stories
    assert stories.count(f"ip={CLIENT}") == 3


def test_spampd_marks_gtube(chain: Chain) -> None:
    chain.bring("gtube", GTUBE + b"\r\n")
    mail = chain.arrived("gtube")
    assert b"\nX-Spam-Flag: YES\n" in mail
    assert re.search(rb"^X-Spam-Status: Yes, score=\d{3,4}\.", mail, re.MULTILINE)
    assert chain.syslog.said(r"identified spam <gtube@sender.example> \(\d{3,4}\.")


@pytest.mark.row("FI-03")
def test_what_is_larger_than_maxsize_is_not_scanned(chain: Chain) -> None:
    chain.bring("large", b"x" * 76 + b"\r\n" + (b"y" * 76 + b"\r\n") * 3600)
    assert b"X-Spam-" not in chain.arrived("large")
    assert chain.syslog.said(r"skipped large message \(2\d\d")


@pytest.mark.row("FI-09")
def test_clamsmtp_drops_eicar(chain: Chain) -> None:
    first = chain.bring("virus", EICAR + b"\r\n")
    chain.bring("after the virus")
    chain.arrived("after the virus")
    until(lambda: any(each["message"] == first for each in chain.events("delivered")), 20, chain.last_words)
    assert len(chain.path(first)) == 1  # clamsmtp said 250 and handed nothing on
    assert "virus" not in chain.inbox()
    (answer,) = (each["reply"] for each in chain.events("delivered") if each["message"] == first)
    assert "Virus Detected; Discarded Email" in answer


def test_clamsmtp_says_xclient_and_the_rules_still_see_clamsmtp(chain: Chain) -> None:
    with smtplib.SMTP(source_address=("127.0.0.9", 0), timeout=20) as client:
        client.connect("127.0.0.1", chain.ports["clamsmtp_xclient"])
        text = f"From: ann@sender.example\r\nTo: {JOE}\r\nSubject: xclient\r\n\r\nHello\r\n"
        client.sendmail("ann@sender.example", [JOE], text)
    mail = chain.arrived("xclient")
    assert b"[127.0.0.9])\n" in mail
    assert b"\t(handed on by 127.0.0.1)\n" in mail


@pytest.mark.row("MT-17", "MT-25", "DK-01", "DK-03")
def test_what_users_send_is_signed_and_goes_out_by_the_tagged_port(chain: Chain) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", chain.ports["submission"], timeout=20) as client:
        client.starttls(context=context)
        client.login(JOE, PASSWORD)
        text = f"From: {JOE}\r\nTo: {JANE}\r\nSubject: out\r\n\r\n.dots\r\nHello Jane\r\n"
        client.sendmail(JOE, [JANE], text)
    until(lambda: len(chain.remote.mails) == 1, 30, lambda: chain.last_words() + chain.words_of("signer"))
    (mail,) = chain.remote.mails
    public = chain.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; p=" + b"".join(public.splitlines()[1:-1])
    asked: list[bytes] = []

    def answer(name: bytes, timeout: int = 5) -> bytes:
        asked.append(name)
        return record

    assert dkimpy.DKIM(mail).verify(dnsfunc=answer)
    assert asked == [b"default._domainkey.example.com."]
    trace = re.findall(rb"^Received: .*\r\n\tby mx\.example\.com \(gatepost\) with (\w+)", mail, re.MULTILINE)
    assert trace == [b"ESMTP", b"ESMTPSA"]  # DKIM_OUT above, the submission below it
    assert mail.index(b"Received:") < mail.index(b"DKIM-Signature:") < mail.index(b"ESMTPSA")


def test_while_spampd_is_down_mail_waits_and_goes_on_when_it_is_back(chain: Chain) -> None:
    chain.stop_program("spampd")
    first = chain.bring("patience")
    until(lambda: bool(_deferred(chain, first)), 30, chain.last_words)
    assert "patience" not in chain.inbox()
    chain.start_spampd()
    chain.wait_for("spampd")
    chain.told(["queue", "retry", "--all"])
    assert b"X-Spam-Status: No" in chain.arrived("patience")
    assert len(chain.inbox()) == len(list((chain.folder / "home/joe/Maildir/new").glob("*")))  # each once


def _deferred(chain: Chain, first: str) -> list[dict[str, Any]]:
    second = chain.path(first)[-1]
    return [each for each in chain.events("deferred") if each["message"] == second != first]


@pytest.mark.row("MT-21")
def test_local_mail_for_this_machine_goes_to_dovecot_at_once(chain: Chain) -> None:
    chain.bring("cron", to="joe@mx.example.com", ip="127.0.0.1")
    mail = chain.arrived("cron")
    assert b"X-Spam-" not in mail
    assert mail.count(b"(gatepost)") == 1


def test_rules_test_says_what_happens_at_each_hop(chain: Chain) -> None:
    ports = chain.ports
    hops = (
        ("", CLIENT, JOE, f"to smtp://127.0.0.1:{ports['clamsmtp']} for {JOE}"),
        ("CLAMAV_IN", "127.0.0.1", JOE, f"to smtp://127.0.0.1:{ports['spampd']} for {JOE}"),
        ("SPAM_IN", "127.0.0.1", JOE, f"to lmtp://{chain.folder}/lmtp for joe"),
        ("", "127.0.0.1", JANE, f"to smtp://127.0.0.1:{ports['signer']} for {JANE}"),
        ("DKIM_OUT", "127.0.0.1", JANE, f"to the MX of remote.example for {JANE}"),
        ("", "127.0.0.1", "joe@mx.example.com", f"to lmtp://{chain.folder}/lmtp for joe"),
        ("SPAM_IN", CLIENT, JOE, f"to smtp://127.0.0.1:{ports['clamsmtp']}"),
    )
    tests = (["rules", "test", "--from", ip, "--rcpt", to, "--tag", tag] for tag, ip, to, _ in hops)
    said = chain.told(*tests)
    answers = re.findall(r": (to .*), TLS", said)
    for answer, (*_, expected) in zip(answers, hops, strict=True):
        assert answer.startswith(expected), said
