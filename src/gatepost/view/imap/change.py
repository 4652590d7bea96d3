"""STORE, EXPUNGE, CLOSE, UNSELECT, COPY, MOVE, APPEND (RFC 3501 §6.3.11, §6.4; RFC 4315, RFC 6851)."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, cast

from gatepost.codec.imap.modifiers import take_modifier
from gatepost.codec.imap.sets import parse_set, set_text
from gatepost.codec.imap.tokens import BadSyntax, Tokens
from gatepost.codec.imap.write import date_time_pattern, parse_date_time
from gatepost.store.flags import BadKeyword, known_mask
from gatepost.store.model import Copied, Mailbox
from gatepost.view.imap.folders import find_target, take_name
from gatepost.view.imap.selected import Selected
from gatepost.view.imap.session import Bad, ImapSession, No, flags_line

STORE_SLICE: Final = 1_000
"""Messages of one unit of STORE: what a step on the loop can take, and few enough syncs."""

EXPUNGE_SLICE: Final = 250
"""The same for EXPUNGE, where each message takes steps of its own for its body."""

_CHANGES: Final[Mapping[bytes, str]] = {b"+": "add", b"-": "remove", b"": "replace"}
_STORE: Final = re.compile(rb"([+-]?)FLAGS(\.SILENT)?(?= )", re.IGNORECASE)
_MESSAGE: Final = re.compile(rb"\{[0-9]+\+?\}\r\n")
"""What the reader leaves of a message in its command (codec.imap.reader)."""


async def store(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """STORE and UID STORE."""
    tokens.space()
    ranges = parse_set(tokens.set_text())
    tokens.space()
    unchanged_since = None
    if tokens.ahead(b"("):
        unchanged_since = take_modifier(tokens, b"UNCHANGEDSINCE")
        session.enable_condstore()
        tokens.space()
    how = tokens.pattern(_STORE, "FLAGS, +FLAGS or -FLAGS")
    tokens.space()
    names = tokens.flags() if tokens.ahead(b"(") else _bare_flags(tokens)
    tokens.end()
    selected = _writable(session)
    spans = _spans(selected, ranges, uid=uid)
    if not spans:
        return "Store completed"
    mask = await _mask(session, selected, names, make=how[1] != b"-")
    change = _CHANGES[how[1]]
    modified: list[int] = []
    for part in sliced(spans, STORE_SLICE):
        done = await session.services.mailboxes.change_flags(
            selected.mailbox.id,
            selected.uid_ranges(part),
            add=mask if change == "add" else 0,
            remove=mask if change == "remove" else 0,
            replace=mask if change == "replace" else None,
            unchanged_since=unchanged_since,
        )
        selected.changed_here(done)
        modified += done.modified
        if how[2] is None or selected.tells_modseq:
            await _tell_flags(session, part, frozenset(done.modified), uid=uid, silent=how[2] is not None)
    if not modified:
        return "Store completed"
    shown = modified if uid else [number for each in modified if (number := selected.number(each)) is not None]
    return f"[MODIFIED {set_text(shown).decode()}] Conditional STORE failed"


async def expunge(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """EXPUNGE, and UID EXPUNGE with its set."""
    selected = _writable(session)
    spans: Sequence[range] = (range(len(selected)),)
    if uid:
        tokens.space()
        spans = selected.positions(parse_set(tokens.set_text()), uid=True)
    tokens.end()
    for part in [selected.uid_ranges(each) for each in sliced(spans, EXPUNGE_SLICE)]:
        removed = await session.services.mailboxes.expunge(selected.mailbox.id, part)
        await _tell_slices(session, selected.expunged_here(removed))
    return "Expunge completed"


async def close(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    r"""CLOSE: expunge what has \Deleted, without a word, and leave the mailbox."""
    tokens.end()
    selected = session.open
    if not selected.read_only:
        await session.services.mailboxes.expunge(selected.mailbox.id)
    session.deselect()
    return "Close completed"


async def unselect(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """UNSELECT (RFC 3691): leave the mailbox as it is."""
    tokens.end()
    session.deselect()
    return "Unselect completed"


async def copy(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """COPY and UID COPY."""
    ranges, target = await _set_and_target(session, tokens)
    selected = session.open
    spans = _spans(selected, ranges, uid=uid)
    if not spans:
        return "Copy completed, of nothing"
    account = session.account
    assert account is not None
    done = await session.services.mailboxes.copy(
        selected.mailbox.id, selected.uid_ranges(spans), target.id, account.quota
    )
    return f"{_copyuid(done)} Copy completed" if done else "Copy completed, of nothing"


async def move(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """MOVE and UID MOVE (RFC 6851): COPYUID first, then the EXPUNGEs."""
    ranges, target = await _set_and_target(session, tokens)
    selected = _writable(session)
    spans = _spans(selected, ranges, uid=uid)
    if not spans:
        return "Move completed, of nothing"
    if target.id == selected.mailbox.id:
        raise No("A message cannot be moved to where it is", "CANNOT")
    done = await session.services.mailboxes.move(selected.mailbox.id, selected.uid_ranges(spans), target.id)
    if done is None:
        return "Move completed, of nothing"
    session.say(f"* OK {_copyuid(done)} Moved\r\n".encode())
    await _tell_slices(session, selected.expunge([source for source, _ in done.uids]))
    return "Move completed"


async def append(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """APPEND: bare LFs become CRLF, NUL is refused; what is fetched later is what was stored."""
    name = take_name(tokens)
    tokens.space()
    names = tokens.flags() if tokens.ahead(b"(") else None
    if names is not None:
        tokens.space()
    date = None
    if tokens.ahead(b'"'):
        date = parse_date_time(tokens.pattern(date_time_pattern(), "a date"))
        if date is None:
            raise BadSyntax("that is no date")
        tokens.space()
    if tokens.ahead(b"~{"):
        raise No("BINARY is not offered", "UNKNOWN-CTE")
    tokens.pattern(_MESSAGE, "a message")
    tokens.end()
    target = await find_target(session, name)
    raw = _uploaded(session)
    mailboxes, clock = session.services.mailboxes, session.services.clock
    keywords = await mailboxes.keywords(target.id)
    mask, unknown = known_mask(names or (), keywords)
    if fresh := [each for each in unknown if not each.startswith("\\")]:
        mask = known_mask(names or (), await _added(session, target, fresh))[0]
    account = session.account
    assert account is not None
    done = await mailboxes.append(target.id, raw, mask, date or clock.now(), clock.now(), account.quota)
    if session.selected is not None and session.selected.mailbox.id == target.id:
        await session.tell_news(forced=True)
    return f"[APPENDUID {done.uidvalidity} {done.uid}] Append completed"


def _uploaded(session: ImapSession) -> bytes:
    """Return the message that came with this APPEND; NO where it cannot be stored."""
    upload = session.upload
    content = upload.content() if upload is not None else b""
    if upload is not None and upload.refused:
        raise No(upload.refused, upload.code)
    if not content:
        raise No("There is nothing to append")
    return cast(bytes, content)  # or the map of a file, which is read just as bytes are


async def _set_and_target(session: ImapSession, tokens: Tokens) -> tuple[tuple[tuple[int, int], ...], Mailbox]:
    tokens.space()
    ranges = parse_set(tokens.set_text())
    name = take_name(tokens)
    tokens.end()
    return ranges, await find_target(session, name)


def _spans(selected: Selected, ranges: tuple[tuple[int, int], ...], *, uid: bool) -> Sequence[range]:
    if not uid and selected.beyond(ranges):
        raise Bad("There is no such message")
    return selected.positions(ranges, uid=uid)


def _writable(session: ImapSession) -> Selected:
    if session.open.read_only:
        raise No("The mailbox is open read-only", "READ-ONLY")
    return session.open


def _bare_flags(tokens: Tokens) -> list[str]:
    names = [tokens.flag()]
    while not tokens.done:
        tokens.space()
        names.append(tokens.flag())
    return names


async def _mask(session: ImapSession, selected: Selected, names: Sequence[str], *, make: bool) -> int:
    """Return the mask of flag names; keywords that are new get their bit, unless flags are only taken away."""
    mask, unknown = known_mask(names, selected.keywords)
    fresh = [name for name in unknown if not name.startswith("\\")]
    if len(fresh) < len(unknown):
        raise Bad("There is no such system flag")
    if not fresh or not make:
        return mask
    selected.learn(await _added(session, selected.mailbox, fresh))
    session.say(flags_line(selected))
    return known_mask(names, selected.keywords)[0]


async def _added(session: ImapSession, mailbox: Mailbox, names: Sequence[str]) -> dict[int, str]:
    try:
        return await session.services.mailboxes.add_keywords(mailbox.id, names)
    except BadKeyword as bad:
        raise BadSyntax(str(bad)) from bad


def sliced(spans: Iterable[range], most: int) -> Iterator[tuple[range, ...]]:
    """Cut index ranges into groups of at most `most` messages."""
    group: list[range] = []
    room = most
    for span in spans:
        while span:
            part = span[:room]
            group.append(part)
            room -= len(part)
            span = span[len(part) :]
            if not room:
                yield tuple(group)
                group, room = [], most
    if group:
        yield tuple(group)


async def _tell_slices(session: ImapSession, slices: Iterable[bytes]) -> None:
    for octets in slices:
        session.say(octets)
        await session.flush()
        await asyncio.sleep(0)


async def _tell_flags(
    session: ImapSession, spans: Sequence[range], modified: frozenset[int], *, uid: bool, silent: bool
) -> None:
    """Tell what a STORE made of flags, or with .SILENT of the modseq alone; `modified` are UIDs it left alone."""
    selected, lines = session.open, []
    for span in spans:
        for at in span:
            if selected.uids[at] in modified:
                continue
            shown = b"UID %d " % selected.uids[at] if uid else b""
            fact = b"MODSEQ (%d)" % selected.modseqs[at] if silent else selected.flags_fact(at)
            lines.append(b"* %d FETCH (%b%b)\r\n" % (at + 1, shown, fact))
    session.say(b"".join(lines))
    await session.flush()
    await asyncio.sleep(0)


def _copyuid(done: Copied) -> str:
    sources = set_text([source for source, _ in done.uids]).decode()
    targets = set_text([target for _, target in done.uids]).decode()
    return f"[COPYUID {done.uidvalidity} {sources} {targets}]"
