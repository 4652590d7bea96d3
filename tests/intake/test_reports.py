"""Who wishes to hear that a mail was delivered hears it, unless the sender may be forged (RFC 3461 §4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from gatepost.base.clock import Instant
from gatepost.base.envelope import Envelope, Recipient
from gatepost.queue.bounce import Filed
from tests.intake.world import World, world
from tests.support.loop import run

MAIL = b"From: Ann <a@sender.example>\r\nSubject: peas\r\n\r\nThe peas are in.\r\n"
LOCAL = "127.0.0.1"


@dataclass
class Told:
    """Remembers what senders are told."""

    reports: list[tuple[Envelope, list[str], bytes]] = field(default_factory=list)

    async def delivered(
        self, envelope: Envelope, recipients: Sequence[Recipient], header: bytes, now: Instant
    ) -> Filed:
        """Note it."""
        self.reports.append((envelope, [str(each.address) for each in recipients], header))
        return Filed(())


async def send(here: World, *rcpts: str, ip: str = LOCAL, sender: str = "<a@sender.example>") -> Told:
    """Send a mail; return what its sender was told."""
    told = Told()
    here.services = replace(here.services, reports=told)
    async with here.client(ip=ip) as talk:
        codes = await talk.say(f"MAIL FROM:{sender} ENVID=one", *(f"RCPT TO:{each}" for each in rcpts), "DATA")
        assert codes[-1] == "354"
        assert (await talk.send(MAIL + b".\r\n")).startswith(b"250 2.0.0")
    return told


def test_success_that_was_wished_for_is_told_in_one_report_of_all_mailboxes() -> None:
    async def scene() -> None:
        async with world() as here:
            told = await send(
                here,
                "<bob@here.example> NOTIFY=SUCCESS",
                "<alice@here.example> NOTIFY=SUCCESS,FAILURE",
                "<full@here.example> NOTIFY=FAILURE",
            )
            ((envelope, recipients, header),) = told.reports
            assert recipients == ["bob@here.example", "alice@here.example"]
            assert envelope.envid == "one"
            assert header.endswith(b"From: Ann <a@sender.example>\r\nSubject: peas\r\n")
            assert b"peas are in" not in header

    run(scene())


@pytest.mark.parametrize(
    ("rcpt", "ip", "sender"),
    [
        ("<bob@here.example>", LOCAL, "<a@sender.example>"),  # not wished for
        ("<bob@here.example> NOTIFY=NEVER", LOCAL, "<a@sender.example>"),
        ("<bob@here.example> NOTIFY=SUCCESS", "192.0.2.9", "<a@sender.example>"),  # nothing proves the sender
        ("<bob@here.example> NOTIFY=SUCCESS", LOCAL, "<>"),
        ("<away@here.example> NOTIFY=SUCCESS", LOCAL, "<a@sender.example>"),  # goes elsewhere: the queue tells
    ],
)
def test_nothing_is_told(rcpt: str, ip: str, sender: str) -> None:
    async def scene() -> None:
        async with world() as here:
            assert (await send(here, rcpt, ip=ip, sender=sender)).reports == []

    run(scene())
