"""The listeners of a whole server on a machine of its own, used by openssl s_client, swaks and msmtp from another.

The server's machine has an interface `wire` with an IPv4 and an IPv6 address, and `lo`. Its listeners are bound by
the names of interfaces, by addresses, or both; its next hops are sinks on its loopback.
"""

import contextlib
import imaplib
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import pytest

from gatepost.aio.interface import addresses
from gatepost.aio.tls import Pair, self_signed, write_pair
from gatepost.base.clock import Instant
from gatepost.base.settings import BadSetting
from gatepost.config import ConfigError, bound, parse
from tests.process.namespaces import ABUSER, SERVER4, SERVER6, WHITE, WHITE6, Cable, Refused, cable, in_namespace
from tests.process.served import PASSWORD, USER, Served, until
from tests.support.peers import program

pytestmark = [
    pytest.mark.process,
    pytest.mark.peer("iproute2"),
    pytest.mark.peer("openssl"),
    pytest.mark.peer("swaks"),
]

NOW: Final = Instant(1_790_000_000_000_000)
NAMESAKE: Final = "bob@there.example"
SIZE_MAX: Final = 50 * 1024 * 1024
TLS_PORTS: Final = {25: "smtp", 587: "smtp", 143: "imap", 110: "pop3", 465: "", 993: "", 995: ""}
LISTENERS: Final = f"""
[listen.mx]
kind = "mx"
address = ["wire", "lo"]
[listen.submission]
kind = "submission"
address = ["wire:587", "127.0.0.1"]
[listen.submissions]
kind = "submissions"
address = ["{SERVER4}", "[{SERVER6}]:465"]
[listen.imap]
kind = "imap"
address = ["{SERVER4}:143", "{SERVER6}"]
[listen.imaps]
kind = "imaps"
address = ["wire"]
[listen.pop3]
kind = "pop3"
address = ["wire"]
[listen.pop3s]
kind = "pop3s"
address = ["wire"]
[listen.asking]
kind = "submission"
address = ["wire:2587"]
client_certificates = "ask"
client_authorities = "FOLDER/ca.pem"
[listen.requiring]
kind = "submissions"
address = ["wire:2465"]
client_certificates = "require"
client_authorities = "FOLDER/ca.pem"
[listen.filtered]
kind = "mx"
address = ["lo:10026"]
tag = "SPAM_IN"
[listen.signed]
kind = "mx"
address = ["lo:10028"]
tag = "DKIM_OUT"
"""


class Sink:
    """A next hop in the server's machine that takes every mail and keeps it."""

    def __init__(self, wire: Cable) -> None:
        self.mails: list[tuple[bytes, list[bytes], bytes]] = []
        """(name in EHLO, recipients, content as sent) of each."""
        self._socket = wire.on_server(lambda: socket.create_server(("127.0.0.1", 0)))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def mail(self, text: str) -> tuple[bytes, list[bytes], bytes]:
        """Return the mail that holds a text; waits for it."""
        until(lambda: self._with(text) is not None, 20, lambda: f"no mail with {text!r}")
        found = self._with(text)
        assert found is not None
        return found

    def close(self) -> None:
        """Take no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _with(self, text: str) -> tuple[bytes, list[bytes], bytes] | None:
        return next((mail for mail in self.mails if text.encode() in mail[2]), None)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        name, recipients = b"", list[bytes]()
        with client, client.makefile("rwb", buffering=0) as wire, contextlib.suppress(OSError):
            wire.write(b"220 sink.example ESMTP\r\n")
            while line := wire.readline():
                verb = line[:4].upper()
                if verb == b"EHLO":
                    name = line.split()[1]
                elif verb == b"RCPT":
                    recipients.append(line[8:].split(b">")[0].strip(b"<"))
                elif verb == b"DATA":
                    wire.write(b"354 go on\r\n")
                    self.mails.append((name, recipients, b"".join(iter(wire.readline, b".\r\n"))))
                    recipients = []
                wire.write(b"250 ok\r\n")


class NoNames:
    """A DNS in the server's machine that knows no name."""

    def __init__(self, wire: Cable) -> None:
        self._socket = wire.on_server(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                asked, client = self._socket.recvfrom(512)
                if not asked:  # shut down
                    return
                end = asked.index(b"\0", 12) + 5  # of the question; what follows is EDNS
                answer = asked[:2] + b"\x81\x83" + asked[4:6] + bytes(6) + asked[12:end]
                self._socket.sendto(answer, client)


@dataclass
class House(Served):
    """The server, the cable to its clients, and its next hops."""

    wire: Cable | None = None
    sinks: dict[str, Sink] = field(default_factory=dict)
    names: NoNames | None = None
    shown: dict[str, bytes] = field(default_factory=dict)
    """The certificate by name, as DER."""

    def __enter__(self) -> Self:
        assert self.wire is not None
        self.sinks = {name: Sink(self.wire) for name in ("filter", "signer", "world")}
        self.names = NoNames(self.wire)
        for name in ("mx.here.example", "mail.there.example"):
            self.certify(name)
        self.found_authority()
        (self.folder / "white").write_text(f"{WHITE}\n{WHITE6}\n")
        self.write_config(self.settings)
        (self.folder / "password").write_text(PASSWORD)
        try:
            self.populate(USER, NAMESAKE)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.sinks.values(), self.names):
            if each is not None:
                each.close()
        if self.process is not None:
            super().__exit__()

    def certify(self, name: str) -> None:
        """Make the server's certificate for a name, a new one each time."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        certificate, key = self_signed([name], NOW)
        write_pair(pair, certificate, key)
        self.shown[name] = ssl.PEM_cert_to_DER_cert(certificate.decode())

    def run_here(self, argv: list[str]) -> str:
        """Run a program on the server's machine."""
        return self.local(*argv)

    def found_authority(self) -> None:
        """Make an authority, a client's certificate of its, and one of nobody's."""
        for name, words in (("ca", ()), ("partner", ("-CA", "ca.pem", "-CAkey", "ca.key")), ("stranger", ())):
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
            made = ["-subj", f"/CN={name}.example", "-days", "3650", "-out", f"{name}.pem", *words]
            argv = [program("openssl"), "req", "-x509", *key, *made]
            subprocess.run(argv, cwd=self.folder, check=True, capture_output=True)

    def write_config(self, settings: str) -> None:
        """Write gatepost.toml: the article's rules in small."""
        sinks = {
            name: f'do = "relay"\nhost = "127.0.0.1"\nport = {sink.port}\n' for name, sink in self.sinks.items()
        }
        certificates = "".join(
            f'[[tls.certificates]]\ncertificate = "{self.folder}/{name}.pem"\nkey = "{self.folder}/{name}.key"\n'
            for name in self.shown
        )
        rules = (
            ('tag = "SPAM_IN", from = "any", for = "own"', "deliver"),
            ('tag = "DKIM_OUT", for = "any"', "world"),
            ('for = "local"', "system"),
            ('from = "any", for = "there.example"', "filter"),
            ('from = "any", for = "own"', "deliver"),
            ('auth = true, for = "signed.example"', "signer"),
            ('for = "any"', "world"),
        )
        written = "".join(f'[[policy.rules]]\nmatch = {{ {match} }}\naction = "{do}"\n' for match, do in rules)
        self.config.write_text(
            f"""[server]
hostname = "mx.here.example"
data_dir = "{self.folder}/data"
workers = {self.workers}
{LISTENERS.replace("FOLDER", str(self.folder))}
[resolver]
servers = ["127.0.0.1:{self.names.port if self.names is not None else 0}"]
[intake]
max_size = "50M"
mx_auth = true
[gate.tables]
nospamd = "{self.folder}/white"
[gate.rates.mx]
connections = 5
overload = ""
[policy.tables.aliases]
entries = {{ root = "{USER}" }}
[policy.actions.system]
do = "deliver"
alias = "aliases"
[policy.actions.filter]
{sinks["filter"]}
[policy.actions.signer]
{sinks["signer"]}
[policy.actions.world]
{sinks["world"]}helo = "smtp.example.com"
{certificates}{written}{settings}"""
        )

    def start(self) -> None:
        """Start it on its machine and wait until it serves."""
        assert self.wire is not None
        words = [sys.executable, "-m", "gatepost", "serve", "-c", str(self.config)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(in_namespace(self.wire.server, *words), stdout=log, stderr=log)
        until(self.serves, 60, self.last_words)

    def local(self, *words: str, status: int | None = 0, text: str = "") -> str:
        """Run a program on the server's machine."""
        assert self.wire is not None
        return _run(in_namespace(self.wire.server, *words), status, text)

    def far(self, *words: str, status: int | None = 0, text: str = "") -> str:
        """Run a program on the clients' machine."""
        assert self.wire is not None
        return _run(in_namespace(self.wire.client, *words), status, text)

    def swaks(self, *words: str, status: int | None = 0, here: bool = False) -> str:
        """Run swaks from afar, or on the server's machine; return its transcript."""
        argv = (program("swaks"), "--from", "ann@sender.example", *words)
        return self.local(*argv, status=status) if here else self.far(*argv, status=status)

    def mailbox(self, box: str) -> "Mailbox":
        """Return an IMAP client that has logged in over TLS from afar."""
        return Mailbox(lambda: self.dial(993), box)

    def dial(self, port: int, source: str = WHITE) -> socket.socket:
        """Return a connection from afar."""
        assert self.wire is not None
        return self.wire.dial(source, port, patience=10)

    def certificate_at(self, port: int, name: str | None, six: bool = False) -> bytes:
        """Return what openssl s_client is shown for a name, or without asking for one."""
        where = f"[{SERVER6}]:{port}" if six else f"{SERVER4}:{port}"
        words = [program("openssl"), "s_client", "-connect", where]
        words += ["-starttls", TLS_PORTS[port]] if TLS_PORTS[port] else []
        words += ["-noservername"] if name is None else ["-servername", name]
        said = self.far(*words, status=None)
        begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
        assert begin in said, said
        return ssl.PEM_cert_to_DER_cert(begin + said.partition(begin)[2].partition(end)[0] + end)


class Mailbox(imaplib.IMAP4_SSL):
    """An IMAP client over a connection that is given."""

    def __init__(self, dial: Callable[[], socket.socket], box: str) -> None:
        self._dial = dial
        super().__init__("mx.here.example", 993)
        self.login(box, PASSWORD)
        self.select("INBOX")

    def _create_socket(self, timeout: float | None) -> socket.socket:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(self._dial())

    def has(self, subject: str) -> bool:
        """Tell whether there is a mail with a subject now."""
        self.noop()
        return bool(self.search(None, "SUBJECT", f'"{subject}"')[1][0])

    def wait_for(self, subject: str) -> bytes:
        """Return the mail with a subject; waits for it."""
        until(lambda: self.has(subject), 20, lambda: f"no mail {subject!r}")
        number = self.search(None, "SUBJECT", f'"{subject}"')[1][0].split()[-1]
        parts = self.fetch(number.decode(), "(BODY.PEEK[])")[1]
        assert isinstance(parts[0], tuple)
        return bytes(parts[0][1])


def _run(argv: list[str], status: int | None, text: str = "") -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, input=text, errors="replace")
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One server for all tests of this module."""
    with cable() as wire, House(tmp_path_factory.mktemp("house"), workers=1, wire=wire) as made:
        yield made


@pytest.fixture(scope="module")
def box(house: House) -> Iterator[Mailbox]:
    """bob's mailbox."""
    client = house.mailbox(USER)
    yield client
    client.logout()


@pytest.fixture(scope="module")
def namesake(house: House) -> Iterator[Mailbox]:
    """The mailbox of the other bob."""
    client = house.mailbox(NAMESAKE)
    yield client
    client.logout()


@pytest.mark.row("MT-11", "MT-35")
def test_every_listener_shows_the_certificate_of_the_name_asked_for(house: House) -> None:
    first, second = house.shown["mx.here.example"], house.shown["mail.there.example"]
    for port in TLS_PORTS:
        assert house.certificate_at(port, "mail.there.example") == second, port
        assert house.certificate_at(port, "unknown.example") == first, port
        assert house.certificate_at(port, None) == first, port
    for port in (25, 587, 465, 143):  # bound by interface and by address
        assert house.certificate_at(port, "mx.here.example", six=True) == first, port
        assert house.certificate_at(port, "mail.there.example", six=True) == second, port


@pytest.mark.row("MT-11")
def test_a_renewed_certificate_is_shown_after_a_reload_and_sessions_go_on(house: House) -> None:
    idle = house.mailbox(USER)
    before, started = house.shown["mail.there.example"], house.process
    house.certify("mail.there.example")
    assert house.certificate_at(993, "mail.there.example") == before
    assert house.process is not None
    house.process.send_signal(signal.SIGHUP)
    until(lambda: len(house.events("reloaded")) > 0, 20, house.last_words)
    for port in TLS_PORTS:
        assert house.certificate_at(port, "mail.there.example") == house.shown["mail.there.example"], port
    assert idle.noop()[0] == "OK"
    idle.logout()
    assert house.process is started


@pytest.mark.row("TLS-10")
@pytest.mark.parametrize("port", [25, 465, 993])
def test_openssl_s_client_gets_no_old_protocol_or_suite(house: House, port: int) -> None:
    def handshake(*words: str) -> bool:
        starttls = ["-starttls", TLS_PORTS[port]] if TLS_PORTS[port] else []
        argv = [program("openssl"), "s_client", "-connect", f"{SERVER4}:{port}", *starttls, *words]
        said = house.far(*argv, status=None)
        assert "Cipher is" in said, said
        return "Cipher is (NONE)" not in said

    assert handshake("-tls1_3")
    assert handshake("-tls1_2", "-cipher", "ECDHE+AESGCM")
    for words in (
        ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "ECDHE+AES:!AESGCM:!AESCCM"),
        ("-tls1_2", "-cipher", "RSA:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"),
    ):
        assert not handshake(*words), words


def with_certificate(house: House, name: str) -> tuple[str, ...]:
    return ("--tls-cert", str(house.folder / f"{name}.pem"), "--tls-key", str(house.folder / f"{name}.key"))


def test_a_client_certificate_that_is_asked_for_is_named_and_none_is_needed(house: House, box: Mailbox) -> None:
    login = ("--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD)
    to = ("--server", f"{SERVER4}:2587", "--to", USER, "--tls", "--from", USER, "--header", f"From: {USER}", *login)
    house.swaks(*to, "--header", "Subject: with partner", *with_certificate(house, "partner"))
    assert b" client=partner.example)" in box.wait_for("with partner")
    house.swaks(*to, "--header", "Subject: with none")
    assert b"client=" not in box.wait_for("with none").partition(b"for <")[0]
    assert "MAIL FROM" not in house.swaks(*to, *with_certificate(house, "stranger"), status=None)


def test_a_client_certificate_that_is_required_must_be_shown_and_hold(house: House) -> None:
    login = ("--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD)
    to = ("--server", f"{SERVER4}:2465", "--tlsc", "--to", "x@far.example", "--from", USER, *login)
    subject = ("--header", "Subject: required", "--header", f"From: {USER}")
    house.swaks(*to, *subject, *with_certificate(house, "partner"))
    content = house.sinks["world"].mail("Subject: required")[2]
    assert b" client=partner.example)" in content
    for words in ((), with_certificate(house, "stranger")):
        said = house.swaks(*to, *subject, *words, status=None)
        assert "220 mx.here.example" not in said


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("mx", 'client_certificates = "ask"\nclient_authorities = "/ca.pem"', "certificates of many authorities"),
        ("imap", 'client_certificates = "require"\nclient_authorities = "/ca.pem"', "can be used without TLS"),
        ("submissions", 'client_certificates = "require"', "go together"),
    ],
)
def test_a_certificate_that_could_be_gone_around_or_never_holds_is_a_mistake(
    kind: str, more: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"gatepost.toml:3: .*{why}"):
        parse(f'[listen.x]\nkind = "{kind}"\n{more}\n', Path("gatepost.toml"))


@pytest.mark.row("MT-12")
def test_a_mail_of_50_mib_is_taken_and_one_octet_more_is_not(house: House) -> None:
    with house.dial(25) as connection, connection.makefile("rwb") as wire:

        def say(octets: bytes) -> bytes:
            wire.write(octets)
            wire.flush()
            while (line := wire.readline())[3:4] == b"-":
                pass
            return line

        connection.settimeout(60)
        assert say(b"").startswith(b"220")
        assert say(b"EHLO client.example\r\n").startswith(b"250")
        assert say(b"MAIL FROM:<ann@sender.example> SIZE=%d\r\n" % (SIZE_MAX + 1)).startswith(b"552 5.3.4")
        for octets, code in ((SIZE_MAX + 1, b"552"), (SIZE_MAX, b"250")):
            declared = min(octets, SIZE_MAX)
            assert say(b"MAIL FROM:<ann@sender.example> SIZE=%d\r\n" % declared).startswith(b"250")
            assert say(b"RCPT TO:<%s>\r\n" % USER.encode()).startswith(b"250")
            assert say(b"DATA\r\n").startswith(b"354")
            head = b"From: <ann@sender.example>\r\nSubject: size %d\r\n\r\n" % octets
            rest = octets - len(head)
            lines = b"x" * 70 + b"\r\n"
            content = head + lines * (rest // 72 - 1)
            content += b"y" * (octets - len(content) - 2) + b"\r\n"
            assert len(content) == octets
            assert say(content + b".\r\n").startswith(code), octets


@pytest.mark.row("MT-13")
def test_port_25_takes_mail_plain_over_tls_and_with_a_login_and_wants_neither(house: House, box: Mailbox) -> None:
    login = ("--auth-user", USER, "--auth-password", PASSWORD)
    to = ("--server", SERVER4, "--to", USER)
    plain = house.swaks(*to, "--header", "Subject: 25 plain")
    assert "AUTH" not in plain  # a password is not asked for where it would be seen
    house.swaks(*to, "--header", "Subject: 25 tls", "--tls")
    mine = ("--from", USER, "--header", f"From: {USER}")  # who logs in writes as itself
    house.swaks(*to, *mine, "--header", "Subject: 25 auth", "--tls", "--auth", "PLAIN", *login)
    assert "refused" not in plain
    assert b"with ESMTP " in box.wait_for("25 plain")
    assert b"with ESMTPS " in box.wait_for("25 tls")
    assert b"with ESMTPSA " in box.wait_for("25 auth")
    # Only the login lets it relay.
    out = ("--server", SERVER4, "--to", "x@far.example")
    assert "550 5.7.1" in house.swaks(*out, "--tls", status=24)
    house.swaks(*out, *mine, "--header", "Subject: 25 relayed", "--tls", "--auth", "LOGIN", *login)
    house.sinks["world"].mail("Subject: 25 relayed")


@pytest.mark.row("MT-14")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_port_465_is_tls_from_the_first_octet_and_wants_a_login(house: House, mechanism: str) -> None:
    to = ("--server", SERVER4, "--tlsc", "--port", "465", "--to", "x@far.example", "--from", USER)
    subject = ("--header", f"Subject: 465 {mechanism}", "--header", f"From: {USER}")
    assert "530 5.7.0" in house.swaks(*to, *subject, status=23)
    house.swaks(*to, *subject, "--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD)
    house.sinks["world"].mail(f"Subject: 465 {mechanism}")


@pytest.mark.row("MT-14")
def test_a_wrong_password_sends_nothing(house: House) -> None:
    wrong = ("--auth", "PLAIN", "--auth-user", USER, "--auth-password", "wrong")
    to = ("--server", SERVER4, "--tlsc", "--port", "465", "--to", "x@far.example", "--from", USER)
    assert "535 5.7.8" in house.swaks(*to, *wrong, status=28)


@pytest.mark.row("MT-15")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_port_587_wants_starttls_and_then_a_login(house: House, mechanism: str) -> None:
    to = ("--server", SERVER4, "--port", "587", "--to", "x@far.example", "--from", USER)
    subject = ("--header", f"Subject: 587 {mechanism}", "--header", f"From: {USER}")
    login = ("--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD)
    plain = house.swaks(*to, *subject, status=23)
    assert "530 5.7.0" in plain
    assert "AUTH" not in plain
    assert "Host did not advertise authentication" in house.swaks(*to, *subject, *login, status=28)
    assert "530 5.7.0" in house.swaks(*to, *subject, "--tls", status=23)
    house.swaks(*to, *subject, "--tls", *login)
    house.sinks["world"].mail(f"Subject: 587 {mechanism}")


@pytest.mark.peer("msmtp")
@pytest.mark.row("MT-14", "MT-15")
@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize(("port", "starttls"), [("587", "on"), ("465", "off")])
def test_msmtp_submits(house: House, port: str, starttls: str, mechanism: str) -> None:
    subject = f"msmtp {port} {mechanism}"
    words = ["--host", SERVER4, "--port", port, "--tls=on", f"--tls-starttls={starttls}", "--tls-certcheck=off"]
    words += [f"--auth={mechanism}", "--user", USER, "--passwordeval", f"echo '{PASSWORD}'", "--from", USER]
    text = f"From: {USER}\nTo: x@far.example\nSubject: {subject}\n\nhello\n"
    house.far(program("msmtp"), *words, "--file", "/dev/null", "x@far.example", text=text)
    assert house.sinks["world"].mail(f"Subject: {subject}")[1] == [b"x@far.example"]


@pytest.mark.row("MT-16")
def test_mail_that_comes_back_from_the_filter_is_known_by_its_port(house: House, namesake: Mailbox) -> None:
    house.swaks("--server", SERVER4, "--to", NAMESAKE, "--header", "Subject: to be filtered")
    _, recipients, content = house.sinks["filter"].mail("Subject: to be filtered")
    assert recipients == [NAMESAKE.encode()]
    assert not namesake.has("to be filtered")
    back = house.folder / "back.eml"
    back.write_bytes(content.replace(b"Subject: to be filtered", b"Subject: filtered"))
    house.swaks("--server", "127.0.0.1:10026", "--to", NAMESAKE, "--data", f"@{back}", here=True)
    assert b"Subject: filtered" in namesake.wait_for("filtered")
    # The port of the filter is not there for others.
    assert "Connection refused" in house.swaks("--server", f"{SERVER4}:10026", "--to", NAMESAKE, status=2)


@pytest.mark.row("MT-17")
def test_mail_that_comes_back_from_the_signer_is_known_by_its_port(house: House) -> None:
    login = ("--tls", "--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD)
    mine = ("--from", USER, "--header", f"From: {USER}", "--to", "x@signed.example")
    house.swaks("--server", f"{SERVER4}:587", *mine, "--header", "Subject: to be signed", *login)
    _, _, content = house.sinks["signer"].mail("Subject: to be signed")
    back = house.folder / "signed.eml"
    back.write_bytes(content.replace(b"Subject: to be signed", b"Subject: signed"))
    words = ("--server", "127.0.0.1:10028", *mine, "--data", f"@{back}")
    house.swaks(*words, here=True)
    assert house.sinks["world"].mail("Subject: signed")[1] == [b"x@signed.example"]


@pytest.mark.peer("msmtp")
@pytest.mark.row("MT-18", "MT-26")
@pytest.mark.parametrize("server", ["127.0.0.1", "::1"])
def test_who_is_on_the_machine_itself_may_send_anywhere_and_goes_out_by_the_chosen_name(
    house: House, server: str
) -> None:
    subject = f"from lo {server}"
    text = f"From: root@mx.here.example\nTo: x@far.example\nSubject: {subject}\n\nhello\n"
    words = ["--host", server, "--tls=off", "--auth=off", "--from", "root@mx.here.example", "--file", "/dev/null"]
    house.local(program("msmtp"), *words, "x@far.example", text=text)
    name, recipients, _ = house.sinks["world"].mail(f"Subject: {subject}")
    assert (name, recipients) == (b"smtp.example.com", [b"x@far.example"])
    assert "550 5.7.1" in house.swaks("--server", SERVER4, "--to", "x@far.example", status=24)


@pytest.mark.row("MT-21")
@pytest.mark.parametrize("root", ["root@mx.here.example", "root@localhost"])
def test_mail_of_the_machine_itself_for_the_machine_itself_reaches_whom_the_alias_names(
    house: House, box: Mailbox, root: str
) -> None:
    words = ("--from", "cron@mx.here.example", "--to", root, "--header", f"Subject: cron for {root}")
    house.swaks("--server", "127.0.0.1", *words, here=True)
    assert b"cron@mx.here.example" in box.wait_for(f"cron for {root}")
    assert "550" in house.swaks("--server", SERVER4, *words, status=24)  # from afar there is no root


@pytest.mark.row("MT-31")
def test_the_same_local_part_of_two_domains_is_two_people(house: House, box: Mailbox, namesake: Mailbox) -> None:
    for to in (USER, NAMESAKE):
        house.swaks("--server", "127.0.0.1:10026", "--to", to, "--header", f"Subject: only {to}", here=True)
    assert box.wait_for(f"only {USER}")
    assert namesake.wait_for(f"only {NAMESAKE}")
    assert not box.has(f"only {NAMESAKE}")
    assert not namesake.has(f"only {USER}")


@pytest.mark.row("MT-32")
def test_one_source_has_so_many_connections_and_no_more(house: House) -> None:
    def greeted(source: str) -> bool:
        try:
            with house.dial(25, source) as client:
                return client.recv(4) == b"220 "
        except (ConnectionError, Refused):  # closed before or after the client knew that it was open
            return False

    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(house.dial(25, ABUSER)) for _ in range(5)]
        assert all(each.recv(4) == b"220 " for each in held)
        assert not greeted(ABUSER)
        assert greeted(WHITE)
        held[0].sendall(b"QUIT\r\n")
        while held[0].recv(512):
            pass
        until(lambda: greeted(ABUSER), 10, house.last_words)


@pytest.mark.row("MT-35")
def test_an_interface_stands_for_its_addresses(house: House) -> None:
    wire = house.wire
    assert wire is not None
    known = wire.on_server(addresses)
    assert known["wire"] == (SERVER4, SERVER6)  # and not the link-local one
    assert known["lo"] == ("127.0.0.1", "::1")
    assert wire.on_server(lambda: bound("wire:2525", 25, ())) == ((SERVER4, 2525), (SERVER6, 2525))
    listening = house.local(program("ss", "/usr/bin/ss"), "-Hltn")
    shown = {line.split()[3] for line in listening.splitlines()}
    for where in (f"{SERVER4}:25", f"[{SERVER6}]:25", "127.0.0.1:25", "[::1]:25", "127.0.0.1:587", "[::1]:10026"):
        assert where in shown
    assert not any(each.startswith(("0.0.0.0", "[::]", "*")) for each in shown)
    assert "[::1]:587" not in shown


def test_an_interface_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(BadSetting, match=r"'em1' is not an address.*one of .*lo"):
        bound("em1:25", 25, ("listen", "mx", "address", 0))


def test_the_configuration_of_a_missing_interface_is_refused_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    config.write_text('[listen.mx]\nkind = "mx"\naddress = ["em1"]\n')
    argv = [sys.executable, "-m", "gatepost", "check", "-c", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode != 0
    assert "gatepost.toml:3: " in done.stdout + done.stderr
