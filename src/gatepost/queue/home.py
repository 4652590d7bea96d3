"""Put mail into mailboxes here that had to wait (RFC 4865): what the intake does at once with all other mail.

    intake --row, due at its time--> queue --lease--> steps of the mailbox + row deleted, one unit

It was accepted, so no quota keeps it out. Where its mailbox is gone the INBOX takes it; where the account is gone,
it is tried on, as any mail that cannot be delivered now, until its lifetime ends and its sender is told.
"""

from dataclasses import dataclass
from typing import Final

from gatepost.accounts.model import AccountId
from gatepost.base.clock import Instant
from gatepost.base.envelope import Envelope
from gatepost.base.ids import Minter
from gatepost.base.reply import Code, Reply
from gatepost.codec.smtp.grammar import path_text
from gatepost.policy.action import Route, RouteKind, ToMailbox, ToRelay
from gatepost.queue.bounce import Bodies, Filed, Mailboxes
from gatepost.queue.model import QueuedMail, QueuedRecipient
from gatepost.relay.model import Fate, Result

AT_HOME: Final = Result(Fate.DELIVERED, Reply(Code.OK, "2.1.5", "in the mailbox"), said=False)
"""What the worker records of mail for a mailbox: the unit that deletes the row puts it there."""
NOT_NOW: Final = Result(
    Fate.DEFERRED, Reply(Code.LOCAL_ERROR, "4.2.0", "the mailbox cannot be written, see the log"), said=False
)


def waiting(delivery: ToMailbox, mailbox: str) -> ToRelay:
    """Return what stands in the queue for a delivery into a mailbox (by its name) that has to wait."""
    return ToRelay(delivery.recipient, Route(RouteKind.MAILBOX, mailbox, auth=str(delivery.account)))


@dataclass(frozen=True, slots=True)
class Homes:
    """Files waiting mail."""

    bodies: Bodies
    mailboxes: Mailboxes
    minter: Minter

    async def file(self, mail: QueuedMail, recipient: QueuedRecipient, now: Instant) -> Filed:
        """Return what puts a mail into its recipient's mailbox; raises what bodies and mailboxes raise."""
        route = recipient.route
        top = b"Return-Path: " + path_text(mail.sender).encode() + b"\r\n"  # RFC 5321 §4.4
        content = top + await self.bodies.get(mail.body)
        number = self.minter.mint(now)
        envelope = Envelope(number, now, mail.sender, (recipient.recipient,), declared_size=len(content))
        delivery = ToMailbox(AccountId(int(route.auth)), route.host, recipient.recipient.address)
        filed = await self.mailboxes.file(delivery, envelope, content, now)
        return Filed((*await self.bodies.put(number, content, 1), *filed.steps), filed.notices)
