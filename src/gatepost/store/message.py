"""One message as the store keeps it: a listing made once, at delivery, and the steps that append it."""

from collections.abc import Mapping
from dataclasses import dataclass

from gatepost.accounts.model import NO_QUOTA, Quota
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.db.unit import Notice, Step, Value
from gatepost.store import sql
from gatepost.store.model import MailboxId

NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Listing:
    """What readers ask of a message without its body. Everything but the dates depends on its octets alone."""

    size: int
    """Octets, CRLF line ends as stored."""
    sent_at: Instant
    """The Date field, or when it has none that can be read, the internal date (RFC 5256 §2.2)."""
    sent_zone: int
    """Minutes east of UTC in the Date field: SEARCH SENTON compares the date as written."""
    header_end: int
    """Offset of the first octet behind the header's empty line."""
    envelope: bytes
    """The ENVELOPE list of RFC 9051 §7.5.2, ready to send."""
    structure: bytes
    """BODYSTRUCTURE."""
    body_structure: bytes
    """BODY: the same without extension data."""
    sections: bytes
    """Where the parts lie; `store.sections.unpack` reads it."""
    subject_key: bytes
    """Base subject (RFC 5256 §2.1) in UTF-8 capitals, at most 500 octets."""
    from_key: bytes
    """Local part of the first From address, capitals; `to_key` and `cc_key` likewise."""
    to_key: bytes
    cc_key: bytes
    thread: bytes
    """Message-ID and references; `store.thread.unpack_ids` reads it."""
    fields: bytes | None
    """The header fields that lists ask for; `store.fields` reads them. None: read the message."""


def append_steps(
    mailbox: MailboxId,
    body: MailId,
    listing: Listing,
    flags: int,
    internal_date: Instant,
    message: MailId,
    quota: Quota = NO_QUOTA,
) -> tuple[Step, ...]:
    """Return the steps that put a body into a mailbox; the first returns (mailbox, uidvalidity, uid, modseq).

    Unmet `store.take_uid`: the mailbox is gone. Unmet `store.keep_quota`: the account is full. A unit with several
    mailboxes takes them in the order of their ids, which keeps PostgreSQL from deadlocks; the body's own steps come
    from blobs, with one use for each mailbox, and `append_notice` belongs to the same unit.
    """
    take = Step(sql.TAKE_UID, {"mailbox": mailbox, "size": listing.size})
    flag_row = Step(sql.ADD_FLAGS, {"mailbox": mailbox, "flags": flags})
    facts: dict[str, Value] = {
        "mailbox": mailbox,
        "body": body,
        "message": message,
        "internal_date": internal_date,
        **listing_params(listing),
    }
    return (take, *quota_steps(mailbox, quota), flag_row, Step(sql.ADD_LISTING, facts))


def quota_steps(mailbox: MailboxId, quota: Quota) -> tuple[Step, ...]:
    """Return the step that undoes the unit when the mailbox's account is now above its quota; none without one."""
    if quota == NO_QUOTA:
        return ()
    limits = {"octets_max": quota.octets or NO_LIMIT, "messages_max": quota.messages or NO_LIMIT}
    return (Step(sql.KEEP_QUOTA, {"mailbox": mailbox, **limits}),)


def append_notice(mailbox: MailboxId) -> Notice:
    """Return the news of one changed mailbox."""
    return Notice("mailbox", mailbox)


def listing_params(listing: Listing) -> Mapping[str, Value]:
    """Return a listing's columns by name."""
    return {
        "size": listing.size,
        "sent_at": listing.sent_at,
        "sent_zone": listing.sent_zone,
        "header_end": listing.header_end,
        "envelope": listing.envelope,
        "structure": listing.structure,
        "body_structure": listing.body_structure,
        "sections": listing.sections,
        "subject_key": listing.subject_key,
        "from_key": listing.from_key,
        "to_key": listing.to_key,
        "cc_key": listing.cc_key,
        "thread": listing.thread,
        "fields": listing.fields,
    }
