"""Greylisting that people do not hate: who is one sender, who need not wait, and when a retry counts.

    identity of a contact: where SPF passes, the domain whose words name the host (that of a provider, where the
        sender's policy includes one); else the announced prefix; else its /24 or /64
    nothing --first attempt--> ATTEMPT (identity, sender, recipient) --a retry after pass_time--> GOOD (identity)
    ATTEMPT and nothing more until grey_time --> nothing; an early retry never makes it last longer
    GOOD and no mail for white_time --> nothing

A contact passes at once when its identity is GOOD, when our users wrote to the sender, or when a recipient expects
a mail. Where a domain is GOOD but SPF does not vouch for this host (a forwarder), the body is taken and a DKIM
signature of that domain excuses it after the dot. The retry that counts is accepted itself; the scan has no part in
this. What is learnt goes to the backlog, what is asked is one read: gate.db is the memory that all workers share.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gatepost.base.address import Address, ReversePath, fold, fold_domain
from gatepost.base.clock import MICROSECONDS, Instant, later
from gatepost.base.envelope import Client
from gatepost.base.ids import MailId, id_text
from gatepost.base.ports import News
from gatepost.base.reply import Code, Reply
from gatepost.base.units import Seconds
from gatepost.base.verdict import Finding, Result
from gatepost.codec.spf import parse_ip
from gatepost.db.unit import Database, Row, Step, Value
from gatepost.gate import sql
from gatepost.gate.backlog import Backlog
from gatepost.gate.grey import Kind, Record, digest, net
from gatepost.gate.prefix import NET_LENGTHS, SENDER_LENGTHS, Prefix, cut, number_of
from gatepost.gate.settings import FriendlySettings
from gatepost.gate.steps import offer_step
from gatepost.judge import spf

NONE: Final = digest(b"")  # of a question that is not asked: no record has it
KNOWN_MAX: Final = 10_000  # SPF results that are remembered for the next recipients and mails of a connection
NETWORK_LENGTHS: Final = {4: NET_LENGTHS[4], 6: SENDER_LENGTHS[6]}

_TAG: Final = re.compile(r"^(?:prvs=[^=/]*[=/]|srs[01][=+-].*)")  # BATV, SRS: other at each mail
_NUMBER: Final = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")

Cover = Callable[[int, int], Prefix | None]
"""The announced prefix around an address; None where nobody announces one that we know of."""


class Say(Enum):
    """What becomes of a recipient."""

    PASS = "pass"  # noqa: S105  (a word, not a password)
    DEFER = "defer"
    CONTENT = "content"
    """Take the body: a signature may excuse it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the gate says of one recipient of a stranger's mail, and why.

    `identity` is who the sender is held to be, `domain` that of its address, which a signature may vouch for.
    """

    say: Say
    why: str
    identity: str = ""
    domain: str = ""
    attempt: Step | None = None
    """What is remembered where nothing excuses it."""
    remembers: bool = True
    """Whether an accepted mail speaks for the identity."""
    wait: Seconds = Seconds(0)

    def reply(self, message: MailId) -> Reply:
        """Return what the sender is told: 451 with the id under which the story is found."""
        minutes = max(1, -(-int(self.wait) // 60))
        unit = "minute" if minutes == 1 else "minutes"
        return Reply(
            Code.LOCAL_ERROR, "4.7.1", f"{id_text(message)} Greylisted, please try again in {minutes} {unit}"
        )


PASSES: Final = Standing(Say.PASS, "known at the gate")


class Friendly:
    """The friendly greylist of one worker."""

    def __init__(
        self, settings: FriendlySettings, database: Database, backlog: Backlog, names: spf.Names | None, news: News
    ) -> None:
        self.settings = settings
        self._database = database
        self._backlog = backlog
        self._names = names
        self._news = news
        self._vouched: dict[tuple[str, str], spf.Outcome] = {}
        self._lasting: dict[bytes, tuple[Kind, str, int]] = {}

    async def ask(
        self,
        client: Client,
        sender: ReversePath,
        recipient: Address,
        accounts: Sequence[int],
        now: Instant,
        cover: Cover,
    ) -> Standing:
        """Say what becomes of one recipient; raises Unhealthy. Of who passes only `accepted` learns."""
        domain, vouched = await self._vouch(client, sender)
        by = fold_domain(vouched.by)
        identity = f"spf:{by}" if by and vouched.result is Result.PASS else network_of(client.ip, cover)
        attempt = attempt_key(identity, sender, recipient)
        forged = sender is None or vouched.result in (Result.FAIL, Result.SOFTFAIL)
        found = await self._found(
            attempt=attempt,
            good=_key(Kind.GOOD, identity),
            signed=_key(Kind.GOOD, f"dkim:{domain}"),
            wrote=b"" if forged else _key(Kind.WROTE, fold(str(sender))),
            expected=_key(Kind.EXPECTED, str(accounts[0])) if accounts else b"",
            now=now,
        )
        return self._answer(client, identity, domain, attempt, found, now)

    async def _found(self, *, now: Instant, **keys: bytes) -> dict[str, Row]:
        """Return the rows of those keys that have one."""
        digests = {name: digest(key) if key else NONE for name, key in keys.items()}
        rows = await self._database.read(sql.ASK, {**digests, "now": now})
        by_digest = {row[0]: row for row in rows}
        return {name: by_digest[each] for name, each in digests.items() if each in by_digest}

    def _answer(
        self, client: Client, identity: str, domain: str, attempt: bytes, found: dict[str, Row], now: Instant
    ) -> Standing:
        settings, vouched = self.settings, identity.startswith("spf:")
        for name, why in _EXCUSES.items():
            if name in found:
                remembers = name == "good" or (name == "wrote" and vouched)
                return Standing(Say.PASS, why, identity, domain, remembers=remembers)
        step = self._attempt_step(client, identity, attempt, now)
        say = Say.CONTENT if "signed" in found and not vouched else Say.DEFER
        if "attempt" not in found:
            return Standing(say, "first attempt", identity, domain, step, wait=settings.pass_time)
        first = found["attempt"][2]
        assert isinstance(first, int)
        left = first + self._micro(settings.pass_time) - now
        if left <= 0:
            return Standing(Say.PASS, "came back in time", identity, domain, step)
        return Standing(say, "came back too early", identity, domain, step, wait=Seconds(left / MICROSECONDS))

    def _attempt_step(self, client: Client, identity: str, attempt: bytes, now: Instant) -> Step:
        expires = later(now, self._micro(self.settings.grey_time))
        record = Record(attempt, Kind.ATTEMPT, identity, now, expires, expires)
        return offer_step(record, now, self._micro(self.settings.pass_time), net(client.ip), sql.ATTEMPT)

    def deferred(self, answer: Standing, client: Client) -> None:
        """Remember an attempt that was put off."""
        assert answer.attempt is not None
        self._backlog.learn(answer.attempt)
        self._backlog.offered(net(client.ip))
        self._tell(answer.attempt)

    def excused(self, answers: Sequence[Standing], findings: Sequence[Finding]) -> bool:
        """Tell whether a verified signature excuses those that were put off until the content is known."""
        signers = signed_by(findings)
        return all(answer.say is not Say.CONTENT or under(answer.domain, signers) for answer in answers)

    def accepted(self, answers: Sequence[Standing], findings: Sequence[Finding]) -> None:
        """Remember well who had a mail accepted: its identity, and the domain of the sender where it signed."""
        signers = signed_by(findings)
        for answer in answers:
            if not answer.identity or not answer.remembers:
                continue
            if answer.attempt is not None:
                self._backlog.learn(answer.attempt)
                self._tell(answer.attempt)
            self._last(Kind.GOOD, answer.identity)
            if under(answer.domain, signers):
                self._last(Kind.GOOD, f"dkim:{answer.domain}")

    def wrote(self, recipients: Sequence[Address]) -> None:
        """Our users wrote to these: their answers do not wait."""
        for recipient in recipients:
            self._last(Kind.WROTE, fold(str(recipient)))

    def learn_lasting(self, now: Instant) -> None:
        """Hand what was remembered well to the backlog, each record once."""
        lasting, self._lasting = self._lasting, {}
        expires = later(now, self._micro(self.settings.white_time))
        for key, (kind, name, times) in lasting.items():
            self._backlog.learn(lasting_step(key, kind, name, times, now, expires))
            self._news.changed(digest(key))

    def _last(self, kind: Kind, name: str) -> None:
        key = _key(kind, name)
        before = self._lasting.get(key)
        self._lasting[key] = (kind, name, before[2] + 1 if before else 1)

    def _tell(self, step: Step) -> None:
        known = step.params["digest"]
        assert isinstance(known, bytes)
        self._news.changed(known)

    async def _vouch(self, client: Client, sender: ReversePath) -> tuple[str, spf.Outcome]:
        """Return the sender's domain, and what SPF says of this host's sending for it."""
        helo = fold_domain(client.helo)
        domain = fold_domain(sender.domain) if sender is not None else helo
        if self._names is None or not domain:
            return domain, spf.Outcome(Result.NONE)
        key = client.ip, domain
        known = self._vouched.get(key)
        if known is not None:
            return domain, known
        local = sender.local if sender is not None else "postmaster"
        try:
            async with asyncio.timeout(self.settings.identity_time):
                outcome = await spf.check_host(self._names, parse_ip(client.ip), local, domain, helo)
        except TimeoutError:
            return domain, spf.Outcome(Result.TEMPERROR)
        if outcome.result is not Result.TEMPERROR:
            if len(self._vouched) >= KNOWN_MAX:
                self._vouched.clear()
            self._vouched[key] = outcome
        return domain, outcome

    def _micro(self, length: Seconds) -> int:
        return int(length * MICROSECONDS / self.settings.scale)


_EXCUSES: Final = {
    "expected": "the recipient expects a mail",
    "good": "a good past",
    "wrote": "our users wrote to the sender",
}


def network_of(ip: str, cover: Cover) -> str:
    """Return who a client is where only its address speaks: the announced prefix, else its /24 or /64."""
    version, number = number_of(ip)
    announced = cover(version, number)
    return "net:" + (announced or cut(version, number, NETWORK_LENGTHS[version])).text


def attempt_key(identity: str, sender: ReversePath, recipient: Address) -> bytes:
    """Return the key of an attempt: its identity, the sender as it is at each mail of a list, the recipient."""
    who = plain_sender(sender) if sender is not None else "<>"
    return b"\n".join(word.encode() for word in ("attempt", identity, who, fold(str(recipient))))


def plain_sender(sender: Address) -> str:
    """Return a sender without what changes from mail to mail: tags, numbers, what follows a + (VERP, BATV, SRS).

    `bounce-1234-ann=example.org@list.example` is `bounce-#-ann=example.org@list.example` at each mail.
    """
    local = _TAG.sub("", fold(sender.local)).partition("+")[0]
    return f"{_NUMBER.sub('#', local)}@{fold_domain(sender.domain)}"


def signed_by(findings: Sequence[Finding]) -> frozenset[str]:
    """Return the domains whose DKIM signature of a mail verified."""
    return frozenset(
        fold_domain(each.domain) for each in findings if each.method == "dkim" and each.result is Result.PASS
    )


def under(domain: str, signers: frozenset[str]) -> bool:
    """Tell whether a domain is one of the signers', or lies below one that is no top-level domain."""
    return any(domain == each or (domain.endswith("." + each) and "." in each) for each in signers)


def expected_step(account: int, until: Instant, now: Instant) -> Step:
    """Return the step by which an account expects mail until then (`gatepost gate expect`)."""
    name = str(account)
    return lasting_step(_key(Kind.EXPECTED, name), Kind.EXPECTED, name, 1, now, until)


def lasting_step(key: bytes, kind: Kind, name: str, times: int, now: Instant, expires: Instant) -> Step:
    """Return the step that makes a record, or makes it last longer, after `times` mails."""
    params: dict[str, Value] = {
        "digest": digest(key),
        "key": key,
        "kind": kind.value,
        "ip": name,
        "net": "",
        "now": now,
        "expire": expires,
        "times": times,
    }
    return Step(sql.WHITEN_FRIEND, params)


def _key(kind: Kind, name: str) -> bytes:
    return b"%b\n%b" % (kind.name.lower().encode(), name.encode("utf-8", "replace"))
