"""What the header of a mail must be like to be taken, and what is mended in a mail of our own user.

A stranger's mail is taken as it is or refused: its octets are never rewritten, only fields put on top and forged
ones in our name cut out. A user's mail gets what it lacks (RFC 6409 §8) and loses its Bcc before it is sealed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.codec.mail import build
from gatepost.codec.mail.address import Mailbox, mailboxes
from gatepost.codec.mail.date import format_date
from gatepost.codec.mail.downgrade import Unrecodable, needs_short_lines, recode, signed
from gatepost.codec.mail.header import Buffer, Flaw, HeaderBlock, unfold, without
from gatepost.codec.mail.received import hops
from gatepost.codec.smtp import data
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox, path_text

BARE_LINES: Final = Reply(Code.FAILED, "5.5.2", "Bare CR or LF in message")
LONG_LINE: Final = Reply(Code.TOO_BIG, "5.6.0", "Line too long")
HEADER_TOO_BIG: Final = Reply(Code.TOO_BIG, "5.3.4", "Message header too big")
TOO_MANY_HOPS: Final = Reply(Code.FAILED, "5.4.6", "Loop detected: too many hops")
NUL: Final = Reply(Code.FAILED, "5.6.0", "NUL in message")

TLS_REQUIRED: Final = b"tls-required"

_TOO_BIG: Final = frozenset((Flaw.TOO_BIG, Flaw.TOO_MANY, Flaw.FIELD_TOO_BIG))
_REFUSED: Final = (  # in the order in which they are told
    Flaw.BARE_CR,
    Flaw.BARE_LF,
    Flaw.SPACE_BEFORE_COLON,
    Flaw.LEADING_SPACE,
    Flaw.MULTIPLE_FROM,
)
_NOT_ADDRESSES: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|\([^()]*\)', re.DOTALL)
_BEHIND_AN_ADDRESS: Final = re.compile(rb">[ \t\r\n]*[^,; \t\r\n]")


def check_lines(flaw: data.Flaw | None) -> None:
    """Refuse a mail whose octets or lines are not those of a mail."""
    match flaw:
        case data.Flaw.BARE:
            raise Refusal(BARE_LINES)
        case data.Flaw.LONG_LINE:
            raise Refusal(LONG_LINE)
        case data.Flaw.NUL:
            raise Refusal(NUL)
        case None:
            return


def check_header(header: HeaderBlock, *, max_hops: int) -> None:
    """Refuse a mail that two readers would read differently, that is too big in its header, or that circles."""
    flaws = header.flaws
    if flaws:
        if not flaws.isdisjoint(_TOO_BIG):
            raise Refusal(HEADER_TOO_BIG, detail=_words(flaws))
        for flaw in _REFUSED:
            if flaw in flaws:
                raise _ambiguous(flaw.value)
    if hops(header) > max_hops:
        raise Refusal(TOO_MANY_HOPS, detail=f"{hops(header)} Received fields")


def check_author(header: HeaderBlock) -> None:
    """Refuse a mail without an author that can be named."""
    values = header.get(b"from")
    if not values:
        raise _ambiguous("no From field")
    if not any(each.domain for value in values for each in mailboxes(unfold(value))):
        raise _ambiguous("no address in the From field")


def waives_tls(header: HeaderBlock) -> bool:
    """Tell whether the mail says `TLS-Required: No`, once (RFC 8689 §3)."""
    return [unfold(value).strip().lower() for value in header.get(TLS_REQUIRED)] == [b"no"]


def authors(header: HeaderBlock) -> list[Address | None]:
    """Return every address in From and Sender, however ambiguous; None for what is no address.

    What stands behind a `<address>` without a comma is none: readers differ in whom they show (`<a@x> <b@x>`).
    """
    found: list[Address | None] = []
    for name in (b"from", b"sender"):
        for value in header.get(name):
            text = unfold(value)
            found += [_address(each) for each in mailboxes(text)] or [None]
            if _BEHIND_AN_ADDRESS.search(_NOT_ADDRESSES.sub(b"", text)):
                found.append(None)
    return found


@dataclass(frozen=True, slots=True)
class Prepared:
    """A user's mail as it is sealed and stored, with its header read again."""

    content: bytes
    header: HeaderBlock


def prepare_submitted(
    raw: Buffer, header: HeaderBlock, strip: Sequence[tuple[int, int]], mail: "Origin", now: Instant
) -> Prepared:
    """Take Bcc and forged fields out of a user's mail and put in what it lacks."""
    made = build.missing_fields(header, mail.id, mail.hostname, format_date(now))
    if b"from" not in header and mail.sender is not None:
        made = build.field(b"From", path_text(mail.sender).encode()) + made
    content = made + without(raw, (*strip, *build.bcc_ranges(header), *_return_paths(header)))
    return Prepared(content, HeaderBlock.parse(content))


def in_short_lines(prepared: Prepared) -> Prepared:
    """Recode lines that SMTP does not allow, while nothing is signed yet (RFC 6376 §5.3).

    What cannot be recoded stays as it is. A large mail takes long: see `recode`.
    """
    if not needs_short_lines(prepared.content) or signed(prepared.content):
        return prepared
    try:
        content = recode(prepared.content, seven_bit=False)
    except Unrecodable:
        return prepared
    return Prepared(content, HeaderBlock.parse(content))


@dataclass(frozen=True, slots=True)
class Origin:
    """What fields of our own are made of."""

    id: MailId
    hostname: str
    sender: Address | None


def prepare_received(raw: Buffer, header: HeaderBlock, strip: Sequence[tuple[int, int]]) -> Buffer:
    """Take forged fields and others' Return-Path (RFC 5321 §4.4) out of a stranger's mail."""
    ranges = (*strip, *_return_paths(header))
    return without(raw, ranges) if ranges else raw


def return_path(sender: Address | None) -> bytes:
    """Return the field that only final delivery adds (RFC 5321 §4.4)."""
    return b"Return-Path: " + path_text(sender).encode() + b"\r\n"


def _return_paths(header: HeaderBlock) -> Sequence[tuple[int, int]]:
    if b"return-path" not in header:
        return ()
    return [(field.start, field.end) for field in header.all(b"return-path")]


def _address(mailbox: Mailbox) -> Address | None:
    try:
        return parse_mailbox(mailbox.local + b"@" + mailbox.domain)
    except BadAddress:
        pass
    try:
        return Address(mailbox.local.decode(), mailbox.domain.decode()) if mailbox.domain else None
    except UnicodeDecodeError:
        return None


def _ambiguous(what: str) -> Refusal:
    return Refusal(Reply(Code.FAILED, "5.6.0", f"Message refused: {what}"))


def _words(flaws: frozenset[Flaw]) -> str:
    return ", ".join(sorted(flaw.value for flaw in flaws))
