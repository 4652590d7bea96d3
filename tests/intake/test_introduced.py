"""Who is seen by whom when a filter says XFORWARD or a proxy XCLIENT: judge, trace, story, rules, rates."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from gatepost.base.address import Address, ReversePath
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client, Envelope
from gatepost.base.ids import MailId
from gatepost.base.verdict import Action, Verdict
from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.smtp.xforward import Forwarded
from gatepost.db.unit import Statement
from gatepost.intake import mx
from gatepost.intake.introduced import introduction_of
from gatepost.policy.action import Delivery
from gatepost.policy.expand import Directory
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.settings import ActionSettings, Do, PolicySettings, RuleSettings
from gatepost.queue.model import unpack_mail, unpack_recipient
from tests.intake.world import Talk, World, world
from tests.support.loop import run
from tests.support.transcript import MemoryPeer, Transcript, named, play, transcripts
from tests.support.wire import MemoryWire

ALL = transcripts(Path(__file__).parent.parent / "transcripts" / "xforward")
MAIL = b"From: a@sender.example\r\nSubject: hello\r\n\r\nbody\r\n"
FILTER = "192.0.2.1"
TRUE = "198.51.100.7"


@dataclass
class Witnesses:
    """A judge and a policy that remember whom they were shown."""

    policy: Policy
    judged: list[Client] = field(default_factory=list)
    ruled: list[Client] = field(default_factory=list)

    async def examine(
        self, client: Client, envelope: Envelope, raw: bytes, header: HeaderBlock, now: Instant
    ) -> Verdict:
        """Accept it."""
        self.judged.append(client)
        return Verdict(Action.ACCEPT)

    async def may_send_as(self, user: str, address: Address) -> bool:
        """Let nobody."""
        return False

    async def route(
        self,
        client: Client,
        envelope_sender: ReversePath,
        recipient: Address,
        *,
        directory: Directory,
        now: Instant | None = None,
    ) -> tuple[Delivery, ...]:
        """Ask the real one."""
        self.ruled.append(client)
        return await self.policy.route(client, envelope_sender, recipient, directory=directory, now=now)


def watched(here: World, rules: PolicySettings | None = None) -> Witnesses:
    """Put witnesses into a world."""
    policy = here.services.policy if rules is None else Policy(rules, load(rules))
    assert isinstance(policy, Policy)
    seen = Witnesses(policy)
    here.services = replace(here.services, judge=seen, policy=seen)
    return seen


@pytest.mark.parametrize("transcript", ALL, ids=named(ALL))
@pytest.mark.parametrize("octets_at_once", [1 << 20, 1])
def test_a_transcript_whole_and_octet_by_octet(transcript: Transcript, octets_at_once: int) -> None:
    async def scene() -> None:
        async with world(**{transcript.facts["allow"]: ("192.0.2.0/24",)}) as here, asyncio.TaskGroup() as group:
            wire = MemoryWire(here.clock)
            group.create_task(mx.serve(wire, here.services))
            try:
                await play(transcript, MemoryPeer(wire), octets_at_once=octets_at_once)
            finally:
                wire.hang_up()
            assert here.log.events("intake_failed") == []

    run(scene())


def test_xforward_tells_judge_trace_and_story_but_rules_and_rates_see_the_filter() -> None:
    async def scene() -> None:
        async with world(xforward=(f"{FILTER}/32",)) as here:
            seen = watched(here)
            async with here.client(ip=FILTER) as talk:
                told = f"XFORWARD NAME=client.example ADDR={TRUE} PORT=4711 PROTO=SMTP HELO=true.example IDENT=abc"
                assert await talk.say(told) == ["250 2.0.0"]
                assert await talk.mail(MAIL) == "250 2.0.0"
                assert [(each.ip, each.helo, each.rdns) for each in seen.judged] == [
                    (TRUE, "true.example", "client.example")
                ]
                assert [(each.ip, each.helo) for each in seen.ruled] == [(FILTER, "client.example")]
                (stored,) = await here.mails("bob")
                assert f"Received: from true.example (client.example [{TRUE}])\r\n".encode() in stored
                assert b"with SMTP id" in stored
                assert f"\t(handed on by {FILTER})\r\n".encode() in stored
                # it was for that mail alone
                assert await talk.mail(MAIL) == "250 2.0.0"
                assert seen.judged[-1].ip == FILTER

    run(scene())


@pytest.mark.parametrize("forget", ["RSET", "EHLO filter.example"])
def test_what_xforward_said_is_forgotten_with_the_session(forget: str) -> None:
    async def scene() -> None:
        async with world(xforward=("192.0.2.0/24",)) as here:
            seen = watched(here)
            async with here.client(ip=FILTER) as talk:
                assert await talk.say(f"XFORWARD ADDR={TRUE}", forget) == [
                    "250 2.0.0",
                    "250 2.0.0"[: 9 if forget == "RSET" else 3],
                ]
                assert await talk.mail(MAIL) == "250 2.0.0"
                assert seen.judged[-1].ip == FILTER

    run(scene())


def test_without_an_address_or_from_its_own_users_the_filter_stays_the_client() -> None:
    async def scene() -> None:
        async with world(xforward=("192.0.2.0/24",)) as here:
            seen = watched(here)
            async with here.client(ip=FILTER) as talk:
                for told in ("XFORWARD NAME=client.example HELO=x", f"XFORWARD ADDR={TRUE} SOURCE=LOCAL IDENT=abc"):
                    assert await talk.say(told) == ["250 2.0.0"]
                    assert await talk.mail(MAIL) == "250 2.0.0"
                    assert seen.judged[-1].ip == FILTER
                assert seen.judged[-1].ident == "abc"

    run(scene())


def test_xclient_replaces_the_client_for_everybody() -> None:
    async def scene() -> None:
        async with world(xclient=(f"{FILTER}/32",), mails_per_minute=1) as here:
            seen = watched(here)
            async with here.client(ip=FILTER) as talk:
                for last in (7, 8):
                    hello = f"XCLIENT ADDR=198.51.100.{last} NAME=[UNAVAILABLE]", "EHLO c.example"
                    assert await talk.say(*hello) == ["220", "250"]
                    assert await talk.mail(MAIL) == "250 2.0.0"  # rates are of the client, not of the proxy
                    assert await talk.say("MAIL FROM:<a@sender.example>") == ["450 4.7.1"]
                assert {each.ip for each in seen.ruled} == {TRUE, "198.51.100.8"}
                assert {each.via for each in seen.judged} == {FILTER}
                assert f"from c.example (unknown [{TRUE}])".encode() in (await here.mails("bob"))[0]

    run(scene())


@pytest.mark.parametrize("tag", ["", "SPAM_IN"])
def test_a_proxy_on_this_machine_makes_nobody_local_but_on_the_way_back_from_a_filter(tag: str) -> None:
    rules = PolicySettings(
        actions={"out": ActionSettings(Do.RELAY)}, rules=(RuleSettings({"from": "local", "for": "any"}, "out"),)
    )

    async def scene() -> None:
        async with world(xclient=("127.0.0.1/32",)) as here, asyncio.TaskGroup() as group:
            watched(here, rules)
            wire = MemoryWire(here.clock, peer_ip="127.0.0.1")
            group.create_task(mx.serve(wire, here.services, tag=tag))
            talk = Talk(wire, here.clock)
            await talk.hear()
            said = await talk.say(
                f"XCLIENT ADDR={TRUE}", "EHLO c", "MAIL FROM:<a@s.example>", "RCPT TO:<x@far.example>"
            )
            assert said[-1] == ("250 2.1.5" if tag else "550 5.7.1"), said
            wire.hang_up()

    run(scene())


def test_a_login_that_the_proxy_vouches_for_is_one() -> None:
    own = MAIL.replace(b"a@sender", b"bob@here")

    async def scene() -> None:
        settings = {"xclient": ("192.0.2.0/24",)}
        async with world(**settings) as here, here.client("submission", ip=FILTER, tls=True) as talk:
            assert await talk.say(f"XCLIENT ADDR={TRUE} LOGIN=bob@here.example", "EHLO c") == ["220", "250"]
            assert await talk.mail(own, "<bob@here.example>", "x@far.example") == "250 2.0.0"
            assert await here.queued() == ["x@far.example"]
            said = await talk.say("XCLIENT ADDR=198.51.100.8", "EHLO c", "MAIL FROM:<bob@here.example>")
            assert said == ["220", "250", "530 5.7.0"]  # another client is not bob

    run(scene())


def test_what_follows_xclient_in_one_group_was_said_by_somebody_else() -> None:
    async def scene() -> None:
        async with world(xclient=("192.0.2.0/24",)) as here, here.client(ip=FILTER) as talk:
            said = await talk.send(b"XCLIENT ADDR=198.51.100.7\r\nEHLO client.example\r\n")
            assert said.startswith(b"554 5.5.0")  # as after STARTTLS (CVE-2011-0411)
            assert talk.wire.closed

    run(scene())


def test_starttls_forgets_what_was_forwarded() -> None:
    async def scene() -> None:
        async with world(xforward=("192.0.2.0/24",)) as here:
            seen = watched(here)
            async with here.client(ip=FILTER) as talk:
                assert await talk.say(f"XFORWARD ADDR={TRUE}", "STARTTLS") == ["250 2.0.0", "220 2.0.0"]
                assert await talk.say("EHLO filter.example") == ["250"]
                assert await talk.mail(MAIL) == "250 2.0.0"
                assert seen.judged[-1].ip == FILTER

    run(scene())


def test_the_queue_keeps_the_client_for_routes_that_tell_of_it_and_for_no_other() -> None:
    async def queued(*, xforward: bool) -> tuple[Forwarded | None, bool]:
        action = ActionSettings(Do.RELAY, host="127.0.0.1", port=10025, xforward=xforward)
        rules = PolicySettings(actions={"on": action}, rules=(RuleSettings({"from": "any", "for": "any"}, "on"),))
        async with world() as here:
            watched(here, rules)
            async with here.client() as talk:
                assert await talk.mail(MAIL, "<a@s.example>", "x@far.example") == "250 2.0.0"
            statement = Statement("t.q", "SELECT m.packed, r.packed, m.id FROM queue_mail m, queue_rcpt r")
            ((mail, recipient, name),) = await here.database.read(statement, {})
            assert isinstance(mail, bytes)
            assert isinstance(recipient, bytes)
            assert isinstance(name, int)
            found = unpack_mail(MailId(name), 0, 0, 0, 1, mail)
            shown = found.client
            if shown is not None:
                assert shown.ident
                shown = replace(shown, ident="")
            return shown, unpack_recipient(recipient)[1].xforward

    client = Client(
        "192.0.2.9", 40000, "192.0.2.1", 25, "mx", helo="client.example", esmtp=True, rdns="client.example"
    )
    told, route = run(queued(xforward=True))
    assert route
    assert told is not None
    assert told == replace(introduction_of(client, MailId(1)), ident="", port=told.port)
    assert run(queued(xforward=False)) == (None, False)


def test_rows_of_an_earlier_version_are_read() -> None:
    recipient = ["x", "far.example", None, "", ("host", "127.0.0.1", 10025, "none", False, "", "", "", False)]
    assert not unpack_recipient(msgspec.msgpack.encode(recipient))[1].xforward
    mail = [None, False, False, "", "", True, 5]
    assert unpack_mail(MailId(1), 0, 0, 0, 1, msgspec.msgpack.encode(mail)).client is None
