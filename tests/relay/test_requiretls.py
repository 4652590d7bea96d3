"""REQUIRETLS and `TLS-Required: No` (RFC 8689) on the way out, against a real TLS server and a zone."""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatepost.base.envelope import Privacy, Wishes
from gatepost.base.units import Seconds
from gatepost.codec.mtasts import Mode
from gatepost.policy.action import RelayTls, Route, RouteKind
from gatepost.relay.model import Fate, Result
from tests.relay.authority import Paper, paper, serving
from tests.relay.test_mtasts import ENFORCE, HOST, World, host, root, tls, trust, world
from tests.relay.world import QUICK
from tests.support.nexthop import NextHop

__all__ = ("host", "root", "tls", "trust", "world")  # fixtures

OFFERS = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "REQUIRETLS")
REQUIRED = Wishes(Privacy.REQUIRED)


def required(world: World, hop: NextHop, **more: Any) -> Result:
    return world.deliver(hop, wishes=REQUIRED, **more)


def mail_of(hop: NextHop) -> bytes:
    (line,) = (line for line in hop.commands if line.startswith(b"MAIL"))
    return line


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.TESTING])
def test_a_server_that_mta_sts_names_and_offers_it_gets_the_mail_with_the_word(
    world: World, tls: ssl.SSLContext, mode: Mode
) -> None:
    world.host.body = replace(ENFORCE, mode=mode).document()
    hop = NextHop(tls=tls, extensions=OFFERS)
    result = required(world, hop)
    assert (result.fate, hop.mails[0].tls) == (Fate.DELIVERED, True)
    assert mail_of(hop).endswith(b" REQUIRETLS\r\n")


def test_a_server_that_dnssec_names_needs_no_policy(world: World, tls: ssl.SSLContext) -> None:
    world.announce("")
    world.secure = True
    hop = NextHop(tls=tls, extensions=OFFERS)
    result = required(world, hop)
    assert (result.fate, hop.mails[0].tls) == (Fate.DELIVERED, True)
    assert result.why.startswith("the sender requires TLS; ")


def test_a_smart_host_is_known_by_its_name_in_the_rule(world: World, tls: ssl.SSLContext) -> None:
    world.announce("")
    hop = NextHop(tls=tls, extensions=OFFERS)
    assert required(world, hop, route=Route(RouteKind.HOST, HOST)).fate is Fate.DELIVERED
    assert mail_of(hop).endswith(b" REQUIRETLS\r\n")


def test_a_server_that_does_not_offer_it_gets_nothing(world: World, tls: ssl.SSLContext) -> None:
    hop = NextHop(tls=tls)
    result = required(world, hop)
    assert (result.fate, str(result.reply.code), result.reply.enhanced) == (Fate.FAILED, "550", "5.7.30")
    assert result.reply.text == f"REQUIRETLS support required, which {HOST} does not offer"
    assert not result.host_down
    assert not [line for line in hop.commands if line.startswith((b"MAIL", b"RCPT"))]


def test_an_mx_record_that_nobody_vouches_for_gets_nothing(world: World, tls: ssl.SSLContext) -> None:
    world.announce("")
    hop = NextHop(tls=tls, extensions=OFFERS)
    result = required(world, hop)
    assert (result.fate, result.reply.code, result.reply.enhanced) == (Fate.FAILED, 523, "5.7.10")
    assert "neither DNSSEC nor an MTA-STS policy says that" in result.reply.text
    assert hop.sessions == 0


def test_a_domain_that_is_its_own_server_needs_nobody_to_vouch(world: World, root: Paper, tmp_path: Path) -> None:
    world.announce("")
    world.records["there.example"] = {"A": ["127.0.0.1"]}
    hop = NextHop(tls=serving(tmp_path, paper("there.example", issuer=root)), extensions=OFFERS)
    assert required(world, hop).fate is Fate.DELIVERED


def test_no_tls_and_a_certificate_that_does_not_hold_get_nothing(world: World, tmp_path: Path) -> None:
    world.secure = True
    world.announce("")
    plain = NextHop(extensions=OFFERS)
    result = required(world, plain)
    assert (result.fate, result.reply.enhanced, plain.mails) == (Fate.FAILED, "5.7.10", [])
    unknown = NextHop(tls=serving(tmp_path, paper(HOST)), extensions=OFFERS)
    result = required(world, unknown)
    assert (result.fate, result.reply.enhanced, unknown.mails) == (Fate.FAILED, "5.7.10", [])
    off = NextHop(extensions=OFFERS)
    assert required(world, off, route=Route(tls=RelayTls.NONE)).reply.enhanced == "5.7.10"
    assert off.sessions == 0


def test_what_may_be_better_tomorrow_waits(world: World, tls: ssl.SSLContext) -> None:
    settings = replace(QUICK, command_time=Seconds(0.2))
    lost = NextHop(tls=tls, extensions=OFFERS, answers={"greeting": b"421 4.3.2 not now\r\n"})
    assert required(world, lost, settings=settings).fate is Fate.DEFERRED
    # One of two servers is down, and the other does not offer it: who is down may.
    world.records["there.example"] = {"MX": [f"10 {HOST}.", "20 down.there.example."]}
    world.records["down.there.example"] = {"A": ["127.0.0.2"]}
    world.host.body = replace(ENFORCE, mx=("*.there.example",)).document()
    assert required(world, NextHop(tls=tls)).fate is Fate.DEFERRED


def test_the_next_server_is_tried_when_the_first_does_not_offer_it(world: World, tls: ssl.SSLContext) -> None:
    world.records["there.example"] = {"MX": [f"10 {HOST}.", f"20 {HOST}."]}
    hop = NextHop(tls=tls)
    assert required(world, hop).reply.enhanced == "5.7.30"
    assert hop.sessions == 2


def test_a_report_is_not_lost_for_the_want_of_it(world: World, tls: ssl.SSLContext) -> None:
    able = NextHop(tls=tls, extensions=OFFERS)
    assert required(world, able, sender=None).fate is Fate.DELIVERED
    assert mail_of(able) == b"MAIL FROM:<> REQUIRETLS\r\n"
    unable = NextHop(tls=tls, extensions=("8BITMIME",))
    assert required(world, unable, sender=None).fate is Fate.DELIVERED
    assert mail_of(unable) == b"MAIL FROM:<>\r\n"


def test_tls_required_no_passes_over_what_the_domain_publishes(world: World) -> None:
    hop = NextHop(extensions=OFFERS)
    result = world.deliver(hop, wishes=Wishes(Privacy.WAIVED))
    assert (result.fate, hop.mails[0].tls) == (Fate.DELIVERED, False)
    assert result.why.endswith("the sender says TLS-Required: No")
    assert world.host.asked == []
    assert b"REQUIRETLS" not in mail_of(hop)


def test_tls_required_no_uses_tls_where_it_works_and_heeds_the_operators_rule(
    world: World, tls: ssl.SSLContext
) -> None:
    hop = NextHop(tls=tls)
    waived = Wishes(Privacy.WAIVED)
    assert world.deliver(hop, wishes=waived).fate is Fate.DELIVERED
    assert hop.mails[0].tls
    plain = NextHop()
    assert world.deliver(plain, wishes=waived, route=Route(tls=RelayTls.REQUIRE)).fate is Fate.DEFERRED


def test_nothing_changes_for_mail_without_wishes(world: World, tls: ssl.SSLContext) -> None:
    hop = NextHop(tls=tls, extensions=OFFERS)
    assert world.deliver(hop).fate is Fate.DELIVERED
    assert b"REQUIRETLS" not in mail_of(hop)
