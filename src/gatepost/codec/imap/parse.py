"""Octets of one command, as `reader` cut them, into its class (RFC 3501 §9)."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from gatepost.base.clock import Instant
from gatepost.codec.imap import commands as c
from gatepost.codec.imap.attributes import parse_attributes
from gatepost.codec.imap.criteria import BadCharset, parse_criteria, parse_returns
from gatepost.codec.imap.names import BadName, decode_name
from gatepost.codec.imap.syntax import BadSyntax
from gatepost.codec.imap.tokens import Tokens
from gatepost.codec.mail.date import MONTHS

FLAGS_MAX: Final = 100
ID_FIELDS_MAX: Final = 30  # RFC 2971 §3.3
ID_VALUE_MAX: Final = 1024

SYSTEM_FLAGS: Final = frozenset((b"\\answered", b"\\flagged", b"\\deleted", b"\\seen", b"\\draft"))
_WITH_UID: Final = frozenset((b"COPY", b"EXPUNGE", b"FETCH", b"MOVE", b"SEARCH", b"STORE"))
_STORE: Final = re.compile(rb"([+-]?)FLAGS(\.SILENT)?(?= )", re.IGNORECASE)
_MONTHS: Final = {name.lower().encode(): number for number, name in enumerate(MONTHS, 1)}
_DATE_TIME: Final = re.compile(
    rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Unreadable(ValueError):
    """A command that is answered at once: `word` is BAD or NO, `code` a response code or empty."""

    def __init__(self, tag: bytes, word: bytes, text: str, code: str = "") -> None:
        super().__init__(text)
        self.tag = tag
        self.word = word
        self.code = code


def parse_command(octets: bytes) -> tuple[bytes, c.Command]:
    """Return tag and command; raises Unreadable, whose tag is `*` when there is none."""
    tokens = Tokens(octets)
    tag = b"*"
    try:
        tag = tokens.tag()
        tokens.space()
        return tag, _command(tokens)
    except BadSyntax as wrong:
        raise Unreadable(tag, b"BAD", str(wrong)) from None
    except BadName as wrong:
        raise Unreadable(tag, b"NO", str(wrong), "CANNOT") from None
    except BadCharset as wrong:
        raise Unreadable(tag, b"NO", str(wrong), "BADCHARSET (US-ASCII UTF-8)") from None


def parse_append(octets: bytes) -> c.Append | None:
    """Read `tag APPEND ...` up to the literal that was just announced; None when that is not the message.

    Raises Unreadable.
    """
    tokens = Tokens(octets)
    tag = tokens.tag()
    tokens.space()
    tokens.word()
    try:
        tokens.space()
        if _at_announced(tokens):
            return None  # it is the mailbox's name
        mailbox = decode_name(tokens.astring())
        tokens.space()
        flags: tuple[bytes, ...] = ()
        date = None
        if tokens.ahead(b"("):
            flags = _flags(tokens)
            tokens.space()
        if tokens.ahead(b'"'):
            date = _date_time(tokens)
            tokens.space()
        if not _at_announced(tokens):
            raise BadSyntax("expected the message")
    except BadSyntax as wrong:
        raise Unreadable(tag, b"BAD", str(wrong)) from None
    except BadName as wrong:
        raise Unreadable(tag, b"NO", str(wrong), "CANNOT") from None
    return c.Append(mailbox, flags, date)


_ANNOUNCED: Final = re.compile(rb"~?\{[0-9]{1,10}\+?\}\r\n\Z")


def _at_announced(tokens: Tokens) -> bool:
    try:
        tokens.pattern(_ANNOUNCED, "")
    except BadSyntax:
        return False
    return True


def _command(tokens: Tokens) -> c.Command:
    name = tokens.word()
    uid = name == b"UID"
    if uid:
        tokens.space()
        name = tokens.word()
        if name not in _WITH_UID:
            raise BadSyntax("UID stands before COPY, EXPUNGE, FETCH, MOVE, SEARCH or STORE")
    command: c.Command
    if name in _BARE:
        command = _BARE[name]
    elif name in _NUMBERED:
        tokens.space()
        command = _NUMBERED[name](tokens, uid)
    elif name == b"EXPUNGE":
        command = c.Expunge(_uids(tokens) if uid else None)
    elif name in _ARGUED:
        tokens.space()
        command = _ARGUED[name](tokens)
    else:
        raise BadSyntax("unknown command")
    tokens.end()
    return command


# Arguments


def _mailbox(tokens: Tokens) -> str:
    return decode_name(tokens.astring())


def _uids(tokens: Tokens) -> c.Ranges:
    tokens.space()
    return tokens.sequence_set()


def _flags(tokens: Tokens) -> tuple[bytes, ...]:
    return _known(tokens.many(tokens.flag, empty=True))


def _known(flags: list[bytes]) -> tuple[bytes, ...]:
    if len(flags) > FLAGS_MAX:
        raise BadSyntax("too many flags")
    for flag in flags:
        if flag.startswith(b"\\") and flag.lower() not in SYSTEM_FLAGS:
            raise BadSyntax(f"{flag.decode('ascii')} is no flag that can be set")
    return tuple(flags)


def _date_time(tokens: Tokens) -> Instant:
    found = tokens.pattern(_DATE_TIME, "a date and time")
    try:
        clock = timedelta(hours=int(found[4]), minutes=int(found[5]), seconds=int(found[6]))
        at = datetime(int(found[3]), _MONTHS.get(found[2].lower(), 0), int(found[1]), tzinfo=UTC) + clock
        zone = timedelta(hours=int(found[8]), minutes=int(found[9]))
        since = (at + zone if found[7] == b"-" else at - zone) - _EPOCH
    except (ValueError, OverflowError):
        raise BadSyntax("that is no date and time") from None
    return Instant(since // timedelta(microseconds=1))


def _modifier(tokens: Tokens, name: bytes) -> int:
    """Read `(NAME number)`."""
    tokens.expect(b"(")
    if tokens.word() != name:
        raise BadSyntax(f"expected {name.decode('ascii')}")
    tokens.space()
    value = tokens.number()
    tokens.expect(b")")
    return value


# Commands with arguments


def _id(tokens: Tokens) -> c.Id:
    if not tokens.ahead(b"("):
        if tokens.nstring() is not None:
            raise BadSyntax("expected NIL or a list")
        return c.Id({})
    values = tokens.many(tokens.nstring, empty=True)
    if len(values) % 2 or len(values) > 2 * ID_FIELDS_MAX:
        raise BadSyntax("expected pairs of field and value, at most 30")
    text = ["" if value is None else value[:ID_VALUE_MAX].decode("utf-8", "replace") for value in values]
    return c.Id(dict(zip(text[::2], text[1::2], strict=True)))


def _login(tokens: Tokens) -> c.Login:
    user = tokens.astring()
    tokens.space()
    return c.Login(user, tokens.astring())


def _authenticate(tokens: Tokens) -> c.Authenticate:
    mechanism = tokens.word().decode("ascii")
    if tokens.done:
        return c.Authenticate(mechanism, None)
    tokens.space()
    return c.Authenticate(mechanism, tokens.rest())


def _enable(tokens: Tokens) -> c.Enable:
    names = [tokens.word()]
    while not tokens.done:
        tokens.space()
        names.append(tokens.word())
    return c.Enable(tuple(name.decode("ascii") for name in names))


def _select(tokens: Tokens, *, read_only: bool) -> c.Select:
    mailbox = _mailbox(tokens)
    words: list[bytes] = []
    if tokens.ahead(b" ("):
        tokens.space()
        words = tokens.many(tokens.word)
        if words != [b"CONDSTORE"]:
            raise BadSyntax("unknown parameter")
    return c.Select(mailbox, read_only, bool(words))


def _rename(tokens: Tokens) -> c.Rename:
    old = _mailbox(tokens)
    tokens.space()
    return c.Rename(old, _mailbox(tokens))


def _list(tokens: Tokens) -> c.List:
    selected: list[bytes] = []
    if tokens.ahead(b"("):
        selected = tokens.many(tokens.word, empty=True)
        tokens.space()
    unknown = set(selected) - {b"SUBSCRIBED", b"REMOTE", b"RECURSIVEMATCH", b"SPECIAL-USE"}
    if unknown:
        raise BadSyntax(f"unknown selection option {min(unknown).decode('ascii')}")
    recursive = b"RECURSIVEMATCH" in selected
    if recursive and not {b"SUBSCRIBED", b"SPECIAL-USE"} & set(selected):
        raise BadSyntax("RECURSIVEMATCH needs another selection option")  # RFC 5258 §3.1
    reference = _mailbox(tokens)
    tokens.space()
    pattern = lambda: decode_name(tokens.list_pattern())  # noqa: E731  (both kinds take the same)
    patterns = tokens.many(pattern) if tokens.ahead(b"(") else [pattern()]
    told, status = _returns(tokens)
    return c.List(
        reference,
        tuple(patterns),
        subscribed_only=b"SUBSCRIBED" in selected,
        special_only=b"SPECIAL-USE" in selected,
        recursive=recursive,
        tell_subscribed=b"SUBSCRIBED" in told or b"SUBSCRIBED" in selected,
        status=status,
    )


def _returns(tokens: Tokens) -> tuple[set[bytes], tuple[c.Item, ...]]:
    """Read LIST's RETURN (...): options, and the items of STATUS (RFC 5819)."""
    if not tokens.skip(b" "):
        return set(), ()
    if tokens.done:
        return set(), ()
    if tokens.word() != b"RETURN":
        raise BadSyntax("expected RETURN")
    tokens.space()
    status: list[c.Item] = []

    def option() -> bytes:
        word = tokens.word()
        if word == b"STATUS":
            tokens.space()
            status.extend(tokens.many(lambda: _item(tokens)))
        elif word not in (b"SUBSCRIBED", b"CHILDREN", b"SPECIAL-USE"):
            raise BadSyntax(f"unknown return option {word.decode('ascii')}")
        return word

    return set(tokens.many(option, empty=True)), tuple(dict.fromkeys(status))


def _lsub(tokens: Tokens) -> c.Lsub:
    reference = _mailbox(tokens)
    tokens.space()
    return c.Lsub(reference, decode_name(tokens.list_pattern()))


def _status(tokens: Tokens) -> c.Status:
    mailbox = _mailbox(tokens)
    tokens.space()
    return c.Status(mailbox, tuple(dict.fromkeys(tokens.many(lambda: _item(tokens)))))


def _item(tokens: Tokens) -> c.Item:
    word = tokens.word().decode("ascii")
    try:
        return c.Item(word)
    except ValueError:
        raise BadSyntax(f"unknown status item {word}") from None


def _append(tokens: Tokens) -> c.Append:
    raise BadSyntax("expected a message, as a literal")


def _search(tokens: Tokens, uid: bool) -> c.Search:
    returns = parse_returns(tokens)
    return c.Search(parse_criteria(tokens), returns, uid)


def _fetch(tokens: Tokens, uid: bool) -> c.Fetch:
    ranges = tokens.sequence_set()
    tokens.space()
    attributes = parse_attributes(tokens)
    since = None
    if tokens.ahead(b" ("):
        tokens.space()
        since = _modifier(tokens, b"CHANGEDSINCE")
    return c.Fetch(ranges, attributes, since, uid)


def _store(tokens: Tokens, uid: bool) -> c.Store:
    ranges = tokens.sequence_set()
    tokens.space()
    since = None
    if tokens.ahead(b"("):
        since = _modifier(tokens, b"UNCHANGEDSINCE")
        tokens.space()
    how = tokens.pattern(_STORE, "FLAGS, +FLAGS or -FLAGS")
    tokens.space()
    if tokens.ahead(b"("):
        flags = _flags(tokens)
    else:
        bare = [tokens.flag()]
        while tokens.skip(b" "):
            bare.append(tokens.flag())
        flags = _known(bare)
    return c.Store(ranges, c.Change(how[1].decode("ascii")), how[2] is not None, flags, since, uid)


def _copy(tokens: Tokens, uid: bool) -> c.Copy:
    ranges = tokens.sequence_set()
    tokens.space()
    return c.Copy(ranges, _mailbox(tokens), uid)


def _move(tokens: Tokens, uid: bool) -> c.Move:
    ranges = tokens.sequence_set()
    tokens.space()
    return c.Move(ranges, _mailbox(tokens), uid)


_BARE: Final[Mapping[bytes, c.Command]] = {
    b"CAPABILITY": c.Capability(),
    b"NOOP": c.Noop(),
    b"LOGOUT": c.Logout(),
    b"STARTTLS": c.StartTls(),
    b"NAMESPACE": c.Namespace(),
    b"IDLE": c.Idle(),
    b"CHECK": c.Check(),
    b"CLOSE": c.Close(),
    b"UNSELECT": c.Unselect(),
}
_NUMBERED: Final[Mapping[bytes, Callable[[Tokens, bool], c.Command]]] = {
    b"SEARCH": _search,
    b"FETCH": _fetch,
    b"STORE": _store,
    b"COPY": _copy,
    b"MOVE": _move,
}
_ARGUED: Final[Mapping[bytes, Callable[[Tokens], c.Command]]] = {
    b"ID": _id,
    b"LOGIN": _login,
    b"AUTHENTICATE": _authenticate,
    b"ENABLE": _enable,
    b"SELECT": lambda tokens: _select(tokens, read_only=False),
    b"EXAMINE": lambda tokens: _select(tokens, read_only=True),
    b"CREATE": lambda tokens: c.Create(_mailbox(tokens)),
    b"DELETE": lambda tokens: c.Delete(_mailbox(tokens)),
    b"RENAME": _rename,
    b"SUBSCRIBE": lambda tokens: c.Subscribe(_mailbox(tokens)),
    b"UNSUBSCRIBE": lambda tokens: c.Unsubscribe(_mailbox(tokens)),
    b"LIST": _list,
    b"LSUB": _lsub,
    b"STATUS": _status,
    b"APPEND": _append,
}
