"""SEARCH (RFC 3501 §6.4.4, RFC 4731): the keys become the store's criteria, and sequence numbers become UIDs."""

from collections.abc import Sequence
from datetime import date
from typing import Final

from gatepost.base.clock import DAY, Instant
from gatepost.codec.imap import criteria as keys
from gatepost.codec.imap.criteria import BadCharset, Key, asks_modseq, parse_search
from gatepost.codec.imap.modifiers import esearch, take_return
from gatepost.codec.imap.tokens import Tokens
from gatepost.store import search as store
from gatepost.store.flags import known_mask
from gatepost.store.search import Criterion
from gatepost.store.uids import runs
from gatepost.view.imap.selected import Selected
from gatepost.view.imap.session import Bad, ImapSession, No

_EPOCH: Final = date(1970, 1, 1)
_FAR: Final = Instant((1 << 62) - 1)
FLAGS_HERE: Final = 20_000
"""Messages whose flags are judged on the loop: under a millisecond."""

_NOTHING: Final = store.Not(store.HasFlags(0))


async def search(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """SEARCH and UID SEARCH."""
    tokens.space()
    wanted = take_return(tokens)
    try:
        key = parse_search(tokens)
    except BadCharset as wrong:
        raise No(f"Charset {wrong} is not known here", "BADCHARSET (US-ASCII UTF-8)") from None
    selected = session.open
    if asks_modseq(key):
        session.enable_condstore()
    criterion = _criterion(key, selected)
    numbers = _by_flags(criterion, selected)
    if numbers is None:
        numbers = await _numbers(session, selected, criterion)
    shown = [selected.uids[number - 1] for number in numbers] if uid else numbers
    modseq = _modseq(selected, numbers, wanted) if asks_modseq(key) and numbers else None
    if wanted is not None:
        session.say(esearch(session.tag, shown, wanted, uid=uid, modseq=modseq))
        return "Search completed"
    highest = b"" if modseq is None else b" (MODSEQ %d)" % modseq
    session.say(b"* SEARCH" + (" ".join(["", *map(str, shown)]).encode()) + highest + b"\r\n")
    return "Search completed"


def _by_flags(criterion: Criterion, selected: Selected) -> list[int] | None:
    """Return the sequence numbers where one test of flags decides; None where it takes more."""
    if len(selected) > FLAGS_HERE:
        return None
    match criterion:
        case store.HasFlags(mask=mask):
            return [number for number, flags in enumerate(selected.flags, 1) if flags & mask == mask]
        case store.Not(one=store.HasFlags(mask=mask)):
            return [number for number, flags in enumerate(selected.flags, 1) if flags & mask != mask]
        case _:
            return None


async def _numbers(session: ImapSession, selected: Selected, criterion: Criterion) -> list[int]:
    """Return the sequence numbers that the store finds, ascending."""
    rows = list(zip(selected.uids, selected.flags, selected.modseqs, strict=True))
    try:
        found = set(await store.search(session.services.mailboxes, selected.mailbox.id, criterion, rows))
    except store.TooDeep as deep:
        raise Bad(str(deep)) from deep
    return [number for number, each in enumerate(selected.uids, 1) if each in found]


def _modseq(selected: Selected, numbers: Sequence[int], wanted: frozenset[bytes] | None) -> int:
    """Return the highest modseq of what the answer names: of MIN and MAX alone only theirs (RFC 4731 §3.2)."""
    if wanted is not None and wanted <= {b"MIN", b"MAX"}:
        ends = {b"MIN": numbers[0], b"MAX": numbers[-1]}
        numbers = [ends[each] for each in wanted]
    return max(selected.modseqs[number - 1] for number in numbers)


def _criterion(key: Key, selected: Selected) -> Criterion:
    match key:
        case keys.All(wanted=wanted):
            return store.HasFlags(0) if wanted else _NOTHING
        case keys.HasFlag(name=name, wanted=wanted):
            mask, unknown = known_mask((name,), selected.keywords)
            has: Criterion = _NOTHING if unknown else store.HasFlags(mask)
            return has if wanted else store.Not(has)
        case keys.InSet(ranges=ranges, uid=uid):
            spans = selected.positions(ranges, uid=uid)
            return store.InUids(runs(selected.chosen(spans))) if spans else _NOTHING
        case keys.Size(octets=octets, larger=larger):
            return store.Larger(octets) if larger else store.Smaller(octets)
        case keys.Day():
            return _day(key)
        case keys.ChangedAt(modseq=modseq):
            return store.ChangedAt(modseq)
        case keys.InField(name=name, text=text):
            return store.InHeader(name, text)
        case keys.InBody(text=text, whole=whole):
            return store.InText(text) if whole else store.InBody(text)
        case keys.Not(key=inner):
            return store.Not(_criterion(inner, selected))
        case keys.Either(one=one, other=other):
            return store.AnyOf((_criterion(one, selected), _criterion(other, selected)))
        case keys.Every(keys=every):
            return store.AllOf(tuple(_criterion(each, selected) for each in every))


def _day(key: keys.Day) -> Criterion:
    first = Instant((key.day - _EPOCH).days * DAY)
    following = Instant(first + DAY)
    spans = {"BEFORE": (Instant(-_FAR), first), "ON": (first, following), "SINCE": (first, _FAR)}
    since, before = spans[key.how]
    return store.Sent(since, before) if key.sent else store.Arrived(since, before)
