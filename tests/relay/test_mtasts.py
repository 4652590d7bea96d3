"""MTA-STS: policies are fetched over HTTPS, kept, and servers held to them, against a real HTTPS server."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Resolver
from gatepost.aio.tls import client_context
from gatepost.base.clock import DAY, Instant
from gatepost.base.units import Seconds
from gatepost.codec.mtasts import Mode, Policy
from gatepost.policy.action import RelayTls, Route, RouteKind
from gatepost.relay.assurance import Assurer
from gatepost.relay.deliver import Relay, TlsContexts
from gatepost.relay.model import Fate, Result
from gatepost.relay.mtasts import FAILED_S, Finding, Policies
from gatepost.relay.route import Router
from gatepost.relay.settings import RelaySettings
from tests.relay.authority import Paper, paper, serving
from tests.relay.policyhost import PolicyHost
from tests.relay.world import QUICK, Journal, consignment
from tests.support.loop import run
from tests.support.nexthop import HANG, NextHop
from tests.support.zone import Zone

HOST = "mx.there.example"
MX = {"there.example": {"MX": [f"10 {HOST}."]}, HOST: {"A": ["127.0.0.1"]}}
ENFORCE = Policy(Mode.ENFORCE, 7 * 86_400, (HOST,))


class Hours(SystemClock):
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> Instant:
        return Instant(super().now() + self.ahead)

    def steady(self) -> float:
        return super().steady() + self.ahead / 1_000_000


@pytest.fixture(scope="module")
def root() -> Paper:
    return paper(common="root", authority=True)


@pytest.fixture(scope="module")
def trust(root: Paper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trust") / "root.pem"
    file.write_bytes(root.pem)
    return file


@pytest.fixture
def host(root: Paper, tmp_path: Path) -> Iterator[PolicyHost]:
    context = serving(tmp_path, paper("mta-sts.there.example", issuer=root))
    with PolicyHost(context, ENFORCE.document()) as host:
        yield host


@pytest.fixture
def tls(root: Paper, tmp_path: Path) -> ssl.SSLContext:
    folder = tmp_path / "mx"
    folder.mkdir()
    return serving(folder, paper(HOST, issuer=root))


@dataclass
class World:
    """A domain with a policy, as a worker sees it. `records` may be changed between two questions."""

    host: PolicyHost
    trust: Path
    folder: Path | None = None
    records: dict[str, dict[str, list[str]]] = field(
        default_factory=lambda: {**MX, "_mta-sts.there.example": {"TXT": ['"v=STSv1; id=1;"']},
                                 "mta-sts.there.example": {"A": ["127.0.0.1"]}}
    )  # fmt: skip
    clock: Hours = field(default_factory=Hours)
    log: Journal = field(default_factory=Journal)
    secure: bool = False
    allow_loopback: bool = True

    def play(self, *steps: Callable[[Policies, Resolver], Awaitable[object]]) -> None:
        """Do the steps, each with a resolver that remembers nothing, and one cache of policies."""

        async def scene() -> None:
            async with Zone(self.records, secure=self.secure) as zone:
                zone.ttl = 1
                resolver = Resolver([zone.address], clock=self.clock)
                policies = self.policies(resolver)
                try:
                    for step in steps:
                        await step(policies, resolver)
                        self.clock.ahead += 90_000_000  # also the negative answers are forgotten
                finally:
                    await policies.close()
                    await resolver.close()

        run(scene())

    def policies(self, resolver: Resolver) -> Policies:
        return Policies(
            resolver,
            self.folder,
            clock=self.clock,
            log=self.log,
            allow_loopback=self.allow_loopback,
            tls=lambda: client_context(True, authorities=self.trust),
            port=self.host.port,
        )

    def find(self) -> Finding:
        """Return what a worker that has just started finds."""
        found: list[Finding] = []
        self.play(asking(found))
        return found[0]

    def deliver(
        self, hop: NextHop, settings: RelaySettings = QUICK, route: Route | None = None, **more: Any
    ) -> Result:
        """Deliver one mail to there.example; `more` are fields of the consignment."""
        results: list[Result] = []

        async def step(policies: Policies, resolver: Resolver) -> None:
            async with hop:
                set_up = replace(settings, port=hop.port)
                where = route or Route()
                if where.kind is RouteKind.HOST:
                    where = replace(where, port=hop.port)
                relay = Relay(
                    set_up,
                    Router(set_up, resolver, shuffle=lambda _: None),
                    TlsContexts(client_context(False), client_context(True, authorities=self.trust)),
                    hostname="here.example",
                    clock=self.clock,
                    log=self.log,
                    assurer=Assurer(set_up, resolver, policies),
                )
                try:
                    results.extend(await relay.deliver(consignment(route=where, **more)))
                finally:
                    relay.close()

        self.play(step)
        return results[0]

    def announce(self, text: str) -> None:
        """Change the record; "" takes it away."""
        self.records["_mta-sts.there.example"] = {"TXT": [f'"{text}"']} if text else {}


def asking(found: list[Finding]) -> Callable[[Policies, Resolver], Awaitable[None]]:
    """Return a step that asks for the policy."""

    async def step(policies: Policies, _: Resolver) -> None:
        found.append(await policies.find("There.example"))

    return step


def doing(what: Callable[[], object]) -> Callable[[Policies, Resolver], Awaitable[None]]:
    """Return a step that changes the world."""

    async def step(_policies: Policies, _: Resolver) -> None:
        what()

    return step


@pytest.fixture
def world(host: PolicyHost, trust: Path, tmp_path: Path) -> World:
    return World(host, trust, tmp_path / "kept")


# The policy


def test_a_policy_is_fetched_once_and_kept_for_all_workers(world: World) -> None:
    found: list[Finding] = []
    world.play(asking(found), asking(found))
    found.append(world.find())
    assert [each.known and each.known.policy for each in found] == [ENFORCE] * 3
    assert world.host.asked == [("mta-sts.there.example", "/.well-known/mta-sts.txt")]


def test_mails_at_the_same_time_share_one_fetch(world: World) -> None:
    async def crowd(policies: Policies, _: Resolver) -> None:
        async with asyncio.TaskGroup() as group:
            for _n in range(10):
                group.create_task(policies.find("there.example"))

    world.play(crowd)
    assert len(world.host.asked) == 1


def test_a_record_that_is_hidden_takes_no_policy_away_until_max_age(world: World) -> None:
    world.find()
    world.announce("")
    assert world.find().known is not None
    world.clock.ahead += 7 * DAY
    assert world.find() == Finding(None, "")


def test_another_id_brings_the_new_policy(world: World) -> None:
    world.find()
    world.host.body = replace(ENFORCE, mode=Mode.NONE).document()
    world.announce("v=STSv1; id=2")
    known = world.find().known
    assert known is not None
    assert (known.id, known.policy.mode) == ("2", Mode.NONE)


def test_another_id_whose_policy_cannot_be_had_leaves_the_old_one(world: World) -> None:
    world.find()
    world.host.status = 500
    world.announce("v=STSv1; id=2")
    known = world.find().known
    assert known is not None
    assert known.policy == ENFORCE


def test_an_old_policy_is_fetched_again_beside_the_mail(world: World) -> None:
    found: list[Finding] = []

    async def renewed(_: Policies, __: Resolver) -> None:
        async with asyncio.timeout(5):
            while world.log.words().count("mta_sts_fetched") < 2:
                await asyncio.sleep(0.002)

    def a_day_later() -> None:
        world.clock.ahead += DAY
        world.host.body = replace(ENFORCE, mx=("*.there.example",)).document()

    world.play(asking(found), doing(a_day_later), asking(found), renewed, asking(found))
    assert [each.known.policy.mx if each.known else () for each in found] == [
        (HOST,),
        (HOST,),
        ("*.there.example",),
    ]


def test_what_cannot_be_fetched_is_not_tried_again_for_five_minutes(world: World) -> None:
    found: list[Finding] = []
    world.host.status = 404

    def later() -> None:
        world.clock.ahead += int(FAILED_S * 1_000_000)

    world.play(asking(found), asking(found), doing(later), asking(found))
    assert len(world.host.asked) == 2
    assert "the server says 404" in found[1].why


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (301, {"Location": "/elsewhere", "Content-Type": "text/plain"}, ENFORCE.document()),
        (200, {"Content-Type": "text/html"}, ENFORCE.document()),
        (200, {"Content-Type": "text/plain"}, ENFORCE.document() + b"x: y\r\n" * 20_000),
        (200, {"Content-Type": "text/plain"}, b"mode: enforce"),
        (204, {}, b""),
    ],
)
def test_what_is_no_policy_is_no_policy(world: World, status: int, headers: dict[str, str], body: bytes) -> None:
    world.host.status, world.host.headers, world.host.body = status, headers, body
    found = world.find()
    assert found.known is None
    assert found.why.startswith("no MTA-STS: the policy of there.example cannot be had: ")


@pytest.mark.parametrize("name", ["there.example", "mta-sts.other.example"])
def test_the_policy_hosts_certificate_must_hold(root: Paper, trust: Path, tmp_path: Path, name: str) -> None:
    with PolicyHost(serving(tmp_path, paper(name, issuer=root)), ENFORCE.document()) as host:
        assert World(host, trust).find().known is None
    with PolicyHost(serving(tmp_path, paper("mta-sts.there.example")), ENFORCE.document()) as host:
        assert World(host, trust).find().known is None
        assert host.asked == []


def test_a_strangers_dns_does_not_send_us_to_ourselves(world: World) -> None:
    world.allow_loopback = False
    assert world.find().why.endswith("mta-sts.there.example has no address")


def test_a_file_that_is_damaged_is_fetched_anew(world: World) -> None:
    world.find()
    assert world.folder is not None
    for damage in ("", "[]", '{"policy": 1}', "{"):
        (world.folder / "there.example").write_text(damage)
        assert world.find().known is not None
    assert world.log.words().count("mta_sts_unreadable") >= 4


def test_a_folder_that_cannot_be_written_costs_the_cache_only(world: World) -> None:
    assert world.folder is not None
    world.folder.write_text("a file")
    assert world.find().known is not None
    assert "mta_sts_not_kept" in world.log.words()


# The mail


def test_a_server_of_the_policy_whose_certificate_holds_gets_the_mail(world: World, tls: ssl.SSLContext) -> None:
    hop = NextHop(tls=tls)
    result = world.deliver(hop)
    assert (result.fate, hop.mails[0].tls) == (Fate.DELIVERED, True)
    assert result.why == "MTA-STS: there.example has a policy, enforce"


@pytest.mark.row("TLS-07")
def test_starttls_that_was_stripped_defers_under_mta_sts(world: World) -> None:
    hop = NextHop()
    result = world.deliver(hop)
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.7.4")
    assert not [line for line in hop.commands if line.startswith(b"MAIL")]


@pytest.mark.row("TLS-09")
@pytest.mark.parametrize("name", ["mx.elsewhere.example", ""])
def test_a_certificate_of_another_name_or_authority_defers_under_mta_sts(
    world: World, root: Paper, tmp_path: Path, name: str
) -> None:
    leaf = paper(name, issuer=root) if name else paper(HOST)
    hop = NextHop(tls=serving(tmp_path, leaf))
    result = world.deliver(hop)
    assert (result.fate, result.reply.enhanced, hop.mails) == (Fate.DEFERRED, "4.7.5", [])
    assert "certificate verify failed" in result.reply.text.lower().replace("_", " ")


@pytest.mark.row("TLS-09")
@pytest.mark.parametrize("answer", [b"220 go\r\ngarbage\r\n", HANG, b"454 4.7.0 not now\r\n", b"220 go\r\n"])
def test_a_handshake_that_fails_defers_under_mta_sts(world: World, answer: object) -> None:
    settings = replace(QUICK, tls_time=Seconds(0.2), command_time=Seconds(0.3))
    hop = NextHop(answers={"STARTTLS": answer}, extensions=("STARTTLS",))
    assert world.deliver(hop, settings).fate is Fate.DEFERRED
    assert hop.mails == []


def test_a_server_that_the_policy_does_not_name_is_not_spoken_to(world: World, tls: ssl.SSLContext) -> None:
    world.host.body = replace(ENFORCE, mx=("mail.there.example",)).document()
    hop = NextHop(tls=tls)
    result = world.deliver(hop)
    assert (result.fate, hop.sessions) == (Fate.DEFERRED, 0)
    assert result.reply.text == f"MTA-STS: there.example has a policy, enforce, which does not name {HOST}"


def test_a_forged_mx_record_that_names_an_address_gets_nothing(world: World, tls: ssl.SSLContext) -> None:
    world.records["there.example"] = {"MX": ["10 127.0.0.1."]}
    hop = NextHop(tls=tls)
    assert world.deliver(hop).fate is Fate.DEFERRED
    assert hop.sessions == 0


@pytest.mark.parametrize("mode", [Mode.TESTING, Mode.NONE])
def test_other_modes_let_the_mail_pass(world: World, mode: Mode) -> None:
    world.host.body = replace(ENFORCE, mode=mode, mx=("mail.there.example",)).document()
    result = world.deliver(NextHop())
    assert result.fate is Fate.DELIVERED
    assert result.why.endswith(f"has a policy, {mode.value}, which does not name {HOST}")


def test_without_a_policy_that_can_be_had_mail_goes_on_as_without_one(world: World) -> None:
    world.host.status = 500
    assert world.deliver(NextHop()).fate is Fate.DELIVERED


def test_dane_goes_before_mta_sts(world: World, tmp_path: Path) -> None:
    own = paper(HOST)  # no authority that we trust stands above it

    async def free_port() -> int:
        async with NextHop() as hop:
            return hop.port

    hop = NextHop(tls=serving(tmp_path, own), port=run(free_port()))
    record = own.tlsa(3)
    shown = f"{record.usage} {record.selector} {record.matching} {record.data.hex()}"
    world.records[f"_{hop.port}._tcp.{HOST}"] = {"TLSA": [shown]}
    world.secure = True
    result = world.deliver(hop)
    assert result.fate is Fate.DELIVERED
    assert result.why.startswith("DANE: ")


def test_it_can_be_switched_off_and_does_not_meddle_with_the_operators_routes(world: World) -> None:
    off = replace(QUICK, mta_sts=False)
    assert world.deliver(NextHop(), off).fate is Fate.DELIVERED
    assert world.deliver(NextHop(), route=Route(tls=RelayTls.NONE)).fate is Fate.DELIVERED
    assert world.deliver(NextHop(), route=Route(RouteKind.HOST, "127.0.0.1")).fate is Fate.DELIVERED
    assert world.host.asked == []
