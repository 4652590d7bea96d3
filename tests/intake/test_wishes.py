"""What MAIL and the header ask about the way of a mail goes along into the queue."""

import pytest

from gatepost.base.envelope import Privacy, Wishes
from gatepost.base.ids import MailId
from gatepost.queue.model import unpack_mail
from tests.intake.world import PLAIN_BOB, Talk, World, world
from tests.support.loop import run

MAIL = b"From: bob@here.example\r\nSubject: x\r\n"


async def wishes(here: World) -> Wishes:
    """Return those of the one mail in the queue."""
    ((packed,),) = await here.rows("SELECT packed FROM queue_mail")
    assert isinstance(packed, bytes)
    return unpack_mail(MailId(1), 0, 0, 0, 1, packed).wishes


async def submit(talk: Talk, parameters: str = "", header: bytes = b"") -> str:
    assert await talk.say(PLAIN_BOB) == ["235 2.7.0"]
    sender = f"<bob@here.example> {parameters}".rstrip()
    return await talk.mail(MAIL + header + b"\r\nhi\r\n", sender, "out@far.example")


@pytest.mark.parametrize(
    ("parameters", "header", "privacy"),
    [
        ("", b"", Privacy.USUAL),
        ("REQUIRETLS", b"", Privacy.REQUIRED),
        ("", b"TLS-Required: No\r\n", Privacy.WAIVED),
        ("", b"tls-required:\r\n nO\r\n", Privacy.WAIVED),
        ("", b"TLS-Required: Maybe\r\n", Privacy.USUAL),
        ("", b"TLS-Required: No\r\nTLS-Required: No\r\n", Privacy.USUAL),  # §3: MUST NOT stand twice
        ("REQUIRETLS", b"TLS-Required: No\r\n", Privacy.REQUIRED),  # §4.1: it is ignored
    ],
)
def test_requiretls_and_the_header_field_are_kept(parameters: str, header: bytes, privacy: Privacy) -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            assert await submit(talk, parameters, header) == "250 2.0.0"
            assert (await wishes(here)).privacy is privacy

    run(scene())


def test_a_forward_keeps_what_a_stranger_required() -> None:
    async def scene() -> None:
        async with world() as here, here.client(tls=True) as talk:
            sender = "<a@sender.example> REQUIRETLS"
            assert await talk.mail(MAIL + b"\r\nhi\r\n", sender, "away@here.example") == "250 2.0.0"
            assert (await wishes(here)).privacy is Privacy.REQUIRED

    run(scene())
