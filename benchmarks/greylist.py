"""What greylisting costs those who write to us: a replayed log through both modes. `python benchmarks/greylist.py`.

Legitimate mail of 30 days, made from how senders behave: big providers retry from other addresses of their pool,
small servers from their own; each program has its own schedule. The clock is the log's, so the figures do not
depend on the machine: they say how many first mails (the first of a sender's domain to us) and how many mails in
all were delayed, and for how long. A spammer that never retries is beside them, to see that both modes put it off.
"""

import asyncio
import heapq
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from itertools import count
from pathlib import Path
from typing import Final

from gatepost.base.address import Address
from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.envelope import Client
from gatepost.base.verdict import Finding, Result
from gatepost.codec.spamd.dialogue import Offer
from gatepost.codec.spf import Ip
from gatepost.db.sqlite import open_database
from gatepost.gate.decide import Verdict
from gatepost.gate.friendly import Say
from gatepost.gate.gate import Gate
from gatepost.gate.settings import GateSettings, Mode
from gatepost.gate.sql import SCHEMA

DAYS: Final = 30
START: Final = 1_795_420_800.0
SCAN: Final = 60.0
SPAMS: Final = 1_000
GIVES_UP: Final = 4 * 86_400.0
US: Final = [Address(f"user{at}", "home.example") for at in range(12)]


def doubling(first: float, most: float) -> Callable[[], Iterator[float]]:
    """Waits that double (Postfix: 300 s to 4,000 s)."""

    def waits() -> Iterator[float]:
        wait = first
        while True:
            yield wait
            wait = min(2 * wait, most)

    return waits


def every(*waits: float) -> Callable[[], Iterator[float]]:
    """These waits, the last for ever (Exim: 15 minutes; Exchange: 5 minutes six times, then 10)."""

    def given() -> Iterator[float]:
        yield from waits
        while True:
            yield waits[-1]

    return given


def squared(unit: float) -> Callable[[], Iterator[float]]:
    """qmail's and OpenSMTPD's: the nth retry is n^2 units after the first attempt."""
    return lambda: (unit * (2 * at + 1) for at in count())


@dataclass(frozen=True)
class Sender:
    """How one kind of sender behaves. `domains`: its customers that write to us; `mails`: of each, in 30 days."""

    name: str
    pool: Sequence[str]
    waits: Callable[[], Iterator[float]]
    domains: int
    mails: int
    same_host: bool = False
    """Retries come from the host of the first attempt."""
    shared_domain: str = ""
    """The domain in MAIL FROM, where it is the provider's and not the customer's."""
    spf: bool = True
    verp: bool = False
    hosts: int = 300
    """How many addresses of the pool send, each mail and each retry from any of them."""


# Pools are of the sizes that providers publish in SPF; schedules are the programs' defaults.
SENDERS: Final = (
    Sender(
        "webmail, one domain, a /17 of hosts",
        ("10.0.0.0/17",),
        every(300, 600, 1200, 2400),
        domains=1,
        mails=400,
        shared_domain="webmail.example",
    ),
    Sender(
        "office provider, its customers' domains",
        ("10.32.0.0/14", "10.64.0.0/14"),
        every(60, 300, 300, 600),
        domains=60,
        mails=4,
    ),
    Sender(
        "bulk provider, VERP, a /20",
        ("10.96.0.0/20",),
        every(300, 900, 1800),
        domains=30,
        mails=6,
        shared_domain="bulk.example",
        verp=True,
        hosts=60,
    ),
    Sender("shop on a cloud relay, a /18", ("10.112.0.0/18",), every(120, 300, 900), domains=40, mails=2),
    Sender("small, Postfix", ("172.16.0.0/16",), doubling(300, 4000), domains=60, mails=5, same_host=True),
    Sender("small, Exim", ("172.17.0.0/16",), every(900), domains=30, mails=5, same_host=True),
    Sender("small, OpenSMTPD or qmail", ("172.18.0.0/16",), squared(400), domains=10, mails=5, same_host=True),
    Sender(
        "small, Postfix, no SPF",
        ("172.19.0.0/16",),
        doubling(300, 4000),
        domains=25,
        mails=4,
        same_host=True,
        spf=False,
    ),
    Sender("company, Exchange, one /24", ("172.20.7.0/24",), every(*[300] * 6, 600), domains=8, mails=10, hosts=4),
)


@dataclass
class Mail:
    """One mail on its way."""

    kind: Sender
    sender: Address
    recipient: Address
    began: float
    waits: Iterator[float]
    host: str
    first: bool
    attempts: int = 0
    took: float | None = field(default=None)


class Clock:
    """The log's clock."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> Instant:
        """Return it."""
        return Instant(int(self.at * MICROSECONDS))

    def steady(self) -> float:
        """Return it too."""
        return self.at


class Policies:
    """The SPF policies of all senders."""

    def __init__(self, policies: dict[str, str]) -> None:
        self._policies = policies

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return a policy."""
        return [self._policies[name].encode()] if name in self._policies else []

    async def hosts(self, name: str, version: int) -> Sequence[Ip]:
        """Return nothing."""
        return [ip_address("192.0.2.1")][:0]

    async def exchanges(self, name: str) -> Sequence[str]:
        """Return nothing."""
        return []

    async def pointers(self, ip: Ip) -> Sequence[str]:
        """Return nothing."""
        return []


class Silent:
    """A log that says nothing."""

    def _nothing(self, event: str, **fields: object) -> None:
        pass

    debug = info = warning = error = exception = _nothing


def host_of(kind: Sender, dice: random.Random) -> str:
    """Return a host of a pool."""
    one = random.Random(dice.randrange(kind.hosts)) if kind.hosts else dice
    network = ip_network(one.choice(list(kind.pool)))
    return str(network[one.randrange(1, network.num_addresses - 1)])


def kind_host(kind: Sender, customer: int) -> str:
    """Return the host of a customer that has its own."""
    return host_of(replace(kind, hosts=0), random.Random(customer * 31 + SENDERS.index(kind)))


def log_of(seed: int) -> tuple[list[Mail], dict[str, str]]:
    """Make the mails of 30 days in their order, and the policies of those who send them."""
    dice, mails, policies = random.Random(seed), [], {}
    for kind in SENDERS:
        for customer in range(kind.domains):
            domain = kind.shared_domain or f"c{customer}.{SENDERS.index(kind)}.example"
            own = kind_host(kind, customer)
            if kind.spf:
                hosts = " ".join(f"ip4:{each}" for each in ((own,) if kind.same_host else kind.pool))
                provider = f"_spf.{SENDERS.index(kind)}.example"
                policies[provider] = f"v=spf1 {hosts} -all"
                policies[domain] = policies[provider] if kind.same_host else f"v=spf1 include:{provider} -all"
            for at in range(kind.mails):
                person = f"p{dice.randrange(3 if customer else 90)}"
                local = f"bounce-{dice.randrange(10**6)}-x" if kind.verp else person
                began = START + dice.random() * DAYS * 86_400
                host = own if kind.same_host else host_of(kind, dice)
                mails.append(
                    Mail(kind, Address(local, domain), dice.choice(US), began, kind.waits(), host, at == 0)
                )
    mails.sort(key=lambda mail: mail.began)
    seen: set[str] = set()
    for mail in mails:
        name = mail.sender.domain
        mail.first = name not in seen
        seen.add(name)
    return mails, policies


async def replay(mode: Mode, seed: int) -> tuple[list[Mail], int]:
    """Play the log in one mode; return the mails, and how many of the spams that never retry got through."""
    mails, policies = log_of(seed)
    settings = GateSettings(mode=mode, exempt=(), verbose=False)
    if mode is Mode.SPAMD:
        settings = replace(settings, pass_time=type(settings.pass_time)(120))  # the article's -G 2:4:864
    clock, dice, through = Clock(), random.Random(seed + 1), 0
    with tempfile.TemporaryDirectory() as folder:
        database = await open_database(Path(folder) / "gate.db", (SCHEMA,), steady=clock.steady, durable=False)
        gate = Gate(
            settings, database, hostname="mx", clock=clock, log=Silent(), cut=lambda _: None, scans=True,
            names=Policies(policies),
        )  # fmt: skip
        await gate.start()
        turn, scanned = count(), START
        events: list[tuple[float, int, Mail | None]] = [(mail.began, next(turn), mail) for mail in mails]
        events += [(START + dice.random() * DAYS * 86_400, next(turn), None) for _ in range(SPAMS)]
        heapq.heapify(events)
        while events:
            clock.at, _, mail = heapq.heappop(events)
            if clock.at - scanned >= SCAN:
                scanned = clock.at
                await gate.flush()
                if mode is Mode.SPAMD:
                    await gate.scan(clock.now())
                    await gate._read_hosts()
            if mail is None:
                ip = str(ip_address(dice.randrange(0xC0000000, 0xDF000000)))
                spam = Address(f"x{dice.randrange(10**9)}", f"d{dice.randrange(10**6)}.example")
                through += await attempt(gate, clock, ip, spam, dice.choice(US))
                continue
            if await attempt(gate, clock, mail.host, mail.sender, mail.recipient):
                mail.took = clock.at - mail.began
                continue
            mail.attempts += 1
            if not mail.kind.same_host:
                mail.host = host_of(mail.kind, dice)
            again = clock.at + next(mail.waits) * dice.uniform(1.0, 1.1)
            if again - mail.began < GIVES_UP:
                heapq.heappush(events, (again, next(turn), mail))
        await database.close()
    return mails, through


async def attempt(gate: Gate, clock: Clock, ip: str, sender: Address, recipient: Address) -> bool:
    """Try once; tell whether the mail got to the mail server."""
    decision = gate.decide(ip, "mx")
    if decision.verdict is Verdict.PASS:
        gate.mailed_us(ip)
        return True
    if gate.tarpits(decision):
        offer = Offer(b"mail", f"<{sender}>".encode(), f"<{recipient}>".encode())
        gate._remember(ip, "192.0.2.1", offer, clock.now())
        await gate.flush()
        return False
    client = Client(ip=ip, port=1, local_ip="192.0.2.1", local_port=25, listener="mx", helo=sender.domain)
    standing = await gate.recipient(client, sender, recipient, (1,), clock.now())
    if standing.say is Say.PASS:
        gate.accepted([standing], [Finding("dkim", Result.PASS, sender.domain)])
    await gate.flush()
    return standing.say is Say.PASS


def told(mails: Sequence[Mail]) -> str:
    """Return the figures of some mails."""
    late = sorted(mail.took / 60 for mail in mails if mail.took)
    lost = sum(mail.took is None for mail in mails)
    if not late:
        return f"{len(mails):5} mails, none delayed, {lost} given up"
    return (
        f"{len(mails):5} mails, {len(late) / len(mails):6.1%} delayed: median {statistics.median(late):5.1f} min,"
        f" p95 {late[int(len(late) * 0.95)]:6.1f} min, worst {late[-1] / 60:5.1f} h; {lost} given up"
    )


async def main() -> None:
    """Replay and print."""
    for mode in Mode:
        mails, through = await replay(mode, 7)
        print(f"{mode.value}: first mails {told([mail for mail in mails if mail.first])}")
        print(f"{mode.value}: all mails   {told(mails)}; {through} of {SPAMS:,} spams that never retry got through")
        for kind in SENDERS:
            print(f"    {kind.name:40} {told([mail for mail in mails if mail.kind is kind])}")


if __name__ == "__main__":
    asyncio.run(main())
