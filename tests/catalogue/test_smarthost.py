"""All mail of users leaves through the provider's server, with a password and never in the clear."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.server import PLAIN_BOB, house, relaying, until
from tests.relay.authority import paper, serving
from tests.support.loop import run
from tests.support.nexthop import NextHop

MAIL = b"From: bob@here.example\r\nSubject: out\r\n\r\nhello\r\n"
PASSWORD = b"AGFubgBzZWNyZXQ="  # \0ann\0secret


def through(port: int, folder: Path) -> dict[str, Any]:
    """Return the settings of a family: one action, one line of credentials."""
    credentials = folder / "credentials"
    credentials.write_text("isp ann:secret\n")
    credentials.chmod(0o600)
    settings: dict[str, Any] = dict(relaying(port, "require"))
    action = {**settings["policy"]["actions"]["hop"], "auth": "isp"}
    policy = {**settings["policy"], "actions": {"hop": action}}
    return {"policy": policy, "relay": {**settings["relay"], "credentials": str(credentials)}}


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    return serving(tmp_path, paper("smtp.isp.example"))


async def send(settings: dict[str, Any], hop: NextHop) -> None:
    """Send one mail as a user, and wait until the provider has heard of it."""
    async with house(settings) as here:
        async with here.client("submissions") as client:
            await client.say(PLAIN_BOB)
            assert await client.mail(MAIL, "<bob@here.example>", "joe@far.example") == "250 2.0.0"
        await until(lambda: hop.mails or (hop.sessions and not hop.open_now))


@pytest.mark.row("MT-28")
@pytest.mark.parametrize("mechanisms", ["AUTH PLAIN LOGIN", "AUTH LOGIN"])
def test_what_users_send_goes_through_the_provider_with_credentials_over_tls(
    tls: ssl.SSLContext, tmp_path: Path, mechanisms: str
) -> None:
    async def play() -> None:
        answers = {} if "PLAIN" in mechanisms else {"AUTH": b"334 VXNlcm5hbWU6\r\n"}
        async with NextHop(tls=tls, extensions=(mechanisms,), answers=answers) as hop:
            await send(through(hop.port, tmp_path), hop)
            assert hop.mails[0].tls
            assert hop.mails[0].octets.endswith(b"\r\n\r\nhello\r\n")
            said = b"".join(hop.commands)
            assert PASSWORD in said or b"c2VjcmV0\r\n" in said
            assert said.index(b"STARTTLS") < said.index(b"AUTH")

    run(play())


@pytest.mark.row("MT-28")
def test_without_tls_or_with_a_wrong_password_the_mail_waits_and_nothing_is_said_in_the_clear(
    tls: ssl.SSLContext, tmp_path: Path
) -> None:
    async def play() -> None:
        async with NextHop(extensions=("AUTH PLAIN",)) as hop:
            await send(through(hop.port, tmp_path), hop)
            assert b"AUTH" not in b"".join(hop.commands)
            assert hop.mails == []
        refused = {"AUTH": b"535 5.7.8 no\r\n"}
        async with NextHop(tls=tls, extensions=("AUTH PLAIN",), answers=refused) as hop:
            await send(through(hop.port, tmp_path), hop)
            assert PASSWORD in b"".join(hop.commands)
            assert b"MAIL" not in b"".join(hop.commands)

    run(play())
