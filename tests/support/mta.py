"""Postfix, OpenSMTPD and Exim, each one a real server on loopback with a mailbox `joe`, and a tap on a connection.

Each knows two routes: mail for `ann@here.example` goes to one port over TLS, other mail of that domain plain to
another.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from tests.process.served import until
from tests.support.peers import accounts, as_installed, unpacked

BOX: Final = 9_200  # whom joe's mailbox belongs to


class Tap:
    """A port that leads to another one; what goes over it is kept, and some words of the server made unreadable."""

    def __init__(self, target: int, hide: tuple[bytes, ...] = ()) -> None:
        self.heard: list[tuple[str, bytes]] = []
        """Pieces as they came: ("client" or "server", octets)."""
        self.hide = hide
        self.target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def lines(self, who: str = "client") -> list[bytes]:
        """Return the lines that one side said, the mails among them."""
        return b"".join(octets for speaker, octets in self.heard if speaker == who).split(b"\r\n")

    def line(self, begin: bytes) -> bytes:
        """Return the client's last line that begins so, in capitals or not."""
        found = [line for line in self.lines() if line.upper().startswith(begin)]
        assert found, self.heard
        return found[-1]

    def forget(self) -> None:
        """Begin anew."""
        self.heard = []

    def close(self) -> None:
        """Close the port and what is open."""
        for each in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self._sockets += [client, server]
            threading.Thread(target=self._carry, args=("client", client, server), daemon=True).start()
            threading.Thread(target=self._carry, args=("server", server, client), daemon=True).start()

    def _carry(self, who: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(1 << 16):
                if who == "server":
                    for word in self.hide:
                        octets = octets.replace(word, b"X" * len(word))
                self.heard.append((who, octets))
                sink.sendall(octets)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@dataclass
class Mta:
    """One mail server of another house. `with make(...) as mta:` it serves."""

    name: str
    port: int
    domain: str
    folder: Path
    root: Path
    command: tuple[str, ...]
    users: Mapping[str, int] = field(default_factory=dict)
    prepare: Callable[["Mta"], None] = lambda _: None
    process: "subprocess.Popen[bytes] | None" = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        for part in ("etc", "var", "mail", "spool"):
            (self.folder / part).mkdir()
            (self.folder / part).chmod(0o755)
        os.chown(self.folder / "mail", BOX, BOX)
        accounts(self.folder, {**self.users, "joe": BOX})
        self._certify()
        self.prepare(self)
        with (self.folder / "said").open("ab") as log:
            argv = as_installed(self.root, self.folder, *self.command)
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/", start_new_session=True)
        until(self.answers, 20, self.last_words)

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            # `unshare` and the first process of the namespace, with which all others go. That this one ends with
            # `unshare` is forgotten by the kernel when a daemon changes its user.
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            inner = children.read_text().split() if children.exists() else []
            for pid in (*map(int, inner), self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _certify(self) -> None:
        """Make a certificate."""
        words = ["-days", "3650", "-subj", f"/CN=mx.{self.domain}", "-keyout", "key.pem", "-out", "both.pem"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *words]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        with (self.folder / "both.pem").open("ab") as both:
            both.write((self.folder / "key.pem").read_bytes())

    def answers(self) -> bool:
        """Tell whether it greets."""
        assert self.process is not None
        assert self.process.poll() is None, self.last_words()
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as client:
                return client.recv(3) == b"220"
        except OSError:
            return False

    def last_words(self) -> str:
        """Return the end of what it said, for whoever reads a failure."""
        files = [self.folder / "said", *sorted(self.folder.glob("**/*log"))]
        return "\n".join(file.read_text("utf-8", "replace")[-3_000:] for file in files if file.exists())

    def mail(self, text: str, seconds: float = 20) -> bytes:
        """Return the mail of joe's that holds a text, with CRLF; waits for it."""
        found: list[bytes] = []

        def there() -> bool:
            new = self.folder / "mail" / "joe" / "new"
            paths = sorted(new.iterdir()) if new.exists() else []
            found[:] = [octets for path in paths if text.encode() in (octets := path.read_bytes())]
            return bool(found)

        until(there, seconds, lambda: f"no mail with {text!r}: {self.last_words()}")
        return found[-1].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gatepost-mta-"))
    folder.chmod(0o755)  # its processes are other users
    return folder


def postfix(port: int, plain: int, secure: int) -> Mta:
    """Return a Postfix."""
    users = {"postfix": 9_101, "postdrop": 9_102}
    run = ("/usr/lib/postfix/sbin/master", "-s", "-c", "/etc/postfix")
    mta = Mta("postfix", port, "pf.example", _folder(), unpacked("postfix"), run, users)

    def prepare(mta: Mta) -> None:
        folder = mta.folder
        config = folder / "etc" / "postfix"
        config.mkdir()
        boxes = " ".join(f"{{{name}@{mta.domain}=joe/}}" for name in ("joe", "ann", "jürgen"))
        routes = f"{{here.example=plain:[127.0.0.1]:{plain}}} {{ann@here.example=secure:[127.0.0.1]:{secure}}}"
        (config / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
daemon_directory = /usr/lib/postfix/sbin
myhostname = mx.{mta.domain}
mydestination =
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = {mta.domain}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{ {boxes} }}
virtual_uid_maps = static:{BOX}
virtual_gid_maps = static:{BOX}
alias_maps =
notify_classes =
smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/both.pem
smtpd_tls_key_file = {folder}/both.pem
smtp_dns_support_level = disabled
smtp_host_lookup = native
transport_maps = inline:{{ {routes} }}
"""
        )
        inner = "pickup unix n - n 60 1 pickup\n"
        names = "cleanup qmgr tlsmgr bounce verify proxymap error virtual anvil scache"
        daemons = {name: name for name in names.split()} | {
            "rewrite": "trivial-rewrite", "trace": "bounce", "defer": "bounce", "retry": "error",
            "plain": "smtp -o smtp_tls_security_level=none", "secure": "smtp -o smtp_tls_security_level=encrypt",
        }  # fmt: skip
        for name, daemon in daemons.items():
            private = "n" if name in ("cleanup", "qmgr") else "-"
            own = "n" if name == "virtual" else "-"  # it becomes the owner of the mailbox
            limit = (
                "0"
                if name in ("cleanup", "bounce", "defer", "trace")
                else "1"
                if name in ("qmgr", "tlsmgr")
                else "-"
            )
            wake = "300" if name == "qmgr" else "1000?" if name == "tlsmgr" else "-"
            inner += f"{name} unix {private} {own} n {wake} {limit} {daemon}\n"
        inner += "postlog unix-dgram n - n - 1 postlogd\n"
        (config / "master.cf").write_text(f"127.0.0.1:{mta.port} inet n - n - - smtpd\n{inner}")
        _postfix_folders(folder)

    mta.prepare = prepare
    return mta


def _postfix_folders(folder: Path) -> None:
    """Make what `postfix check` would make."""
    names = "active bounce corrupt defer deferred flush hold incoming private saved trace maildrop public pid"
    for name in ("data", "queue", *(f"queue/{name}" for name in names.split())):
        (folder / name).mkdir()
        group = 9_102 if name in ("queue/maildrop", "queue/public") else 9_101
        owner = 0 if name in ("queue", "queue/pid") else 9_101
        os.chown(folder / name, owner, 0 if owner == 0 else group)
        (folder / name).chmod(0o755 if owner == 0 else 0o710 if name.endswith("public") else 0o700)


def opensmtpd(port: int, plain: int, secure: int) -> Mta:
    """Return an OpenSMTPD."""
    users = {"opensmtpd": 9_103, "opensmtpq": 9_104}
    run = ("/usr/sbin/smtpd", "-d", "-f", "/etc/smtpd.conf")
    mta = Mta("opensmtpd", port, "os.example", _folder(), unpacked("opensmtpd"), run, users)

    def prepare(mta: Mta) -> None:
        folder = mta.folder
        (folder / "var" / "lib" / "opensmtpd" / "empty").mkdir(parents=True)
        (folder / "etc" / "mailname").write_text(f"mx.{mta.domain}\n")
        (folder / "both.pem").chmod(0o600)
        conf = folder / "etc" / "smtpd.conf"
        conf.write_text(
            f"""pki os cert "{folder}/both.pem"
pki os key "{folder}/both.pem"
table boxes {{ "joe@{mta.domain}" = "joe", "ann@{mta.domain}" = "joe" }}
listen on 127.0.0.1 port {mta.port} tls pki os hostname mx.{mta.domain}
action box maildir "{folder}/mail/joe" virtual <boxes>
action plain relay host "smtp+notls://127.0.0.1:{plain}"
action secure relay host "smtp+tls://127.0.0.1:{secure}" tls no-verify
match from local for domain "{mta.domain}" action box
match from local for domain "here.example" rcpt-to "ann@here.example" action secure
match from local for domain "here.example" action plain
"""
        )
        conf.chmod(0o600)

    mta.prepare = prepare
    return mta


def exim(port: int, plain: int, secure: int) -> Mta:
    """Return an Exim."""
    run = ("/usr/sbin/exim4", "-bdf", "-q1m")
    mta = Mta("exim", port, "ex.example", _folder(), unpacked("exim"), run, {"Debian-exim": 9_105})

    def prepare(mta: Mta) -> None:
        folder = mta.folder
        os.chown(folder / "spool", 9_105, 9_105)
        os.chown(folder / "both.pem", 9_105, 9_105)
        (folder / "logs").mkdir()
        os.chown(folder / "logs", 9_105, 9_105)
        config = folder / "etc" / "exim4"
        config.mkdir()
        (config / "exim4.conf").write_text(
            f"""primary_hostname = mx.{mta.domain}
daemon_smtp_ports = {mta.port}
local_interfaces = 127.0.0.1
spool_directory = {folder}/spool
log_file_path = {folder}/logs/%slog
pid_file_path = {folder}/spool/exim.pid
keep_environment =
tls_advertise_hosts = *
tls_certificate = {folder}/both.pem
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
accept_8bitmime = true
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
never_users =
begin acl
rcpt:
  accept hosts = 127.0.0.1
         verify = recipient
begin routers
boxes:
  driver = accept
  domains = {mta.domain}
  local_parts = joe : ann : jürgen
  transport = box
secure:
  driver = manualroute
  domains = here.example
  local_parts = ann
  route_list = * 127.0.0.1::{secure} byname
  self = send
  transport = secure
plain:
  driver = manualroute
  domains = here.example
  route_list = * 127.0.0.1::{plain} byname
  self = send
  transport = plain
begin transports
box:
  driver = appendfile
  directory = {folder}/mail/joe
  maildir_format
  create_directory
  delivery_date_add
  envelope_to_add
  return_path_add
  user = joe
  group = joe
plain:
  driver = smtp
  allow_localhost
  hosts_avoid_tls = *
secure:
  driver = smtp
  allow_localhost
  hosts_require_tls = *
begin retry
* * F,1h,1m
"""
        )

    mta.prepare = prepare
    return mta
