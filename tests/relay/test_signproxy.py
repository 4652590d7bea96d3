"""The signing proxy between smtplib and a next hop: what passes, what is signed, what is never lost."""

import asyncio
import smtplib
from collections.abc import Callable
from pathlib import Path

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gatepost.cli.common import CLOCK
from gatepost.judge.keys import generate, record_text
from gatepost.judge.proxyconf import read_proxy_conf
from gatepost.relay.signproxy import ProxySigner, SignProxy
from tests.support.loop import run
from tests.support.nexthop import DROP, NextHop

KEY = generate("rsa-sha256")
MAIL = (
    b"From: Joe <joe@sub.one.example>\r\nTo: ann@else.example\r\nSubject: peas\r\n"
    b"Message-ID: <1@one.example>\r\n\r\n"
    b"..stuffed\r\n.\xc3\xa4 8-bit\r\nbare\nline\r\n\r\n\r\n"
)
ARTICLE = "signature dkim(c=relaxed)\nsignature domainkeys(c=nofws)\n"


def through(
    tmp_path: Path,
    hop: NextHop,
    act: Callable[[smtplib.SMTP], None],
    *,
    domain: str = "one.example,two.example",
    more: str = ARTICLE,
) -> list[str]:
    """Let `act` talk to a proxy in front of `hop`; return what the proxy logged."""
    keyfile = tmp_path / "default.private"
    keyfile.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    told: list[str] = []

    async def play() -> None:
        async with hop:
            text = f"listen 127.0.0.1:1\nrelay 127.0.0.1:{hop.port}\ndomain {domain}\nkeyfile {keyfile}\n"
            conf = read_proxy_conf(text + "selector default\n" + more)
            proxy = SignProxy(conf, ProxySigner(conf, CLOCK), told.append)
            server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
            async with server:
                port = server.sockets[0].getsockname()[1]
                await asyncio.to_thread(talk, port)

    def talk(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            act(client)

    run(play())
    return told


def send(client: smtplib.SMTP) -> None:
    client.sendmail("joe@one.example", ["ann@else.example"], MAIL)


def received(hop: NextHop) -> bytes:
    return hop.mails[0].octets.replace(b"\r\n..", b"\r\n.")


def verified(mail: bytes, domain: str) -> bool:
    def answer(name: bytes, **_: object) -> bytes:
        return record_text(KEY).encode() if name.rstrip(b".").decode() == f"default._domainkey.{domain}" else b""

    return bool(dkimpy.DKIM(mail).verify(dnsfunc=answer))


@pytest.mark.row("DK-01")
@pytest.mark.row("DK-04")
def test_a_mail_passes_with_both_signatures_on_top_and_nothing_else_changed(tmp_path: Path) -> None:
    hop = NextHop()
    told = through(tmp_path, hop, send)
    mail = received(hop)
    assert mail.startswith(b"DKIM-Signature: ")
    assert (
        mail.index(b"DKIM-Signature: ") < mail.index(b"DomainKey-Signature: a=rsa-sha1;") < mail.index(b"From: Joe")
    )
    assert mail.endswith(MAIL.replace(b"bare\nline", b"bare\r\nline"))
    assert verified(mail, "one.example")
    assert told == [
        "DKIM signing - signed; signer=<@one.example>, message-id=<1@one.example>, from=<joe@sub.one.example>"
    ]


def test_only_what_the_proxy_can_pass_on_is_offered(tmp_path: Path) -> None:
    hop = NextHop(extensions=("PIPELINING", "STARTTLS", "CHUNKING", "SIZE 1000", "8BITMIME", "BINARYMIME"))
    offered: dict[str, str] = {}

    def act(client: smtplib.SMTP) -> None:
        client.ehlo()
        offered.update(client.esmtp_features)
        assert client.docmd("STARTTLS")[0] == 502

    through(tmp_path, hop, act)
    assert set(offered) == {"size", "8bitmime"}
    assert b"STARTTLS" not in [command.strip() for command in hop.commands]


def test_refusals_of_the_next_hop_reach_the_client(tmp_path: Path) -> None:
    hop = NextHop(answers={"END": b"451-4.3.0 busy\r\n451 4.3.0 later\r\n"})
    with pytest.raises(smtplib.SMTPDataError) as refused:
        through(tmp_path, hop, send)
    assert refused.value.smtp_code == 451
    assert refused.value.smtp_error == b"4.3.0 busy\n4.3.0 later"


def test_a_next_hop_that_goes_in_mid_mail_gives_the_client_no_250(tmp_path: Path) -> None:
    with pytest.raises(smtplib.SMTPException):
        through(tmp_path, NextHop(answers={"END": DROP}), send)


@pytest.mark.parametrize(("domain", "signs"), [("three.example", True), ("three.example,four.example", False)])
def test_one_domain_signs_for_all_and_of_several_the_authors(tmp_path: Path, domain: str, signs: bool) -> None:
    hop = NextHop()
    told = through(tmp_path, hop, send, domain=domain)
    mail = received(hop)
    assert (b"d=three.example" in mail, b"DomainKey" in mail) == (signs, False)
    assert told[0].startswith("DKIM signing - signed" if signs else "DKIM signing - skipped")


def test_a_next_hop_that_is_down_is_421(tmp_path: Path) -> None:
    async def play() -> bytes:
        async with NextHop() as hop:
            port = hop.port
        keyfile = tmp_path / "k"
        keyfile.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        conf = read_proxy_conf(f"relay 127.0.0.1:{port}\ndomain a.example\nselector s\nkeyfile {keyfile}\n")
        proxy = SignProxy(conf, ProxySigner(conf, CLOCK), lambda _: None)
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            said = await reader.read()
            writer.close()
            await writer.wait_closed()
            return said

    assert run(play()) == b"421 Internal error (Next hop is down)\r\n"
