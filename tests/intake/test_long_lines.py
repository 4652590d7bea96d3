"""Lines that SMTP does not allow leave a user's mail before it is signed (RFC 6376 §5.3)."""

from email import message_from_bytes

import pytest

from tests.intake.world import PLAIN_BOB, world
from tests.support.loop import run

LONG = b"y" * 1_500 + b"\r\n"
HEAD = b"From: bob@here.example\r\nDate: now\r\nMessage-ID: <1@x>\r\nSubject: x\r\n"


@pytest.mark.parametrize("times", [1, 40])
def test_a_user_s_long_lines_are_recoded_before_the_seal(times: int) -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            await talk.say(PLAIN_BOB)
            assert await talk.mail(HEAD + b"\r\n" + LONG * times, "<bob@here.example>") == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert max(map(len, stored.split(b"\r\n"))) <= 998
            assert message_from_bytes(stored).get_payload(decode=True) == LONG * times
            ((_, names, body),) = here.pen.signed
            assert stored.endswith(b"\r\n\r\n" + body)  # what is signed is what leaves
            assert b"content-transfer-encoding" in names

    run(scene())


@pytest.mark.parametrize(
    "head",
    [
        b"DKIM-Signature: v=1; d=x.example\r\n" + HEAD + b"\r\n",
        HEAD + b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\n",
    ],
)
def test_what_is_signed_already_stays_as_it_is(head: bytes) -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            await talk.say(PLAIN_BOB)
            assert await talk.mail(head + LONG, "<bob@here.example>") == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert stored.endswith(LONG)

    run(scene())
