"""Tell senders what became of their mail (RFC 3461, RFC 3464, RFC 5321 §6.1).

Never a bounce about a bounce: nobody is told about mail from <>, nor about mail whose sender may be forged. A
report goes where a mail to that sender would go: into a mailbox here, or into the queue; its steps are part of the
unit that records the failure, so neither can be without the other. It holds the original's header, never its body.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gatepost.base.address import Address
from gatepost.base.clock import Instant, later
from gatepost.base.envelope import NO_WISHES, Envelope, Privacy, Recipient, Wishes
from gatepost.base.ids import MailId, Minter, id_text
from gatepost.base.ports import Log
from gatepost.base.reply import Refusal
from gatepost.blobs.bodies import Damaged, Missing
from gatepost.codec.mail.dsn import Kind as Action
from gatepost.codec.mail.dsn import Report, Reported, build
from gatepost.codec.mail.letter import build as build_letter
from gatepost.db.unit import Notice, Step
from gatepost.diary import Story, add
from gatepost.policy.action import Delivery, ToMailbox, ToRelay
from gatepost.policy.expand import Directory
from gatepost.policy.policy import OURSELVES, Policy
from gatepost.queue.model import Kind, QueuedMail
from gatepost.queue.settings import Bounces, QueueSettings, Unproven
from gatepost.queue.submit import NOTICE, submit_steps


class Bodies(Protocol):
    """What the queue needs of the bodies."""

    async def get(self, body_id: int) -> bytes:
        """Return a body; raises Missing or Damaged."""
        ...

    async def put(self, body_id: MailId, content: bytes, uses: int) -> tuple[Step, ...]:
        """Return the steps that store a body."""
        ...

    def release(self, body_id: int, uses: int = 1) -> tuple[Step, ...]:
        """Return the steps by which fewer rows use a body."""
        ...


@dataclass(frozen=True, slots=True)
class Filed:
    """What puts a mail into a mailbox: steps for the caller's unit, and the notices that go with it."""

    steps: tuple[Step, ...]
    notices: tuple[Notice, ...] = ()


class Mailboxes(Protocol):
    """Puts what the queue writes itself into mailboxes; app binds it to the store."""

    async def file(self, delivery: ToMailbox, envelope: Envelope, content: bytes, now: Instant) -> Filed:
        """Return what files a mail; its body is `envelope.id` and already has a use for this mailbox."""
        ...


class Sealer(Protocol):
    """Signs what the queue writes itself; app binds it to the judge's seal."""

    async def seal(self, content: bytes, domain: str, now: Instant) -> bytes:
        """Return header lines to put on top, perhaps none."""
        ...


class Reporter:
    """Writes reports to senders."""

    def __init__(
        self,
        settings: QueueSettings,
        bodies: Bodies,
        policy: Policy,
        directory: Directory,
        mailboxes: Mailboxes,
        sealer: Sealer,
        *,
        minter: Minter,
        hostname: str,
        postmaster: str,
        log: Log,
        unproven: Unproven = Unproven.DISCARD,
    ) -> None:
        """Make it; with `unproven` POSTMASTER that one hears of failures in place of a sender who may be forged."""
        self._unproven = unproven
        self._settings = settings
        self._bodies = bodies
        self._policy = policy
        self._directory = directory
        self._mailboxes = mailboxes
        self._sealer = sealer
        self._minter = minter
        self._hostname = hostname
        self._postmaster = postmaster
        self._log = log

    async def delivered(
        self, envelope: Envelope, recipients: Sequence[Recipient], header: bytes, now: Instant
    ) -> Filed:
        """Return what tells the sender that mailboxes here took the mail, as it wished (RFC 3461 §5.2.1).

        `header` is the mail's: its body is not stored yet. Only for a sender that cannot be forged.
        """
        mail = QueuedMail(
            envelope.id,
            envelope.id,
            envelope.received_at,
            Kind.MAIL,
            len(recipients),
            envelope.sender,
            envelope.eight_bit,
            envelope.smtputf8,
            envelope.ret,
            envelope.envid,
            returnable=True,
            wishes=envelope.wishes,
        )
        reported = tuple(Reported(each.address, "2.1.5", orcpt=each.orcpt) for each in recipients)
        return await self.report(mail, Action.DELIVERED, reported, now, now, header)

    async def report(
        self,
        mail: QueuedMail,
        action: Action,
        reported: tuple[Reported, ...],
        now: Instant,
        until: Instant,
        header: bytes | None = None,
    ) -> Filed:
        """Return what tells the sender; nothing where nobody may be told. `until`: when it is given up.

        Without a `header` it is read from the mail's body.
        """
        sender = self._addressee(mail, action)
        deliveries = None if sender is None else await self._route(mail, sender)
        if deliveries is None and self._doubles(mail, action):
            sender, deliveries = self._master, await self._route(mail, self._master)
            # In mailboxes here only: a report to the postmaster that could fail again would go in circles.
            deliveries = tuple(each for each in deliveries or () if isinstance(each, ToMailbox))
        if sender is None or not deliveries:
            return Filed(())
        number = self._minter.mint(now)
        if header is None:
            header = await self._header(mail)
        content = await self._write(mail, number, action, sender, reported, now, until, header)
        envelope = Envelope(
            number,
            now,
            None,
            (Recipient(sender),),
            eight_bit=not content.isascii(),
            declared_size=len(content),
            wishes=_alike(mail.wishes),
        )
        steps = [
            *await self._bodies.put(number, content, len(deliveries)),
            *_story(mail, number, action, sender, now),
        ]
        relays = tuple(each for each in deliveries if isinstance(each, ToRelay))
        steps += submit_steps(envelope, number, relays, now, kind=Kind.BOUNCE)
        notices = [NOTICE] if relays else []
        for each in deliveries:
            if isinstance(each, ToMailbox):
                filed = await self._mailboxes.file(each, envelope, content, now)
                steps += filed.steps
                notices += filed.notices
        self._log.info("report_written", message=id_text(number), about=id_text(mail.id), action=action.value)
        return Filed(tuple(steps), tuple(notices))

    @property
    def postmaster(self) -> Address:
        """Return who hears of what nobody else can mend."""
        return self._master

    async def letter(self, to: Address, subject: str, text: str, now: Instant) -> Filed:
        """Return what puts a letter of this server into the mailboxes here that `to` leads to, perhaps none."""
        try:
            deliveries = await self._policy.route(OURSELVES, None, to, directory=self._directory)
        except Refusal as refusal:
            self._log.warning("letter_undeliverable", to=str(to), subject=subject, reason=str(refusal))
            return Filed(())
        boxes = tuple(each for each in deliveries if isinstance(each, ToMailbox))
        if not boxes:
            self._log.warning("letter_undeliverable", to=str(to), subject=subject, reason="no mailbox here")
            return Filed(())
        number = self._minter.mint(now)
        content = build_letter(number, to, subject, text, self._hostname, now)
        content = await self._sealer.seal(content, self._hostname, now) + content
        envelope = Envelope(
            number, now, None, (Recipient(to),), eight_bit=not content.isascii(), declared_size=len(content)
        )
        story = Story(number)
        story.for_recipient(to)
        story.tell("queue", "letter", at=now, to=str(to), subject=subject)
        steps = [*await self._bodies.put(number, content, len(boxes)), *story.steps()]
        notices: list[Notice] = []
        for each in boxes:
            filed = await self._mailboxes.file(each, envelope, content, now)
            steps += filed.steps
            notices += filed.notices
        return Filed(tuple(steps), tuple(notices))

    async def mail(self, to: Address, domain: str, write: Callable[[MailId], bytes], now: Instant) -> Filed:
        """Return what sends a mail of this server to anybody, signed for `domain`; nothing where no rule lets it.

        It has no reverse-path, so nothing comes back; domains' TLS policies do not hold it up (RFC 8689 §3).
        """
        try:
            deliveries = await self._policy.route(OURSELVES, None, to, directory=self._directory)
        except Refusal as refusal:
            self._log.warning("letter_undeliverable", to=str(to), reason=str(refusal))
            return Filed(())
        number = self._minter.mint(now)
        content = write(number)
        content = await self._sealer.seal(content, domain, now) + content
        wishes = Wishes(Privacy.WAIVED)
        envelope = Envelope(number, now, None, (Recipient(to),), declared_size=len(content), wishes=wishes)
        story = Story(number)
        story.for_recipient(to)
        story.tell("queue", "letter", at=now, to=str(to))
        relays = tuple(each for each in deliveries if isinstance(each, ToRelay))
        steps = [*await self._bodies.put(number, content, len(deliveries)), *story.steps()]
        steps += submit_steps(envelope, number, relays, now, size=len(content))
        notices = [NOTICE] if relays else []
        for each in deliveries:
            if isinstance(each, ToMailbox):
                filed = await self._mailboxes.file(each, envelope, content, now)
                steps += filed.steps
                notices += filed.notices
        return Filed(tuple(steps), tuple(notices))

    def _addressee(self, mail: QueuedMail, action: Action) -> Address | None:
        if mail.sender is None or mail.kind is Kind.BOUNCE:  # RFC 5321 §6.1
            self._log.warning("double_bounce", message=id_text(mail.id), action=action.value)
            return None
        if not mail.returnable and self._unproven is Unproven.POSTMASTER and action is Action.FAILED:
            return self._master
        if not mail.returnable:
            self._log.warning("sender_unproven_not_told", message=id_text(mail.id), sender=str(mail.sender))
            return None
        return mail.sender

    @property
    def _master(self) -> Address:
        local, _, domain = self._postmaster.rpartition("@")
        return Address(local, domain)

    def _doubles(self, mail: QueuedMail, action: Action) -> bool:
        """Tell whether the postmaster hears of a failure of which the sender cannot hear."""
        ours = mail.kind is Kind.BOUNCE or (mail.sender is not None and mail.returnable)
        return ours and action is Action.FAILED and self._settings.double_bounces

    async def _route(self, mail: QueuedMail, sender: Address) -> tuple[Delivery, ...] | None:
        """Return where a report goes, nowhere where the settings say so; None where the rules do not let it."""
        try:
            deliveries = await self._policy.route(OURSELVES, None, sender, directory=self._directory)
        except Refusal as refusal:
            self._log.warning("no_return_path", message=id_text(mail.id), sender=str(sender), reason=str(refusal))
            return None
        if self._settings.bounces is Bounces.LOCAL:
            return tuple(each for each in deliveries if isinstance(each, ToMailbox))
        return deliveries

    async def _write(
        self,
        mail: QueuedMail,
        number: MailId,
        action: Action,
        sender: Address,
        reported: tuple[Reported, ...],
        now: Instant,
        until: Instant,
        header: bytes,
    ) -> bytes:
        report = Report(
            id=number,
            kind=action,
            to=sender,
            reported=reported,
            hostname=self._hostname,
            postmaster=self._postmaster,
            now=now,
            arrived_at=mail.created,
            mail_id=mail.id,
            envid=mail.envid,
            retry_until=until if action is Action.DELAYED else None,
            deliver_by=None if mail.wishes.by is None else mail.wishes.by.at,
        )
        content = build(report, header)
        return await self._sealer.seal(content, self._hostname, now) + content

    async def _header(self, mail: QueuedMail) -> bytes:
        try:
            content = await self._bodies.get(mail.body)
        except (Missing, Damaged) as wrong:
            self._log.error("body_lost", message=id_text(mail.id), problem=str(wrong))
            return b""
        end = content.find(b"\r\n\r\n")
        return content if end < 0 else content[: end + 2]


def _alike(wishes: Wishes) -> Wishes:
    """Return what a report wishes: to be as urgent as the mail, and as well protected (RFC 8689 §5)."""
    if wishes is NO_WISHES:
        return NO_WISHES
    return Wishes(wishes.privacy if wishes.privacy is Privacy.REQUIRED else Privacy.USUAL, wishes.priority)


def _story(mail: QueuedMail, number: MailId, action: Action, sender: Address, now: Instant) -> tuple[Step, ...]:
    """Return the steps that begin the report's story and tell of it in the mail's."""
    story = Story(number)
    story.for_recipient(sender)
    story.tell("queue", "report", at=now, to=str(sender), about=id_text(mail.id), action=action.value)
    line = add(mail.id, "queue", "sender_told", at=now, to=str(sender), action=action.value, report=id_text(number))
    return *story.steps(), line


def gives_up_at(mail: QueuedMail, lifetime: int) -> Instant:
    """Return when a mail's lifetime ends."""
    return later(mail.begins, lifetime)
