"""Mail goes both ways between gatepost and Postfix, OpenSMTPD and Exim, with each extension that they announce.

Between the two stands a tap for what is said in plain; over TLS the Received fields tell. Debian 12's OpenSMTPD
announces STARTTLS and cannot serve it (OpenSSL 3 does not find its private key, OpenSMTPD issue 1239): there the
fact is that mail arrives all the same.
"""

import contextlib
import imaplib
import smtplib
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes
from typing import Final

import pytest

from tests.process.served import PASSWORD, Served, free_ports, until
from tests.support.mta import Mta, Tap, exim, opensmtpd, postfix
from tests.support.peers import can_mount, cannot

pytestmark = pytest.mark.process

MAKERS: Final[dict[str, Callable[[int, int, int], Mta]]] = {
    "postfix": postfix,
    "opensmtpd": opensmtpd,
    "exim": exim,
}
DOMAINS: Final = {"postfix": "pf.example", "opensmtpd": "os.example", "exim": "ex.example"}
BODY: Final = "Grüße, größer als sonst.\r\n.\r\n..two dots\r\nwith a blank \r\n\tÿ\r\n".encode() + b"\xe9\xff\r\n"


@dataclass
class Peer:
    """One other server, and the taps on the way to it and from it."""

    name: str
    mta: Mta
    to_it: Tap
    from_it: Tap

    @property
    def joe(self) -> str:
        return f"joe@{self.mta.domain}"

    @property
    def ann(self) -> str:
        return f"ann@{self.mta.domain}"

    def announces(self, word: str) -> bool:
        """Tell whether it offered an extension in what the tap heard last."""
        return any(line[4:].split(b" ")[0] == word.encode() for line in self.to_it.lines("server"))


class Ours(Served):
    """A server with bob, to whom mail comes plain, and ann, to whom it comes over TLS."""

    def populate(self, *users: str) -> None:
        """Add both."""
        super().populate(*users, "ann@here.example")


@dataclass
class World:
    """Our server, its peers' ports and the mailboxes here."""

    server: Served
    ports: dict[str, int]
    to_it: dict[str, Tap]
    from_it: Tap
    boxes: dict[str, imaplib.IMAP4_SSL] = field(default_factory=dict)

    def mail(self, box: str, text: str, seconds: float = 20) -> bytes:
        """Return the last mail in a mailbox here that holds a text; waits for it."""
        client = self.boxes.get(box)
        if client is None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client = imaplib.IMAP4_SSL("127.0.0.1", self.server.ports["imaps"], ssl_context=context)
            client.login(box, PASSWORD)
            client.select("INBOX")
            self.boxes[box] = client
        found: list[bytes] = []

        def there() -> bool:
            client.noop()
            found[:] = client.search(None, "TEXT", f'"{text}"')[1][0].split()
            return bool(found)

        until(there, seconds, lambda: f"{box} has no mail with {text!r}: {self.server.last_words()}")
        parts = client.fetch(found[-1].decode(), "(BODY.PEEK[])")[1]
        assert isinstance(parts[0], tuple)
        return parts[0][1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One gatepost for all, which sends plain by the taps, and over TLS where bob is the sender."""
    reason = can_mount()
    if reason:
        cannot(f"no mount namespaces with overlays ({reason})")
    ports = dict(zip(MAKERS, free_ports(len(MAKERS)), strict=True))
    to_it = {name: Tap(port) for name, port in ports.items()}
    settings = '[relay]\nchunking = true\nidle = "0s"\n'
    rules = '[[policy.rules]]\nmatch = { from = "any", for = "own" }\naction = "deliver"\n'
    for name, domain in DOMAINS.items():
        for way, tls, port in (("plain", "none", to_it[name].port), ("secure", "may", ports[name])):
            settings += (
                f'[policy.actions.{name}-{way}]\ndo = "relay"\nhost = "127.0.0.1"\nport = {port}\ntls = "{tls}"\n'
            )
        for match, way in ((', sender = "bob@here.example"', "secure"), ("", "plain")):
            rules += f'[[policy.rules]]\nmatch = {{ for = "{domain}"{match} }}\naction = "{name}-{way}"\n'
    with Ours(tmp_path_factory.mktemp("peers"), workers=1, settings=settings + rules) as server:
        from_it = Tap(server.ports["mx"])
        world = World(server, ports, to_it, from_it)
        try:
            yield world
        finally:
            for tap in (*to_it.values(), from_it):
                tap.close()
            for client in world.boxes.values():
                with contextlib.suppress(OSError, imaplib.IMAP4.error):
                    client.logout()


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.peer(name)) for name in MAKERS], ids=list(MAKERS)
)
def peer(world: World, request: pytest.FixtureRequest) -> Iterator[Peer]:
    """One peer, started once."""
    name = request.param
    with MAKERS[name](world.ports[name], world.from_it.port, world.server.ports["mx"]) as mta:
        yield Peer(name, mta, world.to_it[name], world.from_it)


@pytest.fixture(autouse=True)
def _begin_anew(peer: Peer) -> None:
    for tap in (peer.to_it, peer.from_it):
        tap.forget()
        tap.hide = ()


def give(
    port: int, sender: str, *to: str, content: bytes, mail: Sequence[str] = (), rcpt: Sequence[str] = ()
) -> list[int]:
    """Hand a mail to a server as a client on this machine does; return the codes of its recipients."""
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo("client.example")
        assert client.mail(sender, mail)[0] == 250
        codes = [client.rcpt(each, rcpt)[0] for each in to]
        assert client.data(content)[0] == 250
    return codes


def letter(subject: str, body: bytes = BODY) -> bytes:
    """Return a mail with 8-bit octets in its body."""
    head = f"From: Ann <ann@here.example>\r\nTo: joe\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n"
    kind = "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    return (head + kind).encode() + body


def body(mail: bytes) -> bytes:
    return mail.partition(b"\r\n\r\n")[2]


WISHES: Final = ("NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;Joe+2BX@elsewhere.example")


def test_what_a_peer_announces_is_used_on_the_way_out(world: World, peer: Peer) -> None:
    subject = f"out {peer.name}"
    wish = ("BODY=8BITMIME", "RET=HDRS", "ENVID=env+2Bout")
    give(world.server.ports["mx"], "ann@here.example", peer.joe, content=letter(subject), mail=wish, rcpt=WISHES)
    assert body(peer.mta.mail(subject)) == BODY
    said = peer.to_it.line(b"MAIL FROM")
    assert said.startswith(b"MAIL FROM:<ann@here.example> SIZE=")
    assert b"BODY=8BITMIME" in said
    assert b"RET=HDRS ENVID=env+2Bout" in said
    assert peer.to_it.line(b"RCPT TO").endswith(b"NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;Joe+2BX@elsewhere.example")
    together = any(
        b"MAIL FROM" in octets and b"RCPT TO" in octets for who, octets in peer.to_it.heard if who == "client"
    )
    assert together is peer.announces("PIPELINING")
    assert any(line.startswith(b"BDAT") for line in peer.to_it.lines()) is peer.announces("CHUNKING")
    # The peer reports the success that was wished for, and names what it was told.
    report = world.mail("ann@here.example", f"joe@{peer.mta.domain}")
    if peer.name != "opensmtpd":  # its reports name neither
        assert b"env+out" in report or b"env+2Bout" in report
        assert b"elsewhere.example" in report


def test_what_we_announce_is_used_on_the_way_in(world: World, peer: Peer) -> None:
    subject = f"in {peer.name}"
    wish = ("BODY=8BITMIME", "RET=HDRS", "ENVID=env+2Bin")
    give(peer.mta.port, peer.ann, "bob@here.example", content=letter(subject), mail=wish, rcpt=WISHES)
    assert body(world.mail("bob@here.example", subject)) == BODY
    said = peer.from_it.line(b"MAIL FROM")
    assert b"RET=HDRS" in said
    assert b"ENVID=env+2Bin" in said
    assert b"ORCPT=rfc822;Joe+2BX@elsewhere.example" in peer.from_it.line(b"RCPT TO")
    assert (b"SIZE=" in said) is (peer.name != "opensmtpd")
    assert (b"BODY=8BITMIME" in said) is (peer.name == "postfix")
    assert any(line.startswith(b"BDAT") for line in peer.from_it.lines()) is (peer.name == "exim")
    together = any(
        b"MAIL FROM" in octets and b"RCPT TO" in octets for who, octets in peer.from_it.heard if who == "client"
    )
    assert together is (peer.name != "opensmtpd")
    # We report the success that was wished for, and name what we were told.
    report = peer.mta.mail("Your mail was delivered")
    assert b"Original-Envelope-Id: env+in\r\n" in report
    assert b"Original-Recipient: rfc822;Joe+2BX@elsewhere.example\r\n" in report
    assert b"Action: delivered\r\n" in report


def test_starttls_on_the_way_out_and_plain_where_the_peer_cannot(world: World, peer: Peer) -> None:
    subject = f"tls out {peer.name}"
    give(world.server.ports["mx"], "bob@here.example", peer.joe, content=letter(subject))
    mail = peer.mta.mail(subject)
    assert body(mail) == BODY
    said = mail.partition(b"\r\n\r\n")[0].upper()
    assert any(word in said for word in (b"ESMTPS", b"TLSV1", b"TLS1")) is (peer.name != "opensmtpd")
    if peer.name == "opensmtpd":
        assert any(each["host"] == "127.0.0.1" for each in world.server.events("tls_failed"))


def test_starttls_on_the_way_in(world: World, peer: Peer) -> None:
    subject = f"tls in {peer.name}"
    give(peer.mta.port, peer.ann, "ann@here.example", content=letter(subject))
    mail = world.mail("ann@here.example", subject)
    assert body(mail) == BODY
    assert b"with ESMTPS" in mail
    assert b"TLSv1.3" in mail


def test_one_of_three_recipients_is_refused_by_the_peer(world: World, peer: Peer) -> None:
    subject = f"three out {peer.name}"
    to = (peer.joe, f"nobody@{peer.mta.domain}", peer.ann)
    give(world.server.ports["mx"], "ann@here.example", *to, content=letter(subject))
    assert body(peer.mta.mail(subject)) == BODY
    report = world.mail("ann@here.example", f"nobody@{peer.mta.domain}")
    told = message_from_bytes(report)
    assert told.get_content_type() == "multipart/report"
    assert report.count(b"Final-Recipient:") == 1
    assert b"Status: 5." in report


def test_one_of_three_recipients_is_refused_by_us(world: World, peer: Peer) -> None:
    subject = f"three in {peer.name}"
    to = ("bob@here.example", "nobody@here.example", "bob+three@here.example")
    give(peer.mta.port, peer.ann, *to, content=letter(subject))
    assert body(world.mail("bob@here.example", subject)) == BODY
    report = peer.mta.mail("nobody@here.example")
    assert b"5.1.1" in report


def test_an_empty_sender_goes_both_ways(world: World, peer: Peer) -> None:
    give(world.server.ports["mx"], "", peer.joe, content=letter(f"null out {peer.name}"))
    mail = peer.mta.mail(f"null out {peer.name}")
    assert b"MAIL FROM:<> " in peer.to_it.line(b"MAIL FROM")
    assert b"ann@here.example" not in mail.partition(b"\r\nFrom:")[0]
    give(peer.mta.port, "", "bob@here.example", content=letter(f"null in {peer.name}"))
    assert world.mail("bob@here.example", f"null in {peer.name}").startswith(b"Return-Path: <>\r\n")


def test_other_letters_go_where_smtputf8_is_offered_and_come_back_where_not(world: World, peer: Peer) -> None:
    content = f"From: <ann@here.example>\r\nSubject: Grüße {peer.name}\r\n\r\nx\r\n".encode()
    to = f"jürgen@{peer.mta.domain}"
    give(world.server.ports["mx"], "ann@here.example", to, content=content, mail=("SMTPUTF8", "BODY=8BITMIME"))
    if peer.name == "opensmtpd":
        report = world.mail("ann@here.example", "5.6.7")
        assert b"multipart/report" in report
        return
    assert f"Subject: Grüße {peer.name}".encode() in peer.mta.mail(f"Grüße {peer.name}")
    assert peer.to_it.line(b"MAIL FROM").endswith(b"SMTPUTF8")
    back = f"From: <{to}>\r\nSubject: Größe\r\nX-Mark: back {peer.name}\r\n\r\nx\r\n".encode()
    give(peer.mta.port, to, "bob@here.example", content=back, mail=("SMTPUTF8", "BODY=8BITMIME"))
    assert "Subject: Größe\r\n".encode() in world.mail("bob@here.example", f"back {peer.name}")
    assert b"SMTPUTF8" in peer.from_it.line(b"MAIL FROM")


def test_a_peer_without_8bitmime_gets_7_bits_that_decode_to_the_same(world: World, peer: Peer) -> None:
    peer.to_it.hide = (b"8BITMIME", b"SMTPUTF8", b"CHUNKING")
    subject = f"seven {peer.name}"
    give(world.server.ports["mx"], "ann@here.example", peer.joe, content=letter(subject), mail=("BODY=8BITMIME",))
    mail = peer.mta.mail(subject)
    assert b"BODY=" not in peer.to_it.line(b"MAIL FROM")
    assert b"DATA" in peer.to_it.lines()
    assert b"".join(octets for who, octets in peer.to_it.heard if who == "client").isascii()
    told = message_from_bytes(mail)
    assert told["Content-Transfer-Encoding"] == "quoted-printable"
    assert told.get_payload(decode=True) == BODY
