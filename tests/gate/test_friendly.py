"""Friendly greylisting: who is one sender, who need not wait, when a retry counts."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest

from gatepost.base.address import Address, ReversePath
from gatepost.base.envelope import Client
from gatepost.base.ids import MailId
from gatepost.base.units import Seconds
from gatepost.base.verdict import Finding, Result
from gatepost.codec.spf import Ip
from gatepost.gate.friendly import Say, plain_sender
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import parse_prefix
from gatepost.gate.settings import FriendlySettings, Mode
from gatepost.gate.verbs import add_spamtraps, expect, grey_records
from gatepost.judge.spf import Trouble
from tests.gate.world import QUIET, SENDER, World, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

KIND = replace(QUIET, mode=Mode.FRIENDLY)
ANN = Address("ann", "example.org")
JOE = Address("joe", "example.net")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
POOL = {"example.net": "v=spf1 ip4:198.51.100.0/28 ip4:203.0.113.64/26 ip6:2001:db8:5::/48 -all"}


class Policies:
    """A DNS that knows SPF policies; of `broken` names nobody knows."""

    def __init__(self, policies: Mapping[str, str], broken: Sequence[str] = ()) -> None:
        self.policies = policies
        self.broken = broken
        self.asked = 0

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return a policy."""
        self.asked += 1
        if name in self.broken:
            raise Trouble(name)
        return [self.policies[name].encode()] if name in self.policies else []

    async def hosts(self, name: str, version: int) -> Sequence[Ip]:
        """Return nothing."""
        return [ip_address("192.0.2.1")][:0]

    async def exchanges(self, name: str) -> Sequence[str]:
        """Return nothing."""
        return []

    async def pointers(self, ip: Ip) -> Sequence[str]:
        """Return nothing."""
        return []


class Door:
    """Brings mails to a gate."""

    def __init__(self, here: World) -> None:
        self.here = here

    async def knock(
        self,
        ip: str = SENDER,
        sender: ReversePath = JOE,
        recipient: Address = ANN,
        *,
        helo: str = "mail.example.net",
        accounts: Sequence[int] = (1,),
        findings: Sequence[Finding] = (),
    ) -> str:
        """Try to deliver a mail; return `accepted`, or why it was put off and when."""
        client = Client(ip=ip, port=40_000, local_ip="192.0.2.25", local_port=25, listener="mx", helo=helo)
        gate, now = self.here.gate, self.here.now
        standing = await gate.recipient(client, sender, recipient, accounts, now)
        told = standing.why
        if standing.say is Say.PASS or (standing.say is Say.CONTENT and gate.excused([standing], findings, client)):
            gate.accepted([standing], findings)
            told = "accepted: " + told
        else:
            assert standing.reply(MailId(1)).text.startswith("0")
            told = f"{standing.say.value}: {told}"
        await gate.flush()
        return told


@asynccontextmanager
async def door(
    policies: Mapping[str, str] = POOL,
    *,
    broken: Sequence[str] = (),
    open_db: OpenDatabase = open_sqlite,
    friendly: FriendlySettings | None = None,
) -> AsyncIterator[Door]:
    """A gate in friendly mode."""
    settings = replace(KIND, friendly=friendly or FriendlySettings())
    async with world(settings, open_db, names=Policies(policies, broken)) as here:
        yield Door(here)


@each_engine
@pytest.mark.row("SYNC-09", "GR-01")
def test_a_retry_after_a_minute_is_accepted_and_the_next_mail_does_not_wait(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with door(open_db=open_db) as at:
            assert await at.knock() == "defer: first attempt"
            at.here.clock.move(5)
            assert await at.knock() == "defer: came back too early"
            at.here.clock.move(54.9)
            assert await at.knock() == "defer: came back too early"
            at.here.clock.move(0.1)
            assert await at.knock() == "accepted: came back in time"
            assert await at.knock(recipient=Address("bob", "example.org")) == "accepted: a good past"

    run(scene())


@pytest.mark.row("SYNC-09")
def test_an_attempt_is_forgotten_after_a_day_and_a_good_past_after_36_days_without_mail() -> None:
    async def scene() -> None:
        async with door() as at:
            assert await at.knock() == "defer: first attempt"
            at.here.clock.move(DAY)
            assert await at.knock() == "defer: first attempt"
            at.here.clock.move(MINUTE)
            assert await at.knock() == "accepted: came back in time"
            at.here.clock.move(36 * DAY - 1)
            assert await at.knock() == "accepted: a good past"
            at.here.clock.move(36 * DAY - 1)
            assert await at.knock() == "accepted: a good past"
            at.here.clock.move(36 * DAY)
            assert await at.knock() == "defer: first attempt"

    run(scene())


@pytest.mark.row("SYNC-08")
def test_the_hosts_that_spf_names_are_one_sender() -> None:
    async def scene() -> None:
        async with door() as at:
            assert await at.knock("198.51.100.7", helo="a.example.net") == "defer: first attempt"
            at.here.clock.move(MINUTE)
            assert await at.knock("203.0.113.99", helo="b.example.net") == "accepted: came back in time"
            assert await at.knock("2001:db8:5::25") == "accepted: a good past"
            assert await at.knock("203.0.113.1") == "defer: first attempt"  # SPF says fail

    run(scene())


def test_the_customers_of_a_provider_are_one_sender_as_its_policy_says() -> None:
    policies = {
        "provider.example": "v=spf1 include:pool.provider.example -all",
        "pool.provider.example": "v=spf1 ip4:198.51.100.0/24 -all",
        "one.example": "v=spf1 mx:mx.one.example include:provider.example ~all",
        "other.example": "v=spf1 redirect=provider.example",
        "own.example": "v=spf1 ip4:203.0.113.7 include:provider.example -all",
    }

    async def scene() -> None:
        async with door(policies) as at:
            assert await at.knock(sender=Address("a", "one.example")) == "defer: first attempt"
            at.here.clock.move(MINUTE)
            assert await at.knock(sender=Address("a", "one.example")) == "accepted: came back in time"
            assert await at.knock("198.51.100.99", Address("b", "other.example")) == "accepted: a good past"
            assert await at.knock("198.51.100.98", Address("c", "own.example")) == "accepted: a good past"
            assert await at.knock("203.0.113.7", Address("c", "own.example")) == "defer: first attempt"

    run(scene())


@pytest.mark.parametrize("words", ["+all", "ip4:0.0.0.0/1 ip4:128.0.0.0/1"])
def test_a_policy_that_names_everybody_makes_nobody_one_sender(words: str) -> None:
    policies = {"weak.example": f"v=spf1 {words}", "spam.example": "v=spf1 include:weak.example -all"}

    async def scene() -> None:
        async with door(policies) as at:
            assert await at.knock("198.51.100.7", Address("x", "spam.example")) == "defer: first attempt"
            at.here.clock.move(MINUTE)
            assert await at.knock("203.0.113.7", Address("x", "spam.example")) == "defer: first attempt"

    run(scene())


@pytest.mark.row("SYNC-08")
@pytest.mark.parametrize(
    ("first", "then", "one"),
    [
        ("192.0.2.7", "192.0.2.200", True),
        ("192.0.2.7", "192.0.3.7", False),
        ("2001:db8:7:1::1", "2001:db8:7:1:ffff::9", True),
        ("2001:db8:7:1::1", "2001:db8:7:2::1", False),
    ],
)
def test_without_spf_hosts_of_one_24_or_64_are_one_sender(first: str, then: str, one: bool) -> None:
    async def scene() -> None:
        async with door({}) as at:
            assert await at.knock(first) == "defer: first attempt"
            at.here.clock.move(MINUTE)
            told = await at.knock(then, helo="other.example.net")
            assert told == ("accepted: came back in time" if one else "defer: first attempt")

    run(scene())


@pytest.mark.row("SYNC-08")
def test_hosts_of_one_announced_prefix_are_one_sender() -> None:
    async def scene() -> None:
        async with door({}, friendly=FriendlySettings(announced="origins")) as at:
            networks = Networks.of(map(parse_prefix, ("192.0.0.0/21", "0.0.0.0/0")))
            await at.here.gate.publish("origins", "bgp", networks)
            assert await at.knock("192.0.2.7") == "defer: first attempt"
            at.here.clock.move(MINUTE)
            assert await at.knock("192.0.7.9") == "accepted: came back in time"
            assert await at.knock("192.0.8.9") == "defer: first attempt"  # a default route is nobody's pool

    run(scene())


@pytest.mark.row("SYNC-08")
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("joe", "JOE"),
        ("bounce-1234-ann=example.org", "bounce-99-ann=example.org"),
        ("list+ann=example.org", "list+other"),
        ("prvs=4567abcdef=joe", "prvs=0011223344=joe"),
        ("SRS0=abcd=X1=example.com=joe", "SRS0=efgh=Y2=example.com=joe"),
        ("msprvs1=17xyz8cdefabc=bounces-2534", "msprvs1=18xyz9cdefabc=bounces-2534"),
    ],
)
def test_a_sender_that_differs_from_mail_to_mail_is_the_same(first: str, then: str) -> None:
    domain = "lists.example"
    assert plain_sender(Address(first, domain)) == plain_sender(Address(then, domain.upper()))


def test_another_sender_or_recipient_is_another_attempt() -> None:
    async def scene() -> None:
        async with door() as at:
            assert await at.knock() == "defer: first attempt"
            at.here.clock.move(MINUTE)
            assert await at.knock(recipient=Address("bob", "example.org")) == "defer: first attempt"
            assert await at.knock(sender=Address("sue", "example.net")) == "defer: first attempt"
            assert await at.knock() == "accepted: came back in time"

    run(scene())


def test_who_our_users_wrote_to_does_not_wait_but_for_forgers() -> None:
    async def scene() -> None:
        async with door({**POOL, "soft.example": "v=spf1 ~all"}) as at:
            plain, soft = Address("eve", "nospf.example"), Address("eve", "soft.example")
            at.here.gate.wrote([Address("Joe", "Example.NET"), plain, soft])
            await at.here.gate.flush()
            assert await at.knock() == "accepted: our users wrote to the sender"
            assert await at.knock("192.0.2.1", plain) == "accepted: our users wrote to the sender"
            assert await at.knock("192.0.2.1") == "defer: first attempt"
            assert await at.knock("192.0.2.1", soft) == "defer: first attempt"

    run(scene())


def test_an_account_that_expects_a_mail_gets_it_at_once_and_its_sender_gains_nothing() -> None:
    async def scene() -> None:
        async with door() as at:
            await expect(at.here.database, 7, Seconds(600), at.here.now)
            assert await at.knock(accounts=(7,)) == "accepted: the recipient expects a mail"
            assert await at.knock(accounts=(8,)) == "defer: first attempt"
            at.here.clock.move(600)
            assert await at.knock(accounts=(7,), recipient=Address("x", "y.example")) == "defer: first attempt"

    run(scene())


def _signed(domain: str, result: Result = Result.PASS) -> list[Finding]:
    return [Finding("dkim", result, domain)]


def test_a_signature_excuses_where_spf_does_not_once_the_domain_has_a_good_past() -> None:
    async def scene() -> None:
        async with door() as at:
            forwarder = "192.0.2.66"
            await at.knock(findings=_signed("example.net"))
            at.here.clock.move(MINUTE)
            assert await at.knock(findings=_signed("example.net")) == "accepted: came back in time"
            assert await at.knock(forwarder, findings=_signed("example.net")) == "accepted: first attempt"
            other = "192.0.77.66"
            assert await at.knock(other, findings=_signed("evil.example")) == "content: first attempt"
            assert (
                await at.knock(other, findings=_signed("example.net", Result.FAIL))
                == "content: came back too early"
            )

    run(scene())


def test_a_domain_that_did_not_sign_is_put_off_at_rcpt() -> None:
    async def scene() -> None:
        async with door() as at:
            await at.knock()
            at.here.clock.move(MINUTE)
            assert await at.knock() == "accepted: came back in time"
            assert await at.knock("192.0.2.66") == "defer: first attempt"

    run(scene())


def test_a_bounce_is_known_by_the_name_its_server_greets_with() -> None:
    async def scene() -> None:
        async with door({"mail.example.net": "v=spf1 ip4:198.51.100.0/24 -all"}) as at:
            assert await at.knock(sender=None) == "defer: first attempt"
            at.here.clock.move(MINUTE)
            assert await at.knock("198.51.100.99", sender=None) == "accepted: came back in time"

    run(scene())


def test_while_nobody_knows_a_policy_the_network_is_the_sender() -> None:
    async def scene() -> None:
        async with door(POOL, broken=["example.net"]) as at:
            assert await at.knock("198.51.100.7") == "defer: first attempt"
            at.here.clock.move(MINUTE)
            assert await at.knock("198.51.100.9") == "accepted: came back in time"

    run(scene())


@pytest.mark.row("GR-10")
def test_who_writes_to_a_spamtrap_is_put_off_and_black_from_then_on() -> None:
    async def scene() -> None:
        async with door() as at:
            await add_spamtraps(at.here.database, ["old@example.org"], at.here.now)
            await at.here.learn()
            assert await at.knock(recipient=Address("Old", "example.org")) == "defer: wrote to a spamtrap"
            await at.here.scan()
            assert at.here.verdict() == "black"

    run(scene())


def test_white_and_exempt_senders_are_not_asked_about() -> None:
    async def scene() -> None:
        async with door() as at:
            at.here.gate.mailed_us(SENDER)
            await at.here.scan()
            assert await at.knock() == "accepted: known at the gate"
            assert await at.knock("127.0.0.1") == "accepted: known at the gate"
            assert await grey_records(at.here.database, friendly=True) == []

    run(scene())


def test_friendly_records_are_not_spamdbs() -> None:
    async def scene() -> None:
        async with door() as at:
            await at.knock()
            at.here.clock.move(MINUTE)
            await at.knock()
            assert await grey_records(at.here.database) == []
            found = await grey_records(at.here.database, friendly=True)
            assert [(each.state.value, each.ip) for each in found] == [
                ("GOOD", "spf:example.net"),
                ("ATTEMPT", "spf:example.net"),
            ]

    run(scene())
