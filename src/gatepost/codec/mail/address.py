"""Address lists as they stand in header fields (RFC 5322 §3.4, with §4.4's old forms): lenient, linear, bounded."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LIST_MAX: Final = 64 << 10
COMMENT_DEPTH_MAX: Final = 8
_TOKEN: Final = re.compile(
    rb'(?P<blank>[ \t\r\n]+)|(?P<quoted>"(?:[^"\\]|\\.)*"?)|(?P<literal>\[[^\]]*\]?)|(?P<comment>\()'
    rb"|(?P<special>[<>:;@,])"
    rb'|(?P<atom>[^ \t\r\n"\[(<>:;@,]+)',
    re.DOTALL,
)
_COMMENT_END: Final = re.compile(rb"[^()\\]*(?:\\.[^()\\]*)*([()])", re.DOTALL)
# Most lists hold nothing but `Name <local@domain>` and `local@domain`; the tokenizer is the oracle and costs ten
# times more.
_LOCAL: Final = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+"
_DOMAIN: Final = rb"[A-Za-z0-9.-]+"
_PLAIN: Final = re.compile(
    rb"[ \t\r\n]*(?:((?:[A-Za-z0-9'&/=?_-]+ )*)<(%b)@(%b)>|(%b)@(%b))[ \t\r\n]*(?:,|\Z)"
    % (_LOCAL, _DOMAIN, _LOCAL, _DOMAIN)
)

Word = tuple[str, bytes, bool]
"""Kind, text as written, and whether a blank stood before it."""

_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One address: display name (without quotes, encoded words as they are; None for none), local part, domain."""

    name: bytes | None
    local: bytes
    domain: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """A named group of addresses (RFC 5322 §3.4)."""

    name: bytes
    members: tuple[Mailbox, ...]


def parse_addresses(value: bytes) -> list[Mailbox | Group]:
    """Read an address list; never raises, and what makes no sense becomes an address without a domain."""
    value = value[:LIST_MAX]
    return _plain_list(value) or _any_list(value)


def mailboxes(value: bytes) -> list[Mailbox]:
    """Read an address list and forget its groups."""
    flat: list[Mailbox] = []
    for entry in parse_addresses(value):
        flat += entry.members if isinstance(entry, Group) else (entry,)
    return flat


def _plain_list(value: bytes) -> list[Mailbox | Group]:
    """Read a list without quotes, comments and groups; empty where it has more, or nothing."""
    found: list[Mailbox | Group] = []
    at = 0
    while at < len(value):
        entry = _PLAIN.match(value, at)
        if entry is None:
            return []
        name, angled, its_domain, local, domain = entry.groups()
        if name is None:
            found.append(Mailbox(None, local, domain))
        else:
            found.append(Mailbox(name.rstrip() or None, angled, its_domain))
        at = entry.end()
    return found


def _any_list(value: bytes) -> list[Mailbox | Group]:
    reader = _Reader()
    for kind, text in _tokens(value):
        reader.take(kind, text)
    return reader.finish()


class _Reader:
    """Collects tokens into addresses, and addresses into groups."""

    def __init__(self) -> None:
        self._done: list[Mailbox | Group] = []
        self._group: bytes | None = None
        self._members: list[Mailbox] = []
        self._words: list[Word] = []
        self._angle: list[Word] = []
        self._angled = self._inside = self._gap = False
        self._comment: bytes | None = None

    def take(self, kind: str, text: bytes) -> None:
        """Take one token."""
        match kind:
            case "blank":
                self._gap = True
            case "comment":
                self._comment = text
            case "special" if text == b"<" and not self._angled:
                self._angled = self._inside = True
            case "special" if text == b">":
                self._inside = False
            case "special" if text == b"," and not self._inside:
                self._flush()
            case "special" if text == b":" and self._group is None and not self._angled:
                self._group = _phrase(self._words)
                self._clear()
            case "special" if text == b":" and self._inside:
                self._angle = []  # what came before was a source route (RFC 5322 §4.4)
            case "special" if text == b";":
                self._flush()
                self._end_group()
            case _:
                word = (kind, text, self._gap)
                (self._angle if self._inside else self._words).append(word)
                self._gap = False

    def finish(self) -> list[Mailbox | Group]:
        """Return everything."""
        self._flush()
        self._end_group()
        return self._done

    def _clear(self) -> None:
        self._words, self._angle = [], []
        self._angled = self._inside = self._gap = False
        self._comment = None

    def _flush(self) -> None:
        if self._angled:
            mailbox = _mailbox(_phrase(self._words) or None, self._angle)
        elif self._words:
            mailbox = _mailbox(self._comment, self._words)
        else:
            self._clear()
            return
        (self._done if self._group is None else self._members).append(mailbox)
        self._clear()

    def _end_group(self) -> None:
        if self._group is not None:
            self._done.append(Group(self._group, tuple(self._members)))
            self._group, self._members = None, []


def _tokens(value: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(value):
        found = _TOKEN.match(value, at)
        assert found is not None, "every octet begins a token"
        kind = found.lastgroup
        assert kind is not None
        at = found.end()
        if kind == "comment":
            text, at = _comment(value, at)
            yield kind, text
        else:
            yield kind, found[0]


def _comment(value: bytes, at: int) -> tuple[bytes, int]:
    """Return the text of the comment that was opened before `at`, and where it ends."""
    depth, begin = 1, at
    while depth and (found := _COMMENT_END.match(value, at)):
        at = found.end()
        depth += 1 if found[1] == b"(" else -1
        if depth > COMMENT_DEPTH_MAX:
            return b"", len(value)
    return (value[begin : at - 1], at) if depth == 0 else (b"", len(value))


def _phrase(words: list[Word]) -> bytes:
    """Join the words of a display name with single blanks."""
    return b" ".join(_bare(kind, text) for kind, text, _ in words)


def _mailbox(name: bytes | None, words: list[Word]) -> Mailbox:
    at = max((index for index, word in enumerate(words) if word[:2] == ("special", b"@")), default=len(words))
    local = b"".join(
        (b" " if gap and index else b"") + _bare(kind, text) for index, (kind, text, gap) in enumerate(words[:at])
    )
    domain = b"".join(text for _, text, _ in words[at + 1 :])
    return Mailbox(name, local, domain)


def _bare(kind: str, text: bytes) -> bytes:
    if kind != "quoted":
        return text
    inner = text[1:-1] if len(text) > 1 and text.endswith(b'"') else text[1:]
    return _ESCAPED.sub(rb"\1", inner)
