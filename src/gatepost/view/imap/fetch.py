"""FETCH (RFC 3501 §6.4.5): flags from memory, the rest from what was rendered at delivery, bodies by slices."""

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.blobs.bodies import Damaged, Missing
from gatepost.codec.imap.attributes import Attribute, Cut, Fact, Section, parse_attributes
from gatepost.codec.imap.modifiers import take_modifier
from gatepost.codec.imap.sets import parse_set
from gatepost.codec.imap.tokens import Tokens
from gatepost.codec.imap.write import internal_date, literal_pieces
from gatepost.codec.mail.header import HeaderBlock
from gatepost.db.unit import Row
from gatepost.store import fields as kept_fields
from gatepost.store.flags import SEEN
from gatepost.store.model import NoSuchMessage, Wanted
from gatepost.store.sections import Section as StoredSection
from gatepost.store.sections import part_at, unpack
from gatepost.view.imap.selected import Selected
from gatepost.view.imap.session import Bad, ImapSession, No

WRITE_OCTETS: Final = 256 << 10
SLICE_ROWS: Final = 2_000
TURN_S: Final = 0.002  # no step on the loop is longer
_FLAGS_ALONE: Final = frozenset((Fact.UID, Fact.FLAGS, Fact.MODSEQ))
_COLUMNS: Final = (
    (Fact.ENVELOPE, Wanted.ENVELOPE),
    (Fact.STRUCTURE, Wanted.STRUCTURE),
    (Fact.BODY, Wanted.BODY_STRUCTURE),
)


async def fetch(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """FETCH and UID FETCH."""
    tokens.space()
    ranges = parse_set(tokens.set_text())
    tokens.space()
    attributes = parse_attributes(tokens)
    since = None
    if not tokens.done:
        tokens.space()
        since = take_modifier(tokens, b"CHANGEDSINCE")
        attributes = tuple(dict.fromkeys((*attributes, Fact.MODSEQ)))
    tokens.end()
    selected = session.open
    if not uid and selected.beyond(ranges):
        raise Bad("There is no such message")
    if uid and Fact.UID not in attributes:
        attributes = (Fact.UID, *attributes)
    if Fact.MODSEQ in attributes:
        session.enable_condstore()
    spans = selected.positions(ranges, uid=uid)
    if since is not None:
        spans = selected.changed_since(spans, since)
    if not spans:
        return "Fetch completed"
    if set(attributes) <= _FLAGS_ALONE:
        await _flags(session, selected, spans, attributes)
        return "Fetch completed"
    seen = await _mark_seen(session, selected, spans, attributes)
    answers = _Answers(session, selected, attributes, seen)
    missing = await answers.write(spans)
    if answers.damaged:
        raise No(f"{answers.damaged} messages are damaged and were left out; the postmaster was told", "SERVERBUG")
    if missing:
        return "[EXPUNGEISSUED] Some messages were expunged meanwhile"
    return "Fetch completed"


async def _flags(
    session: ImapSession, selected: Selected, spans: Sequence[range], attributes: Sequence[Attribute]
) -> None:
    """Answer what is in memory: the whole mailbox from one string, else message by message."""
    if attributes == (Fact.UID, Fact.FLAGS) and len(spans) == 1 and len(spans[0]) == len(selected):
        session.say(selected.uid_flags())
        await session.flush()
        return
    with_uid, with_flags, with_modseq = (each in attributes for each in (Fact.UID, Fact.FLAGS, Fact.MODSEQ))
    for span in spans:
        for begin in range(span.start, span.stop, SLICE_ROWS):
            lines = []
            for at in range(begin, min(begin + SLICE_ROWS, span.stop)):
                facts = [b"UID %d" % selected.uids[at]] if with_uid else []
                if with_flags:
                    facts.append(b"FLAGS " + selected.rendered(selected.flags[at]))
                if with_modseq:
                    facts.append(b"MODSEQ (%d)" % selected.modseqs[at])
                lines.append(b"* %d FETCH (%b)\r\n" % (at + 1, b" ".join(facts)))
            session.say(b"".join(lines))
            await session.flush()
            await asyncio.sleep(0)


async def _mark_seen(
    session: ImapSession, selected: Selected, spans: Sequence[range], attributes: Sequence[Attribute]
) -> frozenset[int]:
    r"""Set \Seen where a body is fetched without PEEK; return the indices whose flags are to be told."""
    if selected.read_only or all(isinstance(each, Fact) or each.peek for each in attributes):
        return frozenset()
    unseen = [at for span in spans for at in span if not selected.flags[at] & SEEN]
    if not unseen:
        return frozenset()
    uids = [selected.uids[at] for at in unseen]
    ranges = (
        selected.uid_ranges([range(at, at + 1) for at in unseen])
        if len(uids) < len(selected)
        else ((uids[0], uids[-1]),)
    )
    done = await session.services.mailboxes.change_flags(selected.mailbox.id, ranges, add=SEEN)
    return frozenset(selected.changed_here(done))


class _Answers:
    """Writes the FETCH answers of one command, page by page of listings."""

    def __init__(
        self, session: ImapSession, selected: Selected, attributes: Sequence[Attribute], seen: frozenset[int]
    ) -> None:
        self._session = session
        self._selected = selected
        self._attributes = attributes
        self._seen = seen
        self.damaged = 0
        self._sections = [each for each in attributes if isinstance(each, Section)]
        wanted = Wanted.FACTS
        for fact, column in _COLUMNS:
            if fact in attributes:
                wanted |= column
        if any(each.path for each in self._sections):
            wanted |= Wanted.SECTIONS
        self._from_fields = bool(self._sections) and all(map(_answered_by_fields, self._sections))
        if self._from_fields:
            wanted |= Wanted.FIELDS
        self._wanted = wanted
        order = [fact for fact, _ in _COLUMNS if fact in attributes]
        self._column = {fact: 8 + at for at, fact in enumerate(order)}
        self._sections_column = 8 + len(order)

    async def write(self, spans: Sequence[range]) -> int:
        """Answer; return how many messages were gone."""
        selected, session = self._selected, self._session
        ranges = selected.uid_ranges(spans)
        clock = session.services.clock
        answered = size = 0
        pending: list[bytes] = []
        turn_ends = clock.steady() + TURN_S
        async for rows in session.services.mailboxes.listing(selected.mailbox.id, ranges, self._wanted):
            for row in rows:
                number = selected.number(cast(int, row[0]))
                if number is None:
                    continue
                try:
                    pieces = await self._pieces(number, row)
                except (Damaged, Missing) as damage:
                    session.services.log.error("body_damaged", error=str(damage), user=session.user)
                    self.damaged += 1
                    answered += 1
                    continue
                if not pieces:
                    continue
                answered += 1
                pending += pieces
                size += sum(map(len, pieces))
                if size > WRITE_OCTETS:
                    await self._send(pending)
                    pending, size = [], 0
                if clock.steady() > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = clock.steady() + TURN_S
        await self._send(pending)
        return sum(map(len, spans)) - answered

    async def _send(self, pieces: Sequence[bytes]) -> None:
        """Write, waiting for the client; a large body in parts, so that only itself is in memory."""
        small: list[bytes] = []
        for piece in pieces:
            if len(piece) <= WRITE_OCTETS:
                small.append(piece)
                continue
            self._session.say(b"".join(small))
            small = []
            for begin in range(0, len(piece), WRITE_OCTETS):
                self._session.say(piece[begin : begin + WRITE_OCTETS])
                await self._session.flush()
                await asyncio.sleep(0)
        self._session.say(b"".join(small))
        await self._session.flush()

    async def _content(self, row: Row) -> bytes | None:
        """Return a message's octets; None when it was expunged since its listing was read. Raises Missing."""
        mailboxes = self._session.services.mailboxes
        try:
            return await mailboxes.content(MailId(cast(int, row[1])))
        except Missing:
            try:
                return await mailboxes.body(self._selected.mailbox.id, cast(int, row[0]))
            except NoSuchMessage:
                return None

    async def _pieces(self, number: int, row: Row) -> list[bytes]:
        """Return an answer in pieces, so that a large body is copied once, into what is written; [] for none."""
        kept = cast(bytes | None, row[-1]) if self._from_fields else None
        content = await self._content(row) if self._sections and kept is None else b""
        if content is None:
            return []
        pieces = [b"* %d FETCH (" % number]
        for each in self._attributes:
            if isinstance(each, Fact):
                pieces += (self._fact(each, number, row), b" ")
            else:
                pieces += (*self._section(each, content, row, kept), b" ")
        if number - 1 in self._seen and Fact.FLAGS not in self._attributes:
            pieces += (b"FLAGS ", self._selected.rendered(self._selected.flags[number - 1]), b" ")
        if number - 1 in self._seen and self._selected.tells_modseq and Fact.MODSEQ not in self._attributes:
            pieces += (self._fact(Fact.MODSEQ, number, row), b" ")
        pieces[-1] = b")\r\n"
        return pieces

    def _fact(self, fact: Fact, number: int, row: Row) -> bytes:
        match fact:
            case Fact.UID:
                return b"UID %d" % cast(int, row[0])
            case Fact.FLAGS:
                return b"FLAGS " + self._selected.rendered(self._selected.flags[number - 1])
            case Fact.MODSEQ:
                return b"MODSEQ (%d)" % self._selected.modseqs[number - 1]
            case Fact.SIZE:
                return b"RFC822.SIZE %d" % cast(int, row[3])
            case Fact.DATE:
                return b"INTERNALDATE " + internal_date(Instant(cast(int, row[4])))
            case Fact.ENVELOPE:
                return b"ENVELOPE " + cast(bytes, row[self._column[fact]])
            case Fact.STRUCTURE:
                return b"BODYSTRUCTURE " + cast(bytes, row[self._column[fact]])
            case Fact.BODY:
                return b"BODY " + cast(bytes, row[self._column[fact]])

    def _section(self, section: Section, content: bytes, row: Row, kept: bytes | None) -> tuple[bytes, ...]:
        octets: bytes | None
        if kept is not None:
            octets = kept_fields.chosen(kept, section.names)
        elif not section.path:
            octets = whole_message(section, content, cast(int, row[7]))
        else:
            octets = part_octets(section, content, unpack(cast(bytes, row[self._sections_column])))
        if octets is None:
            return (section.label, b" NIL")
        if section.partial is not None:
            first, length = section.partial
            octets = octets[first : first + length]
        return (section.label, *literal_pieces(octets))


def _answered_by_fields(section: Section) -> bool:
    """Tell whether the kept fields hold all that this section names."""
    return not section.path and section.cut is Cut.FIELDS and section.names <= kept_fields.KEPT


def whole_message(section: Section, content: bytes, header_end: int) -> bytes:
    """Cut a section of the message itself."""
    match section.cut:
        case Cut.TEXT:
            return content[header_end:]
        case Cut.HEADER:
            return content[:header_end]
        case Cut.FIELDS | Cut.FIELDS_NOT:
            return chosen_fields(section, content, 0, header_end)
        case _:
            return content


def part_octets(section: Section, content: bytes, root: StoredSection) -> bytes | None:
    """Cut a section of a part; None where there is no such part."""
    part = part_at(root, section.path)
    if part is None:
        return None
    match section.cut:
        case Cut.ALL:
            return content[part.body : part.end]
        case Cut.MIME:
            return content[part.start : part.body]
    if not part.message:
        return None
    inside = part.parts[0]
    match section.cut:
        case Cut.HEADER:
            return content[inside.start : inside.body]
        case Cut.TEXT:
            return content[inside.body : inside.end]
        case _:
            return chosen_fields(section, content, inside.start, inside.body)


def chosen_fields(section: Section, content: bytes, start: int, end: int) -> bytes:
    """Return the fields that are named (or those that are not), and the empty line behind them."""
    header = HeaderBlock.parse(content, start, end)
    wanted = section.cut is Cut.FIELDS
    picked = [
        content[each.start : each.end] for each in header.fields if (each.name.lower() in section.names) is wanted
    ]
    text = b"".join(picked)
    return text + (b"" if not text or text.endswith(b"\r\n") else b"\r\n") + b"\r\n"
