"""The words of bgpd.conf: white space parts them, macros are put in as text, a line's end ends a statement."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

END: Final = "\n"
"""The text of the word that stands for the end of a line; the end of the file has an empty text."""

EXPANDED_MAX: Final = 1 << 18  # letters that macros may add: they may name each other
_WORD: Final = re.compile(r"[^\s{}(),=<>!\"'#$\\]+")
_MACRO: Final = re.compile(r"\$([A-Za-z0-9_]+)")
_OPERATORS: Final = ("!=", "<=", ">=", "><", "{", "}", "(", ")", ",", "=", "<", ">", "!")
_BLANK: Final = re.compile(r"(?:[ \t\r\f]|\\\r?\n|#[^\n]*)+")


class BgpdConfError(ValueError):
    """A bgpd.conf that cannot be used: its text names file, line and remedy."""

    def __init__(self, file: Path, line: int, problem: str, remedy: str = "") -> None:
        super().__init__(f"{file}:{line}: {problem}" + (f" ({remedy})" if remedy else ""))
        self.file = file
        self.line = line
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Word:
    """A word, operator or line's end, and where it stands; `quoted` ones are never keywords."""

    text: str
    line: int
    quoted: bool = False


class Words:
    """The words of one text, with one word of look-ahead."""

    def __init__(self, text: str, file: Path, macros: dict[str, str]) -> None:
        self.file = file
        self._text = text
        self._macros = macros
        self._line = 1
        self._room = EXPANDED_MAX
        self._held: Word | None = None
        self._at = 0

    def peek(self) -> Word:
        """Return the next word and leave it there."""
        if self._held is None:
            self._held = self._next()
        return self._held

    def take(self) -> Word:
        """Return the next word."""
        word = self.peek()
        self._held = None
        return word

    def skip(self, *texts: str) -> bool:
        """Take the next word if it is one of these, unquoted."""
        word = self.peek()
        if word.quoted or word.text not in texts:
            return False
        self._held = None
        return True

    def error(self, problem: str, remedy: str = "", *, line: int = 0) -> BgpdConfError:
        """Return an error about this place."""
        return BgpdConfError(self.file, line or self.peek().line, problem, remedy)

    def value(self, what: str) -> str:
        """Take a word that is a value; END and operators are none."""
        word = self.peek()
        if not word.quoted and (word.text in ("", END) or word.text in _OPERATORS):
            raise self.error(f"{what} is missing")
        return self.take().text

    def number(self, what: str, most: int = (1 << 32) - 1) -> int:
        """Take a whole number."""
        line = self.peek().line
        text = self.value(what)
        if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > most:
            raise self.error(f"{what} is {text!r}", f"it is a number up to {most}", line=line)
        return int(text)

    def yes(self) -> bool:
        """Take `yes` or `no`."""
        line = self.peek().line
        text = self.value("yes or no")
        if text not in ("yes", "no"):
            raise self.error(f"{text!r} is neither yes nor no", line=line)
        return text == "yes"

    def rest(self) -> str:
        """Take all words up to the end of the line, with whole blocks in braces, and return them as text."""
        depth, found = 0, []
        while (word := self.peek()).text or word.quoted:
            if not word.quoted:
                if depth == 0 and word.text in (END, "}"):
                    break
                depth += (word.text == "{") - (word.text == "}")
            self.take()
            if word.text != END:
                found.append(f'"{word.text}"' if word.quoted else word.text)
        return " ".join(found)

    def listed(self, read: Callable[[], None]) -> None:
        """Read one item, or several in braces, parted by commas or white space."""
        if not self.skip("{"):
            read()
            return
        opened = self.peek().line
        depth = 1
        while depth:
            if self.skip(",", END):
                continue
            if self.skip("{"):
                depth += 1
            elif self.skip("}"):
                depth -= 1
            elif self.peek().text == "" and not self.peek().quoted:
                raise self.error("the file ends within braces", f"they were opened in line {opened}")
            else:
                read()

    def _next(self) -> Word:
        self._skip_blank()
        while self._text.startswith("$", self._at):
            self._expand()
            self._skip_blank()
        text, at = self._text, self._at
        if at >= len(text):
            return Word("", self._line)
        if text[at] == "\n":
            self._at += 1
            self._line += 1
            return Word(END, self._line - 1)
        if text[at] in "\"'":
            return self._quoted()
        for operator in _OPERATORS:
            if text.startswith(operator, at):
                self._at += len(operator)
                return Word(operator, self._line)
        return self._word()

    def _word(self) -> Word:
        found = ""
        while piece := _WORD.match(self._text, self._at):
            found += piece[0]
            self._at = piece.end()
            while self._text.startswith("$", self._at):
                self._expand()
        if not found:
            raise BgpdConfError(self.file, self._line, f"{self._text[self._at]!r} is out of place")
        return Word(found, self._line)

    def _expand(self) -> None:
        """Put a macro's text where its name stands."""
        macro = _MACRO.match(self._text, self._at)
        if macro is None:
            raise BgpdConfError(self.file, self._line, "a $ without the name of a macro")
        name = macro[1]
        if name not in self._macros:
            raise BgpdConfError(
                self.file, self._line, f"macro {name!r} is not defined", f'write {name}="..." above it'
            )
        value = self._macros[name]
        self._room -= len(value) + 1
        if self._room < 0:
            raise BgpdConfError(self.file, self._line, "macros grow without end")
        self._text, self._at = value + self._text[macro.end() :], 0

    def _quoted(self) -> Word:
        text, at, line = self._text, self._at + 1, self._line
        mark = text[self._at]
        found = []
        while at < len(text) and text[at] != mark:
            if text[at] == "\\" and text[at + 1 : at + 2] in (mark, "\n"):
                at += 1
            if text[at] == "\n":
                self._line += 1
            else:
                found.append(text[at])
            at += 1
        if at >= len(text):
            raise BgpdConfError(self.file, line, f"the quotation has no closing {mark}")
        self._at = at + 1
        return Word("".join(found), line, quoted=True)

    def _skip_blank(self) -> None:
        if found := _BLANK.match(self._text, self._at):
            self._line += found[0].count("\n")
            self._at = found.end()
