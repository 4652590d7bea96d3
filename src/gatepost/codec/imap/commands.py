"""The commands that are understood, one class each; `parse` makes them.

Mailbox names are text, already out of modified UTF-7. `uid` tells that UID stood before the command: its numbers,
and those of its answer, are UIDs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gatepost.base.clock import Instant
from gatepost.codec.imap.attributes import Attribute
from gatepost.codec.imap.criteria import Key, Return
from gatepost.codec.imap.sets import Ranges

# In every state: RFC 3501 §6.1, RFC 2971.


@dataclass(frozen=True, slots=True)
class Capability:
    """What is offered now?"""


@dataclass(frozen=True, slots=True)
class Noop:
    """Anything new?"""


@dataclass(frozen=True, slots=True)
class Logout:
    """Goodbye."""


@dataclass(frozen=True, slots=True)
class Id:
    """Who are you; `fields` are what the client says of itself."""

    fields: Mapping[str, str]


# Before login: RFC 3501 §6.2, RFC 4959.


@dataclass(frozen=True, slots=True)
class StartTls:
    """Change to TLS."""


@dataclass(frozen=True, slots=True)
class Login:
    """Log in with user and password."""

    user: bytes
    password: bytes

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Log in by a SASL mechanism; `initial` is its first response in base64, None when it is to be asked for."""

    mechanism: str
    initial: bytes | None

    def __repr__(self) -> str:
        return f"Authenticate(mechanism={self.mechanism!r})"


# After login: RFC 3501 §6.3.


@dataclass(frozen=True, slots=True)
class Enable:
    """Turn extensions on (RFC 5161)."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where do names begin (RFC 2342)?"""


@dataclass(frozen=True, slots=True)
class Select:
    """Open a mailbox; `read_only`: EXAMINE. `condstore`: tell modification sequences (RFC 7162 §3.1.8)."""

    mailbox: str
    read_only: bool
    condstore: bool


@dataclass(frozen=True, slots=True)
class Create:
    """Make a mailbox."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a mailbox."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Rename:
    """Rename a mailbox and all below it."""

    mailbox: str
    to: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to a name."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Take a subscription back."""

    mailbox: str


class Item(Enum):
    """What STATUS tells (RFC 3501 §6.3.10, RFC 7162 §3.1.7, RFC 8438)."""

    MESSAGES = "MESSAGES"
    RECENT = "RECENT"
    UIDNEXT = "UIDNEXT"
    UIDVALIDITY = "UIDVALIDITY"
    UNSEEN = "UNSEEN"
    DELETED = "DELETED"
    SIZE = "SIZE"
    HIGHESTMODSEQ = "HIGHESTMODSEQ"


@dataclass(frozen=True, slots=True)
class List:
    """Tell names (RFC 3501 §6.3.8; RFC 5258, RFC 5819, RFC 6154)."""

    reference: str
    patterns: tuple[str, ...]
    subscribed_only: bool = False
    special_only: bool = False
    recursive: bool = False
    """Tell also a name that does not fit when one below it does (RECURSIVEMATCH)."""
    tell_subscribed: bool = False
    status: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Lsub:
    """Tell subscribed names."""

    reference: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Status:
    """Tell counts of a mailbox that need not be open."""

    mailbox: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Append:
    """Store a message; its octets come apart from this, see `reader`."""

    mailbox: str
    flags: tuple[bytes, ...] = ()
    date: Instant | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """Tell the news until I say DONE (RFC 2177)."""


# With a mailbox open: RFC 3501 §6.4, RFC 3691, RFC 4315, RFC 6851.


@dataclass(frozen=True, slots=True)
class Check:
    """A Noop of the mailbox."""


@dataclass(frozen=True, slots=True)
class Close:
    r"""Remove what has \Deleted, without a word, and close."""


@dataclass(frozen=True, slots=True)
class Unselect:
    """Close, and remove nothing."""


@dataclass(frozen=True, slots=True)
class Expunge:
    r"""Remove what has \Deleted; `uids`: of these alone (UID EXPUNGE)."""

    uids: Ranges | None


@dataclass(frozen=True, slots=True)
class Search:
    """Which messages are so? `returns`: what of the result is told (RFC 4731), None for `* SEARCH`."""

    key: Key
    returns: frozenset[Return] | None
    uid: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    """Tell of messages; `changed_since`: of those alone that changed after it (RFC 7162 §3.1.4.1)."""

    ranges: Ranges
    attributes: tuple[Attribute, ...]
    changed_since: int | None
    uid: bool


class Change(Enum):
    """What STORE does to the flags."""

    REPLACE = ""
    ADD = "+"
    REMOVE = "-"


@dataclass(frozen=True, slots=True)
class Store:
    """Change flags; `unchanged_since`: not of messages that changed after it (RFC 7162 §3.1.3)."""

    ranges: Ranges
    change: Change
    silent: bool
    flags: tuple[bytes, ...]
    unchanged_since: int | None
    uid: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy messages."""

    ranges: Ranges
    mailbox: str
    uid: bool


@dataclass(frozen=True, slots=True)
class Move:
    """Move messages."""

    ranges: Ranges
    mailbox: str
    uid: bool


Command = (
    Capability
    | Noop
    | Logout
    | Id
    | StartTls
    | Login
    | Authenticate
    | Enable
    | Namespace
    | Select
    | Create
    | Delete
    | Rename
    | Subscribe
    | Unsubscribe
    | List
    | Lsub
    | Status
    | Append
    | Idle
    | Check
    | Close
    | Unselect
    | Expunge
    | Search
    | Fetch
    | Store
    | Copy
    | Move
)
