"""`gatepost sign-proxy` with the article's file, as a process; Mail::DKIM, which dkimproxy stands on, verifies."""

import asyncio
import signal
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gatepost.judge.keys import generate, record_text
from gatepost.judge.seal import SigningKey, domain_key
from tests.support.loop import run
from tests.support.nexthop import NextHop
from tests.support.peers import program

pytestmark = [pytest.mark.process, pytest.mark.peer("libmail-dkim-perl")]
KEY = generate("rsa-sha256")
FIELDS = [  # not folded in From: there Mail::DKIM finds no address (bad identity)
    (b"from", b"From: Joe <joe@example.com>\r\n"),
    (b"subject", b"Subject:  two  blanks \r\n\tin a fold\r\n"),
]


def results(mail: bytes) -> list[str]:
    """Return what Mail::DKIM says of each signature."""
    perl = program("perl")
    script = Path(__file__).parent.parent / "support" / "dkim_verifier.pl"
    done = subprocess.run([perl, script, record_text(KEY)], input=mail, capture_output=True, check=True, timeout=30)
    return done.stdout.decode().splitlines()


@pytest.mark.row("DK-01")
@pytest.mark.row("DK-03")
@pytest.mark.row("DK-04")
def test_the_articles_file_signs_as_dkimproxy_does(tmp_path: Path) -> None:
    keyfile, conf = tmp_path / "default.private", tmp_path / "dkimproxy_out.conf"
    keyfile.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    hop = NextHop()

    async def play() -> None:
        async with hop:
            conf.write_text(
                f"listen    127.0.0.1:10027\nrelay     127.0.0.1:{hop.port}\ndomain    example.com\n"
                "signature dkim(c=relaxed)\nsignature domainkeys(c=nofws)\n"
                f"keyfile   {keyfile}\nselector  default\nmin_servers 5\nmin_spare_servers 2\n"
            )
            words = ("-m", "gatepost", "sign-proxy", str(conf), "--listen", "127.0.0.1:0")
            proxy = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=subprocess.PIPE)
            assert proxy.stdout is not None
            try:
                async with asyncio.timeout(30):
                    port = int((await proxy.stdout.readline()).decode().rpartition(":")[2])
                await asyncio.to_thread(send, port)
            finally:
                proxy.send_signal(signal.SIGTERM)
                await proxy.communicate()
            assert proxy.returncode == 0

    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            text = b"".join(field for _, field in FIELDS) + b"\r\n.dot \r\n two  blanks\t\r\n\r\n\r\n"
            client.sendmail("joe@example.com", ["ann@else.example"], text)

    run(play())
    mail = hop.mails[0].octets.replace(b"\r\n..", b"\r\n.")
    assert b"c=relaxed/simple" in mail
    assert results(mail) == ["dkim pass", "domainkeys pass"]
    assert results(mail.replace(b".dot", b".dut")) == ["dkim fail", "domainkeys fail"]


@pytest.mark.parametrize("nofws", [True, False])
@pytest.mark.parametrize("body", [b"", b"\r\n\r\n", b"a  b\t c \r\n\r\n x\r\n\r\n"])
def test_domainkeys_of_every_body_are_verified_by_another(body: bytes, nofws: bool) -> None:
    key = SigningKey("example.com", "default", "rsa-sha256", KEY)
    mail = domain_key([key], FIELDS, body, nofws=nofws) + b"".join(field for _, field in FIELDS) + b"\r\n" + body
    assert results(mail) == ["domainkeys pass"]
    assert results(mail.replace(b"blanks", b"blinks")) == ["domainkeys fail"]
