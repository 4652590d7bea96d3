"""DANE: what the DNS says of a server's certificate is held against it, and nothing goes out in the clear."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Resolver
from gatepost.aio.tls import client_context
from gatepost.base.units import Seconds
from gatepost.codec.tlsa import Tlsa
from gatepost.policy.action import RelayTls, Route
from gatepost.relay.assurance import Assurer
from gatepost.relay.deliver import Relay, TlsContexts
from gatepost.relay.model import Fate, Result
from gatepost.relay.route import Router
from gatepost.relay.settings import RelaySettings
from tests.relay.authority import Paper, paper, serving
from tests.relay.world import QUICK, Journal, consignment
from tests.support.loop import run
from tests.support.nexthop import HANG, NextHop
from tests.support.zone import Fault, Zone

HOST = "mx.there.example"
MX = {"there.example": {"MX": [f"10 {HOST}."]}, HOST: {"A": ["127.0.0.1"]}}


@dataclass
class Case:
    """One domain and its server; the TLSA records stand under `_PORT._tcp.` and the names of `tlsa`."""

    hop: NextHop
    tlsa: Mapping[str, Sequence[Tlsa]] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=lambda: MX)
    secure: bool = True
    fault: Fault | None = None
    """What goes wrong when TLSA records are asked for."""
    settings: RelaySettings = QUICK
    route: Route = field(default_factory=Route)
    log: Journal = field(default_factory=Journal)

    def deliver(self) -> Result:
        """Deliver one mail."""

        async def play() -> Result:
            async with self.hop as hop:
                owners = {f"_{hop.port}._tcp.{name}": shown(found) for name, found in self.tlsa.items()}
                faults = {f"_{hop.port}._tcp.{HOST}": self.fault} if self.fault else {}
                async with Zone({**self.records, **owners}, secure=self.secure, faults=faults) as zone:
                    resolver = Resolver([zone.address], clock=SystemClock())
                    relay = self._relay(resolver, replace(self.settings, port=hop.port))
                    try:
                        (result,) = await relay.deliver(consignment(route=self.route))
                    finally:
                        relay.close()
                        await resolver.close()
                    return result

        return run(play())

    def _relay(self, resolver: Resolver, settings: RelaySettings) -> Relay:
        return Relay(
            settings,
            Router(settings, resolver, shuffle=lambda _: None),
            TlsContexts(any=client_context(False), verify=client_context(True)),
            hostname="here.example",
            clock=SystemClock(),
            log=self.log,
            assurer=Assurer(settings, resolver),
        )

    def said(self) -> list[bytes]:
        """Return the verbs that the server heard."""
        return [line.split()[0].upper() for line in self.hop.commands]


def shown(records: Sequence[Tlsa]) -> dict[str, list[str]]:
    """Return records as a zone has them."""
    return {"TLSA": [f"{each.usage} {each.selector} {each.matching} {each.data.hex()}" for each in records]}


@pytest.fixture(scope="module")
def leaf() -> Paper:
    return paper(HOST)


@pytest.fixture(scope="module")
def other() -> Paper:
    return paper(HOST)


@pytest.fixture
def tls(tmp_path: Path, leaf: Paper) -> ssl.SSLContext:
    return serving(tmp_path, leaf)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_a_certificate_that_fits_its_record_is_good_whoever_signed_it(
    tls: ssl.SSLContext, leaf: Paper, selector: int, matching: int
) -> None:
    case = Case(NextHop(tls=tls), {HOST: [leaf.tlsa(3, selector, matching)]})
    result = case.deliver()
    assert (result.fate, result.why.split(":")[0]) == (Fate.DELIVERED, "DANE")
    assert case.hop.mails[0].tls


@pytest.mark.row("TLS-09")
def test_a_certificate_that_does_not_fit_defers_and_nothing_follows_the_handshake(
    tls: ssl.SSLContext, other: Paper
) -> None:
    case = Case(NextHop(tls=tls), {HOST: [other.tlsa(3)]})
    result = case.deliver()
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.7.5")
    assert result.reply.text == "DANE: the server's certificate fits none of the TLSA records"
    assert case.said() == [b"EHLO", b"STARTTLS"]


@pytest.mark.row("TLS-07")
def test_starttls_that_was_stripped_defers_under_dane(leaf: Paper) -> None:
    case = Case(NextHop(), {HOST: [leaf.tlsa(3)]})
    result = case.deliver()
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.7.4")
    assert b"MAIL" not in case.said()


@pytest.mark.row("TLS-09")
@pytest.mark.parametrize("answer", [b"220 go\r\ngarbage\r\n", HANG, b"454 4.7.0 not now\r\n", b"220 go\r\n"])
def test_a_handshake_that_fails_defers_under_dane(leaf: Paper, answer: object) -> None:
    settings = replace(QUICK, tls_time=Seconds(0.2), command_time=Seconds(0.3))
    hop = NextHop(answers={"STARTTLS": answer}, extensions=("STARTTLS",))
    case = Case(hop, {HOST: [leaf.tlsa(3)]}, settings=settings)
    assert case.deliver().fate is Fate.DEFERRED
    assert b"MAIL" not in case.said()


@pytest.mark.row("DNS-05")
@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.REFUSED])
def test_records_that_are_bogus_or_cannot_be_had_defer_and_the_server_is_not_spoken_to(
    tls: ssl.SSLContext, leaf: Paper, fault: Fault
) -> None:
    case = Case(NextHop(tls=tls), {HOST: [leaf.tlsa(3)]}, fault=fault)
    result = case.deliver()
    assert (result.fate, result.reply.enhanced, case.hop.sessions) == (Fate.DEFERRED, "4.7.5", 0)
    assert "cannot be looked up, or are bogus" in result.reply.text


def test_records_that_dnssec_does_not_vouch_for_count_for_nothing(tls: ssl.SSLContext, other: Paper) -> None:
    case = Case(NextHop(tls=tls), {HOST: [other.tlsa(3)]}, secure=False)
    result = case.deliver()
    assert result.fate is Fate.DELIVERED
    assert "not validated by DNSSEC" in result.why


def test_records_that_smtp_cannot_use_ask_for_tls_with_any_certificate(tls: ssl.SSLContext, other: Paper) -> None:
    assert Case(NextHop(tls=tls), {HOST: [other.tlsa(1)]}).deliver().fate is Fate.DELIVERED
    result = Case(NextHop(), {HOST: [other.tlsa(1)]}).deliver()
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.7.4")


def test_no_records_leave_tls_to_what_is_offered(tls: ssl.SSLContext) -> None:
    assert Case(NextHop(tls=tls)).deliver().fate is Fate.DELIVERED
    assert Case(NextHop()).deliver().fate is Fate.DELIVERED


def test_dane_can_be_switched_off(tls: ssl.SSLContext, other: Paper) -> None:
    case = Case(NextHop(tls=tls), {HOST: [other.tlsa(3)]}, settings=replace(QUICK, dane=False))
    assert case.deliver().fate is Fate.DELIVERED


def test_a_rule_that_says_no_tls_is_the_operators_word(leaf: Paper) -> None:
    case = Case(NextHop(), {HOST: [leaf.tlsa(3)]}, route=Route(tls=RelayTls.NONE))
    assert case.deliver().fate is Fate.DELIVERED


@pytest.mark.parametrize(
    ("name", "fate"),
    [(HOST, Fate.DELIVERED), ("there.example", Fate.DELIVERED), ("*.there.example", Fate.DELIVERED),
     ("mx.elsewhere.example", Fate.DEFERRED)],
)  # fmt: skip
def test_under_an_authority_of_the_record_the_certificate_must_bear_a_name_of_the_domain(
    tmp_path: Path, name: str, fate: Fate
) -> None:
    root = paper(common="root", authority=True)
    leaf = paper(name, issuer=root)
    case = Case(NextHop(tls=serving(tmp_path, leaf, root)), {HOST: [root.tlsa(2)]})
    assert case.deliver().fate is fate


def test_a_host_whose_certificate_does_not_fit_is_passed_over_for_the_next(
    tls: ssl.SSLContext, leaf: Paper, other: Paper
) -> None:
    two = {
        "there.example": {"MX": ["10 mx1.there.example.", "20 mx2.there.example."]},
        "mx1.there.example": {"A": ["127.0.0.1"]},
        "mx2.there.example": {"A": ["127.0.0.1"]},
    }
    case = Case(NextHop(tls=tls), {"mx1.there.example": [other.tlsa(3)], "mx2.there.example": [leaf.tlsa(3)]}, two)
    result = case.deliver()
    assert (result.fate, result.host) == (Fate.DELIVERED, "mx2.there.example")


def test_an_alias_is_followed_to_where_the_records_stand(tls: ssl.SSLContext, leaf: Paper) -> None:
    aliased = {**MX, HOST: {"CNAME": ["box.hosting.example."]}, "box.hosting.example": {"A": ["127.0.0.1"]}}
    case = Case(NextHop(tls=tls), {"box.hosting.example": [leaf.tlsa(3)]}, aliased)
    assert case.deliver().fate is Fate.DELIVERED


def test_the_log_says_what_was_asked_of_the_tls(tls: ssl.SSLContext, leaf: Paper) -> None:
    case = Case(NextHop(tls=tls), {HOST: [leaf.tlsa(3)]})
    case.deliver()
    ((_, fields),) = [event for event in case.log.events if "tls_asked" in event[1]]
    assert str(fields["tls_asked"]).endswith(f"{HOST} has 1 usable TLSA records")
