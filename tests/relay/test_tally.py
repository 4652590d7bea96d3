"""How TLS to a next hop went is told to who counts it: what was asked, and what failed, in RFC 8460's words."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Resolver
from gatepost.aio.tls import client_context
from gatepost.base.clock import Instant
from gatepost.base.envelope import Privacy, Wishes
from gatepost.codec.mtasts import Mode, Policy
from gatepost.codec.tlsa import Tlsa
from gatepost.codec.tlsrpt import NOTHING_ASKED, Asked, Failed, Failure, PolicyType
from gatepost.policy.action import RelayTls, Route
from gatepost.relay.assurance import UNNAMED, Assurer
from gatepost.relay.deliver import Relay, TlsContexts
from gatepost.relay.model import Fate, Result
from gatepost.relay.mtasts import Finding, Known, Policies
from gatepost.relay.route import Router
from tests.relay.authority import NOW, Paper, paper, serving
from tests.relay.world import QUICK, Journal, consignment
from tests.support.loop import run
from tests.support.nexthop import NextHop
from tests.support.zone import Fault, Zone

HOST = "mx.there.example"
MX = {"there.example": {"MX": [f"10 {HOST}."]}, HOST: {"A": ["127.0.0.1"]}}
USUAL = Wishes()


@dataclass
class Counted:
    """Remembers what it is told."""

    good: list[tuple[str, Asked]] = field(default_factory=list)
    bad: list[tuple[str, Asked, Failed]] = field(default_factory=list)

    def succeeded(self, domain: str, asked: Asked) -> None:
        self.good.append((domain, asked))

    def failed(self, domain: str, asked: Asked, failed: Failed) -> None:
        self.bad.append((domain, asked, failed))

    @property
    def failures(self) -> list[Failure]:
        return [failed.failure for _, _, failed in self.bad]


class Published(Policies):
    """The policy of a domain without a server that publishes it."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding

    async def find(self, domain: str) -> Finding:
        return self.finding


def sts(mode: Mode, *mx: str) -> Finding:
    return Finding(Known(Policy(mode, 86_400, mx or (HOST,)), "1", Instant(0)), "MTA-STS")


@pytest.fixture(scope="module")
def root() -> Paper:
    return paper(common="root", authority=True)


@dataclass
class Scene:
    """One mail to a server that shows a certificate, or has no TLS."""

    root: Paper
    folder: Path
    counted: Counted = field(default_factory=Counted)

    def context(self, leaf: Paper) -> ssl.SSLContext:
        return serving(self.folder, leaf)

    def deliver(
        self,
        leaf: Paper | None,
        finding: Finding = Finding(None, ""),  # noqa: B008
        *,
        tlsa: Sequence[Tlsa] = (),
        faults: Mapping[str, Fault] | None = None,
        route: Route | None = None,
        wishes: Wishes = USUAL,
    ) -> Result:
        trust = self.folder / "root.pem"
        trust.write_bytes(self.root.pem)

        async def play() -> Result:
            tls = None if leaf is None else self.context(leaf)
            extensions = ("STARTTLS",) if leaf is not None else ()
            async with NextHop(tls=tls, extensions=extensions) as hop:
                owner = f"_{hop.port}._tcp.{HOST}"
                shown = [f"{each.usage} {each.selector} {each.matching} {each.data.hex()}" for each in tlsa]
                broken = {owner: Fault.SERVFAIL} if faults else {}
                zone = {**MX, **({owner: {"TLSA": shown}} if tlsa else {})}
                async with Zone(zone, secure=bool(tlsa or faults), faults=broken) as names:
                    return await self._deliver(hop.port, names.address, finding, trust, route, wishes)

        return run(play())

    async def _deliver(
        self,
        port: int,
        dns: tuple[str, int],
        finding: Finding,
        trust: Path,
        route: Route | None,
        wishes: Wishes,
    ) -> Result:
        resolver, settings = Resolver([dns], clock=SystemClock()), replace(QUICK, port=port)
        relay = Relay(
            settings,
            Router(settings, resolver, shuffle=lambda _: None),
            TlsContexts(client_context(False), client_context(True, authorities=trust)),
            hostname="here.example",
            clock=SystemClock(),
            log=Journal(),
            assurer=Assurer(settings, resolver, Published(finding)),
            tally=self.counted,
        )
        try:
            (result,) = await relay.deliver(consignment(route=route, wishes=wishes))
        finally:
            relay.close()
            await resolver.close()
        return result


@pytest.fixture
def scene(root: Paper, tmp_path: Path) -> Scene:
    return Scene(root, tmp_path)


def test_any_tls_is_a_success_where_nothing_is_asked(scene: Scene) -> None:
    scene.deliver(paper("other.example"))
    assert scene.counted.good == [("there.example", NOTHING_ASKED)]
    assert scene.counted.bad == []


def test_a_server_without_tls_is_told_though_the_mail_went(scene: Scene) -> None:
    assert scene.deliver(None).fate is Fate.DELIVERED
    assert scene.counted.failures == [Failure.NO_STARTTLS]
    (_, _, failed) = scene.counted.bad[0]
    assert (failed.host, failed.ip, failed.ours) == (HOST, "127.0.0.1", "127.0.0.1")
    assert scene.counted.good == []


@pytest.mark.parametrize("mode", [Mode.TESTING, Mode.ENFORCE])
@pytest.mark.parametrize(
    ("wrong", "failure"),
    [
        ("name", Failure.HOST_MISMATCH),
        ("date", Failure.EXPIRED),
        ("issuer", Failure.NOT_TRUSTED),
        ("no tls", Failure.NO_STARTTLS),
    ],
)
def test_what_a_policy_finds_is_told_and_a_testing_one_lets_the_mail_go(
    scene: Scene, mode: Mode, wrong: str, failure: Failure
) -> None:
    leaves = {
        "name": paper("other.example", issuer=scene.root),
        "date": paper(HOST, issuer=scene.root, ends=NOW - timedelta(hours=1)),
        "issuer": paper(HOST),
    }
    result = scene.deliver(leaves.get(wrong), sts(mode))
    assert result.fate is (Fate.DELIVERED if mode is Mode.TESTING else Fate.DEFERRED)
    assert (result.tls is not None) is (mode is Mode.TESTING and wrong != "no tls")
    assert scene.counted.failures == [failure]
    assert scene.counted.bad[0][1].type is PolicyType.STS
    assert scene.counted.good == []


@pytest.mark.parametrize("mode", [Mode.TESTING, Mode.ENFORCE])
def test_a_certificate_that_holds_is_a_success_of_the_policy(scene: Scene, mode: Mode) -> None:
    scene.deliver(paper(HOST, issuer=scene.root), sts(mode))
    lines = ("version: STSv1", f"mode: {mode.value}", f"mx: {HOST}", "max_age: 86400")
    assert scene.counted.good == [("there.example", Asked(PolicyType.STS, lines, (HOST,)))]
    assert scene.counted.bad == []


@pytest.mark.parametrize("mode", [Mode.TESTING, Mode.ENFORCE])
def test_a_host_that_the_policy_does_not_name_is_told(scene: Scene, mode: Mode) -> None:
    scene.deliver(paper(HOST, issuer=scene.root), sts(mode, "else.there.example"))
    assert [(each.failure, each.reason) for _, _, each in scene.counted.bad] == [(Failure.OTHER, UNNAMED)]
    assert scene.counted.good == []


def test_a_policy_that_cannot_be_had_is_told(scene: Scene) -> None:
    scene.deliver(paper(HOST), Finding(None, "no MTA-STS: ...", Failure.POLICY_HOST_INVALID))
    assert scene.counted.failures == [Failure.POLICY_HOST_INVALID]


def test_dane_is_told_with_its_records(scene: Scene) -> None:
    leaf, other = paper(HOST), paper(HOST)
    scene.deliver(leaf, tlsa=[leaf.tlsa(3)])
    ((_, asked),) = scene.counted.good
    assert asked == Asked(PolicyType.TLSA, (f"3 1 1 {leaf.tlsa(3).data.hex()}",))
    scene.deliver(leaf, tlsa=[other.tlsa(3)])
    scene.deliver(leaf, tlsa=[leaf.tlsa(0)])
    scene.deliver(leaf, faults={"any": Fault.SERVFAIL})
    assert scene.counted.failures == [Failure.OTHER, Failure.TLSA_INVALID, Failure.DNSSEC_INVALID]


def test_what_a_rule_or_the_sender_decides_is_not_told(scene: Scene) -> None:
    leaf = paper("other.example")
    scene.deliver(leaf, sts(Mode.TESTING), route=Route(tls=RelayTls.VERIFY))
    scene.deliver(leaf, sts(Mode.TESTING), route=Route(tls=RelayTls.NONE))
    scene.deliver(leaf, sts(Mode.TESTING), wishes=Wishes(Privacy.WAIVED))
    assert scene.counted == Counted()
