"""SELECT, EXAMINE, CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE, LIST, LSUB, STATUS (RFC 3501 §6.3)."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from gatepost.codec.imap.listing import Listing, parse_list, take_status_items
from gatepost.codec.imap.modifiers import take_select_parameters
from gatepost.codec.imap.names import Pattern, decode_name, encode_name
from gatepost.codec.imap.tokens import Tokens
from gatepost.codec.imap.write import astring
from gatepost.store.model import Mailbox, NoSuchMailbox, Status
from gatepost.view.imap.selected import Selected
from gatepost.view.imap.session import ImapSession, No, flags_line

NAMES_A_TURN: Final = 50
_SPECIAL: Final = frozenset((r"\All", r"\Archive", r"\Drafts", r"\Flagged", r"\Junk", r"\Sent", r"\Trash"))


async def select(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """SELECT."""
    return await _select(session, tokens, read_only=False)


async def examine(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """EXAMINE."""
    return await _select(session, tokens, read_only=True)


async def _select(session: ImapSession, tokens: Tokens, *, read_only: bool) -> str:
    name = take_name(tokens)
    if take_select_parameters(tokens):
        session.enable_condstore()
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
    lines.append(b"* OK [HIGHESTMODSEQ %d] Highest\r\n" % mailbox.modseq)
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
    """LIST, extended or not, with the STATUS of each mailbox behind it where that is asked for."""
    asked = parse_list(tokens)
    if asked.patterns == ("",) and not asked.extended:
        session.say(b'* LIST (\\Noselect) "/" ""\r\n')
        return "List completed"
    mailboxes = session.services.mailboxes
    found = _Found(asked, await mailboxes.of(session.who), await mailboxes.subscriptions(session.who))
    for name in await found.names():
        session.say(found.line(name))
        mailbox = found.mailboxes.get(name)
        if asked.status and mailbox is not None:
            try:
                await _say_status(session, mailbox, asked.status)
            except NoSuchMailbox:  # deleted meanwhile
                continue
            await session.flush()
    return "List completed"


class _Found:
    """What a LIST found among the mailboxes and subscriptions of an account."""

    def __init__(self, asked: Listing, mailboxes: Iterable[Mailbox], subscriptions: Iterable[str]) -> None:
        self._asked = asked
        self._patterns = [Pattern(pattern) for pattern in asked.patterns if pattern]
        self.mailboxes = {mailbox.name: mailbox for mailbox in mailboxes}
        self._parents = _parents(self.mailboxes)
        self._subscribed = frozenset(subscriptions)
        self._above: frozenset[str] = frozenset()

    async def names(self) -> list[str]:
        """Return the names to be listed, in order."""
        candidates = frozenset(self._candidates())
        chosen = await self._matching(candidates)
        if b"RECURSIVEMATCH" in self._asked.select:  # what is above names that are not listed (RFC 5258 §4)
            self._above = await self._matching(_parents(candidates - chosen))
        return sorted(chosen | self._above)

    def line(self, name: str) -> bytes:
        """Return the LIST answer of one."""
        line = _list_line(b"LIST", name, " ".join(self._attributes(name)).encode("ascii"))
        return line[:-2] + b' ("CHILDINFO" ("SUBSCRIBED"))\r\n' if name in self._above else line

    def _candidates(self) -> Iterable[str]:
        special_only = b"SPECIAL-USE" in self._asked.select
        if b"SUBSCRIBED" in self._asked.select:
            names: Iterable[str] = self._subscribed
        elif special_only or not any(pattern.endswith("%") for pattern in self._asked.patterns):
            names = self.mailboxes
        else:  # levels without a mailbox of their own show for % (RFC 3501 §6.3.8)
            names = self._parents.union(self.mailboxes)
        return [name for name in names if not special_only or self._special(name)]

    async def _matching(self, names: Iterable[str]) -> frozenset[str]:
        """Return the names that some pattern matches; others have their turn in between."""
        found = []
        for at, name in enumerate(names, 1):
            if any(pattern.matches(name) for pattern in self._patterns):
                found.append(name)
            if at % NAMES_A_TURN == 0:
                await asyncio.sleep(0)
        return frozenset(found)

    def _special(self, name: str) -> str:
        mailbox = self.mailboxes.get(name)
        return mailbox.special if mailbox is not None and mailbox.special in _SPECIAL else ""

    def _attributes(self, name: str) -> list[str]:
        words = []
        if name not in self.mailboxes:
            words.append("\\NonExistent" if self._asked.extended else "\\Noselect")
        if name in self._parents:
            words.append("\\HasChildren")
        elif name in self.mailboxes:
            words.append("\\HasNoChildren")
        if special := self._special(name):
            words.append(special)
        if name in self._subscribed and b"SUBSCRIBED" in self._asked.select | self._asked.returns:
            words.append("\\Subscribed")
        return words


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
    items = take_status_items(tokens)
    tokens.end()
    await _say_status(session, await session.services.mailboxes.find(session.who, name), items)
    return "Status completed"


async def _say_status(session: ImapSession, mailbox: Mailbox, items: Sequence[bytes]) -> None:
    """Write the STATUS answer of a mailbox; raises NoSuchMailbox when it was deleted meanwhile."""
    if b"HIGHESTMODSEQ" in items:
        session.enable_condstore()
    found = await session.services.mailboxes.status(mailbox.id)
    limit = session.services.settings.append_max
    values = b" ".join(b"%b %d" % (item, limit if item == b"APPENDLIMIT" else _item(item, found)) for item in items)
    session.say(b"* STATUS %b (%b)\r\n" % (astring(encode_name(mailbox.name)), values))


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
        case b"SIZE":
            return status.mailbox.octets
        case b"HIGHESTMODSEQ":
            return status.mailbox.modseq
        case b"UIDNEXT":
            return status.mailbox.uidnext
        case b"UIDVALIDITY":
            return status.mailbox.uidvalidity
        case b"UNSEEN":
            return status.unseen
        case _:
            return 0


def _parents(names: Iterable[str]) -> frozenset[str]:
    return frozenset(parent for name in names for parent in _superiors(name))


def _superiors(name: str) -> list[str]:
    levels = name.split("/")
    return ["/".join(levels[:depth]) for depth in range(1, len(levels))]


def _list_line(word: bytes, name: str, attributes: bytes) -> bytes:
    return b'* %b (%b) "/" %b\r\n' % (word, attributes, astring(encode_name(name)))
