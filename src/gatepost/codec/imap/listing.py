"""LIST as RFC 3501 §6.3.8 has it, and as RFC 5258 (LIST-EXTENDED), 5819 (LIST-STATUS), 6154 do; STATUS items.

LIST [(select options)] reference pattern|(patterns) [RETURN (return options)]
"""

from dataclasses import dataclass
from typing import Final

from gatepost.codec.imap.names import decode_name
from gatepost.codec.imap.tokens import BadSyntax, Tokens

PATTERNS_MAX: Final = 20
STATUS_ITEMS: Final = (
    b"APPENDLIMIT",  # RFC 7889
    b"HIGHESTMODSEQ",  # RFC 7162
    b"MESSAGES",
    b"RECENT",
    b"SIZE",  # RFC 8438
    b"UIDNEXT",
    b"UIDVALIDITY",
    b"UNSEEN",
)
_SELECT: Final = frozenset((b"RECURSIVEMATCH", b"REMOTE", b"SPECIAL-USE", b"SUBSCRIBED"))
_RETURN: Final = frozenset((b"CHILDREN", b"SPECIAL-USE", b"STATUS", b"SUBSCRIBED"))


@dataclass(frozen=True, slots=True)
class Listing:
    """One LIST. `select` and `returns` are option words; `status` the items told of each mailbox.

    `extended`: some syntax of RFC 5258 was used, which changes what "" and a missing mailbox mean.
    """

    patterns: tuple[str, ...]
    select: frozenset[bytes]
    returns: frozenset[bytes]
    status: tuple[bytes, ...]
    extended: bool


def parse_list(tokens: Tokens) -> Listing:
    """Read LIST's arguments; raises BadSyntax, names.BadName."""
    tokens.space()
    extended = tokens.ahead(b"(")
    select = _select_options(tokens) if extended else frozenset()
    reference = decode_name(tokens.astring())
    tokens.space()
    many = tokens.ahead(b"(")
    patterns = _patterns(tokens) if many else (decode_name(tokens.list_mailbox()),)
    returns: frozenset[bytes] = frozenset()
    status: tuple[bytes, ...] = ()
    returning = not tokens.done
    if returning:
        tokens.space()
        returns, status = _return_options(tokens)
    tokens.end()
    whole = tuple(reference + pattern if pattern else "" for pattern in patterns)
    return Listing(whole, select, returns, status, extended or many or returning)


def take_status_items(tokens: Tokens) -> tuple[bytes, ...]:
    """Take the items of STATUS in parentheses; raises BadSyntax for one that is not known."""
    tokens.expect(b"(")
    items = [tokens.word()]
    while not tokens.skip(b")"):
        tokens.space()
        items.append(tokens.word())
        if len(items) > 20:
            raise BadSyntax("too many items")
    unknown = [item for item in items if item not in STATUS_ITEMS]
    if unknown:
        raise BadSyntax(f"unknown item {unknown[0].decode()}")
    return tuple(dict.fromkeys(items))


def _select_options(tokens: Tokens) -> frozenset[bytes]:
    """Take the options and the blank behind them. RECURSIVEMATCH says nothing alone (RFC 5258 §3.1)."""
    tokens.expect(b"(")
    words: set[bytes] = set()
    while not tokens.skip(b")"):
        if words:
            tokens.space()
        words.add(tokens.word())
    tokens.space()
    if not words <= _SELECT:
        raise BadSyntax("unknown selection option")
    if b"RECURSIVEMATCH" in words and b"SUBSCRIBED" not in words:
        raise BadSyntax("RECURSIVEMATCH needs SUBSCRIBED")
    return frozenset(words)


def _patterns(tokens: Tokens) -> tuple[str, ...]:
    tokens.expect(b"(")
    patterns = [decode_name(tokens.list_mailbox())]
    while not tokens.skip(b")"):
        tokens.space()
        patterns.append(decode_name(tokens.list_mailbox()))
        if len(patterns) > PATTERNS_MAX:
            raise BadSyntax("too many patterns")
    return tuple(patterns)


def _return_options(tokens: Tokens) -> tuple[frozenset[bytes], tuple[bytes, ...]]:
    if not tokens.skip_word(b"RETURN "):
        raise BadSyntax("expected RETURN")
    tokens.expect(b"(")
    words: set[bytes] = set()
    status: tuple[bytes, ...] = ()
    while not tokens.skip(b")"):
        if words:
            tokens.space()
        word = tokens.word()
        if word not in _RETURN:
            raise BadSyntax("unknown return option")
        words.add(word)
        if word == b"STATUS":
            tokens.space()
            status = take_status_items(tokens)
    return frozenset(words), status
