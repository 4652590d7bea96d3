"""The intake hands what it has committed to the queue's worker, and takes its places back where it has not."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from gatepost.base.clock import Instant
from gatepost.db.unit import NotCommitted, Step
from gatepost.queue.handover import Offer
from tests.intake.world import world
from tests.support.loop import run

MAIL = b"From: bob@here.example\r\nSubject: out\r\n\r\nhello\r\n"


@dataclass
class Offering:
    """A worker's side that remembers; it offers a place as long as it is `willing`."""

    willing: bool = True
    offered: list[list[str]] = field(default_factory=list)
    withdrawn: int = 0
    taken: list[bytes] = field(default_factory=list)

    def offer(self, destinations: Sequence[str], size: int) -> Offer | None:
        self.offered.append(list(destinations))
        return Offer(7, Instant(1 << 60), dict.fromkeys(destinations, 1)) if self.willing else None

    def withdraw(self, offer: Offer) -> None:
        self.withdrawn += 1

    async def take(self, offer: Offer, steps: Sequence[Step], content: bytes) -> None:
        self.taken.append(content)


@pytest.mark.parametrize("willing", [True, False])
def test_only_what_was_offered_a_place_is_leased_and_handed_over(willing: bool) -> None:
    async def play() -> None:
        async with world() as w:
            queue = Offering(willing)
            w.services = replace(w.services, queue=queue)
            async with w.client(ip="127.0.0.1") as talk:
                assert await talk.mail(MAIL, "<bob@here.example>", "x@far.example", "y@far.example") == "250 2.0.0"
            assert queue.offered == [["far.example", "far.example"]]
            assert await w.queued() == ["x@far.example", "y@far.example"]
            owners = [row[0] for row in await w.rows("SELECT owner FROM queue_rcpt")]
            assert owners == ([7, 7] if willing else [0, 0])
            assert [content.endswith(MAIL) for content in queue.taken] == ([True] if willing else [])
            assert queue.withdrawn == 0

    run(play())


def test_a_mail_that_could_not_be_committed_gives_its_place_back() -> None:
    async def play() -> None:
        async with world() as w:
            queue = Offering()
            w.services = replace(w.services, queue=queue)
            w.database.problem = NotCommitted("no")
            async with w.client(ip="127.0.0.1") as talk:
                assert (await talk.mail(MAIL, "<bob@here.example>", "x@far.example")).startswith("451")
            assert queue.withdrawn == 1
            assert queue.taken == []

    run(play())


def test_a_mail_for_mailboxes_alone_asks_for_no_place() -> None:
    async def play() -> None:
        async with world() as w:
            queue = Offering()
            w.services = replace(w.services, queue=queue)
            async with w.client() as talk:
                assert await talk.mail(MAIL) == "250 2.0.0"
            assert queue.offered == []

    run(play())
