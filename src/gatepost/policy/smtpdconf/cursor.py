"""A place between the words of one statement, and the parts that both grammars share."""

import re
from typing import Final, NoReturn

from gatepost.policy.smtpdconf.lex import Sort, Word
from gatepost.policy.smtpdconf.words import Found, Heed, Note, Remark, SmtpdConfError

TEXT_SHOWN: Final = 200
HIDDEN: Final = "***"
_TABLE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,63}")


class Cursor:
    """The words of one statement, what was learned of it so far, and where to tell."""

    def __init__(self, words: list[Word], found: Found) -> None:
        """Begin before the first word."""
        self.words = words
        self.found = found
        self.line = words[0].line
        self.file = words[0].file
        self.notes: list[Note] = []
        self._at = 0

    def done(self) -> bool:
        """Tell whether all words were read."""
        return self._at >= len(self.words)

    def at(self, *texts: str) -> bool:
        """Tell whether the next word is one of these keywords."""
        return not self.done() and self._here().sort is Sort.WORD and self._here().text in texts

    def skip(self, *texts: str) -> bool:
        """Pass a keyword when it is the next word."""
        found = self.at(*texts)
        self._at += found
        return found

    def mark(self, mark: str) -> bool:
        """Pass a mark when it comes next."""
        found = not self.done() and self._here().is_mark(mark)
        self._at += found
        return found

    def value(self, what: str) -> str:
        """Return the next word, quoted or not."""
        if self.done():
            self.wrong(
                f"{what} is missing at the end of the line", "a statement that goes on ends its line with \\"
            )
        word = self._here()
        if word.sort is Sort.MARK:
            self.wrong(f"{what} is missing before '{word.text}'", f"write {what} there")
        self._at += 1
        return word.text

    def number(self, what: str) -> int:
        """Return the next word as a number."""
        text = self.value(what)
        if re.fullmatch(r"[0-9]{1,9}", text) is None:
            self.wrong(f"{what} is '{text}'", "write a whole number")
        return int(text)

    def table(self, what: str) -> tuple[str, ...]:
        """Return `<name>` as it is, the entries of `{ a, b }`, or one text."""
        if self.mark("<"):
            name = self._table_name()
            self.found.used.add(name)
            return (f"<{name}>",)
        if self.mark("{"):
            return tuple(self._listed(what))
        return (self.value(what),)

    def mapping(self, what: str) -> str:
        """Return the name of the table of a mapping, one made for `{ key = value }`."""
        if self.mark("<"):
            name = self._table_name()
            self.found.used.add(name)
            return name
        if not self.mark("{"):
            self.wrong(f"{what} takes a table", f"write {what} <name>")
        name = f"{what}-{self.line}"
        self.found.tables[name] = {"entries": self.pairs(what)}
        self.found.used.add(name)
        return name

    def secret_table(self, what: str) -> str:
        """Return the name of a table of passwords."""
        if not self.mark("<"):
            self.wrong(f"{what} takes a table", f"write {what} <name>")
        name = self._table_name()
        self.found.secrets.add(name)
        return name

    def pairs(self, what: str) -> dict[str, str]:
        """Return `key = value, ...` up to the closing brace."""
        found: dict[str, str] = {}
        while not self.mark("}"):
            key = self.value(f"an entry of {what}")
            if not self.mark("="):
                self.wrong(f"'{key}' has no value", "write { key = value }")
            found[key] = self.value("the value")
            self.mark(",")
        return found

    def _listed(self, what: str) -> list[str]:
        found: list[str] = []
        while not self.mark("}"):
            entry = "!" if self.mark("!") else ""
            found.append(entry + self.value(f"an entry of {what}"))
            self.mark(",")
        if not found:
            self.wrong(f"{what} is an empty list", "write an entry, or delete the statement")
        return found

    def _table_name(self) -> str:
        name = self.value("a table's name")
        if not self.mark(">"):
            self.wrong(f"<{name} is never closed", f"write <{name}>")
        if _TABLE_NAME.fullmatch(name) is None:
            self.wrong(f"'{name}' is no table's name", "letters, digits, - and _; 64 at most")
        return name

    def note(self, heed: Heed, why: str) -> None:
        """Keep something to tell of this statement."""
        self.notes.append(Note(heed, why))

    def tell(self, why: str) -> None:
        """Write the remarks of this statement: `why` for what is mapped, then one for each note."""
        text = self.text()
        if why:
            self.found.remarks.append(Remark(self.file, self.line, Heed.MAPPED, text, why))
        for note in self.notes:
            self.found.remarks.append(Remark(self.file, self.line, note.heed, text, note.why))

    def text(self) -> str:
        """Return the statement as one line, secrets hidden."""
        text = " ".join(self._shown())
        for mark in ("< ", "{ "):
            text = text.replace(mark, mark.rstrip() if mark == "< " else mark)
        text = text.replace(" >", ">").replace(" ,", ",")
        return text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 3] + "..."

    def _shown(self) -> list[str]:
        texts = [f'"{word.text}"' if word.sort is Sort.QUOTED else word.text for word in self.words]
        if texts[:3] == ["queue", "encryption", "key"] or texts[:2] == ["srs", "key"]:
            return [*texts[: 3 if texts[0] == "queue" else 2], HIDDEN]
        if texts[:2] == ["queue", "encryption"] and len(texts) > 2:
            return [*texts[:2], HIDDEN]
        if texts[:3] == ["srs", "key", "backup"]:
            return [*texts[:3], HIDDEN]
        if texts[0] == "table" and "=" in texts:  # the values may be passwords
            return [HIDDEN if index and texts[index - 1] == "=" else text for index, text in enumerate(texts)]
        return texts

    def rest(self) -> str:
        """Pass what is left."""
        left = " ".join(word.text for word in self.words[self._at :])
        self._at = len(self.words)
        return left

    def peek(self) -> str:
        """Return the next word's text, empty at the end."""
        return "" if self.done() else self._here().text

    def wrong(self, problem: str, remedy: str = "") -> NoReturn:
        """Refuse the statement, at the line of the word that was read last."""
        at = self.words[max(0, min(self._at, len(self.words) - 1))]
        raise SmtpdConfError(at.file, at.line, problem, remedy)

    def unknown(self, where: str, known: str) -> NoReturn:
        """Refuse a word that has no meaning there."""
        self.wrong(f"'{self.peek()}' has no meaning in {where}", f"known there: {known}")

    def _here(self) -> Word:
        return self.words[self._at]
