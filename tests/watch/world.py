"""A house whose zone is as it should be, for tests to break."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Resolver
from gatepost.base.clock import Instant
from gatepost.codec.mtasts import Mode, Policy
from gatepost.config import WatchSettings
from gatepost.judge import keys
from gatepost.judge.verbs import PublishedKey
from gatepost.watch import records
from gatepost.watch.doctor import Doctor
from gatepost.watch.finding import Finding, State
from gatepost.watch.house import Certificate, House, Service
from gatepost.watch.proofs import Fetched
from tests.support.loop import run
from tests.support.zone import Fault, Zone

NOW = Instant(1_795_420_800_000_000)
DOMAIN = "here.example"
HOST = "mx.here.example"
IPS = ("198.51.100.7", "2001:db8::7")
CERTIFICATE = Certificate(
    Path("mx.pem"), (HOST,), datetime(2026, 10, 1, tzinfo=UTC), datetime(2027, 3, 1, tzinfo=UTC), "5e" * 32, False
)
KEY = PublishedKey(DOMAIN, "s1", "ed25519-sha256", keys.record_text(keys.generate("ed25519-sha256")))
HOUSE = House(
    HOST, IPS, (KEY,), (Service("_imaps._tcp", 993), Service("_submissions._tcp", 465)), (),
    Policy(Mode.ENFORCE, 604_800, (HOST,)), (CERTIFICATE,),
)  # fmt: skip
SETTINGS = WatchSettings(lists=("list.example",), outside="", time="")
Published = dict[str, dict[str, list[str]]]


def published(house: House = HOUSE, domain: str = DOMAIN) -> Published:
    """Return the whole DNS as `gatepost dns zone` prints it, and the names of the addresses."""
    found: Published = {}
    for record in (*records.wanted(house, domain), *(records.pointer(house, ip) for ip in house.addresses)):
        if record.need is not records.Need.SIGNED:
            found.setdefault(record.name, {}).setdefault(record.kind, []).append(record.data)
    return found


async def policy_of(_domain: str) -> bytes:
    """Return the policy as it is served."""
    assert HOUSE.policy is not None
    return HOUSE.policy.document()


def looked(
    dns: Published | None = None,
    house: House = HOUSE,
    *,
    faults: Mapping[str, Fault] | None = None,
    secure: bool = False,
    policy: Fetched = policy_of,
    now: Instant = NOW,
) -> list[Finding]:
    """Look at the server and its domain over real DNS packets."""

    async def play() -> list[Finding]:
        async with Zone(published() if dns is None else dns, faults=faults, secure=secure) as zone:
            resolver = Resolver([zone.address], clock=SystemClock(), try_time=0.2, tries=1)
            doctor = Doctor(house, resolver, SETTINGS, policy=policy, outside=None, time=None)
            try:
                return [*await doctor.server(now), *await doctor.domain(DOMAIN)]
            finally:
                await resolver.close()

    return run(play())


def wrong(findings: list[Finding]) -> list[tuple[str, State]]:
    """Return what is not in order."""
    return [(each.check, each.state) for each in findings if each.state is not State.OK]


def ending(days: float) -> House:
    """Return the house with a certificate that ends so many days from NOW."""
    moment = datetime.fromtimestamp(NOW / 1_000_000, UTC) + timedelta(days=days)
    return replace(HOUSE, certificates=(replace(CERTIFICATE, ends=moment),))
