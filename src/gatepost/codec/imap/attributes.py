"""What FETCH asks for (RFC 3501 §6.4.5)."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gatepost.codec.imap.tokens import BadSyntax, Tokens

ATTRIBUTES_MAX: Final = 100
_PATH: Final = re.compile(rb"[1-9][0-9]{0,4}(?:\.[1-9][0-9]{0,4}){0,50}")
_PARTIAL: Final = re.compile(rb"<([0-9]{1,10})\.([0-9]{1,10})>")


class Fact(Enum):
    """What is known without opening the message."""

    UID = "UID"
    FLAGS = "FLAGS"
    SIZE = "RFC822.SIZE"
    DATE = "INTERNALDATE"
    ENVELOPE = "ENVELOPE"
    STRUCTURE = "BODYSTRUCTURE"
    BODY = "BODY"
    MODSEQ = "MODSEQ"


class Cut(Enum):
    """Which piece of a part is wanted."""

    ALL = ""
    HEADER = "HEADER"
    TEXT = "TEXT"
    MIME = "MIME"
    FIELDS = "HEADER.FIELDS"
    FIELDS_NOT = "HEADER.FIELDS.NOT"


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of the message's octets; `label` is how the answer names it, `partial` (first octet, length)."""

    label: bytes
    path: tuple[int, ...] = ()
    cut: Cut = Cut.ALL
    names: frozenset[bytes] = frozenset()
    partial: tuple[int, int] | None = None
    peek: bool = False


Attribute = Fact | Section

_MACROS: Final = {
    b"ALL": (Fact.FLAGS, Fact.DATE, Fact.SIZE, Fact.ENVELOPE),
    b"FAST": (Fact.FLAGS, Fact.DATE, Fact.SIZE),
    b"FULL": (Fact.FLAGS, Fact.DATE, Fact.SIZE, Fact.ENVELOPE, Fact.BODY),
}
_WORDS: Final = {fact.value.encode(): fact for fact in Fact}
_OLD: Final = {
    b"RFC822": Section(b"RFC822"),
    b"RFC822.HEADER": Section(b"RFC822.HEADER", cut=Cut.HEADER, peek=True),
    b"RFC822.TEXT": Section(b"RFC822.TEXT", cut=Cut.TEXT),
}
_NAME: Final = re.compile(rb"[A-Za-z0-9.]+")


def parse_attributes(tokens: Tokens) -> tuple[Attribute, ...]:
    """Read FETCH's second argument; raises BadSyntax."""
    if not tokens.skip(b"("):
        name = tokens.pattern(_NAME, "a fetch attribute")[0].upper()
        return _MACROS[name] if name in _MACROS else (_attribute(name, tokens),)
    found: list[Attribute] = []
    while True:
        found.append(_attribute(tokens.pattern(_NAME, "a fetch attribute")[0].upper(), tokens))
        if tokens.skip(b")"):
            return tuple(dict.fromkeys(found))
        tokens.space()
        if len(found) >= ATTRIBUTES_MAX:
            raise BadSyntax("too many fetch attributes")


def _attribute(name: bytes, tokens: Tokens) -> Attribute:
    if name in (b"BODY", b"BODY.PEEK") and tokens.ahead(b"["):
        return _section(tokens, peek=name == b"BODY.PEEK")
    if name in _WORDS:
        return _WORDS[name]
    if name in _OLD:
        return _OLD[name]
    raise BadSyntax(f"unknown fetch attribute {name.decode('ascii', 'replace')}")


def _section(tokens: Tokens, *, peek: bool) -> Section:
    tokens.expect(b"[")
    path: tuple[int, ...] = ()
    names: tuple[bytes, ...] = ()
    cut, label = Cut.ALL, b""
    if not tokens.ahead(b"]"):
        path, cut, names, label = _spec(tokens)
    tokens.expect(b"]")
    partial = None
    if tokens.ahead(b"<"):
        found = tokens.pattern(_PARTIAL, "a partial")
        partial = (int(found[1]), int(found[2]))
        if not partial[1]:
            raise BadSyntax("a partial of no octets")
    shown = b"BODY[%b]" % label + (b"<%d>" % partial[0] if partial else b"")
    folded = frozenset(name.lower() for name in names)
    return Section(shown, path, cut, folded, partial, peek)


def _spec(tokens: Tokens) -> tuple[tuple[int, ...], Cut, tuple[bytes, ...], bytes]:
    text = tokens.pattern(re.compile(rb"[A-Za-z0-9.]+"), "a section")[0]
    found = _PATH.match(text)
    path = tuple(int(number) for number in found[0].split(b".")) if found else ()
    word = text[found.end() :] if found else text
    if found and word and not word.startswith(b"."):
        raise BadSyntax("that is no section")
    word = word.removeprefix(b".") if found else word
    try:
        cut = Cut(word.decode("ascii").upper())
    except ValueError:
        raise BadSyntax("that is no section") from None
    if (cut is Cut.ALL and not path) or (cut is Cut.MIME and not path) or (found and text.endswith(b".")):
        raise BadSyntax("that is no section")
    if cut not in (Cut.FIELDS, Cut.FIELDS_NOT):
        return path, cut, (), text.upper()
    names = _field_names(tokens)
    label = text.upper() + b" (" + b" ".join(_quoted(name) for name in names) + b")"
    return path, cut, names, label


def _field_names(tokens: Tokens) -> tuple[bytes, ...]:
    tokens.expect(b" (")
    names = [tokens.astring()]
    while not tokens.skip(b")"):
        tokens.space()
        names.append(tokens.astring())
        if len(names) > ATTRIBUTES_MAX:
            raise BadSyntax("too many fields")
    return tuple(names)


def _quoted(name: bytes) -> bytes:
    """Write a field's name back; what is no plain name becomes a quoted string of its letters."""
    if re.fullmatch(rb"[A-Za-z0-9-]{1,100}", name):
        return name
    return b'"' + re.sub(rb"[^!#-\[\]-~]", b"?", name[:100]) + b'"'
