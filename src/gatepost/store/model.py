"""The values that describe mailboxes and their messages, and the ways the store says no."""

from dataclasses import dataclass
from enum import Flag, auto
from typing import Final, NewType

MailboxId = NewType("MailboxId", int)
"""63 bits, never used again: also the OBJECTID of RFC 8474, written with `base.ids.id_text`."""

INBOX: Final = "INBOX"
SEPARATOR: Final = "/"

NAME_OCTETS_MAX: Final = 255
DEPTH_MAX: Final = 20
MAILBOXES_MAX: Final = 10_000
"""Of one account."""

DEFAULT_MAILBOXES: Final = (
    (INBOX, ""),
    ("Archive", "\\Archive"),
    ("Drafts", "\\Drafts"),
    ("Junk", "\\Junk"),
    ("Sent", "\\Sent"),
    ("Trash", "\\Trash"),
)
"""What every account starts with: (name, special use of RFC 6154)."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox as it was when it was read.

    `modseq` is the highest of all changes (RFC 7162 HIGHESTMODSEQ), `flag_modseq` that of the last change of
    flags, `expunge_modseq` that of the last removal; expunges up to `forgotten_modseq` are no longer on record.
    """

    id: MailboxId
    account: int
    name: str
    special: str
    """`\\Sent`, `\\Trash`, ... or empty."""
    uidvalidity: int
    uidnext: int
    modseq: int
    flag_modseq: int
    expunge_modseq: int
    forgotten_modseq: int
    messages: int
    octets: int
    subscribed: bool


@dataclass(frozen=True, slots=True)
class Status:
    """What STATUS asks beyond the mailbox row."""

    mailbox: Mailbox
    unseen: int
    deleted: int


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a message went (RFC 4315 APPENDUID)."""

    mailbox: MailboxId
    uidvalidity: int
    uid: int
    modseq: int


@dataclass(frozen=True, slots=True)
class Copied:
    """Where messages went: `uids` are (source, target) pairs, ascending (RFC 4315 COPYUID)."""

    mailbox: MailboxId
    uidvalidity: int
    uids: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """What a STORE did.

    `rows` are the (uid, flags, modseq) of what changed, as it is now, ascending; `modified` are the UIDs left
    alone because they changed after UNCHANGEDSINCE (RFC 7162 §3.1.3); `modseq` is the mailbox's highest.
    """

    modseq: int
    rows: list[tuple[int, int, int]]
    modified: list[int]


@dataclass(frozen=True, slots=True)
class Removed:
    """UIDs that an expunge took, ascending, and the mailbox's highest modseq afterwards."""

    modseq: int
    uids: list[int]


@dataclass(frozen=True, slots=True)
class News:
    """What happened in a mailbox since a reader last looked.

    Take them in this order: rows that are new or changed, (uid, flags, modseq) ascending, then the expunged UIDs,
    which may name some the reader never saw. Remember `mailbox.modseq` for the next time: what happens while the
    news are read may be told twice, never left out.
    """

    mailbox: Mailbox
    rows: list[tuple[int, int, int]]
    expunged: list[int]
    complete: bool = True
    """False when the record of expunges does not reach back that far: compare the whole mailbox."""


class Wanted(Flag):
    """Which wide columns of a listing are read; the small ones always are."""

    FACTS = 0
    ENVELOPE = auto()
    STRUCTURE = auto()
    """BODYSTRUCTURE, with extension data."""
    BODY_STRUCTURE = auto()
    """BODY, without."""
    SECTIONS = auto()
    """Where the parts lie: for BODY[1.2] without parsing."""
    FIELDS = auto()
    """The header fields in `store.fields.KEPT`; NULL where they were not kept."""


class StoreRefusal(Exception):
    """The store says no; the text may be shown to the user."""


class NoSuchMailbox(StoreRefusal):
    """[NONEXISTENT] or, for COPY and APPEND, [TRYCREATE]."""


class MailboxExists(StoreRefusal):
    """[ALREADYEXISTS]."""


class BadName(StoreRefusal, ValueError):
    """[CANNOT]: no mailbox can have this name."""


class NotAllowed(StoreRefusal):
    """[CANNOT]: INBOX is not deleted, nothing is renamed into itself."""


class OverQuota(StoreRefusal):
    """[OVERQUOTA]: octets or messages of the account."""


class TooMany(StoreRefusal):
    """[LIMIT]: mailboxes of an account, keywords of a mailbox."""


class NoSuchMessage(StoreRefusal):
    """It was expunged meanwhile."""


class Busy(StoreRefusal):
    """[INUSE]: others kept changing these messages; nothing was done, try again."""
