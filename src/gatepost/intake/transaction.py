"""One mail while it comes in: its envelope, what becomes of each recipient, and the body so far."""

from dataclasses import dataclass, field

from gatepost.base.address import Address, ReversePath, fold
from gatepost.base.clock import Instant, seconds
from gatepost.base.envelope import NO_WISHES, DeliverBy, Envelope, Privacy, Recipient, Wishes
from gatepost.base.ids import MailId
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.blobs.spool import Spool
from gatepost.codec.smtp.grammar import Mail, Rcpt
from gatepost.codec.smtp.wishes import Asked
from gatepost.gate.friendly import Standing
from gatepost.policy.action import Delivery


@dataclass(frozen=True, slots=True)
class Accepted:
    """One recipient that was taken, and where its mail goes."""

    recipient: Recipient
    deliveries: tuple[Delivery, ...]

    @property
    def role(self) -> bool:
        """Tell whether it is an address that every domain must answer (RFC 5321 §4.5.1, RFC 2142 §5)."""
        return is_role(self.recipient.address)


@dataclass(slots=True)
class Transaction:
    """What MAIL, RCPT and the body have brought so far. `refusal` is why the body will be refused at its end."""

    id: MailId
    begun_at: Instant
    mail: Mail
    accepted: list[Accepted] = field(default_factory=list)
    answers: list[Standing] = field(default_factory=list)
    """What the gate said of those that were accepted."""
    spool: Spool | None = None
    refusal: Refusal | None = None
    wishes: Wishes = NO_WISHES

    @property
    def sender(self) -> ReversePath:
        """Return the reverse-path."""
        return self.mail.sender

    def take(self, rcpt: Rcpt, deliveries: tuple[Delivery, ...]) -> None:
        """Add a recipient."""
        recipient = Recipient(rcpt.address, notify=rcpt.notify, orcpt=rcpt.orcpt)
        self.accepted.append(Accepted(recipient, deliveries))

    def envelope(self) -> Envelope:
        """Return the envelope as it stands now."""
        mail = self.mail
        return Envelope(
            id=self.id,
            received_at=self.begun_at,
            sender=mail.sender,
            recipients=tuple(each.recipient for each in self.accepted),
            eight_bit=mail.eight_bit,
            smtputf8=mail.smtputf8,
            declared_size=mail.size,
            ret=mail.ret,
            envid=mail.envid,
            wishes=self.wishes,
        )

    def told(self, reply: Reply) -> Reply:
        """Return what is said to a mail that was taken; also where it is less urgent than asked (RFC 6710)."""
        asked, priority = self.mail.asked, self.wishes.priority
        if asked is None or asked.priority in (None, priority):
            return reply
        text = f"{priority} is the new priority assigned to the message; {reply.text}"
        return Reply(reply.code, "2.3.6", text)

    def close(self) -> None:
        """Let the body go."""
        if self.spool is not None:
            self.spool.close()
            self.spool = None


def granted(asked: Asked, now: Instant, *, max_priority: int, longest: float) -> Wishes:
    """Return what a mail gets of what its MAIL asked for at `now`; raises Refusal.

    `longest`: seconds that it may be held back.
    """
    by, release = asked.by, Instant(0)
    if asked.holds:
        release = asked.hold_until or Instant(now + seconds(asked.hold_for))
        if not now < release <= now + seconds(longest):
            text = f"Mail is held back for {int(longest)} s at most, and not until what is past"
            raise Refusal(Reply(Code.ARGUMENTS, "5.5.4", text))
        if by is not None and now + seconds(by.seconds) <= release:
            raise Refusal(Reply(Code.ARGUMENTS, "5.5.4", "It would be released after the time of BY"))
    return Wishes(
        Privacy.REQUIRED if asked.requiretls else Privacy.USUAL,
        0 if asked.priority is None else min(asked.priority, max_priority),
        None if by is None else DeliverBy(Instant(now + seconds(by.seconds)), by.returns, by.trace),
        release,
    )


def is_role(address: Address) -> bool:
    """Tell whether it is postmaster or abuse."""
    return fold(address.local) in ("postmaster", "abuse")
