"""STORE, EXPUNGE, CLOSE, UNSELECT, COPY, MOVE, APPEND (RFC 3501 §6.3.11, §6.4; RFC 4315, RFC 6851)."""

import re
from collections.abc import Sequence
from typing import Final

from gatepost.codec.imap.sets import parse_set, set_text
from gatepost.codec.imap.tokens import BadSyntax, Tokens
from gatepost.codec.imap.write import date_time_pattern, parse_date_time
from gatepost.store.flags import BadKeyword, known_mask
from gatepost.store.model import Copied, Mailbox
from gatepost.view.imap.folders import find_target, take_name
from gatepost.view.imap.selected import Selected
from gatepost.view.imap.session import Bad, ImapSession, No, flags_line

_STORE: Final = re.compile(rb"([+-]?)FLAGS(\.SILENT)?(?= )", re.IGNORECASE)
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)")


async def store(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """STORE and UID STORE."""
    tokens.space()
    ranges = parse_set(tokens.set_text())
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
    changes: dict[bytes, dict[str, int]] = {b"+": {"add": mask}, b"-": {"remove": mask}, b"": {"replace": mask}}
    mailboxes = session.services.mailboxes
    change = changes[how[1]]
    done = await mailboxes.change_flags(
        selected.mailbox.id,
        selected.uid_ranges(spans),
        add=change.get("add", 0),
        remove=change.get("remove", 0),
        replace=change.get("replace"),
    )
    selected.set_flags(done.rows)
    if how[2] is None:
        _tell_flags(session, selected, spans, uid=uid)
    return "Store completed"


async def expunge(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """EXPUNGE, and UID EXPUNGE with its set."""
    ranges = None
    selected = _writable(session)
    if uid:
        tokens.space()
        ranges = selected.uid_ranges(selected.positions(parse_set(tokens.set_text()), uid=True))
    tokens.end()
    if uid and not ranges:
        return "Expunge completed"
    removed = await session.services.mailboxes.expunge(selected.mailbox.id, ranges)
    session.say(selected.expunge(removed.uids))
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
    session.say(selected.expunge(source for source, _ in done.uids))
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
    raw = tokens.string()
    tokens.end()
    if b"\0" in raw:
        raise No("A message cannot hold NUL", "CANNOT")
    if not raw:
        raise No("There is nothing to append")
    target = await find_target(session, name)
    raw = _BARE.sub(b"\r\n", raw) if _BARE.search(raw) else raw
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


def _tell_flags(session: ImapSession, selected: Selected, spans: Sequence[range], *, uid: bool) -> None:
    lines = []
    for span in spans:
        for at in span:
            shown = b"UID %d " % selected.uids[at] if uid else b""
            lines.append(b"* %d FETCH (%bFLAGS %b)\r\n" % (at + 1, shown, selected.rendered(selected.flags[at])))
    session.say(b"".join(lines))


def _copyuid(done: Copied) -> str:
    sources = set_text([source for source, _ in done.uids]).decode()
    targets = set_text([target for _, target in done.uids]).decode()
    return f"[COPYUID {done.uidvalidity} {sources} {targets}]"
