"""The words of pf.conf: macros are put in as text, a line's end ends a statement unless braces are open.

As in pfctl's lexer a backslash before a line's end joins lines, also in comments, and before anything else is
nothing; `/` is a word of its own; macros are not put in within quotes, nor within the text of a macro.
"""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

TEXT_MAX: Final = 1 << 18  # letters of a file
WORDS_MAX: Final = 20_000  # words of a file, macros put in
EXPANDED_MAX: Final = 1 << 18  # letters that macros may add in all
MACRO_MAX: Final = 1 << 14  # letters of one macro's text

_JOIN: Final = r"\\\r?\n"
_BLANK: Final = re.compile(rf"(?:[ \t\r\f\v]|{_JOIN}|\\(?!\r?\n)|#(?:{_JOIN}|[^\n])*)+")
_WORD: Final = re.compile(rf"(?:[^\s(){{}}<>!=/#,\"'\\\x00]|{_JOIN})+")
_MACRO: Final = re.compile(r"\$([A-Za-z0-9_]+)")
_MARKS: Final = ("!=", "<=", ">=", "><", "<>", "(", ")", "{", "}", "<", ">", "!", "=", "/", ",")


class PfConfError(ValueError):
    """A pf.conf that cannot be used: its text names file, line (0: the whole file) and remedy."""

    def __init__(self, file: Path, line: int, problem: str, remedy: str = "") -> None:
        where = f"{file}:{line}" if line else f"{file}"
        super().__init__(f"{where}: {problem}" + (f" ({remedy})" if remedy else ""))
        self.file = file
        self.line = line
        self.problem = problem


class Sort(Enum):
    """What a word is."""

    WORD = "word"
    QUOTED = "quoted"
    MARK = "mark"
    END = "end"


@dataclass(frozen=True, slots=True)
class Word:
    """A word, what it is, and where it stands."""

    text: str
    line: int
    sort: Sort = Sort.WORD


class Lexer:
    """The statements of one text. `macros` is written by who reads definitions, and read at each `$name`."""

    def __init__(self, text: str, file: Path, macros: dict[str, str], *, part: bool = False) -> None:
        """Take a text, or a `part` whose braces may be closed elsewhere; PfConfError where it is too long."""
        if len(text) > TEXT_MAX:
            raise PfConfError(
                file, 1, f"the file has more than {TEXT_MAX} letters", "keep addresses in table files"
            )
        self.file = file
        self._text = text
        self._macros = macros
        self._part = part
        self._at = 0
        self._line = 1
        self._room = EXPANDED_MAX
        self._words = WORDS_MAX

    def statement(self) -> list[Word]:
        """Return the words of the next statement; none at the end of the text. Raises PfConfError."""
        words: list[Word] = []
        opened: list[int] = []
        while True:
            self._skip_blank()
            if self._at >= len(self._text):
                if opened and not self._part:
                    raise PfConfError(self.file, opened[-1], "this { is never closed", "add the }")
                return words
            if self._text[self._at] == "\n":
                self._at += 1
                self._line += 1
                if words and not opened:
                    return words
                continue
            for word in self._next():
                self._words -= 1
                if self._words < 0:
                    raise PfConfError(self.file, word.line, f"more than {WORDS_MAX} words", "use table files")
                words.append(word)
                if word.sort is Sort.MARK and word.text == "{":
                    opened.append(word.line)
                elif word.sort is Sort.MARK and word.text == "}" and opened:
                    opened.pop()

    def _skip_blank(self) -> None:
        found = _BLANK.match(self._text, self._at)
        if found is not None:
            self._line += found[0].count("\n")
            self._at = found.end()

    def _next(self) -> list[Word]:
        letter = self._text[self._at]
        if letter == "$":
            return self._expanded()
        if letter in "\"'":
            return [self._quoted(letter)]
        for mark in _MARKS:
            if self._text.startswith(mark, self._at):
                self._at += len(mark)
                return [Word(mark, self._line, Sort.MARK)]
        found = _WORD.match(self._text, self._at)
        if found is None:
            raise PfConfError(self.file, self._line, f"{letter!r} has no meaning here", "delete it")
        self._at = found.end()
        word = Word(re.sub(_JOIN, "", found[0]), self._line)
        self._line += found[0].count("\n")
        return [word]

    def _expanded(self) -> list[Word]:
        """Return the words of a macro's text, all in the line that names it."""
        found = _MACRO.match(self._text, self._at)
        if found is None:
            raise PfConfError(self.file, self._line, "a $ without a macro's name", "write $name")
        self._at = found.end()
        text = self._macros.get(found[1])
        if text is None:
            raise PfConfError(
                self.file, self._line, f"macro '{found[1]}' not defined", f'define it above: {found[1]} = "..."'
            )
        self._room -= len(text) + 1
        if self._room < 0:
            raise PfConfError(self.file, self._line, f"macros make more than {EXPANDED_MAX} letters", "use tables")
        return [Word(each.text, self._line, each.sort) for each in _plain(text, self.file, self._line)]

    def _quoted(self, quote: str) -> Word:
        """Return what stands between quotes: lines are joined, a backslash keeps a quote from ending it."""
        began, at, found = self._line, self._at + 1, []
        text = self._text
        while at < len(text) and text[at] != quote:
            if text[at] == "\\" and at + 1 < len(text) and text[at + 1] == quote:
                at += 1
            if text[at] == "\n":
                self._line += 1
            else:
                found.append(text[at])
            at += 1
        if at >= len(text):
            raise PfConfError(self.file, began, "a quoted string is never closed", f"add the {quote}")
        self._at = at + 1
        return Word("".join(found), began, Sort.QUOTED)


def _plain(text: str, file: Path, line: int) -> list[Word]:
    """Return the words of a macro's text, in which a $ is no macro's."""
    if "$" in text:
        raise PfConfError(
            file, line, "macros are not put in within quotes", 'write one = "(" $other ")", the $ outside'
        )
    try:
        return Lexer(text, file, {}, part=True).statement()
    except PfConfError as wrong:
        raise PfConfError(file, line, f"in the text of a macro: {wrong.problem}") from wrong
