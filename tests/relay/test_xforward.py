"""XFORWARD to a filter that offers it, where the route says so."""

from dataclasses import replace

import pytest

from gatepost.codec.smtp.xforward import Forwarded, Source
from gatepost.policy.action import Route, RouteKind
from gatepost.relay.model import Fate
from tests.relay.world import consignment, relay
from tests.support.loop import run
from tests.support.nexthop import NextHop

CLIENT = Forwarded("client.example", "192.0.2.9", 4711, "ESMTP", "c.example", "m1", Source.REMOTE)


@pytest.mark.parametrize("answer", [b"250 2.0.0 ok\r\n", b"550 5.7.0 not you\r\n"])
@pytest.mark.parametrize("pipelining", [True, False])
def test_each_mail_is_introduced_before_its_sender(answer: bytes, pipelining: bool) -> None:
    offers = ("XFORWARD NAME ADDR SOURCE", *(("PIPELINING",) if pipelining else ()))
    hop = NextHop({"XFORWARD": answer}, extensions=offers)
    assert said(hop, xforward=True) == [
        b"XFORWARD NAME=client.example ADDR=192.0.2.9 SOURCE=REMOTE\r\n",
        b"MAIL FROM:<ann@here.example>\r\n",
    ]


def test_nothing_is_told_to_whom_the_route_does_not_name_or_who_does_not_offer_it() -> None:
    assert said(NextHop(extensions=("XFORWARD NAME ADDR",)), xforward=False) == [
        b"MAIL FROM:<ann@here.example>\r\n"
    ]
    assert said(NextHop(extensions=()), xforward=True) == [b"MAIL FROM:<ann@here.example>\r\n"]


def said(hop: NextHop, *, xforward: bool) -> list[bytes]:
    """Deliver a mail; return the commands between EHLO and RCPT."""

    async def play() -> None:
        async with hop:
            route = Route(RouteKind.HOST, "127.0.0.1", hop.port, xforward=xforward)
            sender = relay(hop.port)
            (result,) = await sender.deliver(replace(consignment(), route=route, client=CLIENT))
            sender.close()
            assert result.fate is Fate.DELIVERED

    run(play())
    return [line for line in hop.commands if line[:4] in (b"XFOR", b"MAIL")]
