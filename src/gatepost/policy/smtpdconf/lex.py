"""The statements of a smtpd.conf as words: lines joined by `\\`, comments cut, macros put in, files included.

As in smtpd's lexer a backslash before a line's end joins lines also in comments, a macro is put in only outside
quotes, and braces may hold line ends.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from gatepost.policy.smtpdconf.words import SmtpdConfError

TEXT_MAX: Final = 1 << 18  # octets of a file
WORDS_MAX: Final = 20_000  # words of all files, macros put in
INCLUDE_DEPTH: Final = 8
MACRO_DEPTH: Final = 8
MACRO_MAX: Final = 4_096  # letters of one macro's text

_JOIN: Final = re.compile(r"\\[ \t]*\r?\n")
_MACRO: Final = re.compile(r"\$([A-Za-z0-9_]+)")
_WORD: Final = re.compile(r"[^\s{}<>!=,#\"'$()\x00]+")
_MARKS: Final = frozenset("{}<>!=,()")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Sort(Enum):
    """What a word is."""

    WORD = "word"
    QUOTED = "quoted"
    MARK = "mark"


@dataclass(frozen=True, slots=True)
class Word:
    """A word, what it is, and where it stands."""

    text: str
    file: Path
    line: int
    sort: Sort = Sort.WORD

    def is_mark(self, mark: str) -> bool:
        """Tell whether it is that mark, not a quoted one."""
        return self.sort is Sort.MARK and self.text == mark


class Lexer:
    """All statements of a file and of those it includes."""

    def __init__(self) -> None:
        """Begin without macros."""
        self._macros: dict[str, list[Word]] = {}
        self._room = WORDS_MAX

    def statements(self, file: Path, depth: int = 0) -> Iterator[list[Word]]:
        """Yield the words of each statement, definitions of macros and includes done; raises SmtpdConfError."""
        for words in self._lines(_text_of(file), file):
            if _is_include(words):
                yield from self._included(words, depth)
            elif len(words) >= 2 and words[1].is_mark("=") and _NAME.fullmatch(words[0].text):
                self._define(words)
            else:
                yield self._expand(words)

    def _included(self, words: list[Word], depth: int) -> Iterator[list[Word]]:
        at = words[0]
        if depth >= INCLUDE_DEPTH:
            raise SmtpdConfError(
                at.file, at.line, f"includes nest deeper than {INCLUDE_DEPTH}", "look for a circle"
            )
        named = self._expand(words)
        if len(named) != 2:
            raise SmtpdConfError(at.file, at.line, "include takes one file", 'write include "/path"')
        path = Path(named[1].text)
        try:
            yield from self.statements(path, depth + 1)
        except OSError as wrong:
            raise SmtpdConfError(
                at.file, at.line, f"{path}: {wrong.strerror or wrong}", "correct the path, or delete the include"
            ) from wrong

    def _define(self, words: list[Word]) -> None:
        name, value = words[0], self._expand(words[2:])
        if len(value) != 1:
            raise SmtpdConfError(name.file, name.line, f"macro {name.text} is not one text", 'write n = "text"')
        if len(value[0].text) > MACRO_MAX:
            raise SmtpdConfError(
                name.file, name.line, f"macro {name.text} has more than {MACRO_MAX} letters", "use a table"
            )
        self._macros[name.text] = [each for each in _scan(value[0].text, name.file, name.line) if each is not None]

    def _expand(self, words: list[Word], depth: int = 0) -> list[Word]:
        """Put macros in; their words stand on the line that names them."""
        found: list[Word] = []
        for word in words:
            if word.sort is not Sort.WORD or not word.text.startswith("$"):
                found.append(word)
                continue
            name = word.text[1:]
            if name not in self._macros or depth >= MACRO_DEPTH:
                raise SmtpdConfError(
                    word.file, word.line, f"macro '{name}' not defined", f'define it above: {name} = "..."'
                )
            placed = [Word(each.text, word.file, word.line, each.sort) for each in self._macros[name]]
            found += self._expand(placed, depth + 1)
        self._room -= 0 if depth else len(found)
        if self._room < 0:
            raise SmtpdConfError(words[0].file, words[0].line, f"more than {WORDS_MAX} words", "use table files")
        return found

    def _lines(self, text: str, file: Path) -> Iterator[list[Word]]:
        """Yield the words of each logical line; open braces hold it open."""
        words: list[Word] = []
        opened: list[int] = []
        for word in _scan(text, file, 1):
            if word is None:
                if words and not opened:
                    yield words
                    words = []
                continue
            words.append(word)
            if word.is_mark("{"):
                opened.append(word.line)
            elif word.is_mark("}") and opened:
                opened.pop()
        if opened:
            raise SmtpdConfError(file, opened[-1], "this { is never closed", "add the }")
        if words:
            yield words


def _text_of(file: Path) -> str:
    with file.open("rb") as opened:
        octets = opened.read(TEXT_MAX + 1)
    if len(octets) > TEXT_MAX:
        raise SmtpdConfError(file, 0, f"the file has more than {TEXT_MAX} octets", "keep addresses in table files")
    try:
        return octets.decode()
    except UnicodeDecodeError as wrong:
        line = octets[: wrong.start].count(b"\n") + 1
        raise SmtpdConfError(file, line, "this is not UTF-8", "save the file as UTF-8") from wrong


def _is_include(words: list[Word]) -> bool:
    return words[0].sort is Sort.WORD and words[0].text == "include"


def _scan(text: str, file: Path, line: int) -> Iterator[Word | None]:
    """Yield words, and None at each line's end."""
    at = 0
    while at < len(text):
        letter = text[at]
        if letter == "\n":
            yield None
            line, at = line + 1, at + 1
        elif joined := _JOIN.match(text, at):
            line, at = line + 1, joined.end()
        elif letter.isspace():
            at += 1
        elif letter == "#":
            end = _comment_end(text, at)
            line, at = line + text.count("\n", at, end), end
        elif letter in "\"'":
            content, end = _quoted(text, at, file, line)
            yield Word(content, file, line, Sort.QUOTED)
            line, at = line + text.count("\n", at, end), end
        elif letter in _MARKS:
            yield Word(letter, file, line, Sort.MARK)
            at += 1
        else:
            found = _MACRO.match(text, at) or _WORD.match(text, at)
            if found is None:
                raise SmtpdConfError(
                    file, line, f"{letter!r} has no meaning here", "delete it, or put it in quotes"
                )
            yield Word(found[0], file, line)
            at = found.end()


def _comment_end(text: str, at: int) -> int:
    """Return the place of the line end that ends a comment: one without a backslash before it."""
    while True:
        end = text.find("\n", at)
        if end < 0:
            return len(text)
        if not text[at:end].rstrip("\r").endswith("\\"):
            return end
        at = end + 1


def _quoted(text: str, at: int, file: Path, line: int) -> tuple[str, int]:
    """Return what stands between quotes, and the place behind them; a backslash keeps a quote from ending it."""
    quote, found = text[at], []
    at += 1
    while at < len(text) and text[at] != quote:
        if text[at] == "\\" and text[at + 1 : at + 2] in (quote, "\n"):
            at += 1
        if text[at] != "\n":
            found.append(text[at])
        at += 1
    if at >= len(text):
        raise SmtpdConfError(file, line, "a quoted string is never closed", f"add the {quote}")
    return "".join(found), at + 1
