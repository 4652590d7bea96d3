"""Send one waiting recipient's mail to another address: what the operator does with a mistyped or closed mailbox.

What the sender wished to hear (NOTIFY, ORCPT) goes along, as with any forward (RFC 3461 §5.2.7). The new address is
routed by the rules as mail of this server's own is. It is refused now or not at all.
"""

from dataclasses import dataclass, replace

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.db.unit import Database, Step, Unit, Unmet
from gatepost.diary import add
from gatepost.policy.action import ToRelay
from gatepost.policy.expand import Directory
from gatepost.policy.policy import OURSELVES, Policy
from gatepost.queue.model import pack_recipient, unpack_recipient
from gatepost.queue.sql import PACKED, REDIRECT, TOUCH
from gatepost.queue.submit import NOTICE
from gatepost.queue.verbs import NotThere, Waiting, show


class Ambiguous(ValueError):
    """The mail has several waiting recipients, and none was named."""


class NotOne(ValueError):
    """The new address does not lead to exactly one place elsewhere; the text says to what it leads."""


@dataclass(frozen=True, slots=True)
class Redirected:
    """What was changed."""

    old: str
    new: Address
    destination: str


async def redirect(
    database: Database,
    policy: Policy,
    directory: Directory,
    mail: MailId,
    new: Address,
    now: Instant,
    *,
    old: str = "",
) -> Redirected:
    """Give one recipient of a mail another address; `old` names it where there are several.

    Raises NotThere (no such recipient, or it is being sent at this moment), Ambiguous, NotOne, and Refusal where
    the rules do not let the new address.
    """
    row = _chosen(await show(database, mail), old)
    relay = await _one_relay(policy, directory, new)
    packed = await database.read(PACKED, {"mail": mail, "position": row.position})
    if not packed or not isinstance(packed[0][0], bytes):
        raise NotThere(mail)
    recipient, _ = unpack_recipient(packed[0][0])
    destination = relay.route.destination(relay.recipient)
    steps = (
        Step(TOUCH, {"mail": mail, "now": now}),
        Step(
            REDIRECT,
            {
                "mail": mail,
                "position": row.position,
                "old": row.recipient,
                "lane": destination,
                "recipient": str(relay.recipient),
                "packed": pack_recipient(replace(recipient, address=relay.recipient), relay.route),
                "now": now,
            },
        ),
        add(mail, "queue", "redirected", at=now, by="operator", recipient=row.recipient, to=str(relay.recipient)),
    )
    try:
        await database.commit(Unit(steps, (NOTICE,)))
    except Unmet:
        raise NotThere(mail) from None
    return Redirected(row.recipient, relay.recipient, destination)


def _chosen(rows: tuple[Waiting, ...], old: str) -> Waiting:
    if old:
        rows = tuple(row for row in rows if row.recipient.lower() == old.lower())
        if not rows:
            raise NotThere(old)
    elif len(rows) > 1:
        raise Ambiguous(", ".join(row.recipient for row in rows))
    return rows[0]


async def _one_relay(policy: Policy, directory: Directory, new: Address) -> ToRelay:
    deliveries = await policy.route(OURSELVES, None, new, directory=directory)
    match deliveries:
        case (ToRelay() as relay,):
            return relay
        case (_,):
            raise NotOne(f"{new} is a mailbox of this server: what waits here goes elsewhere")
    raise NotOne(f"{new} leads to {len(deliveries)} places")
