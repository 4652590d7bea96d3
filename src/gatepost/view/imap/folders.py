"""SELECT, EXAMINE, CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE, LIST, LSUB, STATUS (RFC 3501 §6.3, RFC 6154)."""

from collections.abc import Iterable
from typing import Final

from gatepost.codec.imap.names import Pattern, decode_name, encode_name
from gatepost.codec.imap.tokens import BadSyntax, Tokens
from gatepost.codec.imap.write import astring
from gatepost.store.model import Mailbox, NoSuchMailbox, Status
from gatepost.view.imap.selected import Selected
from gatepost.view.imap.session import ImapSession, No, flags_line

STATUS_ITEMS: Final = (b"APPENDLIMIT", b"MESSAGES", b"RECENT", b"UIDNEXT", b"UIDVALIDITY", b"UNSEEN")
_SPECIAL: Final = frozenset((r"\All", r"\Archive", r"\Drafts", r"\Flagged", r"\Junk", r"\Sent", r"\Trash"))


async def select(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """SELECT."""
    return await _select(session, tokens, read_only=False)


async def examine(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """EXAMINE."""
    return await _select(session, tokens, read_only=True)


async def _select(session: ImapSession, tokens: Tokens, *, read_only: bool) -> str:
    name = take_name(tokens)
    tokens.end()
    session.deselect()
    mailboxes = session.services.mailboxes
    mailbox = await mailboxes.find(session.who, name)
    keywords = await mailboxes.keywords(mailbox.id)
    rows = await mailboxes.rows(mailbox.id, messages=mailbox.messages)
    selected = Selected(mailbox, rows, keywords, read_only=read_only)
    session.select(selected)
    permanent = b"()" if read_only else selected.rendered((1 << 10) - 1 | sum(keywords))[:-1] + b" \\*)"
    lines = [
        flags_line(selected),
        b"* OK [PERMANENTFLAGS %b] Flags that are kept\r\n" % permanent,
        b"* %d EXISTS\r\n* 0 RECENT\r\n" % len(selected),
    ]
    if unseen := selected.first_unseen():
        lines.append(b"* OK [UNSEEN %d] First unseen\r\n" % unseen)
    lines.append(b"* OK [UIDVALIDITY %d] UIDs valid\r\n" % mailbox.uidvalidity)
    lines.append(b"* OK [UIDNEXT %d] Predicted next UID\r\n" % selected.uidnext)
    session.say(b"".join(lines))
    return "[READ-ONLY] Examine completed" if read_only else "[READ-WRITE] Select completed"


async def create(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """CREATE; a trailing separator only says that mailboxes will be below."""
    name = take_name(tokens).removesuffix("/")
    tokens.end()
    services = session.services
    await services.mailboxes.create(session.who, name, services.clock.now())
    return "Create completed"


async def delete(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """DELETE."""
    name = take_name(tokens)
    tokens.end()
    mailboxes = session.services.mailboxes
    mailbox = await mailboxes.find(session.who, name)
    await mailboxes.delete(session.who, name)
    if session.selected is not None and session.selected.mailbox.id == mailbox.id:
        session.deselect()
    return "Delete completed"


async def rename(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """RENAME."""
    old, new = take_name(tokens), take_name(tokens).removesuffix("/")
    tokens.end()
    services = session.services
    await services.mailboxes.rename(session.who, old, new, services.clock.now())
    return "Rename completed"


async def subscribe(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """SUBSCRIBE."""
    name = take_name(tokens)
    tokens.end()
    await session.services.mailboxes.subscribe(session.who, name)
    return "Subscribe completed"


async def unsubscribe(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """UNSUBSCRIBE."""
    name = take_name(tokens)
    tokens.end()
    await session.services.mailboxes.unsubscribe(session.who, name)
    return "Unsubscribe completed"


async def list_(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """LIST, with RFC 6154's way of asking for special uses."""
    tokens.space()
    special_only = False
    if tokens.skip_word(b"(SPECIAL-USE) "):
        special_only = True
    reference = decode_name(tokens.astring())
    tokens.space()
    pattern = decode_name(tokens.list_mailbox())
    if not tokens.done:
        tokens.space()
        text = tokens.rest().upper()
        if text not in (b"RETURN (SPECIAL-USE)", b"RETURN ()"):
            raise BadSyntax("unknown return options")
    if not pattern:
        session.say(b'* LIST (\\Noselect) "/" ""\r\n')
        return "List completed"
    wanted = Pattern(reference + pattern)
    everything = await session.services.mailboxes.of(session.who)
    parents = _parents(mailbox.name for mailbox in everything)
    shown = {
        mailbox.name: _attributes(mailbox, parents)
        for mailbox in everything
        if (mailbox.special or not special_only) and wanted.matches(mailbox.name)
    }
    if pattern.endswith("%") and not special_only:  # levels without a mailbox of their own (RFC 3501 §6.3.8)
        missing = parents.difference(mailbox.name for mailbox in everything)
        shown |= {name: b"\\Noselect \\HasChildren" for name in missing if wanted.matches(name)}
    session.say(b"".join(_list_line(b"LIST", name, shown[name]) for name in sorted(shown)))
    return "List completed"


async def lsub(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """LSUB: subscribed names; a name below which something is subscribed shows up for `%` (RFC 3501 §6.3.9)."""
    tokens.space()
    reference = decode_name(tokens.astring())
    tokens.space()
    pattern = decode_name(tokens.list_mailbox())
    tokens.end()
    wanted = Pattern(reference + pattern)
    subscribed = await session.services.mailboxes.subscriptions(session.who)
    shown: set[str] = set()
    for name in subscribed:
        if wanted.matches(name):
            session.say(_list_line(b"LSUB", name, b""))
            shown.add(name)
        elif pattern.endswith("%"):
            for parent in _superiors(name):
                if parent not in shown and parent not in subscribed and wanted.matches(parent):
                    session.say(_list_line(b"LSUB", parent, b"\\Noselect"))
                    shown.add(parent)
    return "Lsub completed"


async def status(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """STATUS."""
    name = take_name(tokens)
    tokens.space()
    tokens.expect(b"(")
    items = [tokens.word()]
    while not tokens.skip(b")"):
        tokens.space()
        items.append(tokens.word())
        if len(items) > 20:
            raise BadSyntax("too many items")
    tokens.end()
    unknown = [item for item in items if item not in STATUS_ITEMS]
    if unknown:
        raise BadSyntax(f"unknown item {unknown[0].decode()}")
    mailbox = await session.services.mailboxes.find(session.who, name)
    found = await session.services.mailboxes.status(mailbox.id)
    limit = session.services.settings.append_max  # RFC 7889 §2
    values = b" ".join(b"%b %d" % (item, limit if item == b"APPENDLIMIT" else _item(item, found)) for item in items)
    session.say(b"* STATUS %b (%b)\r\n" % (astring(encode_name(mailbox.name)), values))
    return "Status completed"


async def find_target(session: ImapSession, name: str) -> Mailbox:
    """Return the mailbox that COPY, MOVE or APPEND names; NO [TRYCREATE] where there is none."""
    try:
        return await session.services.mailboxes.find(session.who, name)
    except NoSuchMailbox:
        raise No("Mailbox doesn't exist", "TRYCREATE") from None


def take_name(tokens: Tokens) -> str:
    """Take a blank and a mailbox name."""
    tokens.space()
    return decode_name(tokens.astring())


def _item(item: bytes, status: Status) -> int:
    match item:
        case b"MESSAGES":
            return status.mailbox.messages
        case b"UIDNEXT":
            return status.mailbox.uidnext
        case b"UIDVALIDITY":
            return status.mailbox.uidvalidity
        case b"UNSEEN":
            return status.unseen
        case _:
            return 0


def _attributes(mailbox: Mailbox, parents: frozenset[str]) -> bytes:
    words = ["\\HasChildren" if mailbox.name in parents else "\\HasNoChildren"]
    if mailbox.special in _SPECIAL:
        words.append(mailbox.special)
    return " ".join(words).encode("ascii")


def _parents(names: Iterable[str]) -> frozenset[str]:
    return frozenset(parent for name in names for parent in _superiors(name))


def _superiors(name: str) -> list[str]:
    levels = name.split("/")
    return ["/".join(levels[:depth]) for depth in range(1, len(levels))]


def _list_line(word: bytes, name: str, attributes: bytes) -> bytes:
    return b'* %b (%b) "/" %b\r\n' % (word, attributes, astring(encode_name(name)))
