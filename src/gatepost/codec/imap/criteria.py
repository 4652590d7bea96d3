"""SEARCH keys (RFC 3501 §6.4.4) as a tree of values; depth and count are bounded."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

from gatepost.codec.imap.sets import Ranges, parse_set
from gatepost.codec.imap.tokens import BadSyntax, Tokens
from gatepost.codec.mail.date import MONTHS

DEPTH_MAX: Final = 64
KEYS_MAX: Final = 2_000
_DATE: Final = re.compile(rb'"?([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})"?')
_MONTHS: Final = {name.lower().encode(): number for number, name in enumerate(MONTHS, 1)}
_FLAGS: Final = {
    b"ANSWERED": ("\\Answered", True),
    b"DELETED": ("\\Deleted", True),
    b"DRAFT": ("\\Draft", True),
    b"FLAGGED": ("\\Flagged", True),
    b"SEEN": ("\\Seen", True),
    b"UNANSWERED": ("\\Answered", False),
    b"UNDELETED": ("\\Deleted", False),
    b"UNDRAFT": ("\\Draft", False),
    b"UNFLAGGED": ("\\Flagged", False),
    b"UNSEEN": ("\\Seen", False),
}
_FIELDS: Final = (b"BCC", b"CC", b"FROM", b"SUBJECT", b"TO")
_DATES: Final = (b"BEFORE", b"ON", b"SINCE", b"SENTBEFORE", b"SENTON", b"SENTSINCE")


@dataclass(frozen=True, slots=True)
class All:
    """Everything, or nothing."""

    wanted: bool = True


@dataclass(frozen=True, slots=True)
class HasFlag:
    """A flag or keyword is set, or not."""

    name: str
    wanted: bool


@dataclass(frozen=True, slots=True)
class InSet:
    """Sequence numbers, or UIDs."""

    ranges: Ranges
    uid: bool


@dataclass(frozen=True, slots=True)
class Size:
    """RFC822.SIZE above (or below) a number of octets."""

    octets: int
    larger: bool


@dataclass(frozen=True, slots=True)
class Day:
    """A date: `how` is BEFORE, ON or SINCE; `sent` the Date field instead of the internal date."""

    day: date
    how: str
    sent: bool


@dataclass(frozen=True, slots=True)
class InField:
    """A header field holds text; empty text asks only whether the field is there."""

    name: bytes
    text: str


@dataclass(frozen=True, slots=True)
class InBody:
    """The body holds text; `whole`: or the header does."""

    text: str
    whole: bool


@dataclass(frozen=True, slots=True)
class ChangedAt:
    """The modseq is at least this (RFC 7162 §3.1.5)."""

    modseq: int


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary."""

    key: "Key"


@dataclass(frozen=True, slots=True)
class Either:
    """One of two."""

    one: "Key"
    other: "Key"


@dataclass(frozen=True, slots=True)
class Every:
    """All of them."""

    keys: tuple["Key", ...]


Key = All | HasFlag | InSet | Size | Day | InField | InBody | ChangedAt | Not | Either | Every


class BadCharset(ValueError):
    """A charset other than US-ASCII and UTF-8."""


def parse_search(tokens: Tokens) -> Key:
    """Read SEARCH's arguments; raises BadSyntax, BadCharset."""
    if tokens.skip_word(b"CHARSET "):
        charset = tokens.astring().upper()
        if charset not in (b"UTF-8", b"US-ASCII"):
            raise BadCharset(charset.decode("ascii", "replace"))
        tokens.space()
    return _Parser(tokens).every()


def asks_modseq(key: Key) -> bool:
    """Tell whether MODSEQ is among the keys: then the answer tells the highest one found."""
    match key:
        case ChangedAt():
            return True
        case Not(key=inner):
            return asks_modseq(inner)
        case Either(one=one, other=other):
            return asks_modseq(one) or asks_modseq(other)
        case Every(keys=keys):
            return any(map(asks_modseq, keys))
        case _:
            return False


class _Parser:
    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._count = 0

    def every(self, depth: int = 0, *, closed: bool = False) -> Key:
        """Read keys up to the end, or up to the parenthesis that closes them."""
        keys = [self._key(depth)]
        while not (self._tokens.skip(b")") if closed else self._tokens.done):
            self._tokens.space()
            keys.append(self._key(depth))
        return keys[0] if len(keys) == 1 else Every(tuple(keys))

    def _key(self, depth: int) -> Key:
        self._count += 1
        if depth > DEPTH_MAX or self._count > KEYS_MAX:
            raise BadSyntax("the search is too deep or too long")
        tokens = self._tokens
        if tokens.skip(b"("):
            return self.every(depth + 1, closed=True)
        if tokens.ahead(b"*") or tokens.pattern(re.compile(rb"(?=([0-9]?))"), "")[1]:
            return InSet(parse_set(tokens.set_text()), uid=False)
        name = tokens.word()
        match name:
            case b"ALL":
                return All()
            case b"NEW":
                return All(False)
            case b"OLD":
                return All()
            case b"RECENT":
                return All(False)
            case b"NOT":
                tokens.space()
                return Not(self._key(depth + 1))
            case b"OR":
                tokens.space()
                one = self._key(depth + 1)
                tokens.space()
                return Either(one, self._key(depth + 1))
            case b"UID":
                tokens.space()
                return InSet(parse_set(tokens.set_text()), uid=True)
            case b"KEYWORD" | b"UNKEYWORD":
                tokens.space()
                return HasFlag(tokens.flag(), name == b"KEYWORD")
            case b"MODSEQ":
                return self._modseq()
            case b"LARGER" | b"SMALLER":
                tokens.space()
                return Size(tokens.number(), name == b"LARGER")
            case b"HEADER":
                tokens.space()
                field = tokens.astring().lower()
                return InField(field, self._text())
            case b"BODY" | b"TEXT":
                return InBody(self._text(), name == b"TEXT")
        if name in _FLAGS:
            return HasFlag(*_FLAGS[name])
        if name in _FIELDS:
            return InField(name.lower(), self._text())
        if name in _DATES:
            return self._day(name)
        raise BadSyntax(f"unknown search key {name.decode('ascii', 'replace')}")

    def _modseq(self) -> ChangedAt:
        """Read a modseq; every flag of a message shares one here, so the entry that may be named says nothing."""
        tokens = self._tokens
        tokens.space()
        if tokens.ahead(b'"'):
            tokens.string()
            tokens.space()
            if tokens.word() not in (b"ALL", b"PRIV", b"SHARED"):
                raise BadSyntax("expected all, priv or shared")
            tokens.space()
        return ChangedAt(tokens.number())

    def _text(self) -> str:
        self._tokens.space()
        return self._tokens.astring().decode("utf-8", "replace")

    def _day(self, name: bytes) -> Day:
        self._tokens.space()
        found = self._tokens.pattern(_DATE, "a date")
        month = _MONTHS.get(found[2].lower())
        try:
            day = date(int(found[3]), month or 0, int(found[1]))
        except ValueError:
            raise BadSyntax("that is no date") from None
        return Day(day, name.removeprefix(b"SENT").decode("ascii"), name.startswith(b"SENT"))
