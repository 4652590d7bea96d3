"""Friendly greylisting over a whole server: what a sender is told, what the story says, who need not wait."""

import pytest

from tests.catalogue.server import HEAD, PLAIN_BOB, House, scene

both_paces = pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "octet by octet"])
GATE = {"greylist": True, "exempt": ["203.0.113.0/24"]}
ENVELOPE = ("MAIL FROM:<joe@sender.example>", "RCPT TO:<bob@here.example>")
STRANGER = "198.51.100.7"


async def _deliver(here: House, ip: str = STRANGER, *, one_by_one: bool = False) -> str:
    """Try to deliver a mail; return the reply that decided."""
    async with here.client(ip=ip) as client:
        told = [await client.ask(line.encode() + b"\r\n", one_by_one=one_by_one) for line in ENVELOPE]
        if not told[-1].startswith(b"250"):
            return told[-1].decode()
        await client.ask(b"DATA\r\n")
        return (await client.ask(HEAD + b"\r\nhello\r\n.\r\n")).decode()


@pytest.mark.row("GR-01", "SYNC-09")
@both_paces
def test_a_stranger_is_put_off_at_rcpt_and_accepted_after_a_minute(one_by_one: bool) -> None:
    async def play(here: House) -> None:
        told = await _deliver(here, one_by_one=one_by_one)
        assert told.startswith("451 4.7.1 ")
        name = told.split()[2]
        assert told == f"451 4.7.1 {name} Greylisted, please try again in 1 minute\r\n"
        await here.worker._gate.flush()
        here.clock.move(30)
        assert (await _deliver(here)).endswith("Greylisted, please try again in 1 minute\r\n")
        here.clock.move(30)
        assert (await _deliver(here, one_by_one=one_by_one)).startswith("250 2.0.0")
        await here.worker._gate.flush()
        assert (await _deliver(here, "198.51.100.99")).startswith("250 2.0.0")  # the same /24
        assert len(await here.mails("bob")) == 2

    scene(play, gate=GATE)


def test_who_a_user_wrote_to_does_not_wait_and_roles_never_do() -> None:
    async def play(here: House) -> None:
        async with here.client("submission") as client:
            await client.secure()
            await client.hello()
            await client.say(PLAIN_BOB, "MAIL FROM:<bob@here.example>", "RCPT TO:<joe@sender.example>")
            await client.ask(b"DATA\r\n")
            sent = await client.ask(b"From: bob@here.example\r\nSubject: x\r\n\r\nhello\r\n.\r\n")
            assert sent.startswith(b"250"), here.log.lines
        await here.worker._gate.flush()
        assert (await _deliver(here)).startswith("250 2.0.0")
        async with here.client(ip="192.0.2.200") as client:
            say = ("MAIL FROM:<a@b.example>", "RCPT TO:<bob@here.example>", "RCPT TO:<postmaster@here.example>")
            assert await client.say(*say) == ["250 2.1.0", "451 4.7.1", "250 2.1.5"]

    scene(play, gate=GATE)
