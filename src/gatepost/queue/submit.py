"""Take a mail into the queue: steps that belong into the unit which accepts it."""

from collections.abc import Sequence
from typing import Final

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.envelope import Envelope, Recipient
from gatepost.base.ids import MailId
from gatepost.codec.smtp.xforward import Forwarded
from gatepost.db.unit import Notice, Step
from gatepost.policy.action import ToRelay
from gatepost.queue.handover import Offer
from gatepost.queue.model import Kind, pack_mail, pack_recipient
from gatepost.queue.sql import ADD_MAIL, ADD_RCPT, HOLD_NEW, NEVER

NOTICE: Final = Notice("queue")
"""Goes with every unit that has `submit_steps`, so that a worker looks at once."""


def submit_steps(
    envelope: Envelope,
    body: MailId,
    relays: Sequence[ToRelay],
    now: Instant,
    *,
    origins: Sequence[Recipient] | None = None,
    kind: Kind = Kind.MAIL,
    returnable: bool = True,
    size: int = 0,
    offer: Offer | None = None,
    client: Forwarded | None = None,
) -> tuple[Step, ...]:
    """Return the steps that queue a mail for `relays`: one for the mail, one for each of them.

    The body must get one use for each relay (`blobs.put(..., uses=mailboxes + len(relays))`). `origins` are, for
    each relay, the recipient it was expanded from: its DSN wishes go along (RFC 3461 §5.2.7); without them each
    relay is looked for among the envelope's recipients. `returnable` False: the sender may be forged and is never
    told anything. The envelope's id names the queued mail; one id is queued once. With a worker's `offer` the rows
    are leased by it already, and it is for the caller to let it `take` them after the commit.
    Routes with `xforward` tell the next hop of `client`.
    """
    if not relays:
        return ()
    if origins is None:
        origins = tuple(_origin(envelope, relay.recipient) for relay in relays)
    sender = "" if envelope.sender is None else envelope.sender.key
    mail = Step(
        ADD_MAIL,
        {
            "id": envelope.id,
            "body": body,
            "now": now,
            "kind": int(kind),
            "recipients": len(relays),
            "sender": sender,
            "packed": pack_mail(
                envelope,
                returnable=returnable,
                size=size or envelope.declared_size,
                client=client if any(relay.route.xforward for relay in relays) else None,
            ),
        },
    )
    rows = (
        _recipient_step(envelope, position, relay, origin, now, offer)
        for position, (relay, origin) in enumerate(zip(relays, origins, strict=True))
    )
    return mail, *rows


def hold_step(mail: MailId, why: str) -> Step:
    """Return the step that holds a mail, in the unit that takes it in; without an offer of a worker."""
    return Step(HOLD_NEW, {"mail": mail, "never": NEVER, "error": why})


def _recipient_step(
    envelope: Envelope, position: int, relay: ToRelay, origin: Recipient, now: Instant, offer: Offer | None
) -> Step:
    recipient = Recipient(relay.recipient, origin.notify, origin.orcpt)
    return Step(
        ADD_RCPT,
        {
            "mail": envelope.id,
            "position": position,
            "owner": 0 if offer is None else offer.owner,
            "due": max(now, envelope.wishes.not_before) if offer is None else offer.until,
            "lane": relay.route.destination(relay.recipient),
            "recipient": str(relay.recipient),
            "packed": pack_recipient(recipient, relay.route),
            "urgency": -envelope.wishes.priority,
            "not_before": envelope.wishes.not_before,
        },
    )


def _origin(envelope: Envelope, address: Address) -> Recipient:
    if len(envelope.recipients) == 1:
        return envelope.recipients[0]
    found = (each for each in envelope.recipients if each.address.key == address.key)
    return next(found, Recipient(address))
