"""What the intake needs of others, each as small as it is used; app binds them."""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gatepost.accounts.model import Account, AccountId
from gatepost.aio.resolve import Answer
from gatepost.allowance.allowance import Ruling
from gatepost.base.address import Address, ReversePath
from gatepost.base.clock import Clock, Instant
from gatepost.base.envelope import Client, Envelope, Recipient, Tls
from gatepost.base.ids import MailId, Minter
from gatepost.base.ports import Log
from gatepost.base.verdict import Custody, Finding, Verdict
from gatepost.blobs.spool import Spool
from gatepost.codec.mail.header import Buffer, HeaderBlock
from gatepost.db.unit import Database, Step
from gatepost.diary.story import Story
from gatepost.gate.friendly import Standing
from gatepost.intake.auth import Throttle
from gatepost.intake.etrn import Turns
from gatepost.intake.settings import IntakeSettings
from gatepost.policy.action import Delivery
from gatepost.policy.expand import Directory as Lookups
from gatepost.queue.bounce import Filed
from gatepost.queue.handover import Offer
from gatepost.store.model import Mailbox, MailboxId


class Wire(Protocol):
    """One connection; `aio.drive.Wire` is the real one."""

    peer_ip: str
    peer_port: int
    local_ip: str
    local_port: int
    tls: Tls | None
    goodbye: bytes
    courtesy: float

    async def read(self, deadline: float | None = None) -> bytes: ...
    def write(self, octets: bytes) -> None: ...
    async def drain(self, deadline: float | None = None) -> None: ...
    def start_tls(self, context: ssl.SSLContext) -> None: ...
    def close(self) -> None: ...


class Certificates(Protocol):
    """Where the TLS context of the next handshake comes from."""

    @property
    def context(self) -> ssl.SSLContext: ...


class Directory(Lookups, Protocol):
    """The accounts; `authenticate` raises Overloaded."""

    async def authenticate(self, user: str, password: bytes) -> Account | None: ...
    async def may_send_as(self, account: AccountId, address: Address) -> bool: ...


class Policy(Protocol):
    """The rules; `route` raises Refusal."""

    async def route(
        self,
        client: Client,
        envelope_sender: ReversePath,
        recipient: Address,
        *,
        directory: Lookups,
        now: Instant | None = None,
    ) -> tuple[Delivery, ...]: ...

    async def may_send_as(self, user: str, address: Address) -> bool: ...


class Gate(Protocol):
    """What the gate says of a stranger's mail at each recipient and after the dot, and what it is told."""

    async def recipient(
        self, client: Client, sender: ReversePath, recipient: Address, accounts: Sequence[int], now: Instant
    ) -> Standing: ...
    def excused(self, answers: Sequence[Standing], findings: Sequence[Finding], client: Client) -> bool: ...
    def accepted(self, answers: Sequence[Standing], findings: Sequence[Finding]) -> None: ...
    def wrote(self, recipients: Sequence[Address]) -> None: ...


class Watch(Protocol):
    """Who hears what clients do that no mail server does; `what` is the value of a Misdeed. It may ban."""

    def misbehaved(self, ip: str, what: str, now: Instant) -> None: ...


class Judge(Protocol):
    """The opinion on a whole mail."""

    async def examine(
        self, client: Client, envelope: Envelope, raw: bytes, header: HeaderBlock, now: Instant
    ) -> Verdict: ...


class Seal(Protocol):
    """DKIM signing and ARC sealing: the fields to put on top, empty where the domain has no key."""

    async def seal(
        self, fields: Sequence[tuple[bytes, bytes]], body: bytes, domain: str, now: Instant
    ) -> bytes: ...

    async def vouch(
        self, fields: Sequence[tuple[bytes, bytes]], body: bytes, domain: str, custody: Custody, now: Instant
    ) -> bytes: ...


class Bodies(Protocol):
    """Where message bodies are put; raises NoRoom, Unhealthy."""

    async def put(self, body_id: MailId, content: Buffer, uses: int) -> tuple[Step, ...]: ...


class Mailboxes(Protocol):
    """Where mail is put; `inbox` and `find` raise NoSuchMailbox."""

    async def inbox(self, account: int) -> MailboxId: ...
    async def find(self, account: int, name: str) -> Mailbox: ...
    async def usage(self, account: int) -> tuple[int, int]: ...


class Names(Protocol):
    """The DNS, as far as the name of a client needs it."""

    async def ptr(self, ip: str) -> Answer[str]: ...
    async def addresses(self, name: str) -> Answer[str]: ...


class Queue(Protocol):
    """The queue's worker in this process, which may send a mail on as soon as it is committed."""

    def offer(self, destinations: Sequence[str], size: int) -> Offer | None: ...
    def withdraw(self, offer: Offer) -> None: ...
    async def take(self, offer: Offer, steps: Sequence[Step], content: bytes) -> None: ...


class Reports(Protocol):
    """Who tells senders what they asked to be told."""

    async def delivered(
        self, envelope: Envelope, recipients: Sequence[Recipient], header: bytes, now: Instant
    ) -> Filed: ...


class Refusals(Protocol):
    """Who was refused, for what."""

    def count(self, ip: str, reason: str, now: Instant) -> None: ...
    def story(self, ip: str, story: Story, now: Instant) -> bool: ...


class Unwatched:
    """Nobody hears of it."""

    def misbehaved(self, ip: str, what: str, now: Instant) -> None:
        """Do nothing."""


Verify = Callable[[Client, Sequence[Delivery]], Awaitable[None]]
"""Raises Refusal where the next hop does not have a recipient (a backup MX)."""


class Allowance(Protocol):
    """How much an account may send."""

    async def rule(self, account: AccountId, mail: MailId, recipients: int, now: Instant) -> Ruling: ...


class Letters(Protocol):
    """Tells people, and the postmaster, once of what they must mend."""

    async def begin(self, name: str, subject: str, text: str, to: Sequence[Address] = ()) -> bool: ...


@dataclass(frozen=True, slots=True)
class Services:
    """All that a session uses. `spool` makes an empty spool; `pause` waits; `crowded` tells of stress."""

    settings: IntakeSettings
    hostname: str
    clock: Clock
    minter: Minter
    database: Database
    bodies: Bodies
    mailboxes: Mailboxes
    directory: Directory
    policy: Policy
    gate: Gate
    judge: Judge
    seal: Seal
    names: Names
    refusals: Refusals
    throttle: Throttle
    spool: Callable[[], Spool]
    certificates: Certificates | None
    log: Log
    pause: Callable[[float], Awaitable[None]]
    crowded: Callable[[], bool] = lambda: False
    watch: Watch = field(default_factory=Unwatched)
    queue: Queue | None = None
    """Without one, what was committed waits for whoever looks for it."""
    verify: Verify | None = None
    """Asked behind the gate about the recipients of strangers; without it the rules alone decide."""
    turns: Turns = field(default_factory=Turns)
    """For which nodes ETRN was said of late."""
    reports: Reports | None = None
    """Without it, nobody is told of a delivery to a mailbox."""
    allowance: Allowance | None = None
    """How much accounts may send; without it, as much as they like."""
    letters: Letters | None = None
    """Tells people of what they must mend."""
