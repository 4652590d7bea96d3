"""DELIVERBY (RFC 2852) on the way out: the next hop is told how much time is left."""

import re

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.base.clock import Instant, seconds
from gatepost.base.envelope import DeliverBy, Wishes
from gatepost.relay.model import Fate, Result
from tests.relay.world import consignment, relay
from tests.support.loop import run
from tests.support.nexthop import NextHop

OFFERS = ("PIPELINING", "DSN", "MT-PRIORITY MIXER")


def send(hop: NextHop, left: float, *, returns: bool, trace: bool = False) -> tuple[Result, bytes]:
    """Deliver a mail that has so many seconds left; return the result and what stood behind the path in MAIL."""

    async def play() -> Result:
        async with hop:
            at = Instant(SystemClock().now() + seconds(left))
            sender = relay(hop.port)
            (result,) = await sender.deliver(consignment(wishes=Wishes(by=DeliverBy(at, returns, trace))))
            sender.close()
            return result

    result = run(play())
    mail = b"".join(line for line in hop.commands if line.startswith(b"MAIL"))
    return result, mail.partition(b">")[2].strip()


def hop(offer: str = "DELIVERBY", **more: object) -> NextHop:
    return NextHop(extensions=(*OFFERS, offer), **more)  # type: ignore[arg-type]  # named by the tests


@pytest.mark.parametrize(("returns", "trace", "words"), [(True, False, b"R"), (False, True, b"NT")])
def test_the_time_that_is_left_goes_along(returns: bool, trace: bool, words: bytes) -> None:
    result, said = send(hop(), 1000.5, returns=returns, trace=trace)
    assert (result.fate, result.by_passed) == (Fate.DELIVERED, True)
    found = re.fullmatch(rb"BY=([0-9]+);" + words, said)
    assert found is not None
    assert 900 <= int(found[1]) <= 1000


def test_a_server_that_does_not_offer_it_gets_the_mail_without() -> None:
    result, said = send(hop("CHUNKING"), 1000, returns=True)
    assert (result.fate, result.by_passed, said) == (Fate.DELIVERED, False, b"")


def test_a_time_that_is_over_is_negative_with_n_and_the_end_with_r() -> None:
    result, said = send(hop(), -100, returns=False)
    assert result.fate is Fate.DELIVERED
    assert re.fullmatch(rb"BY=-1[0-9][0-9];N", said)
    late = hop()
    result, said = send(late, -1, returns=True)
    assert (result.fate, result.reply.enhanced, result.host_down, late.mails) == (Fate.FAILED, "5.4.7", False, [])
    assert said == b""


@pytest.mark.parametrize(("offer", "fate"), [("DELIVERBY 300", Fate.DELIVERED), ("DELIVERBY 5000", Fate.FAILED)])
def test_a_server_that_needs_longer_than_is_left_is_not_asked(offer: str, fate: Fate) -> None:
    result, said = send(hop(offer), 1000, returns=True)
    assert result.fate is fate
    assert bool(said) is (fate is Fate.DELIVERED)
    assert send(hop(offer), 1000, returns=False)[0].fate is Fate.DELIVERED


def test_a_priority_goes_along_where_it_is_offered() -> None:
    async def play(next_hop: NextHop, priority: int) -> None:
        async with next_hop:
            sender = relay(next_hop.port)
            await sender.deliver(consignment(wishes=Wishes(priority=priority)))
            sender.close()

    for offers, priority, said in ((OFFERS, -4, b" MT-PRIORITY=-4"), (OFFERS, 0, b""), ((), 9, b"")):
        next_hop = NextHop(extensions=offers)
        run(play(next_hop, priority))
        assert next_hop.mails[0].sender == b"<ann@here.example>" + said
