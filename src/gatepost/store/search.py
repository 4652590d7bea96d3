"""Search a mailbox: criteria as data, decided with as little reading as each message needs.

    flags, UID, modseq    one scan of the flags table
    size, dates, and      one scan of the listing, for messages the flags left open
    the kept fields
    header, body, text    the message itself, decoded off the loop, for those that are still open

Each stage answers True, False or None (open); AND, OR and NOT follow from that, so `UNSEEN SUBJECT x` reads the
unseen messages alone.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from gatepost.aio.offload import offload
from gatepost.base.clock import DAY, MINUTE, Instant
from gatepost.base.ids import MailId
from gatepost.db.unit import Rows
from gatepost.store.fields import KEPT
from gatepost.store.mailbox import Mailboxes
from gatepost.store.model import MailboxId, Wanted
from gatepost.store.reading import FlagRow
from gatepost.store.text import Message, fold_text, kept_has
from gatepost.store.uids import Ranges, bridge

BODIES_AT_ONCE: Final = 32
BODY_OCTETS_AT_ONCE: Final = 8 << 20
DEPTH_MAX: Final = 64
CRITERIA_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class HasFlags:
    """All flags of `mask` are set; with mask 0 every message."""

    mask: int


@dataclass(frozen=True, slots=True)
class InUids:
    """The UID is in the ranges."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class ChangedAt:
    """The modseq is at least this (RFC 7162 §3.1.5)."""

    modseq: int


@dataclass(frozen=True, slots=True)
class Larger:
    """More octets than this."""

    octets: int


@dataclass(frozen=True, slots=True)
class Smaller:
    """Fewer octets than this."""

    octets: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """The internal date lies in [since, before)."""

    since: Instant
    before: Instant


@dataclass(frozen=True, slots=True)
class Sent:
    """The Date field's day, as written there, lies in [since, before): midnights, told in UTC."""

    since: Instant
    before: Instant


@dataclass(frozen=True, slots=True)
class InHeader:
    """A field of this name (lower case) holds the text; the empty text asks only for the field."""

    name: bytes
    text: str


@dataclass(frozen=True, slots=True)
class InBody:
    """A text part holds the text, its transfer encoding and charset undone."""

    text: str


@dataclass(frozen=True, slots=True)
class InText:
    """The header or the body holds the text."""

    text: str


@dataclass(frozen=True, slots=True)
class Not:
    """The other one does not match."""

    one: "Criterion"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one matches; none at all match everything."""

    each: "tuple[Criterion, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one matches."""

    each: "tuple[Criterion, ...]"


Criterion = (
    HasFlags
    | InUids
    | ChangedAt
    | Larger
    | Smaller
    | Arrived
    | Sent
    | InHeader
    | InBody
    | InText
    | Not
    | AllOf
    | AnyOf
)


class TooDeep(ValueError):
    """More than 64 levels or 1,000 criteria."""


class Facts(Protocol):
    """What is known of a message at some stage."""

    def decide(self, criterion: Criterion) -> bool | None:
        """Decide one criterion that is not Not, AllOf or AnyOf; None leaves it open."""
        ...


async def search(
    mailboxes: Mailboxes, mailbox: MailboxId, criterion: Criterion, rows: Sequence[FlagRow] | None = None
) -> list[int]:
    """Return the UIDs that match, ascending; `rows` are the flag rows where the caller has them.

    Raises TooDeep. A mailbox that is gone has no messages.
    """
    check(criterion)
    known = await mailboxes.rows(mailbox) if rows is None else rows
    matching, undecided = await offload(_judge_rows, criterion, known)
    if not undecided:
        return matching
    by_uid = {row[0]: row for row in known}
    verdicts: dict[int, bool | None] = dict.fromkeys(matching, True)
    verdicts.update(dict.fromkeys(undecided))
    ranges = bridge(undecided, list(by_uid))
    async for page in mailboxes.listing(mailbox, ranges, Wanted.ENVELOPE | Wanted.SECTIONS | Wanted.FIELDS):
        await _judge_page(mailboxes, criterion, page, by_uid, verdicts)
    return sorted(uid for uid, verdict in verdicts.items() if verdict)


def check(criterion: Criterion) -> None:
    """Refuse what is too deep or too long to evaluate; raises TooDeep."""
    count, level = 0, [criterion]
    for _ in range(DEPTH_MAX):
        count += len(level)
        if count > CRITERIA_MAX:
            break
        level = [child for each in level for child in _children(each)]
        if not level:
            return
    raise TooDeep("the search is too complex")


def decide(criterion: Criterion, facts: Facts) -> bool | None:
    """Decide a criterion with what is known; None where that does not suffice."""
    match criterion:
        case Not(one=one):
            verdict = decide(one, facts)
            return None if verdict is None else not verdict
        case AllOf(each=each):
            return _combined(each, facts, decisive=False)
        case AnyOf(each=each):
            return _combined(each, facts, decisive=True)
        case _:
            return facts.decide(criterion)


def _combined(each: "tuple[Criterion, ...]", facts: Facts, *, decisive: bool) -> bool | None:
    left_open = False
    for one in each:
        verdict = decide(one, facts)
        if verdict is decisive:
            return decisive
        left_open |= verdict is None
    return None if left_open else not decisive


def _children(criterion: Criterion) -> "tuple[Criterion, ...]":
    match criterion:
        case Not(one=one):
            return (one,)
        case AllOf(each=each) | AnyOf(each=each):
            return each
        case _:
            return ()


class RowFacts:
    """What a flag row tells."""

    __slots__ = ("row",)

    def __init__(self, row: FlagRow) -> None:
        self.row = row

    def decide(self, criterion: Criterion) -> bool | None:
        uid, flags, modseq = self.row
        match criterion:
            case HasFlags(mask=mask):
                return flags & mask == mask
            case InUids(ranges=ranges):
                return any(low <= uid <= high for low, high in ranges)
            case ChangedAt(modseq=least):
                return modseq >= least
            case _:
                return None


class _ListingFacts(RowFacts):
    """What a listing adds."""

    __slots__ = ("arrived", "envelope", "kept", "sent", "size")

    def __init__(
        self, row: FlagRow, size: int, arrived: int, sent: int, envelope: bytes, kept: bytes | None
    ) -> None:
        super().__init__(row)
        self.size, self.arrived, self.sent = size, arrived, sent
        self.envelope, self.kept = envelope, kept

    def decide(self, criterion: Criterion) -> bool | None:
        match criterion:
            case Larger(octets=octets):
                return self.size > octets
            case Smaller(octets=octets):
                return self.size < octets
            case Arrived(since=since, before=before):
                return since <= self.arrived < before
            case Sent(since=since, before=before):
                return since <= self.sent < before
            case InHeader(name=name, text=text) if self.kept is not None and name in KEPT:
                return kept_has(self.kept, name, fold_text(text))
            case InHeader(name=b"subject", text=text) if self._surely_not(text):
                return False
            case _:
                return super().decide(criterion)

    def _surely_not(self, text: str) -> bool:
        """Tell that the envelope, which shows the subject whole, does not hold a plain word."""
        plain = len(self.envelope) < 2000 and self.envelope.isascii() and b"=?" not in self.envelope
        return plain and text.isalnum() and text.isascii() and text.lower().encode() not in self.envelope.lower()


class _MessageFacts:
    """What the message itself tells, which is everything."""

    __slots__ = ("_listing", "_message")

    def __init__(self, listing: _ListingFacts, message: Message) -> None:
        self._listing = listing
        self._message = message

    def decide(self, criterion: Criterion) -> bool | None:
        match criterion:
            case InHeader(name=name, text=text):
                return self._message.header_has(name, fold_text(text))
            case InBody(text=text):
                return self._message.body_has(fold_text(text))
            case InText(text=text):
                needle = fold_text(text)
                return self._message.any_header_has(needle) or self._message.body_has(needle)
            case _:
                return self._listing.decide(criterion)


def _judge_rows(criterion: Criterion, rows: Sequence[FlagRow]) -> tuple[list[int], list[int]]:
    """Return the UIDs that match, and those that stay open."""
    judge = on_rows(criterion)
    verdicts = [judge(row) for row in rows]
    matching = [row[0] for row, verdict in zip(rows, verdicts, strict=True) if verdict]
    if None not in verdicts:
        return matching, []
    return matching, [row[0] for row, verdict in zip(rows, verdicts, strict=True) if verdict is None]


def on_rows(criterion: Criterion) -> Callable[[FlagRow], bool | None]:
    """Return what `decide` says of flag rows as one function, which is much faster for ten thousand of them."""
    match criterion:
        case HasFlags(mask=mask):
            return lambda row: row[1] & mask == mask
        case InUids(ranges=ranges):
            starts = [low for low, _ in ranges]
            return lambda row: (at := bisect_right(starts, row[0])) > 0 and row[0] <= ranges[at - 1][1]
        case ChangedAt(modseq=least):
            return lambda row: row[2] >= least
        case Not(one=HasFlags(mask=mask)):
            return lambda row: row[1] & mask != mask
        case Not() | AllOf() | AnyOf() if _on_rows_alone(criterion):
            return _compiled(criterion)
        case _:
            facts = RowFacts((0, 0, 0))

            def judge(row: FlagRow) -> bool | None:
                facts.row = row
                return decide(criterion, facts)

            return judge


def _compiled(criterion: Criterion) -> Callable[[FlagRow], bool | None]:
    """Return a function for a combination that flag rows decide: it never leaves anything open."""
    match criterion:
        case Not(one=one):
            inner = on_rows(one)
            return lambda row: not inner(row)
        case AllOf(each=each):
            every = [on_rows(one) for one in each]
            return lambda row: all(judge(row) for judge in every)
        case AnyOf(each=each):
            some = [on_rows(one) for one in each]
            return lambda row: any(judge(row) for judge in some)
        case _:
            return on_rows(criterion)


def _on_rows_alone(criterion: Criterion) -> bool:
    if isinstance(criterion, Not | AllOf | AnyOf):
        return all(_on_rows_alone(child) for child in _children(criterion))
    return isinstance(criterion, HasFlags | InUids | ChangedAt)


async def _judge_page(
    mailboxes: Mailboxes,
    criterion: Criterion,
    page: Rows,
    by_uid: dict[int, FlagRow],
    verdicts: dict[int, bool | None],
) -> None:
    """Decide the messages of one page of listings; those the listing leaves open are read."""
    waiting: list[tuple[_ListingFacts, int, bytes]] = []
    octets = 0
    # What is not open was decided by the flags, or arrived since.
    rows = [row for row in cast(list[_Columns], page) if verdicts.get(row[0], False) is None]
    listed = [
        _ListingFacts(by_uid[uid], size, arrived, sent + zone * MINUTE, envelope, kept)
        for uid, _, _, size, arrived, sent, zone, _, envelope, _, kept in rows
    ]
    found = await offload(_decide_all, criterion, listed)
    for row, facts, verdict in zip(rows, listed, found, strict=True):
        verdicts[row[0]] = verdict
        if verdict is None:
            waiting.append((facts, row[1], row[9]))
            octets += facts.size
        if len(waiting) >= BODIES_AT_ONCE or octets > BODY_OCTETS_AT_ONCE:
            await _read(mailboxes, criterion, waiting, verdicts)
            octets = 0
    await _read(mailboxes, criterion, waiting, verdicts)


async def _read(
    mailboxes: Mailboxes,
    criterion: Criterion,
    waiting: list[tuple[_ListingFacts, int, bytes]],
    verdicts: dict[int, bool | None],
) -> None:
    """Read and decide what waits, and forget it."""
    if not waiting:
        return
    messages = [
        _MessageFacts(facts, Message(await mailboxes.content(MailId(body)), sections))
        for facts, body, sections in waiting
    ]
    found = await offload(_decide_all, criterion, messages)
    for (facts, _, _), verdict in zip(waiting, found, strict=True):
        verdicts[facts.row[0]] = verdict
    waiting.clear()


def _decide_all(criterion: Criterion, messages: Sequence[Facts]) -> list[bool | None]:
    return [decide(criterion, message) for message in messages]


def day(instant: Instant) -> tuple[Instant, Instant]:
    """Return the UTC day of an instant as [since, before)."""
    since = instant // DAY * DAY
    return Instant(since), Instant(since + DAY)


_Columns = tuple[int, int, int, int, int, int, int, int, bytes, bytes, bytes | None]
"""uid, body, message, size, internal_date, sent_at, sent_zone, header_end, envelope, sections, fields."""
