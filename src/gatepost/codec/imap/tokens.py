"""The tokens of one command (RFC 9051 §9), taken from left to right; BadSyntax says what was expected."""

import re
from typing import Final

DEPTH_MAX: Final = 50
_ATOM: Final = re.compile(rb"[!#$&'+,\-./0-9:;<=>?@A-Z\[^_`a-z|}~]+")
_ASTRING: Final = re.compile(rb"[!#$&'+,\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+")
_LIST_CHARS: Final = re.compile(rb"[!#$%&'*+,\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+")
_FLAG: Final = re.compile(rb"\\?[!#$&'+,\-./0-9:;<=>?@A-Z\[^_`a-z|}~]+")
_QUOTED: Final = re.compile(rb'"((?:[^"\\\r\n\0]|\\["\\])*)"')
_LITERAL: Final = re.compile(rb"~?\{([0-9]{1,20})\+?\}\r\n")
_NUMBER: Final = re.compile(rb"[0-9]{1,20}")
_SET: Final = re.compile(rb"[0-9*:,]+")
_TAG: Final = re.compile(rb"[!#$&',\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]{1,64}")
_UNQUOTE: Final = re.compile(rb'\\(["\\])')


class BadSyntax(ValueError):
    """The command cannot be read: BAD."""


class Tokens:
    """What is left of a command."""

    __slots__ = ("_at", "_octets")

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def tag(self) -> bytes:
        """Take the command's tag."""
        return self._match(_TAG, "a tag")[0]

    def space(self) -> None:
        """Take one blank."""
        self.expect(b" ")

    def expect(self, octets: bytes) -> None:
        """Take exactly these octets."""
        if not self.skip(octets):
            raise BadSyntax(f"expected {octets.decode()!r}")

    def skip(self, octets: bytes) -> bool:
        """Take these octets if they are next."""
        if self._octets.startswith(octets, self._at):
            self._at += len(octets)
            return True
        return False

    def skip_word(self, word: bytes) -> bool:
        """Take this word, given in capitals, in any case if it is next."""
        end = self._at + len(word)
        if self._octets[self._at : end].upper() != word:
            return False
        self._at = end
        return True

    def ahead(self, octets: bytes) -> bool:
        """Tell whether these octets are next."""
        return self._octets.startswith(octets, self._at)

    def end(self) -> None:
        """Expect that nothing is left."""
        if self._at != len(self._octets):
            raise BadSyntax("too many arguments")

    @property
    def done(self) -> bool:
        """Tell whether nothing is left."""
        return self._at >= len(self._octets)

    def word(self) -> bytes:
        """Take an atom, in capitals: a command's or key's name."""
        return self._match(_ATOM, "a word")[0].upper()

    def atom(self) -> bytes:
        """Take an atom as it stands."""
        return self._match(_ATOM, "an atom")[0]

    def flag(self) -> str:
        """Take a flag or keyword."""
        return self._match(_FLAG, "a flag")[0].decode("ascii")

    def flags(self) -> list[str]:
        """Take a flag list in parentheses."""
        self.expect(b"(")
        found: list[str] = []
        while not self.skip(b")"):
            if found:
                self.space()
            found.append(self.flag())
            if len(found) > 1000:
                raise BadSyntax("too many flags")
        return found

    def number(self) -> int:
        """Take a number below 2^64."""
        value = int(self._match(_NUMBER, "a number")[0])
        if value >= 1 << 63:
            raise BadSyntax("the number is too large")
        return value

    def set_text(self) -> bytes:
        """Take the text of a sequence set."""
        return self._match(_SET, "a sequence set")[0]

    def string(self) -> bytes:
        """Take a quoted string or literal."""
        if self.ahead(b'"'):
            inner = self._match(_QUOTED, "a quoted string")[1]
            return _UNQUOTE.sub(rb"\1", inner) if b"\\" in inner else inner
        size = int(self._match(_LITERAL, "a string")[1])
        value = self._octets[self._at : self._at + size]
        if len(value) != size:
            raise BadSyntax("a literal is cut short")
        self._at += size
        return value

    def astring(self) -> bytes:
        """Take an atom or string."""
        found = _ASTRING.match(self._octets, self._at)
        if found is None:
            return self.string()
        self._at = found.end()
        return found[0]

    def nstring(self) -> bytes | None:
        """Take a string or NIL."""
        if self._octets[self._at : self._at + 3].upper() == b"NIL":
            self._at += 3
            return None
        return self.string()

    def list_mailbox(self) -> bytes:
        """Take a pattern of LIST: like an astring, with wildcards."""
        found = _LIST_CHARS.match(self._octets, self._at)
        if found is None:
            return self.string()
        self._at = found.end()
        return found[0]

    def rest(self) -> bytes:
        """Take all that is left."""
        left = self._octets[self._at :]
        self._at = len(self._octets)
        return left

    def pattern(self, expression: "re.Pattern[bytes]", what: str) -> "re.Match[bytes]":
        """Take what matches, for grammars that are richer than these."""
        return self._match(expression, what)

    def _match(self, expression: "re.Pattern[bytes]", what: str) -> "re.Match[bytes]":
        found = expression.match(self._octets, self._at)
        if found is None:
            raise BadSyntax(f"expected {what}")
        self._at = found.end()
        return found
