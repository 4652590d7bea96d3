r"""Read spamd.conf(5), a getcap(3) database: `name:capability:capability=value:`, `\` at a line's end goes on.

    all:\
        :uatraps:whitelist:
    uatraps:\
        :black:\
        :msg="Your address %A is in the uatraps list":\
        :method=http:\
        :file=www.openbsd.org/spamd/traplist.gz:

In double quotes a colon is a colon. Escapes are getcap's. Blanks behind a join of lines are dropped, also within
quotes: the article's messages have them there. Mistakes name file and line.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gatepost.feeds.lists.settings import ListKind, ListSettings, Method

CONF_MAX: Final = 1 << 20
LISTS_MAX: Final = 1_000
_ESCAPE: Final = re.compile(r"\\([0-7]{1,3})|\\(.)|\^(.)|\\\Z", re.DOTALL)
_LETTERS: Final = {
    "n": "\n", "t": "\t", "b": "\b", "f": "\f", "r": "\r", "e": "\33", "E": "\33", "c": ":", "C": ":",
}  # fmt: skip


class SpamdConfError(Exception):
    """A spamd.conf that cannot be used; the text names file and line."""

    def __init__(self, file: Path, line: int, problem: str) -> None:
        super().__init__(f"{file}:{line}: {problem}" if line else f"{file}: {problem}")


class _Wrong(Exception):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(frozen=True, slots=True)
class _Field:
    """A capability: the line that it begins on, its name and, behind `=`, its value."""

    line: int
    name: str
    value: str


def read(file: Path) -> tuple[ListSettings, ...]:
    """Read a spamd.conf; raises SpamdConfError. Blocks: call it off the loop."""
    try:
        with file.open("rb") as octets:
            text = octets.read(CONF_MAX + 1)
    except OSError as error:
        raise SpamdConfError(file, 0, f"it cannot be read: {error.strerror}") from error
    if len(text) > CONF_MAX:
        raise SpamdConfError(file, 0, f"it has more than {CONF_MAX} octets: is it a spamd.conf?")
    return parse(text.decode("utf-8", "replace"), file)


def parse(text: str, file: Path) -> tuple[ListSettings, ...]:
    """Read a spamd.conf from its text and return its lists in the order of `all`; raises SpamdConfError."""
    try:
        return _lists(text)
    except _Wrong as wrong:
        raise SpamdConfError(file, wrong.line, str(wrong)) from None


def as_toml(lists: Iterable[ListSettings]) -> str:
    """Return lists as settings of this server."""

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    pieces = []
    for each in lists:
        lines = ["[[feeds.lists.list]]", f"name = {text(each.name)}", f"kind = {text(each.kind.value)}"]
        if each.message:
            lines.append(f"message = {text(each.message)}")
        if each.message_file:
            lines.append(f"message_file = {text(each.message_file)}")
        lines += [f"method = {text(each.method.value)}", f"source = {text(each.source)}"]
        pieces.append("\n".join(lines) + "\n")
    return "\n".join(pieces)


def _lists(text: str) -> tuple[ListSettings, ...]:
    records: dict[str, tuple[int, list[_Field]]] = {}
    for line, record in _records(text):
        first, *rest = _fields(line, record)
        for name in first.name.split("|"):
            records.setdefault(name.strip(), (line, rest))
    if "all" not in records:
        raise _Wrong(0, 'Can\'t find "all" in spamd config: write all:NAME:NAME: with the lists in their order')
    where, order = records["all"]
    names = [(field.line, name) for field in order for name in field.name.split()]
    if len(names) > LISTS_MAX:
        raise _Wrong(where, f"more than {LISTS_MAX} lists")
    found = []
    for line, name in names:
        if name not in records:
            raise _Wrong(line, f'Can\'t find "{name}" in spamd config')
        found.append(_list(name, *records[name]))
    return tuple(found)


def _list(name: str, line: int, fields: list[_Field]) -> ListSettings:
    flags: dict[str, _Field] = {}
    for field in fields:
        flags.setdefault(field.name, field)
    if "black" not in flags and "white" not in flags:
        raise _Wrong(line, f'Must have "black" or "white" in {name}')
    kind = ListKind.BLACK if "black" in flags else ListKind.WHITE
    message = message_file = ""
    if kind is ListKind.BLACK:
        if "msg" not in flags or not flags["msg"].value:
            raise _Wrong(line, f'No msg for blacklist "{name}"')
        message, message_file = _message(flags["msg"].value)
    if "file" not in flags or not flags["file"].value:
        raise _Wrong(line, f"No file given for {kind.value}list {name}")
    method = flags.get("method", _Field(line, "method", "file"))
    source = _unquoted(_unescaped(flags["file"].value))
    try:
        return ListSettings(
            name=name,
            kind=kind,
            source=source,
            method=_method(method),
            message=message,
            message_file=message_file,
        )
    except ValueError as wrong:
        raise _Wrong(line, str(wrong)) from None


def _method(field: _Field) -> Method:
    word = _unescaped(field.value)
    if word == "ftp":
        raise _Wrong(
            field.line, "method ftp is not supported: use https, or method=exec with file=curl -s ftp://..."
        )
    try:
        return Method(word)
    except ValueError:
        raise _Wrong(field.line, f"Unknown method {word}: there are file, http, https and exec") from None


def _message(value: str) -> tuple[str, str]:
    """Return (text, "") of a quoted message or ("", path) of another."""
    decoded = _unescaped(value)
    return (_unquoted(decoded), "") if decoded.startswith('"') else ("", decoded)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _unescaped(value: str) -> str:
    def letter(found: re.Match[str]) -> str:
        octal, escaped, control = found.groups()
        if octal:
            return chr(int(octal, 8) & 0xFF)
        if escaped:
            return _LETTERS.get(escaped, escaped)
        return chr(ord(control) & 31) if control else "\\"

    return _ESCAPE.sub(letter, value)


def _records(text: str) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Return each record as its first line's number and its lines, without what joined them."""
    record: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.rstrip("\r")
        if not record and (not bare.strip() or bare.startswith("#")):
            continue
        if not record and bare[0] in " \t:":
            raise _Wrong(number, r"this line belongs to none: does the one before it end in \ ?")
        goes_on = _goes_on(bare)
        piece = bare[:-1] if goes_on else bare
        record.append((number, piece.lstrip(" \t") if record else piece))
        if not goes_on:
            yield record[0][0], record
            record = []
    if record:
        yield record[0][0], record


def _goes_on(line: str) -> bool:
    backslashes = len(line) - len(line.rstrip("\\"))
    return backslashes % 2 == 1


def _fields(line: int, record: list[tuple[int, str]]) -> list[_Field]:
    """Part a record at its colons, but for those in quotes; what is empty is dropped."""
    found: list[_Field] = []
    word, begun, quoted = "", line, False

    def end() -> None:
        name, _, value = word.partition("=")
        if word.strip():
            found.append(_Field(begun, name.strip(), value))

    for number, text in record:
        at = 0
        while at < len(text):
            letter = text[at]
            if letter == "\\":
                letter = text[at : at + 2]
            elif letter == '"':
                quoted = not quoted
            if not word.strip():
                begun = number
            if letter == ":" and not quoted:
                end()
                word = ""
            else:
                word += letter
            at += len(letter)
    if quoted:
        raise _Wrong(begun, "a quote is opened that is not closed")
    end()
    if not found:
        raise _Wrong(line, "a record without a name")
    return found
